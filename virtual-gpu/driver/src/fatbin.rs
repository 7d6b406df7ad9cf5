//! Finds the PTX in a fatbin, as nvcc's fatbinary lays it out (not documented; read off its output).
//!
//! A header (magic, version, its own size as u16 at 6, size of what follows as u64 at 8), then entries: kind u16 (1 is
//! PTX, 2 is machine code), version u16, size of the entry's header u32, size of its payload u64, and at 28 the
//! architecture u32. The payload is the text itself or a zstd frame of it, padded with zeros.

use std::borrow::Cow;
use std::io::Read;

/// First word of a fatbin.
const MAGIC: u32 = 0xba55_ed50;
const KIND_PTX: u16 = 1;
/// First bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Whether this is a fatbin's header.
pub fn is_fatbin(header: &[u8]) -> bool {
    u32_at(header, 0) == Some(MAGIC)
}

/// Bytes of the whole fatbin, from its 16-byte header.
pub fn size(header: &[u8]) -> Option<usize> {
    usize::from(u16_at(header, 6)?).checked_add(usize::try_from(u64_at(header, 8)?).ok()?)
}

/// The PTX for the newest architecture up to `newest`, such as 90.
pub fn ptx(fatbin: &[u8], newest: u32) -> Option<String> {
    let mut at = usize::from(u16_at(fatbin, 6)?);
    let mut best: Option<(u32, &[u8])> = None;
    while at + 32 <= fatbin.len() {
        let header = u32_at(fatbin, at + 4)? as usize;
        let payload = usize::try_from(u64_at(fatbin, at + 8)?).ok()?;
        let architecture = u32_at(fatbin, at + 28)?;
        let end = at.checked_add(header)?.checked_add(payload)?;
        let body = fatbin.get(at + header..end)?;
        if u16_at(fatbin, at)? == KIND_PTX
            && architecture <= newest
            && best.is_none_or(|(a, _)| a < architecture)
        {
            best = Some((architecture, body));
        }
        at = end;
    }
    text(best?.1)
}

/// The text of a payload; none if it is compressed in a way that this does not know.
fn text(payload: &[u8]) -> Option<String> {
    let bytes = if payload.starts_with(&ZSTD) {
        let mut bytes = Vec::new();
        ruzstd::decoding::StreamingDecoder::new(payload).ok()?.read_to_end(&mut bytes).ok()?;
        Cow::Owned(bytes)
    } else {
        Cow::Borrowed(payload)
    };
    let text = bytes.split(|&byte| byte == 0).next()?;
    std::str::from_utf8(text).ok().filter(|text| text.contains(".version")).map(str::to_owned)
}
