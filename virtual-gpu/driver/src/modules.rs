//! Modules and functions.

use std::ffi::{CStr, c_char, c_int, c_void};

use virtual_gpu::{Error, Module};

use crate::{Driver, code, code_of, fatbin, finish, objects, put};

/// Loads a module from PTX text or a fatbin with PTX.
///
/// # Safety
/// `module` is null or points to a writable pointer; `image` is zero-terminated PTX or a whole fatbin.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> c_int {
    finish(|driver| {
        if image.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the shortest image, a fatbin's header, has 16 bytes; PTX starts with a longer `.version` line.
        let header = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 16) };
        let bytes = if fatbin::is_fatbin(header) {
            let size = fatbin::size(header).ok_or(code::INVALID_VALUE)?;
            // SAFETY: the header says how long the fatbin is, and the caller vouches for it.
            unsafe { std::slice::from_raw_parts(image.cast::<u8>(), size) }
        } else {
            // SAFETY: by contract zero-terminated text.
            unsafe { CStr::from_ptr(image.cast()) }.to_bytes()
        };
        let known = objects(driver).images.get(bytes).cloned();
        let loaded = match known {
            Some(module) => module,
            None => load(driver, bytes)?,
        };
        let mut objects = objects(driver);
        let handle = objects.new_handle();
        objects.modules.insert(handle, loaded);
        // SAFETY: passed on from the caller.
        unsafe { put(module, handle as *mut c_void) }
    })
}

/// Decodes an image, and keeps it for the next load of the same one, which a program does with each of its devices. A
/// module with variables is decoded anew each time: every load has variables of its own.
fn load(driver: &Driver, image: &[u8]) -> Result<Module, i32> {
    let (major, minor) = driver.gpu.description().compute_capability;
    let text = if fatbin::is_fatbin(image) {
        let found = fatbin::ptx(image, 10 * major + minor);
        found.ok_or_else(|| code_of(Error::NoBinaryForGpu("the fatbin has no PTX for it".into())))?
    } else {
        std::str::from_utf8(image).map_err(|_| code::INVALID_PTX)?.to_owned()
    };
    let module = driver.gpu.load_module(&text).map_err(|error| code_of(error.into()))?;
    if !module.has_globals() {
        objects(driver).images.insert(image.to_vec(), module.clone());
    }
    Ok(module)
}

/// Forgets a module; its functions go on to work.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: *mut c_void) -> c_int {
    finish(|driver| {
        let removed = objects(driver).modules.remove(&(module as usize));
        removed.map(|_| ()).ok_or(code::INVALID_HANDLE)
    })
}

/// A kernel by its name.
///
/// # Safety
/// `function` is null or points to a writable pointer; `name` is zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> c_int {
    finish(|driver| {
        if name.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: not null, so by contract zero-terminated.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| code::NOT_FOUND)?;
        let mut objects = objects(driver);
        let module = objects.modules.get(&(module as usize)).ok_or(code::INVALID_HANDLE)?;
        let found = module.function(name).ok_or(code::NOT_FOUND)?;
        let handle = objects.new_handle();
        objects.functions.insert(handle, found);
        // SAFETY: passed on from the caller.
        unsafe { put(function, handle as *mut c_void) }
    })
}
