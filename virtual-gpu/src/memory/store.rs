//! An allocation's bytes, and a worker's view of them: the bytes as they were when the workers began, pages with what
//! the worker wrote since, and notes of what it read and wrote.

use super::Bytes;
use std::sync::Arc;

/// Bytes of a page.
const PAGE: usize = 4096;

/// A bit for each byte of a page.
type Marks = [u64; PAGE / 64];

/// What a worker did to a page.
struct Page {
    read: Marks,
    /// A copy with what the worker wrote, and which bytes that is.
    written: Option<(Bytes, Marks)>,
}

struct View {
    base: Arc<Bytes>,
    pages: Vec<Option<Box<Page>>>,
}

/// The bytes of an allocation.
#[derive(Default)]
pub struct Store {
    len: usize,
    whole: Bytes,
    /// While workers have views of the bytes: what they all see.
    shared: Option<Arc<Bytes>>,
    /// In a worker's memory.
    view: Option<View>,
}

/// What a worker did to an allocation.
pub struct Touched {
    pages: Vec<Option<Box<Page>>>,
}

fn mark(marks: &mut Marks, at: usize, len: usize) {
    let (mut at, end) = (at, at + len);
    while at < end {
        let count = (64 - at % 64).min(end - at);
        marks[at / 64] |= u64::MAX >> (64 - count) << (at % 64);
        at += count;
    }
}

/// The parts of a range that lie in one page each: page, offset in it, length.
fn by_page(at: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (mut at, end) = (at, at + len);
    std::iter::from_fn(move || {
        let count = (PAGE - at % PAGE).min(end - at);
        let part = (at / PAGE, at % PAGE, count);
        at += count;
        (count > 0).then_some(part)
    })
}

impl View {
    fn page(&mut self, number: usize) -> &mut Page {
        if self.pages.is_empty() {
            self.pages.resize_with(self.base.len().div_ceil(PAGE), || None);
        }
        self.pages[number].get_or_insert_with(|| Box::new(Page { read: [0; PAGE / 64], written: None }))
    }

    fn read(&mut self, at: usize, len: usize) {
        for (page, at, len) in by_page(at, len) {
            mark(&mut self.page(page).read, at, len);
        }
    }

    /// Notes that part of a page is written, and gives the worker's copy of the page.
    fn write(&mut self, page: usize, at: usize, len: usize) -> &mut Bytes {
        if self.page(page).written.is_none() {
            let mut bytes = Bytes::new(PAGE);
            let start = page * PAGE;
            bytes.copy_from(0, &self.base, start, PAGE.min(self.base.len() - start));
            self.page(page).written = Some((bytes, [0; PAGE / 64]));
        }
        let (bytes, marks) = self.page(page).written.as_mut().expect("just made");
        mark(marks, at, len);
        bytes
    }

    /// The bytes that hold a range of one page, and where they begin in the allocation.
    fn current(&self, page: usize) -> (&Bytes, usize) {
        match self.pages.get(page).and_then(Option::as_ref).and_then(|p| p.written.as_ref()) {
            Some((bytes, _)) => (bytes, page * PAGE),
            None => (&self.base, 0),
        }
    }
}

impl Store {
    /// A write through [`Store::writing`] stays within a page of this many bytes.
    pub const PAGE: usize = PAGE;

    /// `len` undefined bytes.
    pub fn new(len: usize) -> Self {
        Self { len, whole: Bytes::new(len), ..Self::default() }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether this is a worker's view.
    #[inline(always)]
    pub fn is_view(&self) -> bool {
        self.view.is_some()
    }

    /// All bytes; not of a view.
    #[inline(always)]
    pub fn whole(&mut self) -> &mut Bytes {
        &mut self.whole
    }

    /// A view's bytes for reading a range: those that hold it, and where they begin in the allocation. `None` where the
    /// range lies in several pages of which some have been written.
    pub fn reading(&mut self, at: usize, len: usize) -> Option<(&Bytes, usize)> {
        let view = self.view.as_ref()?;
        let (first, last) = (at / PAGE, (at + len - 1) / PAGE);
        if first == last {
            return Some(view.current(first));
        }
        (first..=last).all(|page| std::ptr::eq(view.current(page).0, &*view.base)).then(|| (&*view.base, 0))
    }

    /// A view's bytes for writing a range of one page: those that hold it, and where they begin in the allocation.
    pub fn writing(&mut self, at: usize, len: usize) -> Option<(&mut Bytes, usize)> {
        let page = at / PAGE;
        let view = self.view.as_mut()?;
        Some((view.write(page, at % PAGE, len), page * PAGE))
    }

    /// Notes that a view's bytes are read.
    pub fn note_read(&mut self, at: usize, len: usize) {
        if let Some(view) = &mut self.view {
            view.read(at, len);
        }
    }

    /// Copies a range to other bytes, with definedness.
    pub fn copy_to(&mut self, from: usize, len: usize, to: &mut Bytes, at: usize) {
        let Some(view) = &mut self.view else { return to.copy_from(at, &self.whole, from, len) };
        view.read(from, len);
        let mut at = at;
        for (page, offset, count) in by_page(from, len) {
            let (bytes, start) = view.current(page);
            to.copy_from(at, bytes, page * PAGE + offset - start, count);
            at += count;
        }
    }

    /// Copies a range from other bytes, with definedness.
    pub fn copy_from(&mut self, at: usize, from: &Bytes, from_at: usize, len: usize) {
        let Some(view) = &mut self.view else { return self.whole.copy_from(at, from, from_at, len) };
        let mut from_at = from_at;
        for (page, offset, count) in by_page(at, len) {
            view.write(page, offset, count).copy_from(offset, from, from_at, count);
            from_at += count;
        }
    }

    /// Writes defined bytes.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        let Some(view) = &mut self.view else { return self.whole.write(at, data) };
        let mut data = data;
        for (page, offset, count) in by_page(at, data.len()) {
            let (now, rest) = data.split_at(count);
            view.write(page, offset, count).write(offset, now);
            data = rest;
        }
    }

    /// Views for `count` workers.
    pub(super) fn share(&mut self, count: usize) -> Vec<Store> {
        let base = Arc::new(std::mem::take(&mut self.whole));
        self.shared = Some(base.clone());
        (0..count)
            .map(|_| Store {
                len: self.len,
                view: Some(View { base: base.clone(), pages: Vec::new() }),
                ..Store::default()
            })
            .collect()
    }

    /// What was done to a view.
    pub(super) fn end_view(self) -> Touched {
        Touched { pages: self.view.map(|v| v.pages).unwrap_or_default() }
    }

    /// Has the bytes to itself again; all views have ended.
    pub(super) fn unshare(&mut self) {
        if let Some(base) = self.shared.take() {
            self.whole = Arc::into_inner(base).expect("all views have ended");
        }
    }
}

/// Whether no worker touched what another wrote.
pub(super) fn apart(workers: &[Touched]) -> bool {
    let pages = workers.iter().map(|w| w.pages.len()).max().unwrap_or(0);
    (0..pages).all(|number| {
        let (mut read, mut written): (Marks, Marks) = ([0; PAGE / 64], [0; PAGE / 64]);
        workers.iter().filter_map(|w| w.pages.get(number)?.as_ref()).all(|page| {
            let mut clash = 0;
            for i in 0..PAGE / 64 {
                let own = page.written.as_ref().map_or(0, |(_, marks)| marks[i]);
                clash |= own & (read[i] | written[i]) | page.read[i] & written[i];
                read[i] |= page.read[i];
                written[i] |= own;
            }
            clash == 0
        })
    })
}

impl Touched {
    /// Writes what the worker wrote to the allocation.
    pub(super) fn write_to(&self, bytes: &mut Bytes) {
        for (number, page) in self.pages.iter().enumerate() {
            let Some((from, marks)) = page.as_ref().and_then(|p| p.written.as_ref()) else { continue };
            for (i, &mask) in marks.iter().enumerate().filter(|(_, mask)| **mask != 0) {
                bytes.take_masked(number * PAGE + 64 * i, from, 64 * i, mask);
            }
        }
    }
}
