// ../attention_decode_f16.cu for sm_90a, where it takes part in programmatic dependent launch.
#include "../attention_decode_f16.cu"
