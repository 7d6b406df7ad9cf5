//! Reads of the same bytes by several actors.

use super::cells::Record;

/// Lists of reads by several actors.
#[derive(Default)]
pub(super) struct Reads {
    /// A record and the number of the next, 0 at the end. Number 0 is never used.
    nodes: Vec<(Record, u32)>,
    free: Vec<u32>,
}

impl Reads {
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.free.clear();
    }

    fn add(&mut self, record: Record) -> u32 {
        if let Some(number) = self.free.pop() {
            self.nodes[number as usize] = (record, 0);
            return number;
        }
        if self.nodes.is_empty() {
            self.nodes.push(Default::default());
        }
        self.nodes.push((record, 0));
        self.nodes.len() as u32 - 1
    }

    /// A list of two.
    pub fn pair(&mut self, first: Record, second: Record) -> u32 {
        let list = self.add(first);
        let second = self.add(second);
        self.nodes[list as usize].1 = second;
        list
    }

    /// The reads of a list in the order in which their actors came.
    pub fn iter(&self, first: u32) -> impl Iterator<Item = &Record> {
        let mut at = first;
        std::iter::from_fn(move || {
            let (record, next) = &self.nodes[at as usize];
            (at != 0).then(|| {
                at = *next;
                record
            })
        })
    }

    /// Puts a read in the place of the actor's last one, or at the end.
    pub fn set(&mut self, first: u32, record: Record) {
        let mut at = first;
        loop {
            let (old, next) = &mut self.nodes[at as usize];
            if old.actor == record.actor {
                *old = Record { mask: record.mask | old.mask & 15, ..record };
                return;
            }
            if *next == 0 {
                break;
            }
            at = *next;
        }
        let added = self.add(record);
        self.nodes[at as usize].1 = added;
    }

    pub fn drop(&mut self, first: u32) {
        let mut at = first;
        while at != 0 {
            self.free.push(at);
            at = self.nodes[at as usize].1;
        }
    }

    /// A copy of a list.
    pub fn copy(&mut self, first: u32) -> u32 {
        let (record, mut next) = self.nodes[first as usize];
        let start = self.add(record);
        let mut last = start;
        while next != 0 {
            let (record, after) = self.nodes[next as usize];
            let added = self.add(record);
            self.nodes[last as usize].1 = added;
            (last, next) = (added, after);
        }
        start
    }
}
