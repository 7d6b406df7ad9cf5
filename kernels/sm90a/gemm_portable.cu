// ../gemm.cu for sm_90a, where it takes part in programmatic dependent launch: f32, for which Hopper has no kernels of
// its own.
#define F32_ONLY
#include "../gemm.cu"
