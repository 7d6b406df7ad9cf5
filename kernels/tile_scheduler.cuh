// Which tiles of the output a block computes. One main loop serves both schedulers: the dense one cuts one matrix, the
// grouped one cuts the rows of each expert on their own, from offsets that only the device knows.
#pragma once

#include <cstdint>

#include "reduce.cuh"
#include "types.cuh"

// Rows row_begin..row_end (at most kBlockM of them) and columns from column_begin on.
struct Tile {
    int row_begin;
    int row_end;
    int column_begin;
    int group;  // expert; 0 in a dense product
};

// Tiles go down a band of kBandTiles row tiles before they move right, so blocks that run together share rows of A
// and of B in L2.
constexpr int kBandTiles = 8;

__device__ __forceinline__ void rasterize(
    int tile_idx, int num_row_tiles, int num_column_tiles, int& row_tile, int& column_tile) {
    const int tiles_per_band = kBandTiles * num_column_tiles;
    const int band_begin = tile_idx / tiles_per_band * kBandTiles;
    const int band_rows = min(num_row_tiles - band_begin, kBandTiles);
    const int idx_in_band = tile_idx % tiles_per_band;
    row_tile = band_begin + idx_in_band % band_rows;
    column_tile = idx_in_band / band_rows;
}

// Which tiles a worker takes: every num_workers-th from its own number on. A worker is a block, or a cluster of them.
struct TileShare {
    int worker = static_cast<int>(blockIdx.x);
    int num_workers = static_cast<int>(gridDim.x);
};

template <int kBlockM, int kBlockN>
struct DenseScheduler {
    int num_rows;     // M
    int num_columns;  // N
    int tile_idx;
    int tile_stride;

    __device__ __forceinline__ DenseScheduler(int num_rows, int num_columns, TileShare share = {})
        : num_rows(num_rows), num_columns(num_columns), tile_idx(share.worker), tile_stride(share.num_workers) {}

    // The block's next tile; false when there is none.
    __device__ __forceinline__ bool next(Tile& tile) {
        const int num_row_tiles = ceil_div(num_rows, kBlockM);
        const int num_column_tiles = ceil_div(num_columns, kBlockN);
        if (tile_idx >= num_row_tiles * num_column_tiles) return false;
        int row_tile, column_tile;
        rasterize(tile_idx, num_row_tiles, num_column_tiles, row_tile, column_tile);
        tile = {row_tile * kBlockM, min((row_tile + 1) * kBlockM, num_rows), column_tile * kBlockN, 0};
        tile_idx += tile_stride;
        return true;
    }
};

// Expert e owns rows group_offsets[e]..group_offsets[e + 1]. The host knows only how many rows there can be, so it
// launches for the worst case, and blocks without a tile leave at once.
template <int kBlockM, int kBlockN>
struct GroupedScheduler {
    const int32_t* group_offsets;  // [num_groups + 1]
    int num_groups;
    int max_rows;
    int num_columns;
    int tile_idx;
    int tile_stride;
    // Where the scan stands: the experts before first_group have tiles_before tiles, all of them before tile_idx.
    int first_group = 0;
    int tiles_before = 0;

    __device__ __forceinline__ GroupedScheduler(
        const int32_t* group_offsets, int num_groups, int max_rows, int num_columns, TileShare share = {})
        : group_offsets(group_offsets),
          num_groups(num_groups),
          max_rows(max_rows),
          num_columns(num_columns),
          tile_idx(share.worker),
          tile_stride(share.num_workers) {}

    // The block's next tile; false when there is none. All lanes of every warp call it and agree.
    __device__ __forceinline__ bool next(Tile& tile) {
        const int lane_idx = threadIdx.x % kWarpSize;
        const int num_column_tiles = ceil_div(num_columns, kBlockN);
        for (; first_group < num_groups; first_group += kWarpSize) {
            // A lane an expert: its rows, its tiles, and the tiles up to it by a scan over the warp.
            const int group = first_group + lane_idx;
            const int begin = group < num_groups ? max(group_offsets[group], 0) : 0;
            const int end = group < num_groups ? min(group_offsets[group + 1], max_rows) : 0;
            const int num_row_tiles = ceil_div(max(end - begin, 0), kBlockM);
            int tiles_through = num_row_tiles * num_column_tiles;
#pragma unroll
            for (int offset = 1; offset < kWarpSize; offset *= 2) {
                const int below = __shfl_up_sync(kFullMask, tiles_through, offset);
                if (lane_idx >= offset) tiles_through += below;
            }
            const uint32_t reached = __ballot_sync(kFullMask, tile_idx < tiles_before + tiles_through);
            if (reached != 0) {
                const int owner = __ffs(static_cast<int>(reached)) - 1;
                const int group_rows = __shfl_sync(kFullMask, num_row_tiles, owner);
                const int group_begin = __shfl_sync(kFullMask, begin, owner);
                const int group_end = __shfl_sync(kFullMask, end, owner);
                const int group_through = __shfl_sync(kFullMask, tiles_through, owner);
                const int idx_in_group = tile_idx - (tiles_before + group_through - group_rows * num_column_tiles);
                int row_tile, column_tile;
                rasterize(idx_in_group, group_rows, num_column_tiles, row_tile, column_tile);
                const int row_begin = group_begin + row_tile * kBlockM;
                tile = {row_begin, min(row_begin + kBlockM, group_end), column_tile * kBlockN, first_group + owner};
                tile_idx += tile_stride;
                return true;
            }
            tiles_before += __shfl_sync(kFullMask, tiles_through, kWarpSize - 1);
        }
        return false;
    }
};
