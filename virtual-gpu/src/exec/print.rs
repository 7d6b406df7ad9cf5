//! `printf` on the device: the text that the host's `printf` would write of what `vprintf` is given.

mod format;

use super::warp::Warp;
use super::{At, Context, Flow, lanes};
use crate::findings::Kind;
use crate::memory::{BadAddress, Bytes, GlobalMemory, LOCAL_WINDOW, OFFSET_MASK};
use format::{Piece, Value, Wanted};

/// What is kept between two calls of [`crate::Gpu::take_printed`]; more is lost, and a finding says so.
const CAPACITY: usize = 64 << 20;
const LONGEST_TEXT: usize = 1 << 20;

/// The zero-terminated text at an address; where it leaves its allocation, what came before.
pub fn text(
    memory: &mut GlobalMemory,
    address: u64,
    longest: usize,
) -> Result<Vec<u8>, (Vec<u8>, BadAddress)> {
    let mut bytes = Vec::new();
    while bytes.len() < longest {
        match memory.range(address.wrapping_add(bytes.len() as u64), 1) {
            Err(bad) => return Err((bytes, bad)),
            Ok((a, at)) => {
                let mut byte = Bytes::new(1);
                a.bytes.copy_to(at, 1, &mut byte, 0);
                match byte.data[0] {
                    0 => break,
                    byte => bytes.push(byte),
                }
            }
        }
    }
    Ok(bytes)
}

/// Writes the text of each lane, in ascending order.
pub(super) fn print(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    arguments: &[u32; 2],
    result: Option<u32>,
    active: u32,
) -> Flow {
    let split = &warp.splits[chosen];
    let (base, top) = (split.base as usize, u64::from(split.top));
    let stride = warp.local.stride;
    for lane in lanes(active) {
        let frame = lane * stride + base;
        let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: None };
        let [format, values] = arguments.map(|offset| warp.local.bytes.get(frame + offset as usize, 8));
        let format = match text(ctx.memory, format, LONGEST_TEXT) {
            Ok(format) => format,
            Err((_, bad)) => return bad_text(ctx, at, format, bad),
        };
        let mut source = Source { values, next: 0, lane: lane * stride, top, undefined: 0, count: 0 };
        for piece in format::pieces(&format) {
            let conversion = match piece {
                Piece::Text(text) => {
                    write(ctx, at, text);
                    continue;
                }
                Piece::Conversion(conversion) => conversion,
            };
            let mut taken = Vec::new();
            for wanted in conversion.wanted() {
                let Some(bits) = source.take(ctx, warp, wanted) else {
                    let address = source.values.wrapping_add(source.next);
                    let message =
                        format!("printf reads a value at {address:#x}, outside of the thread's local memory");
                    ctx.report(Kind::OutOfBounds, true, At { address: Some(address), ..at }, message, None);
                    return Flow::Stop;
                };
                taken.push(match wanted {
                    Wanted::Text if bits == 0 => Value::Text(b"(null)".to_vec()),
                    Wanted::Text => match text(ctx.memory, bits, LONGEST_TEXT) {
                        Ok(text) => Value::Text(text),
                        Err((_, bad)) => return bad_text(ctx, at, bits, bad),
                    },
                    _ => Value::Bits(bits),
                });
            }
            write(ctx, at, &conversion.write(&taken));
        }
        if source.undefined != 0 {
            let message = format!("value {} that printf writes is undefined", source.undefined);
            ctx.report(Kind::Undefined, false, at, message, None);
        }
        if let Some(result) = result {
            warp.local.bytes.put(frame + result as usize, 4, source.count);
            warp.local.bytes.set_defined(frame + result as usize, 4, true);
        }
    }
    Flow::Next
}

/// Where a lane's values come from: one after another, each aligned to its size.
struct Source {
    values: u64,
    next: u64,
    /// Where the lane's local memory begins.
    lane: usize,
    /// End of the local memory in use.
    top: u64,
    /// Number, from 1, of the first undefined value.
    undefined: u64,
    count: u64,
}

impl Source {
    /// The next value, unless it lies outside of the memory it should be in.
    fn take(&mut self, ctx: &mut Context<'_>, warp: &Warp, wanted: Wanted) -> Option<u64> {
        let len = wanted.bytes();
        self.next = self.next.next_multiple_of(u64::from(len));
        let address = self.values.checked_add(self.next)?;
        let (value, defined) = if address & !OFFSET_MASK == LOCAL_WINDOW {
            let offset = address & OFFSET_MASK;
            if offset + u64::from(len) > self.top {
                return None;
            }
            let at = self.lane + offset as usize;
            (warp.local.bytes.get(at, len), warp.local.bytes.is_defined(at, len))
        } else {
            let (a, at) = ctx.memory.range(address, u64::from(len)).ok()?;
            let mut copy = Bytes::new(len as usize);
            a.bytes.copy_to(at, len as usize, &mut copy, 0);
            (copy.get(0, len), copy.is_defined(0, len))
        };
        self.next += u64::from(len);
        self.count += 1;
        if !defined && self.undefined == 0 {
            self.undefined = self.count;
        }
        Some(value)
    }
}

fn write(ctx: &mut Context<'_>, at: At, text: &[u8]) {
    if ctx.printed.len() + text.len() <= CAPACITY {
        ctx.printed.extend(text);
    } else {
        let message = format!("printf has written more than {CAPACITY} bytes; the rest is lost");
        ctx.report(Kind::Unsupported, false, at, message, None);
    }
}

fn bad_text(ctx: &mut Context<'_>, at: At, address: u64, bad: BadAddress) -> Flow {
    let place = ctx.memory.describe(address);
    let why = match bad {
        BadAddress::Outside(_) => "does not end in its allocation",
        BadAddress::Nowhere | BadAddress::Freed => "is not there",
    };
    let at = At { address: Some(address), ..at };
    ctx.report(Kind::OutOfBounds, true, at, format!("printf reads a text at {place}, which {why}"), None);
    Flow::Stop
}
