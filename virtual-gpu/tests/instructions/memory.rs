//! Loads, stores and atomics of every type in every state space: each thread works on a cell of its own.

use crate::harness::{Case, Kind, Kind::*, check};
use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float, Round};

/// A state space: the words of an opcode, and how `%x` comes to hold the address of this thread's 32 bytes.
const SPACES: [(&str, &str); 7] = [
    (".global", "mov.u64 %x, %out;"),
    ("", "mov.u64 %x, %out;"),
    (".shared", SHARED),
    (".shared::cta", SHARED),
    (".shared::cluster", SHARED),
    (".local", "mov.u64 %x, local_cells;"),
    // Generic again, of shared memory.
    ("", GENERIC_SHARED),
];
const SHARED: &str = "mov.u32 %u, %tid.x;\nmul.wide.u32 %w, %u, 32;\nmov.u64 %x, cells;\nadd.u64 %x, %x, %w;";
const GENERIC_SHARED: &str = "mov.u32 %u, %tid.x;\nmul.wide.u32 %w, %u, 32;\nmov.u64 %x, cells;\n\
     add.u64 %x, %x, %w;\ncvta.shared.u64 %x, %x;";
const CELLS: &str =
    ".shared .align 16 .b8 cells[4096];\n.local .align 16 .b8 local_cells[32];\n.reg .b64 %x;\n";

fn body(setup: &str, rest: &str) -> String {
    format!("{CELLS}{setup}\n{rest}")
}

const TYPES: [(&str, Kind, u32, bool); 13] = [
    ("b8", I16, 8, false),
    ("u8", I16, 8, false),
    ("s8", I16, 8, true),
    ("b16", I16, 16, false),
    ("u16", I16, 16, false),
    ("s16", I16, 16, true),
    ("b32", I32, 32, false),
    ("u32", I32, 32, false),
    ("s32", I32, 32, true),
    ("f32", I32, 32, false),
    ("b64", I64, 64, false),
    ("s64", I64, 64, true),
    ("f64", I64, 64, false),
];

pub fn cases() -> Vec<Case> {
    let mut all = loads_and_stores();
    all.extend(vectors());
    all.extend(qualifiers());
    all.extend(addresses());
    all.extend(atomics());
    all.extend(float_atomics());
    all.extend(vector_atomics());
    all.extend(wide_atomics());
    all
}

fn loads_and_stores() -> Vec<Case> {
    let mut all = Vec::new();
    for (space, setup) in SPACES {
        for (ty, kind, bits, signed) in TYPES {
            for wide in [kind, I32, I64].into_iter().filter(|k| k.bits() >= kind.bits()) {
                let name = format!("ld{space}.{ty} into {}", wide.bits());
                // The neighbours of the cell keep what they have.
                let text = format!(
                    "mov.b64 %w, 0x5aa55aa55aa55aa5;\nst{space}.b64 [%x], %w;\nst{space}.b64 [%x+8], %w;\n\
                     st{space}.{ty} [%x], %a0;\nld{space}.{ty} %d0, [%x];\nld{space}.b64 %d1, [%x+{}];",
                    bits.div_ceil(8).max(8)
                );
                let mut text = text;
                if bits < 64 {
                    text.push_str(&format!("\nld{space}.u8 %d2, [%x+{}];", bits / 8));
                } else {
                    text.push_str("\nmov.u32 %d2, 0xa5;");
                }
                all.push(Case::with_body(&name, &body(setup, &text), &[kind], &[wide, I64, I32], move |a| {
                    let x = a[0] & (u64::MAX >> (64 - bits));
                    let x = if signed { ((x << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { x };
                    vec![
                        x & (u64::MAX >> (64 - wide.bits())),
                        0x5aa5_5aa5_5aa5_5aa5,
                        if bits == 8 { 0x5a } else { 0xa5 },
                    ]
                }));
            }
        }
        // `u64` is what `b64` is.
        let text = format!("st{space}.u64 [%x], %a0;\nld{space}.u64 %d0, [%x];");
        all.push(Case::with_body(&format!("ld{space}.u64"), &body(setup, &text), &[I64], &[I64], |a| {
            a.to_vec()
        }));
    }
    all
}

fn vectors() -> Vec<Case> {
    let mut all = Vec::new();
    for (space, setup) in SPACES {
        for (ty, kind, bits, _) in TYPES {
            for n in [2usize, 4, 8] {
                if bits as usize * n > 128 && !(n == 8 && bits == 32) && !(n == 4 && bits == 64) {
                    continue;
                }
                let list = |letter: char| -> String {
                    let names: Vec<String> = (0..n).map(|i| format!("%{letter}{i}")).collect();
                    names.join(", ")
                };
                // Signed bytes are extended; here they stay within their own register.
                let (a, d) = (list('a'), list('d'));
                // Results reach back only 8 bytes each: the cell is in the first ones' memory.
                let text = format!("st{space}.v{n}.{ty} [%x], {{{a}}};\nld{space}.v{n}.{ty} {{{d}}}, [%x];");
                let name = format!("ld{space}.v{n}.{ty}");
                let sign = TYPES.iter().any(|t| t.0 == ty && t.3);
                all.push(Case::with_body(
                    &name,
                    &body(setup, &text),
                    &vec![kind; n],
                    &vec![kind; n],
                    move |a| {
                        let extend = |x: u64| {
                            let x = x & (u64::MAX >> (64 - bits));
                            let y = if sign { ((x << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { x };
                            y & (u64::MAX >> (64 - kind.bits()))
                        };
                        a.iter().map(|x| extend(*x)).collect()
                    },
                ));
            }
        }
        let text = format!(
            ".reg .b128 %q0, %q1;\nmov.b128 %q0, {{%a0, %a1}};\nst{space}.b128 [%x], %q0;\nld{space}.b128 %q1, [%x];\n\
             mov.b128 {{%d0, %d1}}, %q1;"
        );
        all.push(Case::with_body(
            &format!("ld{space}.b128"),
            &body(setup, &text),
            &[I64; 2],
            &[I64; 2],
            |a| a.to_vec(),
        ));
    }
    all
}

/// Words that change how an access is ordered or cached, not what it moves.
fn qualifiers() -> Vec<Case> {
    let mut all = Vec::new();
    let global = SPACES[0].1;
    let pair = |store: &str, load: &str| -> Case {
        let hint = |op: &str| if op.contains("cache_hint") { ", %w" } else { "" };
        let text =
            format!("mov.u64 %w, 0;\n{store} [%x], %a0{};\n{load} %d0, [%x]{};", hint(store), hint(load));
        Case::with_body(&format!("{store}; {load}"), &body(global, &text), &[I32], &[I32], |a| a.to_vec())
    };
    all.push(pair("st.weak.global.u32", "ld.weak.global.u32"));
    all.push(pair("st.volatile.global.u32", "ld.volatile.global.u32"));
    all.push(pair("st.mmio.relaxed.sys.global.u32", "ld.mmio.relaxed.sys.global.u32"));
    for scope in ["cta", "cluster", "gpu", "sys"] {
        all.push(pair(&format!("st.relaxed.{scope}.global.u32"), &format!("ld.relaxed.{scope}.global.u32")));
        all.push(pair(&format!("st.release.{scope}.global.u32"), &format!("ld.acquire.{scope}.global.u32")));
    }
    for (store, load) in [("wb", "ca"), ("cg", "cg"), ("cs", "cs"), ("wt", "cv"), ("wb", "lu")] {
        all.push(pair(&format!("st.global.{store}.u32"), &format!("ld.global.{load}.u32")));
    }
    for hint in [
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::cache_hint",
    ] {
        all.push(pair(&format!("st.global.{hint}.u32"), &format!("ld.global.{hint}.u32")));
    }
    for bytes in ["64B", "128B", "256B"] {
        all.push(pair("st.global.u32", &format!("ld.global.L2::{bytes}.u32")));
    }
    for hint in ["L2::evict_normal", "L2::evict_first", "L2::evict_last"] {
        let list = |letter: char| -> String {
            (0..8).map(|i| format!("%{letter}{i}")).collect::<Vec<_>>().join(", ")
        };
        let text = format!(
            "st.global.{hint}.v8.b32 [%x], {{{}}};\nld.global.{hint}.v8.b32 {{{}}}, [%x];",
            list('a'),
            list('d')
        );
        all.push(Case::with_body(hint, &body(global, &text), &[I32; 8], &[I32; 8], |a| a.to_vec()));
    }
    // Read-only loads read what was there before the launch.
    for load in ["ld.global.nc.u32", "ld.global.nc.L1::no_allocate.L2::128B.u32", "ldu.global.u32"] {
        all.push(Case::with_body(load, &format!("{load} %d0, [%in];"), &[I32], &[I32], |a| a.to_vec()));
    }
    let text = "discard.global.L2 [%out], 128;\nprefetch.global.L2 [%in];\nprefetch.global.L1 [%in];\nprefetchu.L1 [%in];\n\
                applypriority.global.L2::evict_normal [%in], 128;\n.reg .b64 %pol;\n\
                createpolicy.fractional.L2::evict_first.b64 %pol, 1.0;\n\
                ld.global.L2::cache_hint.u32 %d0, [%in], %pol;";
    all.push(Case::with_body("prefetch", text, &[I32], &[I32], |a| a.to_vec()));
    let fences = ["sc", "acq_rel", "acquire", "release"]
        .iter()
        .flat_map(|order| ["cta", "cluster", "gpu", "sys"].map(|scope| format!("fence.{order}.{scope};\n")))
        .collect::<String>()
        + "membar.cta;\nmembar.gl;\nmembar.sys;\nfence.proxy.alias;\nfence.proxy.async;\nfence.proxy.async.global;\n\
           fence.proxy.async.shared::cta;\nfence.proxy.async.shared::cluster;\nfence.mbarrier_init.release.cluster;\n\
           fence.proxy.tensormap::generic.release.gpu;\n\
           fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;\n\
           fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster;\nfence.proxy.tensormap::generic.acquire.gpu [%x], 128;\n";
    let text = format!("st.global.u32 [%x], %a0;\n{fences}ld.global.u32 %d0, [%x];");
    all.push(Case::with_body("fences", &body(global, &text), &[I32], &[I32], |a| a.to_vec()));
    all
}

/// `cvta`, `isspacep`, offsets of both signs.
fn addresses() -> Vec<Case> {
    let mut all = Vec::new();
    for (number, (space, at)) in [
        ("shared", "cells"),
        ("local", "local_cells"),
        ("global", "%out"),
        ("const", "%out"),
        ("param", "%out"),
    ]
    .into_iter()
    .enumerate()
    {
        // To generic and back is where it was; the generic address is in the right window, and only there.
        let windows = ["shared", "local", "global", "const"];
        let tests: String = windows
            .iter()
            .enumerate()
            .map(|(i, w)| format!("isspacep.{w} %q, %x;\nselp.u32 %d{}, 1, 0, %q;\n", i + 1))
            .collect();
        let text = format!(
            ".reg .b64 %y, %z;\nmov.u64 %y, {at};\ncvta.{space}.u64 %x, %y;\n{tests}cvta.to.{space}.u64 %z, %x;\n\
             setp.eq.u64 %q, %y, %z;\nselp.u32 %d0, 1, 0, %q;"
        );
        let name = format!("cvta.{space}.u64");
        all.push(Case::with_body(&name, &body("", &text), &[], &[I32; 5], move |_| {
            let is = |w: usize| u64::from(if number < 3 { number == w } else { w == 2 });
            vec![1, is(0), is(1), is(2), is(3)]
        }));
    }
    let text = "isspacep.shared::cta %q, %x;\nselp.u32 %d0, 1, 0, %q;\nisspacep.shared::cluster %q, %x;\n\
                selp.u32 %d1, 1, 0, %q;";
    all.push(Case::with_body("isspacep.shared::cta", &body(GENERIC_SHARED, text), &[], &[I32; 2], |_| {
        vec![1, 1]
    }));
    let text = "add.u64 %x, %out, 4;\nst.global.u32 [%x+4], %a0;\nst.global.u32 [%x+-4], %a1;\n\
                ld.global.u32 %d0, [%out+8];\nld.global.u32 %d1, [%out];";
    all.push(Case::with_body("offsets", &body("", text), &[I32; 2], &[I32; 2], |a| a.to_vec()));
    all
}

/// The two orders and scopes an atomic can have, besides none.
const ORDERS: [&str; 5] = ["", ".relaxed.gpu", ".acquire.cta", ".release.sys", ".acq_rel.cluster"];

/// Old and new value of a cell: `atom` returns the old one, `red` nothing.
fn atomic(
    name: &str,
    ty: &str,
    kind: Kind,
    operands: usize,
    number: usize,
    f: impl Fn(&[u64]) -> u64 + Clone + Send + Sync + 'static,
) -> Vec<Case> {
    let mut all = Vec::new();
    let list: String = (1..=operands).map(|i| format!(", %a{i}")).collect();
    let order = ORDERS[number % ORDERS.len()];
    for (space, setup) in SPACES.into_iter().filter(|s| s.0 != ".local") {
        let bits = kind.bits();
        let opcode = format!("atom{order}{space}.{name}.{ty}");
        let text =
            format!("st{space}.b{bits} [%x], %a0;\n{opcode} %d0, [%x]{list};\nld{space}.b{bits} %d1, [%x];");
        let inputs = vec![kind; operands + 1];
        let g = f.clone();
        all.push(Case::with_body(&opcode, &body(setup, &text), &inputs, &[kind; 2], move |a| {
            vec![a[0], g(a)]
        }));
        if !matches!(name, "exch" | "cas") && !matches!(order, ".acquire.cta" | ".acq_rel.cluster") {
            let opcode = format!("red{order}{space}.{name}.{ty}");
            let text =
                format!("st{space}.b{bits} [%x], %a0;\n{opcode} [%x]{list};\nld{space}.b{bits} %d0, [%x];");
            let g = f.clone();
            all.push(Case::with_body(&opcode, &body(setup, &text), &inputs, &[kind], move |a| vec![g(a)]));
        }
    }
    all
}

fn atomics() -> Vec<Case> {
    let mut all = Vec::new();
    for (number, (ty, kind, bits)) in [("b32", I32, 32u32), ("b64", I64, 64)].into_iter().enumerate() {
        all.extend(atomic("and", ty, kind, 1, number, |a| a[0] & a[1]));
        all.extend(atomic("or", ty, kind, 1, number + 1, |a| a[0] | a[1]));
        all.extend(atomic("xor", ty, kind, 1, number + 2, |a| a[0] ^ a[1]));
        all.extend(atomic("exch", ty, kind, 1, number + 3, |a| a[1]));
        all.extend(atomic("cas", ty, kind, 2, number + 4, |a| if a[0] == a[1] { a[2] } else { a[0] }));
        let mask = u64::MAX >> (64 - bits);
        for signed in [false, true] {
            let ty = format!("{}{bits}", if signed { "s" } else { "u" });
            let v = move |x: u64| -> i128 {
                if !signed {
                    x.into()
                } else if bits == 32 {
                    (x as i32).into()
                } else {
                    (x as i64).into()
                }
            };
            if !(signed && bits == 64) {
                all.extend(atomic("add", &ty, kind, 1, number, move |a| (v(a[0]) + v(a[1])) as u64 & mask));
            }
            all.extend(atomic("min", &ty, kind, 1, number + 1, move |a| v(a[0]).min(v(a[1])) as u64 & mask));
            all.extend(atomic("max", &ty, kind, 1, number + 3, move |a| v(a[0]).max(v(a[1])) as u64 & mask));
        }
    }
    all.extend(atomic("cas", "b16", I16, 2, 0, |a| if a[0] == a[1] { a[2] } else { a[0] }));
    all.extend(atomic("inc", "u32", I32, 1, 0, |a| if a[0] >= a[1] { 0 } else { a[0] + 1 }));
    all.extend(atomic("dec", "u32", I32, 1, 1, |a| if a[0] == 0 || a[0] > a[1] { a[1] } else { a[0] - 1 }));
    // The comparison that succeeds, which random operands rarely give.
    let text = "st.global.b32 [%x], %a0;\natom.global.cas.b32 %d0, [%x], %a0, %a1;\nld.global.b32 %d1, [%x];";
    all.push(Case::with_body(
        "atom.global.cas.b32 equal",
        &body(SPACES[0].1, text),
        &[I32; 2],
        &[I32; 2],
        |a| a.to_vec(),
    ));
    all
}

/// 128 bits: the halves of the old and of the new value.
fn wide_atomics() -> Vec<Case> {
    let mut all = Vec::new();
    let registers = |n: usize| -> String {
        let of = |i: usize| format!(".reg .b128 %q{i};\nmov.b128 %q{i}, {{%a{}, %a{}}};\n", 2 * i, 2 * i + 1);
        (0..n).map(of).collect()
    };
    for (number, order) in ORDERS.into_iter().enumerate() {
        for (space, setup) in SPACES.into_iter().filter(|s| s.0 != ".local") {
            let ends = format!(
                ".reg .b128 %old, %new;\nmov.b128 {{%d0, %d1}}, %old;\nld{space}.b128 %new, [%x];\nmov.b128 \
                 {{%d2, %d3}}, %new;"
            );
            let (declared, ends) = ends.split_once('\n').expect("two lines");
            let exchange = format!("atom{order}{space}.exch.b128");
            let text = format!(
                "{}{declared}\nst{space}.b128 [%x], %q0;\n{exchange} %old, [%x], %q1;\n{ends}",
                registers(2)
            );
            all.push(Case::with_body(&exchange, &body(setup, &text), &[I64; 4], &[I64; 4], |a| a.to_vec()));
            let swap = format!("atom{order}{space}.cas.b128");
            // The first operand is what is there (also in one half only), or another value.
            for equal in 0..4usize {
                let expected = match equal {
                    3 => "{%a0, %a1}",
                    2 => "{%a0, %a3}",
                    1 => "{%a2, %a1}",
                    _ => "{%a2, %a3}",
                };
                let text = format!(
                    "{}{declared}\nst{space}.b128 [%x], %q0;\nmov.b128 %q1, {expected};\n{swap} %old, [%x], %q1, \
                     %q2;\n{ends}",
                    registers(3)
                );
                let name = format!("{swap} {number} {equal}");
                all.push(Case::with_body(&name, &body(setup, &text), &[I64; 6], &[I64; 4], move |a| {
                    let low = equal & 2 != 0 || a[0] == a[2];
                    let high = equal & 1 != 0 || a[1] == a[3];
                    let new = if low && high { [a[4], a[5]] } else { [a[0], a[1]] };
                    vec![a[0], a[1], new[0], new[1]]
                }));
            }
        }
    }
    all
}

fn add<F: Float>(a: u64, b: u64) -> u64 {
    let [x, y] = [a, b].map(|v| F::from_bits(v.into()));
    x.add_r(y, Round::NearestTiesToEven).value.to_bits() as u64
}

fn halves(a: &[u64], f: fn(u64, u64) -> u64) -> u64 {
    f(a[0] & 0xffff, a[1] & 0xffff) | f(a[0] >> 16, a[1] >> 16) << 16
}

/// f32 sums in memory flush subnormals on a chip; `equal` is judged where none take part.
fn float_atomics() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(atomic("add", "f64", F64, 1, 0, |a| add::<Double>(a[0], a[1])));
    all.extend(atomic("add.noftz", "f16", F16, 1, 0, |a| add::<Half>(a[0], a[1])));
    all.extend(atomic("add.noftz", "bf16", Bf16, 1, 0, |a| add::<BFloat>(a[0], a[1])));
    all.extend(atomic("add.noftz", "f16x2", F16x2, 1, 1, |a| halves(a, add::<Half>)));
    all.extend(atomic("add.noftz", "bf16x2", Bf16x2, 1, 3, |a| halves(a, add::<BFloat>)));
    let sum = atomic("add", "f32", F32, 1, 0, |_| 0);
    all.extend(sum.into_iter().map(|case| {
        let returns = case.outputs.len() == 2;
        let (name, body) = (case.name.clone(), case.body.clone());
        Case::judged(&name, &body, &[F32; 2], &case.outputs, move |a, d| {
            let want = add::<Single>(a[0], a[1]);
            let tiny = |x: u64| f32::from_bits(x as u32).is_subnormal();
            let got = d[usize::from(returns)];
            let same = crate::harness::equal(F32, want, got) || tiny(a[0]) || tiny(a[1]) || tiny(want);
            if same && (!returns || d[0] == a[0]) { Ok(()) } else { Err(format!("expected {want:x}")) }
        })
    }));
    all
}

fn vector_atomics() -> Vec<Case> {
    let mut all = Vec::new();
    type Sum = fn(u64, u64) -> u64;
    let least: Sum = |a, b| {
        let [x, y] = [a, b].map(|v| half::f16::from_bits(v as u16).to_f64());
        match (x.is_nan(), y.is_nan()) {
            (true, true) => 0x7fff,
            (true, _) => b,
            (_, true) => a,
            _ if x == y => a | b & 0x8000,
            _ => {
                if x < y {
                    a
                } else {
                    b
                }
            }
        }
    };
    let most: Sum = |a, b| {
        let [x, y] = [a, b].map(|v| half::bf16::from_bits(v as u16).to_f64());
        match (x.is_nan(), y.is_nan()) {
            (true, true) => 0x7fff,
            (true, _) => b,
            (_, true) => a,
            _ if x == y => a & (b | 0x7fff),
            _ => {
                if x > y {
                    a
                } else {
                    b
                }
            }
        }
    };
    let pairs: Sum = |a, b| halves(&[a, b], add::<Half>);
    let brains: Sum = |a, b| halves(&[a, b], add::<BFloat>);
    let list: [(&str, &str, Kind, &[usize], Sum); 6] = [
        ("add.noftz", "f16", F16, &[2, 4, 8], add::<Half>),
        ("add.noftz", "bf16", Bf16, &[2, 4, 8], add::<BFloat>),
        ("min.noftz", "f16", F16, &[2, 4, 8], least),
        ("max.noftz", "bf16", Bf16, &[2, 4, 8], most),
        ("add.noftz", "f16x2", F16x2, &[2, 4], pairs),
        ("add.noftz", "bf16x2", Bf16x2, &[2, 4], brains),
    ];
    for (op, ty, kind, counts, f) in list {
        for &n in counts {
            let names = |letter: char, from: usize| -> String {
                (0..n).map(|i| format!("%{letter}{}", from + i)).collect::<Vec<_>>().join(", ")
            };
            let bits = kind.bits();
            let (before, with, old) = (names('a', 0), names('a', n), names('d', 0));
            for red in [false, true] {
                let stores: String = (0..n)
                    .map(|i| format!("st.global.b{bits} [%x+{}], %a{i};\n", i as u32 * bits / 8))
                    .collect();
                let loads: String = (0..n)
                    .map(|i| format!("ld.global.b{bits} %d{}, [%x+{}];\n", n + i, i as u32 * bits / 8))
                    .collect();
                let opcode = format!("{}.global.v{n}.{ty}.{op}", if red { "red" } else { "atom" });
                let operation = if red {
                    let copies: String = (0..n).map(|i| format!("mov.b{bits} %d{i}, %a{i};\n")).collect();
                    format!("{copies}{opcode} [%x], {{{with}}};\n")
                } else {
                    format!("{opcode} {{{old}}}, [%x], {{{with}}};\n")
                };
                let _ = &before;
                let text = format!("{stores}{operation}{loads}");
                let kinds = vec![kind; 2 * n];
                all.push(Case::with_body(&opcode, &body(SPACES[0].1, &text), &kinds, &kinds, move |a| {
                    let new = (0..n).map(|i| f(a[i], a[n + i]));
                    a[..n].iter().copied().chain(new).collect()
                }));
            }
        }
    }
    for n in [2usize, 4] {
        let opcode = format!("red.global.v{n}.f32.add");
        let stores: String = (0..n).map(|i| format!("st.global.b32 [%x+{}], %a{i};\n", 4 * i)).collect();
        let with: Vec<String> = (0..n).map(|i| format!("%a{}", n + i)).collect();
        let loads: String = (0..n).map(|i| format!("ld.global.b32 %d{i}, [%x+{}];\n", 4 * i)).collect();
        let text = format!("{stores}{opcode} [%x], {{{}}};\n{loads}", with.join(", "));
        let name = opcode.clone();
        all.push(Case::judged(
            &name,
            &body(SPACES[0].1, &text),
            &vec![F32; 2 * n],
            &vec![F32; n],
            move |a, d| {
                let tiny = |x: u64| f32::from_bits(x as u32).is_subnormal();
                for i in 0..n {
                    let want = add::<Single>(a[i], a[n + i]);
                    if !crate::harness::equal(F32, want, d[i])
                        && ![a[i], a[n + i], want].into_iter().any(tiny)
                    {
                        return Err(format!("element {i}: expected {want:x}"));
                    }
                }
                Ok(())
            },
        ));
    }
    all
}

#[test]
fn loads_stores_and_atomics() {
    check(&cases());
}
