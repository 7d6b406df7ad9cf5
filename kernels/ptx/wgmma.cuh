// Matrix products by a warpgroup of four warps, asynchronous (sm_90a):
//     accum[64, N] += a[64, 16] * b[N, 16]^T        bf16 or f16, sums in f32
//
// A stands in shared memory or in registers, B in shared memory, both described by 64-bit descriptors. Thread t of the
// warpgroup holds accum[4 j + 2 h + c] = element (t / 32 * 16 + t % 32 / 4 + 8 h, 8 j + t % 4 * 2 + c); A in registers
// is laid out as for mma.sync m16n8k16, each warp its own 16 rows.
//
// Order of use: wgmma_fence, products, wgmma_commit_group, wgmma_wait_group; accumulators and A registers are not
// touched in between. `accumulate` false overwrites accum. Transposed says that M or N, not K, is contiguous.
#pragma once

#include <cstdint>

#include "address.cuh"

namespace ptx {

// Before the first product, and after registers that a product uses were written by anything else.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes a group of products.
__device__ __forceinline__ void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `kPending` of the latest groups are still under way.
template <int kPending>
__device__ __forceinline__ void wgmma_wait_group() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of an accumulator across a wait: it does not see what products write later.
template <int kSize>
__device__ __forceinline__ void wgmma_fence_registers(float (&accum)[kSize]) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(accum[i])::"memory");
}

// Registers a thread of the warpgroup may use, a multiple of 8; all its warps call it.
template <int kCount>
__device__ __forceinline__ void setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// Describes an operand of 128-byte rows with the 128-byte swizzle, groups of eight rows 1024 bytes apart, as a tensor
// copy with that swizzle leaves it. K-major: a step of 16 in K is 32 bytes further on. MN-major (transposed): the
// 128 bytes are 64 elements of M or N, eight K rows a group; `leading_bytes` lie between blocks of 64 of M or N, and a
// step of 16 in K is 2048 bytes further on.
__device__ __forceinline__ uint64_t matrix_descriptor_128b(const void* smem, uint32_t leading_bytes = 16) {
    constexpr uint64_t kStrideBytes = 1024;
    constexpr uint64_t kSwizzle128B = 1;
    return (cvta_to_shared(smem) >> 4 & 0x3fff) | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
           kStrideBytes >> 4 << 32 | kSwizzle128B << 62;
}

// The descriptor of the same operand, bytes further on: start addresses are kept in units of 16.
__device__ __forceinline__ uint64_t advance_descriptor(uint64_t descriptor, uint32_t bytes) {
    return descriptor + (bytes >> 4);
}

// clang-format off
// Operand lists: sixteen accumulators of a thread at a time.
#define PTX_REGS_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PTX_REGS_1 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PTX_REGS_2 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define PTX_REGS_3 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PTX_REGS_4 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define PTX_REGS_5 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define PTX_REGS_6 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define PTX_REGS_7 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define PTX_SUMS_8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
    "+f"(d[i + 6]), "+f"(d[i + 7])
#define PTX_SUMS_16(d, i) PTX_SUMS_8(d, i), PTX_SUMS_8(d, i + 8)
#define PTX_SUMS_32(d, i) PTX_SUMS_16(d, i), PTX_SUMS_16(d, i + 16)
#define PTX_REGS_N8 "%0, %1, %2, %3"
#define PTX_REGS_N16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define PTX_REGS_N32 PTX_REGS_0
#define PTX_REGS_N64 PTX_REGS_N32 ", " PTX_REGS_1
#define PTX_REGS_N96 PTX_REGS_N64 ", " PTX_REGS_2
#define PTX_REGS_N128 PTX_REGS_N96 ", " PTX_REGS_3
#define PTX_REGS_N160 PTX_REGS_N128 ", " PTX_REGS_4
#define PTX_REGS_N192 PTX_REGS_N160 ", " PTX_REGS_5
#define PTX_REGS_N256 PTX_REGS_N192 ", " PTX_REGS_6 ", " PTX_REGS_7
#define PTX_SUMS_N8(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define PTX_SUMS_N16(d) PTX_SUMS_8(d, 0)
#define PTX_SUMS_N32(d) PTX_SUMS_16(d, 0)
#define PTX_SUMS_N64(d) PTX_SUMS_32(d, 0)
#define PTX_SUMS_N96(d) PTX_SUMS_N64(d), PTX_SUMS_16(d, 32)
#define PTX_SUMS_N128(d) PTX_SUMS_N64(d), PTX_SUMS_32(d, 32)
#define PTX_SUMS_N160(d) PTX_SUMS_N128(d), PTX_SUMS_16(d, 64)
#define PTX_SUMS_N192(d) PTX_SUMS_N128(d), PTX_SUMS_32(d, 64)
#define PTX_SUMS_N256(d) PTX_SUMS_N192(d), PTX_SUMS_32(d, 96)

// kN: columns; the numbers are the positions of the operands after the accumulators.
#define PTX_DEFINE_WGMMA(kN, dtype, i0, i1, i2, i3, i4, i5, i6) \
    template <bool kTransposedA = false, bool kTransposedB = false> \
    __device__ __forceinline__ void wgmma_m64k16_##dtype( \
        float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) { \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\n" \
            "wgmma.mma_async.sync.aligned.m64n" #kN "k16.f32." #dtype "." #dtype " {" PTX_REGS_N##kN "}, " \
            "%" #i0 ", %" #i1 ", p, 1, 1, %" #i3 ", %" #i4 ";\n}" \
            : PTX_SUMS_N##kN(d) \
            : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int(kTransposedA)), "n"(int(kTransposedB))); \
    } \
    template <bool kTransposedB = false> \
    __device__ __forceinline__ void wgmma_m64k16_##dtype( \
        float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) { \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\n" \
            "wgmma.mma_async.sync.aligned.m64n" #kN "k16.f32." #dtype "." #dtype " {" PTX_REGS_N##kN "}, " \
            "{%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}" \
            : PTX_SUMS_N##kN(d) \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
              "n"(int(kTransposedB))); \
    }

#define PTX_DEFINE_WGMMAS(kN, ...) \
    PTX_DEFINE_WGMMA(kN, bf16, __VA_ARGS__) PTX_DEFINE_WGMMA(kN, f16, __VA_ARGS__)

PTX_DEFINE_WGMMAS(8, 4, 5, 6, 7, 8, 9, 10)
PTX_DEFINE_WGMMAS(16, 8, 9, 10, 11, 12, 13, 14)
PTX_DEFINE_WGMMAS(32, 16, 17, 18, 19, 20, 21, 22)
PTX_DEFINE_WGMMAS(64, 32, 33, 34, 35, 36, 37, 38)
PTX_DEFINE_WGMMAS(96, 48, 49, 50, 51, 52, 53, 54)
PTX_DEFINE_WGMMAS(128, 64, 65, 66, 67, 68, 69, 70)
PTX_DEFINE_WGMMAS(160, 80, 81, 82, 83, 84, 85, 86)
PTX_DEFINE_WGMMAS(192, 96, 97, 98, 99, 100, 101, 102)
PTX_DEFINE_WGMMAS(256, 128, 129, 130, 131, 132, 133, 134)

#undef PTX_REGS_0
#undef PTX_REGS_1
#undef PTX_REGS_2
#undef PTX_REGS_3
#undef PTX_REGS_4
#undef PTX_REGS_5
#undef PTX_REGS_6
#undef PTX_REGS_7
#undef PTX_SUMS_8
#undef PTX_SUMS_16
#undef PTX_SUMS_32
#undef PTX_DEFINE_WGMMA
#undef PTX_DEFINE_WGMMAS
#undef PTX_REGS_N8
#undef PTX_SUMS_N8
#undef PTX_REGS_N16
#undef PTX_SUMS_N16
#undef PTX_REGS_N32
#undef PTX_SUMS_N32
#undef PTX_REGS_N64
#undef PTX_SUMS_N64
#undef PTX_REGS_N96
#undef PTX_SUMS_N96
#undef PTX_REGS_N128
#undef PTX_SUMS_N128
#undef PTX_REGS_N160
#undef PTX_SUMS_N160
#undef PTX_REGS_N192
#undef PTX_SUMS_N192
#undef PTX_REGS_N256
#undef PTX_SUMS_N256
// clang-format on

}  // namespace ptx
