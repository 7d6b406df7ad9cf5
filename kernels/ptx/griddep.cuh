// Programmatic dependent launch: a kernel may start while the one ahead in the stream still runs (sm_90). Both do
// nothing in a launch without the attribute, nor below sm_90.
#pragma once

namespace ptx {

// Waits until the kernels this one depends on have ended and their writes are visible. Before it, touch nothing that
// they read or write.
__device__ __forceinline__ void griddepcontrol_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start once every CTA of this one has called it or ended.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace ptx
