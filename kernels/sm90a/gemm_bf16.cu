// The kernels of gemm.cuh in bf16, compiled beside those of the other type.
#include "gemm.cuh"

DEFINE_GEMMS(bf16, Bf16)
