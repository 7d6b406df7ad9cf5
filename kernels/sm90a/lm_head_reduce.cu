// ../lm_head_reduce.cu for sm_90a, where it takes part in programmatic dependent launch.
#include "../lm_head_reduce.cu"
