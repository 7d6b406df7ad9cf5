// Attention of a few queries over many keys in f16: attention_decode.cuh.
// Launcher: src/kernels/attention.rs
#include "attention_decode.cuh"

ATTENTION_DECODE(f16, F16, 64, 1)
ATTENTION_DECODE(f16, F16, 64, 4)
ATTENTION_DECODE(f16, F16, 64, 8)
ATTENTION_DECODE(f16, F16, 128, 1)
ATTENTION_DECODE(f16, F16, 128, 4)
ATTENTION_DECODE(f16, F16, 128, 8)
ATTENTION_DECODE(f16, F16, 256, 1)
ATTENTION_DECODE(f16, F16, 256, 8)
