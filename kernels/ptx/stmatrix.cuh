// Stores 8 x 8 matrices of 16-bit elements to shared memory from the layout that mma and wgmma leave (sm_90).
// Lane 8i + r gives the address of row r of matrix i, 16-byte aligned; a lane holds elements 2(lane % 4) and
// 2(lane % 4) + 1 of row lane / 4 of each matrix. With `.trans`, of column lane / 4.
#pragma once

#include <cstdint>

#include "address.cuh"

namespace ptx {

__device__ __forceinline__ void stmatrix_x4(void* smem_row, const uint32_t (&d)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(cvta_to_shared(smem_row)),
                 "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3])
                 : "memory");
}

__device__ __forceinline__ void stmatrix_x4_trans(void* smem_row, const uint32_t (&d)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     cvta_to_shared(smem_row)),
                 "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3])
                 : "memory");
}

}  // namespace ptx
