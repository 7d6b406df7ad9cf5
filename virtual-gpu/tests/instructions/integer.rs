//! Integer arithmetic, logic, bits, moves, comparisons and selections, against 128-bit arithmetic and loops over bits.

use crate::harness::{Case, Kind, Kind::*, check};

/// A type's name, kind, bits, signedness.
type Int = (&'static str, Kind, u32, bool);
const INTS: [Int; 6] = [
    ("u16", I16, 16, false),
    ("s16", I16, 16, true),
    ("u32", I32, 32, false),
    ("s32", I32, 32, true),
    ("u64", I64, 64, false),
    ("s64", I64, 64, true),
];

fn value(x: u64, bits: u32, signed: bool) -> i128 {
    let x = x as i128 & ((1i128 << bits) - 1);
    if signed && x >> (bits - 1) != 0 { x - (1 << bits) } else { x }
}

fn wrap(x: i128, bits: u32) -> u64 {
    (x & ((1i128 << bits) - 1)) as u64
}

fn kind_of(bits: u32) -> Kind {
    match bits {
        16 => I16,
        32 => I32,
        _ => I64,
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = arithmetic();
    all.extend(products());
    all.extend(packed());
    all.extend(carries());
    all.extend(logic());
    all.extend(bit_fields());
    all.extend(permutations());
    all.extend(dot_products());
    all
}

fn arithmetic() -> Vec<Case> {
    let mut all = Vec::new();
    for (ty, kind, bits, signed) in INTS {
        let v = move |x: u64| value(x, bits, signed);
        let two = [kind; 2];
        all.push(Case::new(&format!("add.{ty}"), &two, kind, move |a| wrap(v(a[0]) + v(a[1]), bits)));
        all.push(Case::new(&format!("sub.{ty}"), &two, kind, move |a| wrap(v(a[0]) - v(a[1]), bits)));
        all.push(Case::new(&format!("min.{ty}"), &two, kind, move |a| wrap(v(a[0]).min(v(a[1])), bits)));
        all.push(Case::new(&format!("max.{ty}"), &two, kind, move |a| wrap(v(a[0]).max(v(a[1])), bits)));
        all.push(Case::new(&format!("sad.{ty}"), &[kind; 3], kind, move |a| {
            wrap((v(a[0]) - v(a[1])).abs() + v(a[2]), bits)
        }));
        // What a division by zero gives is left open.
        for name in ["div", "rem"] {
            let opcode = format!("{name}.{ty}");
            let body = format!("{opcode} %d0, %a0, %a1;");
            all.push(Case::judged(&opcode, &body, &two, &[kind], move |a, d| {
                let (x, y) = (v(a[0]), v(a[1]));
                if y == 0 {
                    return Ok(());
                }
                let want = wrap(if name == "div" { x / y } else { x % y }, bits);
                if d[0] == want { Ok(()) } else { Err(format!("expected {want:x}")) }
            }));
        }
        if signed {
            all.push(Case::new(&format!("abs.{ty}"), &[kind], kind, move |a| wrap(v(a[0]).abs(), bits)));
            all.push(Case::new(&format!("neg.{ty}"), &[kind], kind, move |a| wrap(-v(a[0]), bits)));
        }
        all.push(Case::new(&format!("shr.{ty}"), &[kind, Small], kind, move |a| {
            wrap(v(a[0]) >> (a[1] & 0xffff_ffff).min(127), bits)
        }));
    }
    let saturate = |x: i128| wrap(x.clamp(i32::MIN.into(), i32::MAX.into()), 32);
    let v = |x| value(x, 32, true);
    all.push(Case::new("add.sat.s32", &[I32; 2], I32, move |a| saturate(v(a[0]) + v(a[1]))));
    all.push(Case::new("sub.sat.s32", &[I32; 2], I32, move |a| saturate(v(a[0]) - v(a[1]))));
    all.push(Case::new("min.relu.s32", &[I32; 2], I32, move |a| wrap(v(a[0]).min(v(a[1])).max(0), 32)));
    all.push(Case::new("max.relu.s32", &[I32; 2], I32, move |a| wrap(v(a[0]).max(v(a[1])).max(0), 32)));
    all
}

fn products() -> Vec<Case> {
    let mut all = Vec::new();
    for (ty, kind, bits, signed) in INTS {
        let v = move |x: u64| value(x, bits, signed);
        let high = move |a: &[u64]| v(a[0]).wrapping_mul(v(a[1])) >> bits;
        // An unsigned product of 64 bits fills all 128.
        let high = move |a: &[u64]| {
            if signed { high(a) } else { ((u128::from(a[0]) * u128::from(a[1])) >> bits) as i128 }
        };
        let low = move |a: &[u64]| i128::from(a[0].wrapping_mul(a[1]));
        all.push(Case::new(&format!("mul.lo.{ty}"), &[kind; 2], kind, move |a| wrap(low(a), bits)));
        all.push(Case::new(&format!("mul.hi.{ty}"), &[kind; 2], kind, move |a| wrap(high(a), bits)));
        all.push(Case::new(&format!("mad.lo.{ty}"), &[kind; 3], kind, move |a| wrap(low(a) + v(a[2]), bits)));
        all.push(Case::new(&format!("mad.hi.{ty}"), &[kind; 3], kind, move |a| {
            wrap(high(a) + v(a[2]), bits)
        }));
        if bits < 64 {
            let wide = kind_of(2 * bits);
            all.push(Case::new(&format!("mul.wide.{ty}"), &[kind; 2], wide, move |a| {
                wrap(v(a[0]) * v(a[1]), 2 * bits)
            }));
            all.push(Case::new(&format!("mad.wide.{ty}"), &[kind, kind, wide], wide, move |a| {
                wrap(v(a[0]) * v(a[1]) + i128::from(a[2]), 2 * bits)
            }));
        }
        if bits == 32 {
            let t = move |x: u64| value(x, 24, signed);
            all.push(Case::new(&format!("mul24.lo.{ty}"), &[kind; 2], kind, move |a| {
                wrap(t(a[0]) * t(a[1]), 32)
            }));
            all.push(Case::new(&format!("mul24.hi.{ty}"), &[kind; 2], kind, move |a| {
                wrap((t(a[0]) * t(a[1])) >> 16, 32)
            }));
            all.push(Case::new(&format!("mad24.lo.{ty}"), &[kind; 3], kind, move |a| {
                wrap(t(a[0]) * t(a[1]) + v(a[2]), 32)
            }));
            all.push(Case::new(&format!("mad24.hi.{ty}"), &[kind; 3], kind, move |a| {
                wrap(((t(a[0]) * t(a[1])) >> 16) + v(a[2]), 32)
            }));
        }
    }
    let saturate = |x: i128| wrap(x.clamp(i32::MIN.into(), i32::MAX.into()), 32);
    let (v, t) = (|x| value(x, 32, true), |x| value(x, 24, true));
    all.push(Case::new("mad.hi.sat.s32", &[I32; 3], I32, move |a| {
        saturate(((v(a[0]) * v(a[1])) >> 32) + v(a[2]))
    }));
    all.push(Case::new("mad24.hi.sat.s32", &[I32; 3], I32, move |a| {
        saturate(value(((t(a[0]) * t(a[1])) >> 16) as u64, 32, true) + v(a[2]))
    }));
    all
}

/// Two 16-bit numbers in one register.
fn packed() -> Vec<Case> {
    let mut all = Vec::new();
    for signed in [false, true] {
        let ty = if signed { "s16x2" } else { "u16x2" };
        type Half = fn(i128, i128) -> i128;
        let mut list: Vec<(String, Half)> = vec![
            (format!("add.{ty}"), |x, y| x + y),
            (format!("min.{ty}"), |x, y| x.min(y)),
            (format!("max.{ty}"), |x, y| x.max(y)),
        ];
        if signed {
            list.push(("min.relu.s16x2".into(), |x, y| x.min(y).max(0)));
            list.push(("max.relu.s16x2".into(), |x, y| x.max(y).max(0)));
        }
        for (opcode, f) in list {
            all.push(Case::new(&opcode, &[I32; 2], I32, move |a| {
                let half =
                    |at: u32| wrap(f(value(a[0] >> at, 16, signed), value(a[1] >> at, 16, signed)), 16) << at;
                half(0) | half(16)
            }));
        }
    }
    all
}

/// Sums and products twice as wide as a register, made of two instructions that pass the carry on.
fn carries() -> Vec<Case> {
    let mut all = Vec::new();
    for (ty, kind, bits, _) in INTS.into_iter().filter(|i| i.2 >= 32) {
        let wide = move |low: u64, high: u64| u128::from(low) | u128::from(high) << bits;
        let split = move |x: u128| {
            vec![(x as u64) & (u64::MAX >> (64 - bits)), (x >> bits) as u64 & (u64::MAX >> (64 - bits))]
        };
        let body = format!("add.cc.{ty} %d0, %a0, %a2;\naddc.{ty} %d1, %a1, %a3;");
        all.push(Case::with_body(&format!("add.cc.{ty}"), &body, &[kind; 4], &[kind; 2], move |a| {
            split(wide(a[0], a[1]).wrapping_add(wide(a[2], a[3])))
        }));
        let body = format!("sub.cc.{ty} %d0, %a0, %a2;\nsubc.{ty} %d1, %a1, %a3;");
        all.push(Case::with_body(&format!("sub.cc.{ty}"), &body, &[kind; 4], &[kind; 2], move |a| {
            split(wide(a[0], a[1]).wrapping_sub(wide(a[2], a[3])))
        }));
        // Three long: the middle one takes a carry and gives one.
        let body =
            format!("add.cc.{ty} %d0, %a0, %a2;\naddc.cc.{ty} %d1, %a1, %a3;\naddc.{ty} %d2, %a0, %a1;");
        all.push(Case::with_body(&format!("addc.cc.{ty}"), &body, &[kind; 4], &[kind; 3], move |a| {
            let (x, one) = (a.iter().map(|v| u128::from(*v)).collect::<Vec<_>>(), 1u128 << bits);
            let low = x[0] + x[2];
            let middle = x[1] + x[3] + low / one;
            vec![(low % one) as u64, (middle % one) as u64, ((x[0] + x[1] + middle / one) % one) as u64]
        }));
        let body =
            format!("sub.cc.{ty} %d0, %a0, %a2;\nsubc.cc.{ty} %d1, %a1, %a3;\nsubc.{ty} %d2, %a0, %a1;");
        all.push(Case::with_body(&format!("subc.cc.{ty}"), &body, &[kind; 4], &[kind; 3], move |a| {
            let x: Vec<i128> = a.iter().map(|v| i128::from(*v)).collect();
            let low = x[0] - x[2];
            let middle = x[1] - x[3] - i128::from(low < 0);
            let high = x[0] - x[1] - i128::from(middle < 0);
            [low, middle, high].map(|v| wrap(v, bits)).to_vec()
        }));
        // a0 * a1 + (a2, a3), both halves; of unsigned numbers, which is what the pair is for.
        if ty.starts_with('u') {
            let body = format!("mad.lo.cc.{ty} %d0, %a0, %a1, %a2;\nmadc.hi.{ty} %d1, %a0, %a1, %a3;");
            all.push(Case::with_body(&format!("mad.lo.cc.{ty}"), &body, &[kind; 4], &[kind; 2], move |a| {
                split((u128::from(a[0]) * u128::from(a[1])).wrapping_add(wide(a[2], a[3])))
            }));
            let body = format!(
                "mad.hi.cc.{ty} %d0, %a0, %a1, %a2;\nmadc.lo.cc.{ty} %d1, %a0, %a1, %a3;\nmadc.lo.{ty} %d2, %a0, %a0, 0;"
            );
            all.push(Case::with_body(&format!("mad.hi.cc.{ty}"), &body, &[kind; 4], &[kind; 3], move |a| {
                let (x, one) = (a.iter().map(|v| u128::from(*v)).collect::<Vec<_>>(), 1u128 << bits);
                let first = x[0] * x[1] / one + x[2];
                let second = x[0] * x[1] % one + x[3] + first / one;
                let third = x[0] * x[0] % one + second / one;
                [first, second, third].map(|v| (v % one) as u64).to_vec()
            }));
            let body = format!(
                "add.cc.{ty} %d0, %a0, %a1;\nmadc.hi.cc.{ty} %d1, %a2, %a3, %a0;\naddc.{ty} %d2, 0, 0;"
            );
            all.push(Case::with_body(&format!("madc.hi.cc.{ty}"), &body, &[kind; 4], &[kind; 3], move |a| {
                let (x, one) = (a.iter().map(|v| u128::from(*v)).collect::<Vec<_>>(), 1u128 << bits);
                let first = x[0] + x[1];
                let second = x[2] * x[3] / one + x[0] + first / one;
                [first % one, second % one, second / one].map(|v| v as u64).to_vec()
            }));
        }
    }
    all
}

fn logic() -> Vec<Case> {
    let mut all = Vec::new();
    for (ty, kind) in [("pred", Pred), ("b16", I16), ("b32", I32), ("b64", I64)] {
        let mask = u64::MAX >> (64 - kind.bits());
        all.push(Case::new(&format!("and.{ty}"), &[kind; 2], kind, |a| a[0] & a[1]));
        all.push(Case::new(&format!("or.{ty}"), &[kind; 2], kind, |a| a[0] | a[1]));
        all.push(Case::new(&format!("xor.{ty}"), &[kind; 2], kind, |a| a[0] ^ a[1]));
        all.push(Case::new(&format!("not.{ty}"), &[kind], kind, move |a| !a[0] & mask));
        if kind != Pred {
            all.push(Case::new(&format!("cnot.{ty}"), &[kind], kind, |a| u64::from(a[0] == 0)));
            let bits = kind.bits();
            all.push(Case::new(&format!("shl.{ty}"), &[kind, Small], kind, move |a| {
                if a[1] >= u64::from(bits) { 0 } else { wrap(i128::from(a[0]) << a[1], bits) }
            }));
            all.push(Case::new(&format!("shr.{ty}"), &[kind, Small], kind, |a| {
                if a[1] >= 64 { 0 } else { a[0] >> a[1] }
            }));
        }
    }
    // Every function of three bits.
    for table in 0..256u64 {
        let body = format!("lop3.b32 %d0, %a0, %a1, %a2, {table};");
        all.push(Case::with_body(&format!("lop3.b32 {table}"), &body, &[I32; 3], &[I32], move |a| {
            let bit = |i: u32| (a[0] >> i & 1) << 2 | (a[1] >> i & 1) << 1 | a[2] >> i & 1;
            vec![(0..32).map(|i| (table >> bit(i) & 1) << i).sum()]
        }));
    }
    all
}

fn bit_fields() -> Vec<Case> {
    let mut all = Vec::new();
    for (ty, kind, bits) in [("b32", I32, 32u32), ("b64", I64, 64)] {
        let bit = |x: u64, i: u32| x >> i & 1;
        all.push(Case::new(&format!("popc.{ty}"), &[kind], I32, move |a| {
            (0..bits).map(|i| bit(a[0], i)).sum()
        }));
        all.push(Case::new(&format!("clz.{ty}"), &[kind], I32, move |a| {
            (0..bits).rev().position(|i| bit(a[0], i) == 1).unwrap_or(bits as usize) as u64
        }));
        all.push(Case::new(&format!("brev.{ty}"), &[kind], kind, move |a| {
            (0..bits).map(|i| bit(a[0], i) << (bits - 1 - i)).sum()
        }));
        all.push(Case::new(&format!("bfi.{ty}"), &[kind, kind, Small, Small], kind, move |a| {
            // Position and length count in their low eight bits.
            let (position, length) = (a[2] & 0xff, a[3] & 0xff);
            let inside = |i: u64| i >= position && i < position + length;
            (0..u64::from(bits))
                .map(
                    |i| {
                        if inside(i) {
                            bit(a[0], (i - position) as u32) << i
                        } else {
                            bit(a[1], i as u32) << i
                        }
                    },
                )
                .sum()
        }));
    }
    for (ty, kind, bits, signed) in INTS.into_iter().filter(|i| i.2 >= 32) {
        // The highest bit that differs from the sign.
        let found = move |x: u64| {
            let sign = if signed { x >> (bits - 1) & 1 } else { 0 };
            (0..bits).rev().find(|&i| x >> i & 1 != sign)
        };
        all.push(Case::new(&format!("bfind.{ty}"), &[kind], I32, move |a| {
            found(a[0]).map_or(0xffff_ffff, u64::from)
        }));
        all.push(Case::new(&format!("bfind.shiftamt.{ty}"), &[kind], I32, move |a| {
            found(a[0]).map_or(0xffff_ffff, |i| u64::from(bits - 1 - i))
        }));
        all.push(Case::new(&format!("bfe.{ty}"), &[kind, Small, Small], kind, move |a| {
            let (position, length, last) = (a[1] & 0xff, a[2] & 0xff, u64::from(bits) - 1);
            let bit = |i: u64| a[0] >> i & 1;
            let sign = if !signed || length == 0 { 0 } else { bit((position + length - 1).min(last)) };
            let of = |i: u64| if i < length && position + i <= last { bit(position + i) } else { sign };
            (0..=last).map(|i| of(i) << i).sum()
        }));
    }
    for wrapped in [false, true] {
        let mode = if wrapped { "wrap" } else { "clamp" };
        all.push(Case::new(&format!("bmsk.{mode}.b32"), &[Small; 2], I32, move |a| {
            let (start, length) = if wrapped { (a[0] & 31, a[1] & 31) } else { (a[0], a[1]) };
            (0..32).filter(|&i| i >= start && i < start + length).map(|i| 1u64 << i).sum()
        }));
        for signed in [false, true] {
            let ty = if signed { "s32" } else { "u32" };
            all.push(Case::new(&format!("szext.{mode}.{ty}"), &[I32, Small], I32, move |a| {
                let length = if wrapped { a[1] & 31 } else { a[1].min(32) } as u32;
                if length == 0 { 0 } else { wrap(value(a[0], length, signed), 32) }
            }));
        }
    }
    // Position of the n-th set bit, up or down from a base.
    let body = "and.b32 %d0, %a1, 31;\nsub.s32 %v, %a2, 20;\nfns.b32 %d0, %a0, %d0, %v;";
    all.push(Case::with_body("fns.b32", body, &[I32, Small, Small], &[I32], |a| {
        let (base, offset) = ((a[1] & 31) as i64, i64::from((a[2] as i32).wrapping_sub(20)));
        let set = |i: i64| a[0] >> i & 1 == 1;
        if offset == 0 {
            return vec![if set(base) { base as u64 } else { 0xffff_ffff }];
        }
        let places: Vec<i64> = if offset > 0 { (base..32).collect() } else { (0..=base).rev().collect() };
        let nth = places.into_iter().filter(|&i| set(i)).nth(offset.unsigned_abs() as usize - 1);
        vec![nth.map_or(0xffff_ffff, |i| i as u64)]
    }));
    all
}

fn permutations() -> Vec<Case> {
    let byte = |a: &[u64], i: u64| (a[0] | a[1] << 32) >> (8 * i) & 0xff;
    let mut all = vec![Case::new("prmt.b32", &[I32; 3], I32, move |a| {
        (0..4)
            .map(|i| {
                let selector = a[2] >> (4 * i) & 15;
                let b = byte(a, selector & 7);
                (if selector < 8 { b } else { 0xff * (b >> 7) }) << (8 * i)
            })
            .sum()
    })];
    // Tables of the ISA, lowest byte first.
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3; 4]]),
        ("ecr", [[0; 4], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, table) in modes {
        all.push(Case::new(&format!("prmt.b32.{mode}"), &[I32; 3], I32, move |a| {
            let row = table[(a[2] & 3) as usize];
            (0..4).map(|i| byte(a, row[i]) << (8 * i)).sum()
        }));
    }
    for (left, name) in [(true, "l"), (false, "r")] {
        for wrapped in [false, true] {
            let opcode = format!("shf.{name}.{}.b32", if wrapped { "wrap" } else { "clamp" });
            all.push(Case::new(&opcode, &[I32, I32, Small], I32, move |a| {
                let n = if wrapped { a[2] & 31 } else { a[2].min(32) };
                let both = u128::from(a[0]) | u128::from(a[1]) << 32;
                (if left { both << n >> 32 } else { both >> n }) as u64 & 0xffff_ffff
            }));
        }
    }
    all
}

fn dot_products() -> Vec<Case> {
    let mut all = Vec::new();
    for (x, y) in [(false, false), (false, true), (true, false), (true, true)] {
        let name = |signed| if signed { "s32" } else { "u32" };
        let types = format!("{}.{}", name(x), name(y));
        all.push(Case::new(&format!("dp4a.{types}"), &[I32; 3], I32, move |a| {
            let sum: i128 = (0..4).map(|i| value(a[0] >> (8 * i), 8, x) * value(a[1] >> (8 * i), 8, y)).sum();
            wrap(sum + i128::from(a[2]), 32)
        }));
        for half in [0u64, 1] {
            let opcode = format!("dp2a.{}.{types}", ["lo", "hi"][half as usize]);
            all.push(Case::new(&opcode, &[I32; 3], I32, move |a| {
                let b = a[1] >> (16 * half);
                let sum: i128 =
                    (0..2).map(|i| value(a[0] >> (16 * i), 16, x) * value(b >> (8 * i), 8, y)).sum();
                wrap(sum + i128::from(a[2]), 32)
            }));
        }
    }
    all
}

#[test]
fn integers_and_bits() {
    check(&cases());
}
