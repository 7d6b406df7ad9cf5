// The tiles that matrix products are compiled for. src/kernels/gemm.rs picks among them by shape.
#pragma once

#include <type_traits>

#include "gemm_mainloop.cuh"

template <class T>
constexpr bool kOnTensorCores = sizeof(T) == 2;

// 4 warps of 64 x 64 read shared memory least for each mma; f32 needs 8 warps to keep 8 x 8 sums a thread. Three stages
// of 32 KB, so that two blocks fit an SM of 228 KB and one fits an SM of 100 KB.
template <class T>
using Tile128x128 = std::conditional_t<
    kOnTensorCores<T>, GemmConfig<T, 128, 128, 2, 2, 3, 2>, GemmConfig<T, 128, 128, 4, 2, 3, 1>>;

template <class T>
using Tile64x64 =
    std::conditional_t<kOnTensorCores<T>, GemmConfig<T, 64, 64, 2, 2, 4, 3>, GemmConfig<T, 64, 64, 4, 2, 4, 2>>;

// One mma tall. Narrow, so that a matrix of 768 outputs still gives 24 blocks; six stages, since nothing but reads in
// flight hides the latency of b here.
template <class T>
using Tile16x32 =
    std::conditional_t<kOnTensorCores<T>, GemmConfig<T, 16, 32, 1, 4, 6, 4>, GemmConfig<T, 16, 32, 2, 2, 6, 4>>;

// For a few rows over a vocabulary: as wide as 128x128, so that both leave the same partial results.
template <class T>
using Tile16x128 =
    std::conditional_t<kOnTensorCores<T>, GemmConfig<T, 16, 128, 1, 4, 4, 3>, GemmConfig<T, 16, 128, 2, 2, 4, 3>>;
