//! Attributes of the device and of functions, by the driver's numbers.

use std::ffi::{c_int, c_void};

use crate::{code, finish, objects, put};

/// A device attribute.
///
/// # Safety
/// `value` is null or points to a writable int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> c_int {
    finish(|driver| {
        let d = driver.gpu.description();
        let found = match attribute {
            1 => d.threads_per_cta,
            2 | 3 => 1024,
            4 => 64,
            5 => i32::MAX as u32,
            6 | 7 => 65535,
            8 => d.shared_per_cta,
            10 => 32,
            12 | 82 => d.registers_per_sm,
            13 => d.clock_khz,
            16 => d.num_sms,
            38 => d.l2_bytes,
            39 => d.threads_per_sm,
            75 => d.compute_capability.0,
            76 => d.compute_capability.1,
            81 => d.shared_per_sm,
            95 => 1,
            97 => d.shared_per_cta_optin,
            106 => d.ctas_per_sm,
            // Memory pools are not there: allocation is synchronous.
            115 => 0,
            120 => u32::from(d.compute_capability.0 >= 9),
            _ => return Err(code::INVALID_VALUE),
        };
        // SAFETY: passed on from the caller.
        unsafe { put(value, found as c_int) }
    })
}

/// A function's attribute.
///
/// # Safety
/// `value` is null or points to a writable int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    function: *mut c_void,
) -> c_int {
    finish(|driver| {
        let function =
            objects(driver).functions.get(&(function as usize)).cloned().ok_or(code::INVALID_HANDLE)?;
        let attributes = driver.gpu.attributes(&function);
        let found = match attribute {
            0 => attributes.max_threads,
            1 => attributes.static_shared_bytes,
            2 => 0,
            3 => attributes.local_bytes,
            4 => attributes.registers,
            5 | 6 => attributes.ptx_version,
            8 => attributes.max_dynamic_shared_bytes,
            _ => return Err(code::INVALID_VALUE),
        };
        // SAFETY: passed on from the caller.
        unsafe { put(value, found as c_int) }
    })
}

/// Sets a function's attribute: most dynamic shared memory (8), or clusters above the portable size (14).
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: *mut c_void, attribute: c_int, value: c_int) -> c_int {
    finish(|driver| {
        let function =
            objects(driver).functions.get(&(function as usize)).cloned().ok_or(code::INVALID_HANDLE)?;
        let attributes = driver.gpu.attributes(&function);
        let most = driver.gpu.description().shared_per_cta_optin - attributes.static_shared_bytes;
        match (attribute, u32::try_from(value)) {
            (8, Ok(bytes)) if bytes <= most => function.set_max_dynamic_shared(bytes),
            (14, Ok(allow)) => function.allow_nonportable_cluster(allow != 0),
            // Preferred carve-out of shared memory: a hint.
            (9, Ok(_)) => {}
            _ => return Err(code::INVALID_VALUE),
        }
        Ok(())
    })
}
