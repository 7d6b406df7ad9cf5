//! Calls a kernel the way another engine does: with device pointers and a stream of its own, and no type of ours but
//! the parameter struct. Run it with `cargo run --example embed`; without a GPU it takes the virtual one.

use std::sync::Arc;

use nanomoe::Result;
use nanomoe::device::cuda::CudaDevice;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::device::{Device, RawStream};
use nanomoe::kernels::{Kernels, layer_norm};
use nanomoe::operations::LayerNormParams;
use nanomoe::tensor::{DType, TensorView};

const NUM_TOKENS: usize = 3;
const HIDDEN_SIZE: usize = 8;

fn main() -> Result<()> {
    let device: Arc<dyn Device> = match CudaDevice::new(0) {
        Ok(gpu) => Arc::new(gpu),
        Err(reason) => {
            eprintln!("{reason}; running on the virtual GPU");
            Arc::new(VirtualDevice::new())
        }
    };
    let kernels = Kernels::new(device.clone())?;
    kernels.load_all()?;

    // In an engine these are its own: any device pointer, any stream (CUstream as u64).
    let stream: RawStream = device.create_stream()?;
    let row_bytes = (HIDDEN_SIZE * 4) as u64;
    let x = device.allocate(NUM_TOKENS as u64 * row_bytes)?;
    let out = device.allocate(NUM_TOKENS as u64 * row_bytes)?;
    let gamma = device.allocate(row_bytes)?;
    let values: Vec<f32> = (0..NUM_TOKENS * HIDDEN_SIZE).map(|i| i as f32).collect();
    // SAFETY: each destination was allocated above with as many bytes.
    unsafe {
        device.copy_to_device(x, bytemuck::cast_slice(&values), stream)?;
        device.copy_to_device(gamma, bytemuck::cast_slice(&[1f32; HIDDEN_SIZE]), stream)?;
    }

    let params = LayerNormParams {
        out: TensorView::dense(out, DType::F32, &[NUM_TOKENS, HIDDEN_SIZE]),
        x: TensorView::dense(x, DType::F32, &[NUM_TOKENS, HIDDEN_SIZE]),
        residual: None,
        gamma: TensorView::dense(gamma, DType::F32, &[HIDDEN_SIZE]),
        beta: None,
        eps: 1e-5,
    };
    // SAFETY: every view is device memory of its shape, alive until the stream is waited for below.
    unsafe { layer_norm(&kernels, &params, stream)? };

    let mut result = vec![0f32; NUM_TOKENS * HIDDEN_SIZE];
    // SAFETY: `out` has as many bytes; the copy waits for the kernel.
    unsafe { device.copy_to_host(bytemuck::cast_slice_mut(&mut result), out, stream)? };
    for row in result.chunks(HIDDEN_SIZE) {
        println!("{row:.3?}");
    }
    for pointer in [x, out, gamma] {
        // SAFETY: allocated above, and the stream has been waited for.
        unsafe { device.free(pointer) };
    }
    device.destroy_stream(stream);
    Ok(())
}
