//! What the recorder reads: the kernels, and a line a launch. Both are made from `kernels.rs` and committed, so that the
//! recorder needs no Rust.

use crate::kernels::{INPUTS, Input, Map, Vector};
use std::fmt::Write;

pub fn fnv(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

impl Vector {
    /// The kernel under this number.
    pub fn kernel(&self, number: usize) -> String {
        let map = if self.map.is_some() { ", .param .align 64 .b8 map[128]" } else { "" };
        let body = &self.body;
        format!(".visible .entry v{number}(.param .u64 in, .param .u64 out{map})\n{{\n{body}}}\n")
    }

    fn map_line(&self) -> String {
        let Some(map) = &self.map else { return String::new() };
        let Map { data_type, swizzle, nan_fill, dims, strides, box_dims, steps, over_output } = map;
        let mut line = format!(
            "map {data_type} {swizzle} {} {} {}",
            u8::from(*nan_fill),
            u8::from(*over_output),
            dims.len()
        );
        let numbers =
            dims.iter().chain(strides).copied().chain(box_dims.iter().chain(steps).map(|v| (*v).into()));
        numbers.for_each(|n| write!(line, " {n}").expect("memory"));
        line + "\n"
    }

    /// Tells results of this kernel on this input from those of any other.
    pub fn hash(&self) -> u64 {
        let input: Input = self.input;
        let text = format!("{}{}{input:?}{}{}", self.kernel(0), self.map_line(), self.block, self.out_words);
        fnv(text.as_bytes()) ^ fnv(&input.data())
    }
}

/// The module with all kernels.
pub fn module(vectors: &[Vector]) -> String {
    let kernels: String = vectors.iter().enumerate().map(|(i, v)| v.kernel(i)).collect();
    format!(
        "// Made by `UPDATE=1 cargo test --test hardware`.\n.version 8.7\n.target sm_90a\n.address_size 64\n{kernels}"
    )
}

/// A line for each input and launch.
pub fn plan(vectors: &[Vector]) -> String {
    let mut text = String::from(
        "# input NUMBER HASH\n# vector FAMILY KERNEL BLOCK INPUT WORDS DIGEST HASH NAME\n\
         # map TYPE SWIZZLE NAN OVER_OUTPUT RANK DIMS STRIDES BOX STEPS\n",
    );
    for (number, input) in INPUTS.iter().enumerate() {
        writeln!(text, "input {number} {:016x}", fnv(&input.data())).expect("memory");
    }
    for (number, v) in vectors.iter().enumerate() {
        let input = INPUTS.iter().position(|i| *i == v.input).expect("an input");
        writeln!(
            text,
            "vector {} v{number} {} {input} {} {} {:016x} {}",
            v.family,
            v.block,
            v.out_words,
            u8::from(v.digest),
            v.hash(),
            v.name
        )
        .expect("memory");
        text += &v.map_line();
    }
    text
}
