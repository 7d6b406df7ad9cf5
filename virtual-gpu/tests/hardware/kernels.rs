//! The kernels whose results are recorded on a GPU, as PTX text: every form of every instruction whose operands have a
//! layout, on inputs whose products and sums are exact, and the approximate functions on samples of their domain.

/// A tensor map, over the input or the output.
#[derive(Clone)]
pub struct Map {
    /// Numbers as in the driver API.
    pub data_type: u32,
    pub swizzle: u32,
    pub nan_fill: bool,
    pub dims: Vec<u64>,
    /// Bytes, of all dimensions but the innermost.
    pub strides: Vec<u64>,
    pub box_dims: Vec<u32>,
    pub steps: Vec<u32>,
    pub over_output: bool,
}

pub struct Vector {
    /// File that its results go to.
    pub family: &'static str,
    pub name: String,
    /// Directives, declarations and body of the kernel.
    pub body: String,
    pub block: u32,
    /// Which input, see [`Input`].
    pub input: Input,
    pub out_words: usize,
    /// Each 32 words of the output become one number.
    pub digest: bool,
    pub map: Option<Map>,
    /// How far the virtual GPU may be off: (absolute, relative) of f32 results; exact without.
    pub bound: Option<(f64, f64)>,
}

/// What the input buffer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Input {
    Bytes,
    /// Small whole numbers of a type.
    F16,
    Bf16,
    F32,
    F64,
    E4m3,
    E5m2,
    S8,
    /// f32 of all magnitudes and signs.
    Samples,
    /// The same in 0.5..2 and its neighbourhood, both signs.
    Near,
}
use Input::*;

pub const INPUTS: [Input; 10] = [Bytes, F16, Bf16, F32, F64, E4m3, E5m2, S8, Samples, Near];
/// Bytes of each input.
pub const INPUT_BYTES: usize = 32768;

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Input {
    pub fn data(self) -> Vec<u8> {
        let mut state = self as u64;
        let mut out = Vec::new();
        while out.len() < INPUT_BYTES {
            let r = random(&mut state);
            // -3 to 3, so that 32 products and their sum are exact in every accumulator.
            let whole = (r >> 32) as i32 % 4;
            let eight = |exponent_bits: u32, mantissa_bits: u32| -> u8 {
                let magnitude = whole.unsigned_abs();
                let bias = (1 << (exponent_bits - 1)) - 1;
                let bits = match magnitude {
                    0 => 0,
                    m => {
                        let e = m.ilog2();
                        (e + bias) << mantissa_bits | (m - (1 << e)) << (mantissa_bits - e)
                    }
                };
                bits as u8 | if whole < 0 { 0x80 } else { 0 }
            };
            match self {
                Bytes => out.extend(r.to_le_bytes()),
                F16 => out.extend(half::f16::from_f32(whole as f32).to_le_bytes()),
                Bf16 => out.extend(half::bf16::from_f32(whole as f32).to_le_bytes()),
                F32 => out.extend((whole as f32).to_le_bytes()),
                F64 => out.extend(f64::from(whole).to_le_bytes()),
                E4m3 => out.push(eight(4, 3)),
                E5m2 => out.push(eight(5, 2)),
                S8 => out.push((r >> 32) as u8),
                Samples => {
                    let bits = (r >> 32) as u32;
                    let edges =
                        [0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x3f80_0000, 0xbf80_0000, 0x7fc0_0000, 1];
                    let at = out.len() / 4;
                    let exponent = 127 - 24 + (r % 49) as u32;
                    let bits = if at < 8 { edges[at] } else { bits & 0x807f_ffff | exponent << 23 };
                    out.extend(bits.to_le_bytes());
                }
                Near => {
                    out.extend(((r >> 32) as u32 & 0x807f_ffff | (126 + (r % 3) as u32) << 23).to_le_bytes())
                }
            }
        }
        out
    }
}

/// Registers, parameters, and the input in shared memory.
fn body(shared: usize, fill: bool, rest: &str) -> String {
    let mut text = String::from(
        ".reg .b64 %in, %out, %x<50>;\n.reg .b32 %t, %s, %r<300>;\n.reg .b64 %q<99>;\n.reg .pred %p<9>;\n\
         ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\nmov.u32 %t, %tid.x;\n",
    );
    if shared > 0 {
        text += &format!(".shared .align 1024 .b8 smem[{shared}];\nmov.u32 %s, smem;\n");
        text += &format!(
            "mul.lo.u32 %r290, %t, 16;\nmov.u32 %r291, %ntid.x;\nmul.lo.u32 %r291, %r291, 16;\nFILL:\n\
             setp.ge.u32 %p8, %r290, {shared};\n@%p8 bra FILLED;\ncvt.u64.u32 %x40, %r290;\nadd.u64 %x40, %x40, \
             %in;\nadd.u32 %r292, %s, %r290;\n"
        );
        text += if fill {
            "ld.global.v4.u32 {%r293, %r294, %r295, %r296}, [%x40];\n"
        } else {
            "mov.u32 %r293, 0xa5a5a5a5;\nmov.u32 %r294, %r293;\nmov.u32 %r295, %r293;\nmov.u32 %r296, %r293;\n"
        };
        text += "st.shared.v4.u32 [%r292], {%r293, %r294, %r295, %r296};\nadd.u32 %r290, %r290, %r291;\nbra.uni \
                 FILL;\nFILLED:\nfence.proxy.async;\nbar.sync 0;\n";
    }
    text + rest + "\nret;\n"
}

/// Stores registers `%r{from}…` so that each is one row of as many words as threads.
fn dump_registers(from: usize, count: usize, block: u32) -> String {
    let mut text = String::from("mul.wide.u32 %x41, %t, 4;\nadd.u64 %x41, %x41, %out;\n");
    for i in 0..count {
        text += &format!("st.global.u32 [%x41+{}], %r{};\n", 4 * i * block as usize, from + i);
    }
    text
}

/// Copies `bytes` of shared memory to the output.
fn dump_shared(bytes: usize, block: u32) -> String {
    let step = 4 * block;
    format!(
        "mul.lo.u32 %r280, %t, 4;\nDUMP:\nadd.u32 %r281, %s, %r280;\nld.shared.u32 %r282, [%r281];\ncvt.u64.u32 %x42, \
         %r280;\nadd.u64 %x42, %x42, %out;\nst.global.u32 [%x42], %r282;\nadd.u32 %r280, %r280, {step};\n\
         setp.lt.u32 %p7, %r280, {bytes};\n@%p7 bra DUMP;\n"
    )
}

fn registers(from: usize, count: usize) -> String {
    (from..from + count).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ")
}

fn vector(
    family: &'static str,
    name: String,
    body: String,
    block: u32,
    input: Input,
    out_words: usize,
) -> Vector {
    let digest = out_words > 512;
    Vector { family, name, body, block, input, out_words, digest, map: None, bound: None }
}

pub fn all() -> Vec<Vector> {
    let mut all = matrices();
    all.extend(products());
    all.extend(warpgroup_products());
    all.extend(warpgroup_layouts());
    all.extend(tensor_loads());
    all.extend(tensor_stores());
    all.extend(approximate());
    all
}

fn matrices() -> Vec<Vector> {
    let mut all = Vec::new();
    for count in [1usize, 2, 4] {
        for trans in ["", ".trans"] {
            let opcode = format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16");
            // Rows in no order: lane l's is 48 bytes times a permutation of the lanes.
            let address = "mad.lo.u32 %r1, %t, 5, 3;\nand.b32 %r1, %r1, 31;\nmad.lo.u32 %r1, %r1, 48, %s;\n";
            let text = format!(
                "{address}{opcode} {{{}}}, [%r1];\n{}",
                registers(10, count),
                dump_registers(10, count, 32)
            );
            all.push(vector("ldmatrix", opcode, body(2048, true, &text), 32, Bytes, 32 * count));
            let opcode = format!("stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16");
            let loads: String =
                (0..count).map(|i| format!("ld.global.u32 %r{}, [%x1+{}];\n", 10 + i, 128 * i)).collect();
            let text = format!(
                "mul.wide.u32 %x1, %t, 4;\nadd.u64 %x1, %x1, %in;\n{loads}{address}{opcode} [%r1], {{{}}};\nbar.sync \
                 0;\n{}",
                registers(10, count),
                dump_shared(2048, 32)
            );
            all.push(vector("stmatrix", opcode, body(2048, false, &text), 32, Bytes, 512));
        }
    }
    let text = format!(
        "mul.wide.u32 %x1, %t, 4;\nadd.u64 %x1, %x1, %in;\nld.global.u32 %r1, [%x1];\n\
         movmatrix.sync.aligned.m8n8.trans.b16 %r10, %r1;\n{}",
        dump_registers(10, 1, 32)
    );
    let name = "movmatrix.sync.aligned.m8n8.trans.b16".to_string();
    all.push(vector("movmatrix", name, body(0, true, &text), 32, Bytes, 32));
    all
}

/// Types of the operands with their input and elements a register.
const NARROW: [(&str, Input, usize); 7] = [
    ("f16", F16, 2),
    ("bf16", Bf16, 2),
    ("tf32", F32, 1),
    ("e4m3", E4m3, 4),
    ("e5m2", E5m2, 4),
    ("s8", S8, 4),
    ("u8", S8, 4),
];

fn products() -> Vec<Vector> {
    let mut all = Vec::new();
    for (a, input, per) in NARROW {
        for (b, ..) in NARROW {
            let integer = a.ends_with('8') && !a.starts_with('b');
            let same_family = match a {
                "s8" | "u8" => b == "s8" || b == "u8",
                // An input of e4m3 read as e5m2 is other numbers, exact as well.
                "e4m3" | "e5m2" => b == "e4m3" || b == "e5m2",
                _ => a == b,
            };
            if !same_family {
                continue;
            }
            let depths: &[usize] = match per {
                1 => &[4, 8],
                2 => &[8, 16],
                _ if integer => &[16, 32],
                _ => &[32],
            };
            let sums: &[&str] = match a {
                "s8" | "u8" => &["s32"],
                "f16" | "e4m3" | "e5m2" => &["f32", "f16"],
                _ => &["f32"],
            };
            for k in depths {
                for sum in sums {
                    for saturate in if integer { vec!["", ".satfinite"] } else { vec![""] } {
                        let opcode =
                            format!("mma.sync.aligned.m16n8k{k}.row.col{saturate}.{sum}.{a}.{b}.{sum}");
                        // f16 sums of e4m3 read as e5m2 could leave the range; nothing else does.
                        let (na, nb) = (k * 16 / 32 / per, k * 8 / 32 / per);
                        let nc = if *sum == "f16" { 2 } else { 4 };
                        all.push(warp_product(&opcode, [na, nb, nc], input, sum));
                    }
                }
            }
        }
    }
    for (shape, na, nb, nc) in
        [("m8n8k4", 1, 1, 2), ("m16n8k4", 2, 1, 4), ("m16n8k8", 4, 2, 4), ("m16n8k16", 8, 4, 4)]
    {
        let opcode = format!("mma.sync.aligned.{shape}.row.col.f64.f64.f64.f64");
        let list = |from: usize, n: usize| -> String {
            (from..from + n).map(|i| format!("%q{i}")).collect::<Vec<_>>().join(", ")
        };
        let loads: String =
            (0..na + nb + nc).map(|i| format!("ld.global.u64 %q{i}, [%x1+{}];\n", 256 * i)).collect();
        let stores: String =
            (0..nc).map(|i| format!("st.global.u64 [%x2+{}], %q{};\n", 256 * i, 50 + i)).collect();
        let text = format!(
            "mul.wide.u32 %x1, %t, 8;\nadd.u64 %x2, %x1, %out;\nadd.u64 %x1, %x1, %in;\n{loads}{opcode} {{{}}}, {{{}}}, \
             {{{}}}, {{{}}};\n{stores}",
            list(50, nc),
            list(0, na),
            list(na, nb),
            list(na + nb, nc)
        );
        all.push(vector("mma", opcode, body(0, true, &text), 32, F64, 64 * nc));
    }
    all
}

/// Operands from the input, one row of 32 words a register; the accumulator is small whole numbers, too.
fn warp_product(opcode: &str, [na, nb, nc]: [usize; 3], input: Input, sum: &str) -> Vector {
    let loads: String =
        (0..na + nb).map(|i| format!("ld.global.u32 %r{}, [%x1+{}];\n", 20 + i, 128 * i)).collect();
    // C is made of the lane: (lane mod 8) - 3 + register.
    let accumulators: String = (0..nc)
        .map(|i| {
            let at = 60 + i;
            let value = format!("and.b32 %r1, %t, 7;\nadd.s32 %r1, %r1, {};\n", i as i32 - 3);
            value
                + &match sum {
                    "s32" => format!("mul.lo.s32 %r{at}, %r1, 100000;\n"),
                    "f32" => format!("cvt.rn.f32.s32 %r{at}, %r1;\n"),
                    _ => format!(
                        "cvt.rn.f32.s32 %r2, %r1;\nneg.f32 %r3, %r2;\ncvt.rn.f16x2.f32 %r{at}, %r2, %r3;\n"
                    ),
                }
        })
        .collect();
    let text = format!(
        "mul.wide.u32 %x1, %t, 4;\nadd.u64 %x1, %x1, %in;\n{loads}{accumulators}{opcode} {{{}}}, {{{}}}, {{{}}}, \
         {{{}}};\n{}",
        registers(70, nc),
        registers(20, na),
        registers(20 + na, nb),
        registers(60, nc),
        dump_registers(70, nc, 32)
    );
    vector("mma", opcode.to_string(), body(0, true, &text), 32, input, 32 * nc)
}

/// A descriptor: offset of the operand, leading and stride offsets in bytes, base offset, swizzle (0 none, 1 of 128
/// bytes, 2 of 64, 3 of 32).
#[derive(Clone, Copy)]
struct Descriptor {
    at: u32,
    leading: u64,
    stride: u64,
    base: u64,
    swizzle: u64,
}

impl Descriptor {
    fn text(self, register: usize) -> String {
        let constant =
            self.leading >> 4 << 16 | self.stride >> 4 << 32 | self.base << 49 | self.swizzle << 62;
        format!(
            "add.u32 %r1, %s, {};\nand.b32 %r1, %r1, 0x3ffff;\nshr.u32 %r1, %r1, 4;\ncvt.u64.u32 %q{register}, \
             %r1;\nor.b64 %q{register}, %q{register}, {constant};\n",
            self.at
        )
    }
}

/// One wgmma over 32 KiB of shared memory; A at its beginning or in registers.
#[allow(clippy::too_many_arguments)]
fn warpgroup(
    name: String,
    opcode: &str,
    n: usize,
    input: Input,
    a: Option<Descriptor>,
    b: Descriptor,
    flags: &str,
    scale: bool,
) -> Vector {
    let half = opcode.contains(&format!("k{}.f16.", k_of(opcode)));
    let count = if half { n / 4 } else { n / 2 };
    let accumulators: String = (0..count)
        .map(|i| {
            let value = if half {
                "0x3c004000"
            } else if opcode.contains(".s32.") {
                "1000"
            } else {
                "0x40000000"
            };
            format!("mov.u32 %r{}, {value};\n", 10 + i)
        })
        .collect();
    let operand = match a {
        Some(d) => (d.text(0), "%q0".to_string()),
        None => {
            let loads: String =
                (0..4).map(|i| format!("ld.global.u32 %r{}, [%x1+{}];\n", 4 + i, 512 * i)).collect();
            (
                format!("mul.wide.u32 %x1, %t, 4;\nadd.u64 %x1, %x1, %in;\n{loads}"),
                "{%r4, %r5, %r6, %r7}".into(),
            )
        }
    };
    let text = format!(
        "{}{}{accumulators}setp.eq.u32 %p1, 0, {};\nwgmma.fence.sync.aligned;\n{opcode} {{{}}}, {}, %q1, %p1{flags};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n{}",
        operand.0,
        b.text(1),
        u32::from(!scale),
        registers(10, count),
        operand.1,
        dump_registers(10, count, 128)
    );
    vector("wgmma", name, body(INPUT_BYTES, true, &text), 128, input, 128 * count)
}

fn k_of(opcode: &str) -> usize {
    let shape = opcode.split('.').find(|w| w.starts_with("m64n")).expect("a shape");
    shape.split_once('k').and_then(|(_, k)| k.parse().ok()).expect("a depth")
}

/// A of 64 rows and B of up to 256, without swizzle: core matrices of 128 bytes, two in K.
const PLAIN_A: Descriptor = Descriptor { at: 0, leading: 128, stride: 256, base: 0, swizzle: 0 };
const PLAIN_B: Descriptor = Descriptor { at: 4096, leading: 128, stride: 256, base: 0, swizzle: 0 };

/// Every N, every type, operands in registers and shared memory, scales.
fn warpgroup_products() -> Vec<Vector> {
    let mut all = Vec::new();
    for n in (8..=256).step_by(8) {
        let opcode = format!("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16");
        let flags = ", 1, 1, 0, 0";
        all.push(warpgroup(opcode.clone(), &opcode, n, Bf16, Some(PLAIN_A), PLAIN_B, flags, true));
    }
    for (a, input, per) in NARROW {
        for (b, ..) in NARROW {
            let family = |t: &str| match t {
                "s8" | "u8" => 1,
                "e4m3" | "e5m2" => 2,
                "f16" => 3,
                "bf16" => 4,
                _ => 5,
            };
            if family(a) != family(b) {
                continue;
            }
            let sums: &[&str] = match family(a) {
                1 => &["s32"],
                2 | 3 => &["f32", "f16"],
                _ => &["f32"],
            };
            for sum in sums {
                let opcode = format!("wgmma.mma_async.sync.aligned.m64n16k{}.{sum}.{a}.{b}", 8 * per);
                let (shared, held) = match (per, family(a)) {
                    (2, _) => (", 1, 1, 0, 0", ", 1, 1, 0"),
                    (_, 1) => ("", ""),
                    _ => (", 1, 1", ", 1, 1"),
                };
                let name = |what: &str| format!("{opcode} {what}");
                all.push(warpgroup(
                    name("A in shared"),
                    &opcode,
                    16,
                    input,
                    Some(PLAIN_A),
                    PLAIN_B,
                    shared,
                    true,
                ));
                all.push(warpgroup(name("A in registers"), &opcode, 16, input, None, PLAIN_B, held, true));
                all.push(warpgroup(
                    name("scale-d 0"),
                    &opcode,
                    16,
                    input,
                    Some(PLAIN_A),
                    PLAIN_B,
                    shared,
                    false,
                ));
                if !shared.is_empty() {
                    for (x, y) in [("-1", "1"), ("1", "-1"), ("-1", "-1")] {
                        let flags = shared.replacen(", 1, 1", &format!(", {x}, {y}"), 1);
                        let name = name(&format!("scales {x} {y}"));
                        all.push(warpgroup(name, &opcode, 16, input, Some(PLAIN_A), PLAIN_B, &flags, true));
                    }
                }
                if family(a) == 1 {
                    let opcode = format!("wgmma.mma_async.sync.aligned.m64n16k32.s32.{a}.{b}.satfinite");
                    all.push(warpgroup(opcode.clone(), &opcode, 16, input, Some(PLAIN_A), PLAIN_B, "", true));
                }
            }
        }
    }
    all
}

/// Swizzles, both majors, offsets that are no tile's, start addresses within the swizzle pattern, base offsets.
fn warpgroup_layouts() -> Vec<Vector> {
    let mut all = Vec::new();
    let swizzles = [(0u64, "none", 16u64), (3, "32", 32), (2, "64", 64), (1, "128", 128)];
    for (swizzle, text, span) in swizzles {
        let opcode = "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16";
        for (major, flags) in [
            ("K", ", 1, 1, 0, 0"),
            ("MN of A", ", 1, 1, 1, 0"),
            ("MN of B", ", 1, 1, 0, 1"),
            ("MN", ", 1, 1, 1, 1"),
        ] {
            // Offsets as a tile has them, and others.
            for (leading, stride) in [(128, 8 * span), (1024, 2048), (4096, 1024), (8 * span, 256)] {
                let d = Descriptor { at: 0, leading, stride, base: 0, swizzle };
                let b = Descriptor { at: 16384, ..d };
                // Everything that could be read lies in the 32 KiB.
                let furthest = 8 * stride.max(leading) + 4 * leading.max(stride) + 1024;
                if furthest > 16384 && !(major == "K" && 8 * stride + leading + 1024 <= 16384) {
                    continue;
                }
                let name = format!("layout: swizzle {text}, {major}, leading {leading}, stride {stride}");
                all.push(warpgroup(name, opcode, 32, Bf16, Some(d), b, flags, false));
            }
        }
        if swizzle == 0 {
            continue;
        }
        // The next slice of K within the span, and a tile that begins at another row of the pattern.
        let at_k = |at: u32, base: u64| Descriptor { at, leading: 16, stride: 8 * span, base, swizzle };
        let flags = ", 1, 1, 0, 0";
        for slice in 0..(span / 32) as u32 {
            let name = format!("layout: swizzle {text}, K, slice {slice} of the span");
            let (a, b) = (at_k(32 * slice, 0), at_k(16384 + 32 * slice, 0));
            all.push(warpgroup(name, opcode, 32, Bf16, Some(a), b, flags, false));
        }
        for row in [1u32, 2, 5] {
            for base in [0, u64::from(row)] {
                let name = format!(
                    "layout: swizzle {text}, K, begins {row} rows of 128 bytes on, base offset {base}"
                );
                let (a, b) = (at_k(128 * row, base), at_k(16384 + 128 * row, base));
                all.push(warpgroup(name, opcode, 32, Bf16, Some(a), b, flags, false));
            }
        }
        // Elements of one and four bytes.
        for (opcode, input, flags) in [
            ("wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3", E4m3, ", 1, 1"),
            ("wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8", S8, ""),
            ("wgmma.mma_async.sync.aligned.m64n32k8.f32.tf32.tf32", F32, ", 1, 1"),
        ] {
            let name =
                format!("layout: swizzle {text}, {}", &opcode["wgmma.mma_async.sync.aligned.".len()..]);
            all.push(warpgroup(name, opcode, 32, input, Some(at_k(0, 0)), at_k(16384, 0), flags, false));
        }
    }
    all
}

/// Data type number, bytes, name.
const U8: (u32, u64, &str) = (0, 1, "u8");
const U16: (u32, u64, &str) = (1, 2, "u16");
const U32: (u32, u64, &str) = (2, 4, "u32");
const F32_TYPE: (u32, u64, &str) = (7, 4, "f32");
const F64_TYPE: (u32, u64, &str) = (8, 8, "f64");
const BF16_TYPE: (u32, u64, &str) = (9, 2, "bf16");

fn map((data_type, bytes, _): (u32, u64, &str), dims: &[u64], box_dims: &[u32]) -> Map {
    let mut strides = Vec::new();
    let mut stride = bytes;
    for dim in &dims[..dims.len() - 1] {
        // Rows begin at multiples of 16 bytes.
        stride = (stride * dim).next_multiple_of(16);
        strides.push(stride);
    }
    Map {
        data_type,
        swizzle: 0,
        nan_fill: false,
        dims: dims.to_vec(),
        strides,
        box_dims: box_dims.to_vec(),
        steps: vec![1; dims.len()],
        over_output: false,
    }
}

fn box_bytes(map: &Map, bytes: u64) -> usize {
    let elements: u64 = map
        .box_dims
        .iter()
        .zip(&map.steps)
        .enumerate()
        .map(|(i, (b, s))| u64::from(if i == 0 { *b } else { b.div_ceil(*s) }))
        .product();
    (elements * bytes) as usize
}

/// What the innermost dimension takes in shared memory: the swizzle's span, or itself.
fn shared_bytes(map: &Map, bytes: u64) -> usize {
    let inner = map.box_dims[0] as usize * bytes as usize;
    let span = [0, 32, 64, 128][map.swizzle as usize];
    box_bytes(map, bytes) / inner * inner.max(span)
}

/// What it is, its type, the map, and where the box begins.
type TensorCase = (String, (u32, u64, &'static str), Map, Vec<i32>);

fn tensor_cases() -> Vec<TensorCase> {
    let mut all: Vec<TensorCase> = Vec::new();
    let shapes: [(&[u64], &[u32]); 5] = [
        (&[100], &[16]),
        (&[40, 20], &[16, 8]),
        (&[24, 10, 6], &[8, 4, 3]),
        (&[20, 6, 5, 4], &[8, 3, 2, 3]),
        (&[12, 5, 4, 3, 3], &[4, 3, 2, 2, 2]),
    ];
    for (dims, boxes) in shapes {
        let rank = dims.len();
        for (what, start) in [
            ("inside", vec![4; rank]),
            ("before the beginning", vec![-2; rank]),
            ("across the end", dims.iter().zip(boxes).map(|(d, b)| *d as i32 - *b as i32 / 2).collect()),
            ("outside", dims.iter().map(|d| *d as i32 + 1).collect()),
        ] {
            // Where 4 is already too far, the box hangs over: fine as well.
            all.push((format!("{rank}d u32 {what}"), U32, map(U32, dims, boxes), start));
        }
    }
    for ty in [U8, U16, F64_TYPE, BF16_TYPE] {
        let m = map(ty, &[64, 20], &[(32 / ty.1) as u32, 8]);
        all.push((format!("2d {}", ty.2), ty, m, vec![5, 16]));
    }
    for ty in [F32_TYPE, F64_TYPE, BF16_TYPE] {
        let m = Map { nan_fill: true, ..map(ty, &[40, 20], &[(32 / ty.1) as u32, 8]) };
        all.push((format!("2d {} NaN fill", ty.2), ty, m, vec![36, 16]));
    }
    for (swizzle, span) in [(1u32, 32u64), (2, 64), (3, 128)] {
        for ty in [U8, BF16_TYPE, U32] {
            // As wide as the span, half of it, and a quarter.
            for part in [1, 2, 4] {
                if span / part < 16 {
                    continue;
                }
                let m = Map { swizzle, ..map(ty, &[160, 40], &[(span / part / ty.1) as u32, 24]) };
                all.push((format!("2d {} swizzle {span}, box of 1/{part}", ty.2), ty, m, vec![3, 21]));
            }
        }
        let m = Map { swizzle, ..map(BF16_TYPE, &[64, 9, 6], &[(span / 2) as u32, 5, 4]) };
        all.push((format!("3d bf16 swizzle {span}"), BF16_TYPE, m, vec![-3, 6, 2]));
    }
    for steps in [vec![1, 2], vec![1, 3], vec![1, 8]] {
        let m = Map { steps: steps.clone(), ..map(U32, &[32, 40], &[8, 24]) };
        all.push((format!("2d u32 element strides {steps:?}"), U32, m, vec![2, 5]));
    }
    all
}

fn coordinates(start: &[i32]) -> String {
    start.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
}

fn tensor_loads() -> Vec<Vector> {
    let mut all = Vec::new();
    for (name, ty, map, start) in tensor_cases() {
        let bytes = box_bytes(&map, ty.1);
        let shared = (shared_bytes(&map, ty.1) + 256).next_multiple_of(1024);
        let rank = start.len();
        let text = format!(
            ".shared .align 8 .b64 full;\nmov.u32 %r1, full;\nmov.u64 %x1, map;\ncvta.param.u64 %x1, %x1;\nsetp.ne.u32 %p1, %t, 0;\n@%p1 bra \
             WAIT;\nmbarrier.init.shared.b64 [%r1], 1;\nfence.mbarrier_init.release.cluster;\nfence.proxy.async;\n\
             mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {bytes};\n\
             cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%s], [%x1, {{{}}}], \
             [%r1];\nWAIT:\nbar.sync 0;\nPOLL:\nmbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;\n@!%p2 bra POLL;\n{}",
            coordinates(&start),
            dump_shared(shared, 128)
        );
        let mut v =
            vector("tma_load", format!("load {name}"), body(shared, false, &text), 128, Bytes, shared / 4);
        v.map = Some(map);
        all.push(v);
    }
    all
}

fn tensor_stores() -> Vec<Vector> {
    let mut all = Vec::new();
    for (name, ty, map, start) in tensor_cases() {
        if map.nan_fill {
            continue;
        }
        let shared = shared_bytes(&map, ty.1).next_multiple_of(1024);
        let rank = start.len();
        let reduced: &[&str] = match ty.2 {
            "u32" if rank == 2 && map.swizzle != 1 => &["", "add", "xor", "min"],
            _ => &[""],
        };
        for reduce in reduced {
            let opcode = match *reduce {
                "" => format!("cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group"),
                op => format!("cp.reduce.async.bulk.tensor.{rank}d.global.shared::cta.{op}.tile.bulk_group"),
            };
            let text = format!(
                "mov.u64 %x1, map;\ncvta.param.u64 %x1, %x1;\nsetp.ne.u32 %p1, %t, 0;\n@%p1 bra END;\n{opcode} [%x1, {{{}}}], [%s];\n\
                 cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\nEND:\n",
                coordinates(&start)
            );
            let rows = map.strides.last().copied().unwrap_or(ty.1 * map.dims[0]);
            let words =
                if map.strides.is_empty() { rows / 4 } else { rows * map.dims[rank - 1] / 4 } as usize;
            let name =
                if reduce.is_empty() { format!("store {name}") } else { format!("reduce {reduce} {name}") };
            let mut v = vector("tma_store", name, body(shared, true, &text), 128, Bytes, words);
            v.map = Some(Map { over_output: true, ..map.clone() });
            all.push(v);
        }
    }
    all
}

/// f32 results of 512 inputs; judged within twice the bound of the ISA.
fn approximate() -> Vec<Vector> {
    let mut all = Vec::new();
    let power = |e: i32| 2f64.powi(e);
    for (opcode, input, absolute, relative) in [
        ("ex2.approx.ftz.f32", Near, 0.0, power(-21)),
        ("ex2.approx.f32", Near, 0.0, power(-21)),
        ("lg2.approx.ftz.f32", Near, power(-21), power(-21)),
        ("lg2.approx.f32", Samples, power(-21), power(-21)),
        ("rcp.approx.ftz.f32", Samples, 0.0, power(-22)),
        ("rsqrt.approx.ftz.f32", Samples, 0.0, power(-21)),
        ("sqrt.approx.ftz.f32", Samples, 0.0, power(-21)),
        ("sin.approx.ftz.f32", Near, power(-19), 0.0),
        ("cos.approx.ftz.f32", Near, power(-19), 0.0),
        ("tanh.approx.f32", Near, 0.0, power(-9)),
    ] {
        let loads: String = (0..4)
            .map(|i| {
                format!(
                    "ld.global.u32 %r{}, [%x1+{}];\n{opcode} %r{}, %r{};\n",
                    4 + i,
                    512 * i,
                    10 + i,
                    4 + i
                )
            })
            .collect();
        let text = format!(
            "mul.wide.u32 %x1, %t, 4;\nadd.u64 %x1, %x1, %in;\n{loads}{}",
            dump_registers(10, 4, 128)
        );
        let mut v = vector("approximate", opcode.to_string(), body(0, true, &text), 128, input, 512);
        v.bound = Some((absolute, relative));
        all.push(v);
    }
    all
}
