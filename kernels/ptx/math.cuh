// Approximate functions of the special function unit.
#pragma once

namespace ptx {

// 2^x, within 2 ulp over the full range; ex2(-inf) = 0. Subnormal results are kept.
__device__ __forceinline__ float ex2_approx_f32(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The same with subnormal arguments and results as zeros: one instruction instead of three.
__device__ __forceinline__ float ex2_approx_ftz_f32(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x within 1 ulp, subnormals as zeros.
__device__ __forceinline__ float rcp_approx_ftz_f32(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace ptx
