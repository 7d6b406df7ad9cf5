//! The words of an opcode.

use crate::ptx::ast::Type;

/// The modifiers of an opcode; each must be taken by somebody, or the opcode is unknown.
pub(crate) struct Modifiers<'a> {
    words: Vec<&'a str>,
    taken: u64,
}

impl<'a> Modifiers<'a> {
    pub(super) fn new(opcode: &'a str) -> (&'a str, Self) {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        (name, Self { words: parts.take(63).collect(), taken: 0 })
    }

    /// Takes a modifier if it is there.
    pub fn take(&mut self, word: &str) -> bool {
        for (i, w) in self.words.iter().enumerate() {
            if *w == word && self.taken >> i & 1 == 0 {
                self.taken |= 1 << i;
                return true;
            }
        }
        false
    }

    pub fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    /// Takes the first modifier that `f` knows.
    pub fn find<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        for (i, w) in self.words.iter().enumerate() {
            if self.taken >> i & 1 == 0
                && let Some(value) = f(w)
            {
                self.taken |= 1 << i;
                return Some(value);
            }
        }
        None
    }

    /// The next type modifier.
    pub fn ty(&mut self) -> Option<Type> {
        self.find(Type::parse)
    }

    pub(super) fn left(&self) -> Option<&'a str> {
        self.words.iter().enumerate().find(|(i, _)| self.taken >> i & 1 == 0).map(|(_, w)| *w)
    }
}
