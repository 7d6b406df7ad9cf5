// Shared-memory addresses as the instructions in this folder take them.
#pragma once

#include <cstdint>

namespace ptx {

// cvta.to.shared: the 32-bit shared-window address of a generic pointer into shared memory.
__device__ __forceinline__ uint32_t cvta_to_shared(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

}  // namespace ptx
