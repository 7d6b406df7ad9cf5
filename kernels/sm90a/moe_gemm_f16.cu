// The kernels of moe_gemm.cuh in f16, compiled beside those of the other type.
#include "moe_gemm.cuh"

DEFINE_ALL_MOE_GEMMS(f16, F16)
