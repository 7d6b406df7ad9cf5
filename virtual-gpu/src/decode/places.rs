//! Where instructions come from, kept small: a module has tens of thousands of them and few are ever shown.

use super::program::{Frame, Place};
use crate::hash::FastMap;

/// Frames of a place at most.
const FRAMES: usize = 33;
const NONE: u32 = u32::MAX;

/// A source position and the place that it is inlined at.
struct Link {
    file: u32,
    line: u32,
    column: u32,
    function: u32,
    outer: u32,
}

struct Entry {
    link: u32,
    ptx_line: u32,
    opcode: u32,
}

/// The places of a program's instructions.
#[derive(Default)]
pub struct Places {
    entries: Vec<Entry>,
    links: Vec<Link>,
    names: Vec<Box<str>>,
    numbers: FastMap<Box<str>, u32>,
}

/// A chain of source positions; the default is none.
#[derive(Clone, Copy)]
pub struct Chain(u32);

impl Default for Chain {
    fn default() -> Self {
        Chain(NONE)
    }
}

impl Places {
    fn name(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    /// A position (file, line, column) in an inlined function, or in the kernel's own code if that is empty.
    pub fn link(&mut self, file: &str, (line, column): (u32, u32), function: &str, outer: Chain) -> Chain {
        let (file, function) = (self.name(file), self.name(function));
        self.links.push(Link { file, line, column, function, outer: outer.0 });
        Chain(self.links.len() as u32 - 1)
    }

    /// Adds an instruction's place and gives its number.
    pub fn push(&mut self, chain: Chain, ptx_line: u32, opcode: &str) -> u32 {
        let opcode = self.name(opcode);
        self.entries.push(Entry { link: chain.0, ptx_line, opcode });
        self.entries.len() as u32 - 1
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The place with this number.
    pub fn get(&self, number: u32) -> Place {
        let entry = &self.entries[number as usize];
        let mut frames = Vec::new();
        let mut next = entry.link;
        while next != NONE && frames.len() < FRAMES {
            let link = &self.links[next as usize];
            frames.push(Frame {
                file: self.names[link.file as usize].to_string(),
                line: link.line,
                column: link.column,
                function: self.names[link.function as usize].to_string(),
            });
            next = link.outer;
        }
        Place { frames, ptx_line: entry.ptx_line, opcode: self.names[entry.opcode as usize].to_string() }
    }
}
