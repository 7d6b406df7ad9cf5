//! Launches and tensor maps.

use std::ffi::{c_int, c_uint, c_void};

use virtual_gpu::tensor::descriptor::Swizzle;
use virtual_gpu::tensor::tma::{DataType, Fill, TensorMap};
use virtual_gpu::{Launch, Stream};

use crate::{code, code_of, finish, objects, put};

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: *mut c_void,
    attributes: *const Attribute,
    num_attributes: c_uint,
}

/// `CUlaunchAttribute`: 4 bytes of id, 4 of padding, 64 of value.
#[repr(C, align(8))]
pub struct Attribute {
    id: c_uint,
    padding: [u8; 4],
    value: [u32; 16],
}

const CLUSTER_DIMENSION: c_uint = 4;
const COOPERATIVE: c_uint = 2;
const PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;

/// Launches a kernel.
///
/// # Safety
/// `config` points to a launch configuration with as many attributes as it says, `parameters` to a pointer for each
/// parameter of the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> c_int {
    finish(|driver| {
        // SAFETY: by contract null or a configuration.
        let config = unsafe { config.as_ref() }.ok_or(code::INVALID_VALUE)?;
        if !extra.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let function =
            objects(driver).functions.get(&(function as usize)).cloned().ok_or(code::INVALID_HANDLE)?;
        let mut args = Vec::new();
        for (i, parameter) in function.parameters().iter().enumerate() {
            if parameters.is_null() {
                return Err(code::INVALID_VALUE);
            }
            // SAFETY: by contract a pointer for each parameter, to as many bytes as the kernel's parameter has.
            let bytes = unsafe {
                std::slice::from_raw_parts((*parameters.add(i)).cast::<u8>(), parameter.bytes as usize)
            };
            args.push(bytes);
        }
        let mut launch = Launch {
            grid: config.grid,
            block: config.block,
            dynamic_shared_bytes: config.shared_bytes,
            args: &args,
            ..Launch::default()
        };
        let attributes = match config.num_attributes {
            0 => &[][..],
            // SAFETY: by contract as many attributes.
            count => unsafe { std::slice::from_raw_parts(config.attributes, count as usize) },
        };
        for attribute in attributes {
            match attribute.id {
                CLUSTER_DIMENSION => {
                    launch.cluster = Some([attribute.value[0], attribute.value[1], attribute.value[2]]);
                }
                COOPERATIVE => launch.cooperative = attribute.value[0] != 0,
                PROGRAMMATIC_STREAM_SERIALIZATION => launch.programmatic_dependent = attribute.value[0] != 0,
                _ => return Err(code::INVALID_VALUE),
            }
        }
        driver.gpu.launch(&function, &launch, Stream(config.stream as u64)).map_err(code_of)
    })
}

/// Launches a kernel without attributes.
///
/// # Safety
/// `parameters` points to a pointer for each parameter of the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> c_int {
    let config = LaunchConfig {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared_bytes,
        stream,
        attributes: std::ptr::null(),
        num_attributes: 0,
    };
    // SAFETY: the configuration has no attributes; the parameters are passed on from the caller.
    unsafe { cuLaunchKernelEx(&config, function, parameters, extra) }
}

/// Encodes a tensor map, with the checks of the real one.
///
/// # Safety
/// `map` is null or points to 128 writable bytes; `dims`, `tile` and `element_strides` point to `rank` numbers and
/// `strides` to one fewer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut c_void,
    data_type: c_uint,
    rank: c_uint,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    tile: *const u32,
    element_strides: *const u32,
    interleave: c_uint,
    swizzle: c_uint,
    _l2_promotion: c_uint,
    fill: c_uint,
) -> c_int {
    finish(|_| {
        if !(1..=5).contains(&rank)
            || interleave != 0
            || dims.is_null()
            || tile.is_null()
            || element_strides.is_null()
        {
            return Err(code::INVALID_VALUE);
        }
        let rank = rank as usize;
        if rank > 1 && strides.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: by contract `rank` numbers each.
        let (dims, tile, element_strides) = unsafe {
            (
                std::slice::from_raw_parts(dims, rank),
                std::slice::from_raw_parts(tile, rank),
                std::slice::from_raw_parts(element_strides, rank),
            )
        };
        // SAFETY: by contract rank - 1 numbers; not read for rank 1.
        let strides = if rank > 1 { unsafe { std::slice::from_raw_parts(strides, rank - 1) } } else { &[] };
        let swizzle = match swizzle {
            0 => Swizzle::None,
            1 => Swizzle::B32,
            2 => Swizzle::B64,
            3 => Swizzle::B128,
            _ => return Err(code::INVALID_VALUE),
        };
        let encoded = TensorMap {
            data_type: DataType::from_number(data_type).ok_or(code::INVALID_VALUE)?,
            address: address as u64,
            dims: dims.to_vec(),
            strides: strides.to_vec(),
            box_dims: tile.to_vec(),
            element_strides: element_strides.to_vec(),
            swizzle,
            fill: if fill == 0 { Fill::Zero } else { Fill::Nan },
        }
        .encode()
        .map_err(|error| {
            eprintln!("virtual GPU: {error}");
            code::INVALID_VALUE
        })?;
        // SAFETY: by contract null or 128 writable bytes.
        unsafe { put(map.cast::<[u8; 128]>(), encoded) }
    })
}
