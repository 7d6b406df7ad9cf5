// Loads 8 x 8 matrices of 16-bit elements from shared memory in the layout mma.sync takes (sm_75).
// Lane 8i + r gives the address of row r of matrix i, 16-byte aligned; a lane gets elements 2(lane % 4) and
// 2(lane % 4) + 1 of row lane / 4 of each matrix. With `.trans`, of column lane / 4.
#pragma once

#include <cstdint>

#include "address.cuh"

namespace ptx {

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[4], const void* smem_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(cvta_to_shared(smem_row))
                 : "memory");
}

// Two matrices: lanes 0 to 15 give the addresses.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&d)[2], const void* smem_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(d[0]), "=r"(d[1])
                 : "r"(cvta_to_shared(smem_row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&d)[4], const void* smem_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(cvta_to_shared(smem_row))
                 : "memory");
}

}  // namespace ptx
