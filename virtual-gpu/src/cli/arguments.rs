//! The command line.

use crate::options::{Checks, Order};
use crate::tensor::descriptor::Swizzle;
use crate::tensor::tma::DataType;
use std::path::PathBuf;

/// What `virtual-gpu --help` prints.
pub const USAGE: &str = "\
Runs a compiled CUDA kernel on the CPU and says what is wrong with it.

usage: virtual-gpu run FILE.ptx KERNEL --grid X[,Y,Z] --block X[,Y,Z] [options]

    --cluster X[,Y,Z]          CTAs a cluster
    --shared BYTES             dynamic shared memory
    --order eager|lazy|random  when asynchronous work is done (default: eager)
    --seed N                   seed of the random order
    --check all|bounds|none    what is checked (default: all)
    --threads N                CPU threads for CTAs that do not talk to each other; 0 is one a core (default: 1).
                               Results, findings and counters do not depend on it
    --registers N              registers a thread, as ptxas -v says; limits what fits on the device
    --counters                 print what the kernel did: instructions, bytes, conflicts
    --json                     print one JSON object instead of text
    --buffer NAME=DTYPE:LEN:INIT
                               device memory of LEN elements. DTYPE: f64 f32 f16 bf16 i64 i32 i16 i8 u64 u32 u16 u8.
                               INIT: zeros, random or random:SEED (uniform in -1..1, small integers for integer
                               types), undefined, file:PATH (raw little-endian)
    --arg ARG                  an argument, in the kernel's order: ptr:NAME, i32:5, u32:5, i64:5, u64:5, f32:1.5, or
                               map:NAME,dims=64x200,box=64x64[,strides=BYTES[xBYTES...]][,swizzle=32|64|128], a tensor
                               map over a buffer (dims and box innermost first; strides of the outer dims, dense if
                               left out)
    --save NAME=PATH           write a buffer after the launch, raw; an undefined byte in it is a finding

exit status: 0 without findings, 1 with findings, 2 for a command that cannot be used
";

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NumberType {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
}

impl NumberType {
    const NAMES: [(&str, NumberType); 12] = {
        use NumberType::*;
        [
            ("f64", F64),
            ("f32", F32),
            ("f16", F16),
            ("bf16", Bf16),
            ("i64", I64),
            ("i32", I32),
            ("i16", I16),
            ("i8", I8),
            ("u64", U64),
            ("u32", U32),
            ("u16", U16),
            ("u8", U8),
        ]
    };

    fn parse(name: &str) -> Result<NumberType, String> {
        NumberType::NAMES.iter().find(|(n, _)| *n == name).map(|(_, t)| *t).ok_or_else(|| {
            let names: Vec<_> = NumberType::NAMES.iter().map(|(n, _)| *n).collect();
            format!("unknown type {name:?}, expected one of {}", names.join(" "))
        })
    }

    /// Size in bytes.
    pub fn bytes(self) -> usize {
        use NumberType::*;
        match self {
            F64 | I64 | U64 => 8,
            F32 | I32 | U32 => 4,
            F16 | Bf16 | I16 | U16 => 2,
            I8 | U8 => 1,
        }
    }

    /// The type of a tensor map over such a buffer.
    pub fn tensor(self) -> DataType {
        use NumberType::*;
        match self {
            F64 => DataType::F64,
            F32 => DataType::F32,
            F16 => DataType::F16,
            Bf16 => DataType::Bf16,
            I64 => DataType::I64,
            U64 => DataType::U64,
            I32 => DataType::I32,
            U32 => DataType::U32,
            I16 | U16 => DataType::U16,
            I8 | U8 => DataType::U8,
        }
    }
}

/// What a buffer holds before the launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Initial {
    /// Zeros.
    Zeros,
    /// Uniform in -1..1, or small integers, from this seed.
    Random(u64),
    /// Nothing: using it is a finding.
    Undefined,
    /// The raw bytes of a file.
    File(PathBuf),
}

/// `--buffer`.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferSpec {
    /// Its name on the command line.
    pub name: String,
    /// Element type.
    pub number: NumberType,
    /// Elements.
    pub len: usize,
    /// Contents before the launch.
    pub initial: Initial,
}

/// `--arg`.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// The address of a buffer, by its number among the buffers.
    Pointer(usize),
    /// A number, as its little-endian bytes.
    Number(Vec<u8>),
    /// A tensor map over a buffer.
    Map {
        /// Number of the buffer.
        buffer: usize,
        /// Elements in each dimension, innermost first.
        dims: Vec<u64>,
        /// Elements of the box, innermost first.
        box_dims: Vec<u32>,
        /// Bytes between the indices of the outer dimensions; `None` is dense.
        strides: Option<Vec<u64>>,
        /// Swizzle.
        swizzle: Swizzle,
    },
}

/// A whole `run` command.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Arguments {
    pub file: PathBuf,
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: Option<[u32; 3]>,
    pub shared: u32,
    pub order: Order,
    pub checks: Checks,
    pub threads: usize,
    pub registers: Option<u32>,
    pub counters: bool,
    pub json: bool,
    pub buffers: Vec<BufferSpec>,
    pub arguments: Vec<Argument>,
    /// Number of the buffer, and where its bytes go.
    pub saves: Vec<(usize, PathBuf)>,
}

impl Arguments {
    /// Parses the arguments of the program. The error is one line for a person.
    pub fn parse(words: &[String]) -> Result<Arguments, String> {
        let mut words = words.iter().map(String::as_str);
        match words.next() {
            Some("run") => {}
            Some(other) => return Err(format!("unknown command {other:?}, expected run (see --help)")),
            None => return Err("a command is missing, expected run (see --help)".into()),
        }
        let (mut positional, mut buffers, mut raw_arguments, mut raw_saves) =
            (vec![], vec![], vec![], vec![]);
        let (mut grid, mut block, mut cluster, mut shared) = (None, None, None, 0);
        let (mut order, mut seed, mut checks) = ("eager", None, Checks::All);
        let (mut counters, mut json) = (false, false);
        let (mut threads, mut registers) = (1, None);
        while let Some(word) = words.next() {
            // `--option=value` and `--option value` are the same.
            let (name, mut attached) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value)),
                _ => (word, None),
            };
            let flag = matches!(name, "--counters" | "--json");
            if flag && attached.is_some() {
                return Err(format!("{name} takes no value"));
            }
            let mut value =
                || attached.take().or_else(|| words.next()).ok_or(format!("{name} needs a value"));
            match name {
                "--grid" => grid = Some(dimensions(name, value()?)?),
                "--block" => block = Some(dimensions(name, value()?)?),
                "--cluster" => cluster = Some(dimensions(name, value()?)?),
                "--shared" => shared = number(name, value()?)?,
                "--order" => order = value()?,
                "--seed" => seed = Some(number(name, value()?)?),
                "--check" => {
                    checks = match value()? {
                        "all" => Checks::All,
                        "bounds" => Checks::Bounds,
                        "none" => Checks::None,
                        other => return Err(format!("--check {other}: expected all, bounds or none")),
                    }
                }
                "--threads" => threads = number(name, value()?)?,
                "--registers" => registers = Some(number(name, value()?)?),
                "--counters" => counters = true,
                "--json" => json = true,
                "--buffer" => buffers.push(buffer(value()?)?),
                "--arg" => raw_arguments.push(value()?),
                "--save" => raw_saves.push(value()?),
                _ if name.starts_with('-') => return Err(format!("unknown option {name} (see --help)")),
                _ => positional.push(word),
            }
        }
        let [file, kernel] = positional[..] else {
            return Err(format!("expected FILE.ptx and KERNEL, got {} names", positional.len()));
        };
        for (i, b) in buffers.iter().enumerate() {
            if buffers[..i].iter().any(|other: &BufferSpec| other.name == b.name) {
                return Err(format!("--buffer {}: declared twice", b.name));
            }
        }
        let order = match (order, seed) {
            ("eager", None) => Order::Eager,
            ("lazy", None) => Order::Lazy,
            ("random", seed) => Order::Random(seed.unwrap_or_else(fresh_seed)),
            ("eager" | "lazy", Some(_)) => return Err("--seed goes with --order random".into()),
            (other, _) => return Err(format!("--order {other}: expected eager, lazy or random")),
        };
        let find = |option: &str, name: &str| {
            let found = buffers.iter().position(|b: &BufferSpec| b.name == name);
            found.ok_or_else(|| format!("{option}: no --buffer is named {name:?}"))
        };
        let arguments =
            raw_arguments.iter().map(|text| argument(text, &find)).collect::<Result<Vec<_>, String>>()?;
        let saves = raw_saves
            .iter()
            .map(|text| {
                let (name, path) =
                    text.split_once('=').ok_or(format!("--save {text}: expected NAME=PATH"))?;
                Ok((find("--save", name)?, PathBuf::from(path)))
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Arguments {
            file: file.into(),
            kernel: kernel.into(),
            grid: grid.ok_or("--grid is missing")?,
            block: block.ok_or("--block is missing")?,
            cluster,
            shared,
            order,
            checks,
            threads,
            registers,
            counters,
            json,
            buffers,
            arguments,
            saves,
        })
    }
}

/// A seed that differs from run to run; it is printed, so that the run can be repeated.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_nanos() as u64 % 1_000_000_007)
}

fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{what}: {text:?} is not a number in range"))
}

/// `X[,Y[,Z]]`, each at least 1.
fn dimensions(what: &str, text: &str) -> Result<[u32; 3], String> {
    let parts = text.split(',').map(|part| number(what, part)).collect::<Result<Vec<u32>, _>>()?;
    if parts.len() > 3 || parts.contains(&0) {
        return Err(format!("{what} {text}: expected X[,Y,Z], each at least 1"));
    }
    Ok([parts[0], parts.get(1).copied().unwrap_or(1), parts.get(2).copied().unwrap_or(1)])
}

/// `AxBxC`.
fn list<T: std::str::FromStr>(what: &str, text: &str) -> Result<Vec<T>, String> {
    text.split('x').map(|part| number(what, part)).collect()
}

/// `NAME=DTYPE:LEN:INIT`.
fn buffer(text: &str) -> Result<BufferSpec, String> {
    let bad = || format!("--buffer {text}: expected NAME=DTYPE:LEN:INIT");
    let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(bad)?;
    let mut parts = rest.splitn(3, ':');
    let (Some(number_type), Some(len), Some(init)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(bad());
    };
    let what = format!("--buffer {name}");
    let number_type = NumberType::parse(number_type).map_err(|why| format!("{what}: {why}"))?;
    let len: usize = number(&what, len)?;
    if len.checked_mul(number_type.bytes()).is_none_or(|bytes| bytes > 1 << 38) {
        return Err(format!("{what}: {len} elements are more than a device holds"));
    }
    let initial = match init.split_once(':') {
        None if init == "zeros" => Initial::Zeros,
        None if init == "random" => Initial::Random(0),
        None if init == "undefined" => Initial::Undefined,
        Some(("random", seed)) => Initial::Random(number(&what, seed)?),
        Some(("file", path)) if !path.is_empty() => Initial::File(path.into()),
        _ => return Err(format!("{what}: {init:?} is not zeros, random[:SEED], undefined or file:PATH")),
    };
    Ok(BufferSpec { name: name.into(), number: number_type, len, initial })
}

fn argument(text: &str, find: &dyn Fn(&str, &str) -> Result<usize, String>) -> Result<Argument, String> {
    let what = format!("--arg {text}");
    let (kind, value) = text.split_once(':').ok_or_else(|| format!("{what}: expected TYPE:VALUE"))?;
    Ok(match kind {
        "ptr" => Argument::Pointer(find(&what, value)?),
        "i32" => Argument::Number(number::<i32>(&what, value)?.to_le_bytes().into()),
        "u32" => Argument::Number(number::<u32>(&what, value)?.to_le_bytes().into()),
        "i64" => Argument::Number(number::<i64>(&what, value)?.to_le_bytes().into()),
        "u64" => Argument::Number(number::<u64>(&what, value)?.to_le_bytes().into()),
        "f32" => Argument::Number(number::<f32>(&what, value)?.to_le_bytes().into()),
        "map" => {
            let mut parts = value.split(',');
            let buffer = find(&what, parts.next().unwrap_or(""))?;
            let (mut dims, mut box_dims, mut strides, mut swizzle) = (None, None, None, Swizzle::None);
            for part in parts {
                match part.split_once('=') {
                    Some(("dims", value)) => dims = Some(list(&what, value)?),
                    Some(("box", value)) => box_dims = Some(list(&what, value)?),
                    Some(("strides", value)) => strides = Some(list(&what, value)?),
                    Some(("swizzle", "32")) => swizzle = Swizzle::B32,
                    Some(("swizzle", "64")) => swizzle = Swizzle::B64,
                    Some(("swizzle", "128")) => swizzle = Swizzle::B128,
                    _ => return Err(format!("{what}: unknown part {part:?}")),
                }
            }
            Argument::Map {
                buffer,
                dims: dims.ok_or_else(|| format!("{what}: dims= is missing"))?,
                box_dims: box_dims.ok_or_else(|| format!("{what}: box= is missing"))?,
                strides,
                swizzle,
            }
        }
        _ => return Err(format!("{what}: unknown type {kind:?}, expected ptr i32 u32 i64 u64 f32 or map")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        Arguments::parse(&words)
    }

    #[test]
    fn a_whole_command() {
        let a = parse(
            "run a.ptx kernel --grid 2,3 --block=128 --cluster 2 --shared 4096 --order random --seed 7 --check bounds \
             --counters --json --buffer x=bf16:12800:random:3 --buffer y=f32:64:file:in.bin --arg ptr:y --arg i32:-5 \
             --arg f32:1.5 --arg map:x,dims=64x200,box=64x64,strides=128,swizzle=128 --save y=out.bin",
        )
        .unwrap();
        assert_eq!((a.grid, a.block, a.cluster), ([2, 3, 1], [128, 1, 1], Some([2, 1, 1])));
        assert_eq!((a.shared, a.order, a.checks), (4096, Order::Random(7), Checks::Bounds));
        assert!(a.counters && a.json);
        assert_eq!(a.buffers[0].initial, Initial::Random(3));
        assert_eq!(a.buffers[1].initial, Initial::File("in.bin".into()));
        assert_eq!(a.arguments[0], Argument::Pointer(1));
        assert_eq!(a.arguments[1], Argument::Number(vec![0xfb, 0xff, 0xff, 0xff]));
        assert_eq!(a.arguments[2], Argument::Number(1.5f32.to_le_bytes().to_vec()));
        let map = Argument::Map {
            buffer: 0,
            dims: vec![64, 200],
            box_dims: vec![64, 64],
            strides: Some(vec![128]),
            swizzle: Swizzle::B128,
        };
        assert_eq!(a.arguments[3], map);
        assert_eq!(a.saves, [(1, "out.bin".into())]);
    }

    #[test]
    fn what_is_refused_is_named() {
        let base = "run a.ptx k --grid 1 --block 1";
        for (more, expected) in [
            ("--arg ptr:x", "no --buffer is named \"x\""),
            ("--arg i32:3000000000", "not a number in range"),
            ("--arg 5", "TYPE:VALUE"),
            ("--buffer x=f33:1:zeros", "unknown type \"f33\""),
            ("--buffer x=f32:1:ones", "\"ones\""),
            ("--buffer x=f32:1", "NAME=DTYPE:LEN:INIT"),
            ("--buffer x=f32:1:zeros --buffer x=f32:1:zeros", "declared twice"),
            ("--buffer x=f64:99999999999999:zeros", "more than a device holds"),
            ("--order sideways", "sideways"),
            ("--seed 3", "--order random"),
            ("--check some", "some"),
            ("--grid 0", "at least 1"),
            ("--frobnicate", "--frobnicate"),
            ("--save x=y", "no --buffer"),
            ("--shared", "needs a value"),
            ("extra", "3 names"),
            ("--json=yes", "takes no value"),
            ("--buffer x=f32:4:zeros --arg map:x,dims=4", "box="),
        ] {
            let got = parse(&format!("{base} {more}")).expect_err(more);
            assert!(got.contains(expected), "{more}: {got}");
        }
        assert!(parse("run a.ptx k --block 1").unwrap_err().contains("--grid"));
        assert!(parse("walk").unwrap_err().contains("walk"));
    }
}
