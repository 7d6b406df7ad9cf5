// targets: sm_80
// nvcuda::wmma, every shape and type: d = a b + c of one tile. In a kernel's name, r and c are the layouts of A and B.
#include <mma.h>
#include <stdint.h>
using namespace nvcuda::wmma;
typedef __nv_bfloat16 bf16;

// Strides beyond the tile, and the layout of C and D that A has not.
template <int M, int N, int K, class T, class LayoutA, class LayoutB, class C, class D, class In>
__device__ void tile(const In* a, const In* b, const C* c, D* d, int lda, int ldb, int ldc, int ldd) {
    constexpr bool kRow = __is_same(LayoutA, row_major);
    fragment<matrix_a, M, N, K, T, LayoutA> a_fragment;
    fragment<matrix_b, M, N, K, T, LayoutB> b_fragment;
    fragment<accumulator, M, N, K, C> c_fragment;
    fragment<accumulator, M, N, K, D> d_fragment;
    load_matrix_sync(a_fragment, a, lda);
    load_matrix_sync(b_fragment, b, ldb);
    load_matrix_sync(c_fragment, c, ldc, kRow ? mem_col_major : mem_row_major);
    mma_sync(d_fragment, a_fragment, b_fragment, c_fragment);
    store_matrix_sync(d, d_fragment, ldd, kRow ? mem_row_major : mem_col_major);
}

#define KERNEL(name, M, N, K, T, In, LayoutA, LayoutB, C, D)                                                  \
    extern "C" __global__ void name(const In* a, const In* b, const C* c, D* d, int lda, int ldb, int ldc,    \
                                    int ldd) {                                                                \
        tile<M, N, K, T, LayoutA, LayoutB, C, D>(a, b, c, d, lda, ldb, ldc, ldd);                             \
    }
#define LAYOUTS(name, M, N, K, T, In, C, D)                              \
    KERNEL(name##_rr, M, N, K, T, In, row_major, row_major, C, D)        \
    KERNEL(name##_rc, M, N, K, T, In, row_major, col_major, C, D)        \
    KERNEL(name##_cr, M, N, K, T, In, col_major, row_major, C, D)        \
    KERNEL(name##_cc, M, N, K, T, In, col_major, col_major, C, D)
#define SHAPES(name, T, C, D)                           \
    LAYOUTS(name##_m16n16k16, 16, 16, 16, T, T, C, D)   \
    LAYOUTS(name##_m32n8k16, 32, 8, 16, T, T, C, D)     \
    LAYOUTS(name##_m8n32k16, 8, 32, 16, T, T, C, D)

SHAPES(f16, half, float, float)
KERNEL(f16_narrow_m16n16k16_rc, 16, 16, 16, half, half, row_major, col_major, half, half)
KERNEL(f16_narrow_m32n8k16_cr, 32, 8, 16, half, half, col_major, row_major, half, half)
KERNEL(f16_narrow_m8n32k16_rc, 8, 32, 16, half, half, row_major, col_major, half, half)
KERNEL(f16_narrowing_m16n16k16_rc, 16, 16, 16, half, half, row_major, col_major, float, half)
KERNEL(f16_widening_m16n16k16_cr, 16, 16, 16, half, half, col_major, row_major, half, float)
SHAPES(bf16, bf16, float, float)
SHAPES(s8, signed char, int, int)
SHAPES(u8, unsigned char, int, int)
LAYOUTS(f64_m8n8k4, 8, 8, 4, double, double, double, double)
LAYOUTS(tf32_m16n16k8, 16, 16, 8, precision::tf32, float, float, float)
KERNEL(s4_m8n8k32_rc, 8, 8, 32, experimental::precision::s4, void, row_major, col_major, int, int)
KERNEL(u4_m8n8k32_rc, 8, 8, 32, experimental::precision::u4, void, row_major, col_major, int, int)

// The counts of bits that differ and of bits set in both.
extern "C" __global__ void bits(const void* a, const void* b, int* differ, int* both) {
    fragment<matrix_a, 8, 8, 128, experimental::precision::b1, row_major> a_fragment;
    fragment<matrix_b, 8, 8, 128, experimental::precision::b1, col_major> b_fragment;
    fragment<accumulator, 8, 8, 128, int> sums;
    load_matrix_sync(a_fragment, a, 128);
    load_matrix_sync(b_fragment, b, 128);
    fill_fragment(sums, 0);
    bmma_sync(sums, a_fragment, b_fragment, sums);
    store_matrix_sync(differ, sums, 8, mem_row_major);
    fill_fragment(sums, 1);
    bmma_sync(sums, a_fragment, b_fragment, sums, experimental::bmmaBitOpAND);
    store_matrix_sync(both, sums, 8, mem_row_major);
}

// Sums that stop at the largest integer, and sums that do not.
extern "C" __global__ void saturating(const signed char* a, const signed char* b, const int* c, int* stops, int* wraps) {
    fragment<matrix_a, 16, 16, 16, signed char, row_major> a_fragment;
    fragment<matrix_b, 16, 16, 16, signed char, col_major> b_fragment;
    fragment<accumulator, 16, 16, 16, int> c_fragment, d_fragment;
    load_matrix_sync(a_fragment, a, 16);
    load_matrix_sync(b_fragment, b, 16);
    load_matrix_sync(c_fragment, c, 16, mem_row_major);
    mma_sync(d_fragment, a_fragment, b_fragment, c_fragment, true);
    store_matrix_sync(stops, d_fragment, 16, mem_row_major);
    mma_sync(d_fragment, a_fragment, b_fragment, c_fragment, false);
    store_matrix_sync(wraps, d_fragment, 16, mem_row_major);
}

// c[64, 64] = alpha a[64, k] b[64, k]^T + beta c. Tiles in shared memory, 4 warps of 32 x 32. Block 128.
extern "C" __global__ void gemm(const half* a, const half* b, float* c, int k, float alpha, float beta) {
    constexpr int kPitch = 40;  // a multiple of 8 halves, and banks that differ from row to row
    __shared__ alignas(32) half a_tile[64 * kPitch], b_tile[64 * kPitch];
    int row = threadIdx.x / 64 * 32, column = threadIdx.x / 32 % 2 * 32;
    fragment<accumulator, 16, 16, 16, float> sums[2][2];
    for (auto& line : sums)
        for (auto& sum : line) fill_fragment(sum, 0.0f);
    for (int start = 0; start < k; start += 32) {
        for (int i = threadIdx.x; i < 64 * 32; i += 128) {
            a_tile[i / 32 * kPitch + i % 32] = a[i / 32 * k + start + i % 32];
            b_tile[i / 32 * kPitch + i % 32] = b[i / 32 * k + start + i % 32];
        }
        __syncthreads();
        for (int step = 0; step < 32; step += 16) {
            fragment<matrix_a, 16, 16, 16, half, row_major> rows[2];
            fragment<matrix_b, 16, 16, 16, half, col_major> columns[2];
            for (int i = 0; i < 2; i++) {
                load_matrix_sync(rows[i], a_tile + (row + 16 * i) * kPitch + step, kPitch);
                load_matrix_sync(columns[i], b_tile + (column + 16 * i) * kPitch + step, kPitch);
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 2; j++) mma_sync(sums[i][j], rows[i], columns[j], sums[i][j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            float* at = c + (row + 16 * i) * 64 + column + 16 * j;
            fragment<accumulator, 16, 16, 16, float> old;
            load_matrix_sync(old, at, 64, mem_row_major);
            for (int e = 0; e < old.num_elements; e++) old.x[e] = alpha * sums[i][j].x[e] + beta * old.x[e];
            store_matrix_sync(at, old, 64, mem_row_major);
        }
}
