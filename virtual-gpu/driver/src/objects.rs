//! Memory, streams, events, graphs.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use virtual_gpu::{Event, Stream};

use crate::{code, code_of, finish, objects, put};

fn stream_of(stream: *mut c_void) -> Stream {
    Stream(stream as u64)
}

fn event_of(event: *mut c_void) -> Event {
    Event(event as u64)
}

/// Free and total bytes.
///
/// # Safety
/// Both are null or point to writable sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    finish(|driver| {
        let (free_bytes, total_bytes) = driver.gpu.mem_info();
        // SAFETY: passed on from the caller.
        unsafe {
            put(free, free_bytes as usize)?;
            put(total, total_bytes as usize)
        }
    })
}

/// Allocates device memory.
///
/// # Safety
/// `address` is null or points to a writable address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    finish(|driver| {
        let allocated = driver.gpu.alloc(bytes as u64).map_err(code_of)?;
        // SAFETY: passed on from the caller.
        unsafe { put(address, allocated) }
    })
}

/// Gives device memory back, after all work.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    finish(|driver| driver.gpu.free(address).map_err(code_of))
}

/// Sets bytes in stream order.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: *mut c_void) -> c_int {
    finish(|driver| driver.gpu.set_async(address, &[value], count as u64, stream_of(stream)).map_err(code_of))
}

/// Copies to the device in stream order; the bytes are taken at once.
///
/// # Safety
/// `from` points to `bytes` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: *mut c_void,
) -> c_int {
    finish(|driver| {
        if from.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: not null, and by contract `bytes` readable bytes.
        let data = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
        driver.gpu.write_async(to, data, stream_of(stream)).map_err(code_of)
    })
}

/// Copies to the host, after the work before it.
///
/// # Safety
/// `to` points to `bytes` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: *mut c_void,
) -> c_int {
    finish(|driver| {
        if to.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let mut data = vec![0; bytes];
        driver.gpu.read_async(from, &mut data, stream_of(stream)).map_err(code_of)?;
        // SAFETY: not null, and by contract `bytes` writable bytes.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to.cast::<u8>(), bytes) };
        Ok(())
    })
}

/// Copies on the device in stream order.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> c_int {
    finish(|driver| driver.gpu.copy_async(to, from, bytes as u64, stream_of(stream)).map_err(code_of))
}

/// A new stream; flag 1 means that it does not wait for the default stream.
///
/// # Safety
/// `stream` is null or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, flags: c_uint) -> c_int {
    // SAFETY: passed on from the caller.
    finish(|driver| unsafe { put(stream, driver.gpu.create_stream(flags & 1 == 0).0 as *mut c_void) })
}

/// Does a stream's work and forgets it.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> c_int {
    finish(|driver| driver.gpu.destroy_stream(stream_of(stream)).map_err(code_of))
}

/// Waits for a stream's work.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> c_int {
    finish(|driver| driver.gpu.stream_synchronize(stream_of(stream)).map_err(code_of))
}

/// Makes later work of a stream wait for an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) -> c_int {
    finish(|driver| driver.gpu.wait_event(stream_of(stream), event_of(event)).map_err(code_of))
}

/// Begins to record a stream's work.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, _mode: c_uint) -> c_int {
    finish(|driver| driver.gpu.begin_capture(stream_of(stream)).map_err(code_of))
}

/// Ends the recording.
///
/// # Safety
/// `graph` is null or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) -> c_int {
    finish(|driver| {
        let captured = driver.gpu.end_capture(stream_of(stream)).map_err(code_of)?;
        let mut objects = objects(driver);
        let handle = objects.new_handle();
        objects.graphs.insert(handle, captured);
        // SAFETY: passed on from the caller.
        unsafe { put(graph, handle as *mut c_void) }
    })
}

/// An executable copy of a graph.
///
/// # Safety
/// `executable` is null or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut *mut c_void,
    graph: *mut c_void,
    _flags: c_ulonglong,
) -> c_int {
    finish(|driver| {
        let mut objects = objects(driver);
        let copy = objects.graphs.get(&(graph as usize)).cloned().ok_or(code::INVALID_HANDLE)?;
        let handle = objects.new_handle();
        objects.graphs.insert(handle, copy);
        // SAFETY: passed on from the caller.
        unsafe { put(executable, handle as *mut c_void) }
    })
}

/// Puts a graph's work into a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) -> c_int {
    finish(|driver| {
        let graph =
            objects(driver).graphs.get(&(executable as usize)).cloned().ok_or(code::INVALID_HANDLE)?;
        driver.gpu.launch_graph(&graph, stream_of(stream)).map_err(code_of)
    })
}

/// Forgets a graph.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: *mut c_void) -> c_int {
    finish(|driver| objects(driver).graphs.remove(&(graph as usize)).map(|_| ()).ok_or(code::INVALID_HANDLE))
}

/// Forgets an executable graph.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: *mut c_void) -> c_int {
    cuGraphDestroy(executable)
}

/// A new event.
///
/// # Safety
/// `event` is null or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) -> c_int {
    // SAFETY: passed on from the caller.
    finish(|driver| unsafe { put(event, driver.gpu.create_event().0 as *mut c_void) })
}

/// Forgets an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> c_int {
    finish(|driver| driver.gpu.destroy_event(event_of(event)).map_err(code_of))
}

/// Records an event after a stream's work so far.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> c_int {
    finish(|driver| driver.gpu.record_event(event_of(event), stream_of(stream)).map_err(code_of))
}

/// Waits for an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: *mut c_void) -> c_int {
    finish(|driver| driver.gpu.event_synchronize(event_of(event)).map_err(code_of))
}

/// Virtual milliseconds between two events: a count of work, not a measure of time.
///
/// # Safety
/// `milliseconds` is null or points to a writable float.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> c_int {
    finish(|driver| {
        let elapsed = driver.gpu.event_elapsed(event_of(start), event_of(end)).map_err(code_of)?;
        // SAFETY: passed on from the caller.
        unsafe { put(milliseconds, elapsed) }
    })
}
