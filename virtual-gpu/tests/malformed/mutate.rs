//! Small changes to PTX text.

use std::path::Path;

/// One module a kernel: the head and the variables and functions of its file, and that kernel alone.
pub fn seeds() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .collect();
    files.sort();
    files
        .iter()
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).expect("a text");
            // Line information would be most of the text.
            let text = text.split_once("\t.section").map_or(text.as_str(), |(code, _)| code).to_string();
            let planted = path.to_string_lossy().contains("planted");
            let kernels = split(&text);
            // Of the planted bugs the correct kernel is enough: its name ends in 0.
            kernels
                .into_iter()
                .filter(move |(name, _)| !planted || name.ends_with("_0"))
                .map(|(_, text)| text)
        })
        .collect()
}

/// Splits a module into its kernels, each with all that is not a kernel.
fn split(text: &str) -> Vec<(String, String)> {
    let (mut common, mut kernels) = (String::new(), Vec::<(String, String)>::new());
    let (mut inside, mut depth) = (false, 0);
    for line in text.lines() {
        if line.trim_start().starts_with(".loc\t") {
            continue;
        }
        if let Some((_, rest)) = line.split_once(".entry ") {
            inside = true;
            kernels.push((rest.trim_end_matches('(').to_string(), String::new()));
        }
        let to = if inside { &mut kernels.last_mut().expect("a kernel").1 } else { &mut common };
        to.push_str(line);
        to.push('\n');
        let code = line.split("//").next().unwrap_or_default();
        depth += code.matches('{').count() as i32 - code.matches('}').count() as i32;
        inside &= depth > 0 || !code.contains('}');
    }
    kernels.into_iter().map(|(name, text)| (name, format!("{common}{text}"))).collect()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.' | ':')
}

/// Words and runs of blanks; everything else is a token of its own.
fn tokens(text: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = |f: fn(char) -> bool| rest.find(|c| !f(c)).unwrap_or(rest.len());
        let length = match first {
            c if is_word(c) => run(is_word),
            c if c.is_whitespace() => run(char::is_whitespace),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        all.push(token);
        rest = after;
    }
    all
}

/// Numbers at the edges of what fits somewhere.
const NUMBERS: [&str; 24] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "15",
    "16",
    "31",
    "32",
    "33",
    "63",
    "64",
    "65",
    "255",
    "1024",
    "65536",
    "2147483647",
    "-2147483648",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "0xffffffffffffffff",
    "99999999999999999999",
];

/// Makes texts; the same number always gives the same text.
pub struct Mutator<'s> {
    seeds: &'s [String],
    words: Vec<&'s str>,
    state: u64,
}

impl<'s> Mutator<'s> {
    pub fn new(seeds: &'s [String]) -> Self {
        let mut words: Vec<&str> =
            seeds.iter().flat_map(|s| tokens(s)).filter(|t| !t.trim().is_empty()).collect();
        words.sort_unstable();
        words.dedup();
        Self { seeds, words, state: 0 }
    }

    fn below(&mut self, n: usize) -> usize {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n.max(1) as u64) as usize
    }

    /// A place of the text, mostly inside the kernel: the head is short, and a change there refuses everything.
    fn place(&mut self, len: usize) -> usize {
        if self.below(8) == 0 { self.below(len) } else { len / 8 + self.below(len - len / 8) }
    }

    /// One of the seeds with one to four changes.
    pub fn mutate(&mut self, number: u64) -> String {
        self.state = number.wrapping_mul(0xa076_1d64_78bd_642f);
        let mut text = self.seeds[number as usize % self.seeds.len()].clone();
        for _ in 0..1 + self.below(4) {
            text = self.change(&text);
        }
        text
    }

    fn change(&mut self, text: &str) -> String {
        if self.below(4) == 0 {
            return self.change_lines(text);
        }
        if self.below(12) == 0 {
            return self.change_bytes(text);
        }
        let mut tokens: Vec<String> = tokens(text).into_iter().map(String::from).collect();
        if tokens.is_empty() {
            return String::new();
        }
        let at = self.place(tokens.len());
        let is_number = |t: &String| t.starts_with(|c: char| c.is_ascii_digit());
        match self.below(7) {
            0 => {
                tokens.remove(at);
            }
            1 => tokens.insert(at, tokens[at].clone()),
            2 => {
                let other = self.place(tokens.len());
                tokens.swap(at, other);
            }
            3 => {
                let word = self.below(self.words.len());
                tokens[at] = self.words[word].to_string();
            }
            // The next word becomes another of its kind, so that more of it loads.
            4 => {
                if let Some(at) = (at..tokens.len()).find(|&i| tokens[i].contains('.')) {
                    let kind = tokens[at].chars().next();
                    let same: Vec<&str> =
                        self.words.iter().copied().filter(|w| w.chars().next() == kind).collect();
                    let new = same[self.below(same.len())].to_string();
                    tokens[at] = new;
                }
            }
            5 => {
                if let Some(at) = (at..tokens.len()).find(|&i| tokens[i].starts_with('%')) {
                    let others: Vec<&String> = tokens.iter().filter(|t| t.starts_with('%')).collect();
                    let new = others[self.below(others.len())].clone();
                    tokens[at] = new;
                }
            }
            _ => {
                if let Some(at) = (at..tokens.len()).find(|&i| is_number(&tokens[i])) {
                    tokens[at] = NUMBERS[self.below(NUMBERS.len())].to_string();
                }
            }
        }
        tokens.concat()
    }

    fn change_lines(&mut self, text: &str) -> String {
        let mut lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return String::new();
        }
        let at = self.place(lines.len());
        match self.below(5) {
            0 => {
                lines.remove(at);
            }
            1 => lines.insert(at, lines[at]),
            2 => {
                let other = self.place(lines.len());
                lines.swap(at, other);
            }
            3 => lines.truncate(at),
            // A line of another kernel.
            _ => {
                let seeds = self.seeds;
                let other: Vec<&str> = seeds[self.below(seeds.len())].lines().collect();
                lines.insert(at, other[self.place(other.len())]);
            }
        }
        lines.join("\n")
    }

    fn change_bytes(&mut self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        if bytes.is_empty() {
            return String::new();
        }
        let at = self.place(bytes.len());
        match self.below(3) {
            0 => bytes[at] = self.below(256) as u8,
            1 => bytes[at] ^= 1 << self.below(8),
            _ => bytes.truncate(at),
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Anything at all, made of the characters and words of PTX.
    pub fn noise(&mut self, number: u64) -> String {
        self.state = number.wrapping_mul(0xe703_7ed1_a0b4_28db);
        const PIECES: [&str; 40] = [
            ".version",
            "8.0",
            ".target",
            "sm_90a",
            ".address_size",
            "64",
            ".visible",
            ".entry",
            "k",
            "(",
            ")",
            "{",
            "}",
            "[",
            "]",
            "<",
            ">",
            ";",
            ",",
            ".reg",
            ".b32",
            ".pred",
            "%r<9>",
            "%p1",
            "mov.u32",
            "%r1",
            "%r2",
            "@",
            "!",
            "bra",
            "L",
            ":",
            ".param",
            ".u64",
            ".shared",
            "ld.param.u64",
            "+",
            "-",
            "\"",
            "/*",
        ];
        let mut text = String::from(if self.below(2) == 0 { "" } else { ".version 8.0\n.target sm_90a\n" });
        if self.below(2) == 0 {
            text.push_str(".visible .entry k(.param .u64 p)\n{\n.reg .b32 %r<9>;\n");
        }
        for _ in 0..self.below(40) {
            match self.below(6) {
                0 => text.push_str(NUMBERS[self.below(NUMBERS.len())]),
                1 => text.push(char::from_u32(self.below(0x300) as u32).unwrap_or(' ')),
                _ => text.push_str(PIECES[self.below(PIECES.len())]),
            }
            text.push_str(if self.below(3) == 0 { "" } else { " " });
        }
        text
    }
}
