// Attention of a few queries over many keys in bf16 and f32: attention_decode.cuh. f16 is compiled beside it.
// Launcher: src/kernels/attention.rs
#include "attention_decode.cuh"

// Rows and head_dim are rounded up to one of these; several rows of f32 are attention.cu's.
ATTENTION_DECODE(f32, float, 64, 1)
ATTENTION_DECODE(f32, float, 128, 1)
ATTENTION_DECODE(f32, float, 256, 1)
ATTENTION_DECODE(bf16, Bf16, 64, 1)
ATTENTION_DECODE(bf16, Bf16, 64, 4)
ATTENTION_DECODE(bf16, Bf16, 64, 8)
ATTENTION_DECODE(bf16, Bf16, 128, 1)
ATTENTION_DECODE(bf16, Bf16, 128, 4)
ATTENTION_DECODE(bf16, Bf16, 128, 8)
ATTENTION_DECODE(bf16, Bf16, 256, 1)
ATTENTION_DECODE(bf16, Bf16, 256, 8)
