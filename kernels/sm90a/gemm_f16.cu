// The kernels of gemm.cuh in f16, compiled beside those of the other type.
#include "gemm.cuh"

DEFINE_GEMMS(f16, F16)
