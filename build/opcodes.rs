//! Counts instructions in a cubin: an ELF file with a section of 16-byte instructions for each kernel.

/// How often a kernel holds the instructions that `nanomoe kernels --check` asks about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opcodes {
    pub hgmma: u32,
    pub utmaldg: u32,
    pub utmastg: u32,
    pub acqbulk: u32,
    pub preexit: u32,
    pub usetmaxreg: u32,
    /// LDL and STL.
    pub local: u32,
}

/// Every kernel of a cubin of compute capability 8.0 to 9.0; `None` where it is no such file.
pub fn count(cubin: &[u8]) -> Option<Vec<(String, Opcodes)>> {
    let number = |at: usize, len: usize| -> Option<usize> {
        let bytes = cubin.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    };
    if cubin.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let (sections, size) = (number(0x28, 8)?, number(0x3a, 2)?);
    let (num_sections, names) = (number(0x3c, 2)?, number(0x3e, 2)?);
    let section = |index: usize| sections + index * size;
    let names = number(section(names) + 0x18, 8)?;
    let mut kernels = Vec::new();
    for index in 0..num_sections {
        let name = cubin.get(names + number(section(index), 4)?..)?;
        let name = name.split(|&byte| byte == 0).next()?;
        let Some(kernel) = name.strip_prefix(b".text.") else { continue };
        let (start, len) = (number(section(index) + 0x18, 8)?, number(section(index) + 0x20, 8)?);
        let mut opcodes = Opcodes::default();
        for instruction in cubin.get(start..start + len)?.chunks_exact(16) {
            // The lowest nine bits are the operation, the next three which kinds of operands it has.
            match u16::from_le_bytes([instruction[0], instruction[1]]) & 0x1ff {
                0x1f0 => opcodes.hgmma += 1,
                0x1b4 => opcodes.utmaldg += 1,
                0x1b5 => opcodes.utmastg += 1,
                0x02e => opcodes.acqbulk += 1,
                0x02d => opcodes.preexit += 1,
                0x1c8 => opcodes.usetmaxreg += 1,
                0x183 | 0x187 => opcodes.local += 1,
                _ => {}
            }
        }
        kernels.push((String::from_utf8(kernel.to_vec()).ok()?, opcodes));
    }
    Some(kernels)
}
