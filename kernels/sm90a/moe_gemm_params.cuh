// What every Hopper kernel of a grouped product takes beside its tensor maps.
#pragma once

#include <cstdint>

#include "epilogue.cuh"

struct WgmmaMoeGemmParams {
    OutputParams output;
    const int32_t* expert_offsets;  // [num_experts + 1]
    const void* a;                  // [num_a_rows, K]: where rows are gathered from
    const int32_t* row_index;       // [max_rows]
    uint32_t a_row_chunks;          // from row to row of a, in 16 bytes
    int32_t num_a_rows;
    int32_t num_experts;
    int32_t max_rows;
    int32_t n;
    int32_t k;
    int32_t stores_tensors;  // map_out is set
};
