//! Small kernels made as text: every thread reads its row of operands, executes what is tested, and stores the results.

use std::collections::BTreeSet;
use virtual_gpu::{Description, Gpu, Launch, Options, Order, Stream};

/// The kind of a value: its register and what inputs are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pred,
    I16,
    I32,
    I64,
    /// A shift, a position, a count: 32 bits, mostly small.
    Small,
    F16,
    Bf16,
    F32,
    F64,
    F16x2,
    Bf16x2,
}
use Kind::*;

impl Kind {
    pub fn bits(self) -> u32 {
        match self {
            Pred => 1,
            I16 | F16 | Bf16 => 16,
            I32 | Small | F32 | F16x2 | Bf16x2 => 32,
            I64 | F64 => 64,
        }
    }

    /// Values that break things.
    fn edges(self) -> Vec<u64> {
        let mask = u64::MAX >> (64 - self.bits());
        let halves = |list: &[u64]| -> Vec<u64> {
            list.iter().enumerate().map(|(i, v)| v | list[(i * 7 + 3) % list.len()] << 16).collect()
        };
        const HALF: [u64; 22] = [
            0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x8400, 0x3c00, 0xbc00, 0x3bff, 0x3c01, 0x4000, 0x4248,
            0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x3555, 0x6400, 0x5bff,
        ];
        const BRAIN: [u64; 20] = [
            0, 0x8000, 1, 0x8001, 0x007f, 0x0080, 0x8080, 0x3f80, 0xbf80, 0x3f7f, 0x3f81, 0x4000, 0x4049,
            0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0xffc1, 0x3eab,
        ];
        match self {
            Pred => vec![0, 1],
            Small => vec![
                0,
                1,
                2,
                5,
                7,
                8,
                15,
                16,
                17,
                24,
                30,
                31,
                32,
                33,
                40,
                63,
                64,
                65,
                100,
                255,
                256,
                0xffff_ffff,
            ],
            F16 => HALF.to_vec(),
            Bf16 => BRAIN.to_vec(),
            F16x2 => halves(&HALF),
            Bf16x2 => halves(&BRAIN),
            F32 => [
                0.0f32,
                1.0,
                0.5,
                2.0,
                3.0,
                0.1,
                1e-3,
                255.5,
                256.5,
                65504.0,
                65520.0,
                2147483648.0,
                4294967296.0,
                9.2233715e18,
                1.8446744e19,
                f32::MAX,
                f32::MIN_POSITIVE,
                1e-40,
                f32::from_bits(1),
                1.5,
                2.5,
                448.0,
                0.99999994,
                f32::INFINITY,
            ]
            .iter()
            .flat_map(|v| [v.to_bits().into(), (-v).to_bits().into()])
            .chain([0x7fc0_0000, 0xffc0_0001, 0x7fff_ffff])
            .collect(),
            F64 => [
                0.0f64,
                1.0,
                0.5,
                2.0,
                3.0,
                0.1,
                1.5,
                2.5,
                65504.0,
                65520.0,
                2147483647.5,
                4294967295.5,
                9.3e18,
                1.9e19,
                3.4028235677973366e38,
                1e-39,
                1e-45,
                1e300,
                f64::MAX,
                f64::MIN_POSITIVE,
                1e-310,
                f64::from_bits(1),
                f64::INFINITY,
            ]
            .iter()
            .flat_map(|v| [v.to_bits(), (-v).to_bits()])
            .chain([0x7ff8 << 48, 0xfff8_0000_0000_0001])
            .collect(),
            I16 | I32 | I64 => [
                0,
                1,
                2,
                3,
                7,
                31,
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0xffff,
                0x7fff_ffff,
                0x8000_0000,
                0xffff_ffff,
                0x1234_5678_9abc_def0,
                1 << 63,
                u64::MAX,
                u64::MAX - 1,
                u64::MAX >> 1,
                0x5555_5555_5555_5555,
            ]
            .iter()
            .map(|v| v & mask)
            .collect(),
        }
    }

    fn random(self, random: &mut Random) -> u64 {
        let bits = random.next();
        match self {
            Pred => bits & 1,
            Small => bits % 40,
            I16 => bits & 0xffff,
            // Of every length.
            I32 => bits & 0xffff_ffff & (u64::MAX >> (random.next() % 64 / 2 + 32)),
            I64 => bits & (u64::MAX >> (random.next() % 64)),
            F16 => bits & 0xffff,
            F16x2 => bits & 0xffff_ffff,
            Bf16 => bits & 0x807f | (118 + random.next() % 20) << 7,
            Bf16x2 => {
                let one = |r: &mut Random| r.next() & 0x807f | (118 + r.next() % 20) << 7;
                one(random) | one(random) << 16
            }
            F32 => match random.next() % 8 {
                0 => bits & 0xffff_ffff,
                _ => bits & 0x807f_ffff | (112 + random.next() % 30) << 23,
            },
            F64 => match random.next() % 8 {
                0 => bits,
                _ => bits & 0x800f_ffff_ffff_ffff | (1000 + random.next() % 46) << 52,
            },
        }
    }
}

/// splitmix64, so that failures repeat.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What the results must be: the operands and the results of a row; an error says what was expected.
pub type Judge = Box<dyn Fn(&[u64], &[u64]) -> Result<(), String> + Send + Sync>;

/// One instruction, or a few that only make sense together.
pub struct Case {
    /// What is tested, for messages.
    pub name: String,
    /// PTX with operands `%a0`, `%a1`, … and results `%d0`, `%d1`, …
    pub body: String,
    pub inputs: Vec<Kind>,
    pub outputs: Vec<Kind>,
    pub judge: Judge,
}

impl Case {
    /// `opcode %d0, %a0, %a1, …;` whose one result is exactly what `expect` says.
    pub fn new(
        opcode: &str,
        inputs: &[Kind],
        output: Kind,
        expect: impl Fn(&[u64]) -> u64 + Send + Sync + 'static,
    ) -> Case {
        let operands: String = (0..inputs.len()).map(|i| format!(", %a{i}")).collect();
        Case::with_body(opcode, &format!("{opcode} %d0{operands};"), inputs, &[output], move |a| {
            vec![expect(a)]
        })
    }

    /// Instructions of one's own, whose results are exactly what `expect` says.
    pub fn with_body(
        name: &str,
        body: &str,
        inputs: &[Kind],
        outputs: &[Kind],
        expect: impl Fn(&[u64]) -> Vec<u64> + Send + Sync + 'static,
    ) -> Case {
        let kinds = outputs.to_vec();
        let judge = move |a: &[u64], d: &[u64]| {
            let want = expect(a);
            let same = want.iter().zip(d).zip(&kinds).all(|((w, d), kind)| equal(*kind, *w, *d));
            if same { Ok(()) } else { Err(format!("expected {want:x?}")) }
        };
        Case::judged(name, body, inputs, outputs, judge)
    }

    /// Instructions whose results a function judges.
    pub fn judged(
        name: &str,
        body: &str,
        inputs: &[Kind],
        outputs: &[Kind],
        judge: impl Fn(&[u64], &[u64]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Case {
        Case {
            name: name.into(),
            body: body.into(),
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            judge: Box::new(judge),
        }
    }

    /// The rows of operands to try.
    fn rows(&self) -> Vec<Vec<u64>> {
        let mut random =
            Random(self.name.bytes().fold(7, |h: u64, b| h.wrapping_mul(31).wrapping_add(b.into())));
        let edges: Vec<Vec<u64>> = self.inputs.iter().map(|k| k.edges()).collect();
        let product = edges.iter().fold(1usize, |n, list| n.saturating_mul(list.len()));
        let mut rows = Vec::new();
        // All combinations of edges where they are few, else some of them.
        for i in 0..product.min(500) {
            let mut at = if product <= 500 { i } else { random.below(product as u64) as usize };
            let row = edges.iter().map(|list| {
                let value = list[at % list.len()];
                at /= list.len();
                value
            });
            rows.push(row.collect());
        }
        while rows.len() < 640 {
            let row = self.inputs.iter().zip(&edges).map(|(kind, edges)| match random.below(8) {
                0 => edges[random.below(edges.len() as u64) as usize],
                _ => kind.random(&mut random),
            });
            rows.push(row.collect());
        }
        rows.truncate(640);
        rows
    }

    pub fn kernel(&self, number: usize) -> String {
        let mut text = format!(
            ".visible .entry k{number}(.param .u64 in, .param .u64 out)\n{{\n.reg .b64 %in, %out, %w;\n.reg .b32 %t, \
             %u, %v;\n.reg .pred %q;\n"
        );
        let declare = |text: &mut String, name: String, kind: Kind| {
            let ty = match kind.bits() {
                1 => "pred",
                16 => "b16",
                32 => "b32",
                _ => "b64",
            };
            text.push_str(&format!(".reg .{ty} {name};\n"));
        };
        for (i, kind) in self.inputs.iter().enumerate() {
            declare(&mut text, format!("%a{i}"), *kind);
        }
        for (i, kind) in self.outputs.iter().enumerate() {
            declare(&mut text, format!("%d{i}"), *kind);
        }
        text.push_str("ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\nmov.u32 %t, %tid.x;\n");
        text.push_str("mov.u32 %u, %ctaid.x;\nmov.u32 %v, %ntid.x;\nmad.lo.u32 %t, %u, %v, %t;\n");
        text.push_str(&format!(
            "mul.wide.u32 %w, %t, {};\nadd.u64 %in, %in, %w;\n",
            8 * self.inputs.len().max(1)
        ));
        text.push_str(&format!(
            "mul.wide.u32 %w, %t, {};\nadd.u64 %out, %out, %w;\n",
            8 * self.outputs.len()
        ));
        for (i, kind) in self.inputs.iter().enumerate() {
            let at = 8 * i;
            text.push_str(&match kind.bits() {
                1 => format!("ld.global.u32 %u, [%in+{at}];\nsetp.ne.u32 %a{i}, %u, 0;\n"),
                bits => format!("ld.global.b{bits} %a{i}, [%in+{at}];\n"),
            });
        }
        text.push_str(&self.body);
        text.push('\n');
        for (i, kind) in self.outputs.iter().enumerate() {
            let at = 8 * i;
            text.push_str(&match kind.bits() {
                1 => format!("selp.u32 %u, 1, 0, %d{i};\nst.global.u32 [%out+{at}], %u;\n"),
                bits => format!("st.global.b{bits} [%out+{at}], %d{i};\n"),
            });
        }
        text.push_str("ret;\n}\n");
        text
    }
}

/// Equal bits, or both NaN: which NaN results PTX leaves open for some operations.
pub fn equal(kind: Kind, want: u64, got: u64) -> bool {
    let both = |kind: Kind| {
        equal(kind, want & 0xffff, got & 0xffff) && equal(kind, want >> 16 & 0xffff, got >> 16 & 0xffff)
    };
    match kind {
        F16x2 => both(F16),
        Bf16x2 => both(Bf16),
        _ => want == got || is_nan(kind, want) && is_nan(kind, got),
    }
}

pub fn is_nan(kind: Kind, bits: u64) -> bool {
    match kind {
        F16 => bits & 0x7fff > 0x7c00,
        Bf16 => bits & 0x7fff > 0x7f80,
        F32 => f32::from_bits(bits as u32).is_nan(),
        F64 => f64::from_bits(bits).is_nan(),
        _ => false,
    }
}

pub const HEAD: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

/// Runs all cases and reports every wrong one.
pub fn check(cases: &[Case]) {
    let mut bad = Vec::new();
    for chunk in cases.chunks(64) {
        let gpu =
            Gpu::with_options(Description::h200(), Options { order: Order::Eager, ..Options::default() });
        let text: String =
            HEAD.to_string() + &chunk.iter().enumerate().map(|(i, c)| c.kernel(i)).collect::<String>();
        let module = gpu.load_module(&text).ok();
        for (number, case) in chunk.iter().enumerate() {
            // One that does not load must not hide the others.
            let module = match &module {
                Some(module) => module.clone(),
                None => match gpu.load_module(&(HEAD.to_string() + &case.kernel(number))) {
                    Ok(module) => module,
                    Err(error) => {
                        bad.push(format!("{}: {error}", case.name));
                        continue;
                    }
                },
            };
            if let Err(message) = run(&gpu, &module.function(&format!("k{number}")).expect("a kernel"), case)
            {
                bad.push(format!("{}: {message}", case.name));
            }
        }
    }
    assert!(bad.is_empty(), "{} of {} are wrong:\n{}", bad.len(), cases.len(), bad.join("\n"));
}

fn run(gpu: &Gpu, function: &virtual_gpu::Function, case: &Case) -> Result<(), String> {
    let rows = case.rows();
    let (width, out_width) = (case.inputs.len().max(1), case.outputs.len());
    let data: Vec<u8> = rows
        .iter()
        .flat_map(|row| row.iter().chain([0].iter().take(usize::from(row.is_empty()))))
        .flat_map(|v| v.to_le_bytes())
        .collect();
    assert_eq!(data.len(), rows.len() * width * 8);
    let (input, output) = (gpu.alloc(data.len() as u64), gpu.alloc((rows.len() * out_width * 8) as u64));
    let (input, output) = (input.expect("memory"), output.expect("memory"));
    gpu.write(input, &data).expect("in bounds");
    gpu.memset(output, 0, (rows.len() * out_width * 8) as u64).expect("in bounds");
    let launch = Launch {
        grid: [rows.len() as u32 / 128, 1, 1],
        block: [128, 1, 1],
        args: &[&input.to_le_bytes(), &output.to_le_bytes()],
        ..Launch::default()
    };
    let ended = gpu.launch(function, &launch, Stream::default()).and_then(|()| gpu.synchronize());
    let mut result = vec![0; rows.len() * out_width * 8];
    if ended.is_ok() {
        gpu.read(output, &mut result).expect("in bounds");
    }
    if let Some(finding) = gpu.take_findings().first() {
        return Err(finding.to_string());
    }
    ended.map_err(|e| e.to_string())?;
    gpu.free(input).and_then(|()| gpu.free(output)).expect("allocated");
    let words: Vec<u64> =
        result.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("8"))).collect();
    let (mut wrong, mut first) = (0, String::new());
    for (row, words) in rows.iter().zip(words.chunks_exact(out_width)) {
        // A case may have used the rest of a word for itself.
        let got: Vec<u64> = words
            .iter()
            .zip(&case.outputs)
            .map(|(w, kind)| w & (u64::MAX >> (64 - kind.bits().max(16))))
            .collect();
        let got = got.as_slice();
        if let Err(why) = (case.judge)(row, got) {
            wrong += 1;
            if first.is_empty() {
                first = format!("{row:x?} gives {got:x?}, {why}");
            }
        }
    }
    if wrong == 0 { Ok(()) } else { Err(format!("{first} ({wrong} of {} wrong)", rows.len())) }
}

/// The words of a text that a decoder could know: opcodes, their modifiers, special registers, directives.
pub fn words(text: &str, into: &mut BTreeSet<String>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    into.extend(
        text.split(|c| !is_word(c)).filter(|w| !w.is_empty()).map(|w| w.trim_end_matches(':').to_string()),
    );
}

/// The opcodes of a text, as written.
pub fn opcodes(text: &str, into: &mut BTreeSet<String>) {
    let text: String =
        text.lines().map(|l| l.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    for statement in text.split([';', '{', '}', '\n']) {
        let mut statement = statement.trim();
        if let Some((label, rest)) = statement.split_once(':')
            && !rest.starts_with(':')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
        {
            statement = rest.trim();
        }
        if statement.starts_with('@') {
            statement = statement.split_once(char::is_whitespace).map_or("", |(_, rest)| rest).trim();
        }
        let word = statement.split_whitespace().next().unwrap_or_default();
        if word.starts_with(|c: char| c.is_ascii_lowercase()) && !word.ends_with(',') {
            into.insert(word.to_string());
        }
    }
}
