// Where operand tiles stand in shared memory.
//
// An operand tile is [rows][128 bytes of K]: eight 16-byte chunks a row, for every storage type. Chunk c of row r is
// kept at position c ^ (r % 8). Eight neighbouring rows read at one c (ldmatrix, or eight lanes of a 16-byte load)
// and eight chunks of one row written by eight lanes (cp.async) then both touch all 32 banks once.
#pragma once

#include <cstdint>

constexpr int kChunkBytes = 16;
constexpr int kChunksPerRow = 8;

// Elements of T in a row of an operand tile, and in a chunk.
template <class T>
constexpr int kRowElements = kChunksPerRow * kChunkBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int kChunkElements = kChunkBytes / static_cast<int>(sizeof(T));

// Element offset of a chunk in an operand tile.
template <class T>
__device__ __forceinline__ int swizzled_offset(int row, int chunk) {
    return row * kRowElements<T> + (chunk ^ (row % kChunksPerRow)) * kChunkElements<T>;
}
