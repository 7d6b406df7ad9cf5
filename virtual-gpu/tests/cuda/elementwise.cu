// targets: sm_80 sm_90a
// Programs without communication: arithmetic of every kind, tables, branches, packed types.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

// c = a + b, with a grid-stride loop.
extern "C" __global__ void vector_add(const float* a, const float* b, float* c, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) c[i] = a[i] + b[i];
}

// y = alpha x + y in packed f16, vectorised by 16 bytes.
extern "C" __global__ void saxpy_half2(__half alpha, const uint4* x, uint4* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    uint4 xv = x[i], yv = y[i];
    const __half2* xh = reinterpret_cast<const __half2*>(&xv);
    __half2* yh = reinterpret_cast<__half2*>(&yv);
    for (int j = 0; j < 4; j++) yh[j] = __hfma2(__half2half2(alpha), xh[j], yh[j]);
    y[i] = yv;
}

template <class T>
struct Square {
    __device__ T operator()(T x) const { return x * x; }
};
template <class T>
struct Clamp {
    T low, high;
    __device__ T operator()(T x) const { return x < low ? low : x > high ? high : x; }
};
template <class T, class F>
__device__ void transform(T* data, int n, F f) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = f(data[i]);
}
extern "C" __global__ void square_f64(double* data, int n) { transform(data, n, Square<double>()); }
extern "C" __global__ void square_i64(int64_t* data, int n) { transform(data, n, Square<int64_t>()); }
extern "C" __global__ void clamp_i8(int8_t* data, int n) { transform(data, n, Clamp<int8_t>{-50, 50}); }
extern "C" __global__ void clamp_u16(uint16_t* data, int n) { transform(data, n, Clamp<uint16_t>{100, 60000}); }

// Quotients and remainders of every width, which become long integer sequences.
extern "C" __global__ void divide(const int64_t* a, const int64_t* b, int64_t* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int64_t x = a[i], y = b[i];
    out[6 * i] = x / y;
    out[6 * i + 1] = x % y;
    out[6 * i + 2] = int64_t(uint64_t(x) / uint64_t(y));
    out[6 * i + 3] = int32_t(x >> 32) / (int32_t(y) | 1);
    out[6 * i + 4] = uint32_t(x) % (uint32_t(y) | 1);
    out[6 * i + 5] = __mul64hi(x, y);
}

// Bit tricks: counts, reversals, funnel shifts, byte permutes, three-input logic, dot products of bytes.
extern "C" __global__ void bits(const uint32_t* a, const uint32_t* b, uint32_t* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    uint32_t x = a[i], y = b[i], *o = out + 16 * i;
    o[0] = __popc(x);
    o[1] = __clz(x);
    o[2] = __brev(x);
    o[3] = __ffs(x);
    o[4] = __funnelshift_l(x, y, y & 31);
    o[5] = __byte_perm(x, y, 0x5163);
    o[6] = (x & y) ^ (~x | (y >> 3));
    o[7] = __dp4a(int(x), int(y), 7);
    o[8] = __umulhi(x, y);
    o[9] = __sad(int(x), int(y), 3u);
    o[10] = __popcll(uint64_t(x) << 32 | y);
    o[11] = __clzll(uint64_t(x) * y);
    o[12] = min(int(x), int(y)) + max(x, y);
    o[13] = __vadd4(x, y);
    o[14] = __mul24(int(x), int(y));
    o[15] = __uhadd(x, y);
}

// f64 mathematics of the library: polynomials, tables, divisions and square roots.
extern "C" __global__ void mathematics(const double* x, double* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double v = x[i], *o = out + 8 * i;
    o[0] = exp(v);
    o[1] = log(fabs(v) + 1e-3);
    o[2] = sin(v);
    o[3] = sqrt(fabs(v));
    o[4] = 1.0 / (v * v + 1.0);
    o[5] = pow(fabs(v) + 0.5, 1.7);
    o[6] = tanh(v);
    o[7] = fma(v, v, floor(v)) + erf(v);
}

// The f32 library and its fast forms.
extern "C" __global__ void mathematics_f32(const float* x, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i], *o = out + 12 * i;
    o[0] = expf(v);
    o[1] = logf(fabsf(v) + 1e-3f);
    o[2] = sinf(v);
    o[3] = __expf(v);
    o[4] = rsqrtf(fabsf(v) + 1.0f);
    o[5] = v / (fabsf(v) + 2.0f);
    o[6] = tanhf(v);
    o[7] = __fdividef(v, 3.0f);
    o[8] = erff(v);
    o[9] = __fsqrt_rn(fabsf(v)) + rintf(v * 10) + truncf(v * 10) + ceilf(v * 10);
    o[10] = fmaxf(v, 0.25f) + fminf(v, -0.25f) + copysignf(1.0f, v);
    o[11] = __cosf(v) + exp2f(v) + log2f(fabsf(v) + 1.0f);
}

// Conversions between all number types, in several rounding modes.
extern "C" __global__ void conversions(const float* x, uint32_t* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    uint32_t* o = out + 16 * i;
    o[0] = __half_as_ushort(__float2half_rn(v));
    o[1] = __half_as_ushort(__float2half_rz(v));
    o[2] = __half_as_ushort(__float2half_ru(v));
    o[3] = __half_as_ushort(__float2half_rd(v));
    o[4] = __bfloat16_as_ushort(__float2bfloat16_rn(v));
    o[5] = __bfloat16_as_ushort(__float2bfloat16_rz(v));
    o[6] = __float2int_rn(v * 100);
    o[7] = __float2int_rz(v * 100);
    o[8] = __float2uint_ru(v * 100);
    o[9] = __float2int_rd(v * 100);
    __half2 h = __floats2half2_rn(v, -v);
    o[10] = *reinterpret_cast<uint32_t*>(&h);
    o[11] = __float_as_uint(__double2float_rd(double(v) * 1.1));
    o[12] = __float_as_uint(__int2float_rz(__float_as_int(v)));
    o[13] = uint32_t(__float2ll_rn(v * 1e12f) >> 16);
    o[14] = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
    o[15] = __float_as_uint(__fadd_ru(v, 1e-9f)) ^ __float_as_uint(__fmul_rz(v, 1.1f)) ^
            __float_as_uint(__fmaf_rd(v, v, 0.1f)) ^ __float_as_uint(__fdiv_rn(v, 0.3f));
}

// Packed 16-bit arithmetic.
extern "C" __global__ void packed(const __half2* a, const __half2* b, __half2* out, const __nv_bfloat162* c,
                                  __nv_bfloat162* out_bf16, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    __half2 x = a[i], y = b[i];
    out[6 * i] = __hadd2(x, y);
    out[6 * i + 1] = __hmul2(x, y);
    out[6 * i + 2] = __hfma2(x, y, __hsub2(x, y));
    out[6 * i + 3] = __hmax2(x, __hneg2(y));
    out[6 * i + 4] = __hmin2(x, __habs2(y));
    out[6 * i + 5] = __halves2half2(__hlt(__low2half(x), __low2half(y)) ? __low2half(x) : __high2half(y),
                                    __float2half(__half2float(__high2half(x)) * 3));
    __nv_bfloat162 z = c[i];
    out_bf16[3 * i] = __hfma2(z, z, z);
    out_bf16[3 * i + 1] = __hadd2(z, __float2bfloat162_rn(1.0f));
    out_bf16[3 * i + 2] = __hmax2(z, __hmul2(z, z));
}

__constant__ float kTable[16] = {1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12, 13, -14, 15, -16};
__constant__ int kFilled[8];
__device__ int g_counter = 41;
__device__ const char kText[] = "nano";

// Constant memory with an address that differs between lanes, a constant the host fills, a device variable.
extern "C" __global__ void tables(const int* index, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[i] = kTable[index[i] & 15] * kFilled[i & 7] + kText[i & 3];
    if (i == 0) g_counter += 1;
}

// A switch that becomes a jump table.
extern "C" __global__ void dispatch(const int* op, const int* x, int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int v = x[i], r;
    switch (op[i]) {
        case 0: r = v + 3; break;
        case 1: r = v * v; break;
        case 2: r = ~v; break;
        case 3: r = v << 2; break;
        case 4: r = v / 7; break;
        case 5: r = v % 5; break;
        case 6: r = v ^ 0x55; break;
        case 7:
            r = 0;
            for (int j = 0; j < (v & 15); j++) r += j * v;
            break;
        case 8: r = -v; break;
        case 9: r = __popc(v); break;
        default: r = -1;
    }
    out[i] = r;
}

// Divergent loops: the steps of the Collatz sequence.
extern "C" __global__ void collatz(const uint32_t* start, uint32_t* steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    uint64_t v = start[i];
    uint32_t count = 0;
    while (v != 1) {
        v = v & 1 ? 3 * v + 1 : v / 2;
        count++;
    }
    steps[i] = count;
}
