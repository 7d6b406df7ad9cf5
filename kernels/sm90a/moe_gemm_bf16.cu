// The kernels of moe_gemm.cuh in bf16, compiled beside those of the other type.
#include "moe_gemm.cuh"

DEFINE_ALL_MOE_GEMMS(bf16, Bf16)
