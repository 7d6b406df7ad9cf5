//! Asynchronous copies, mbarriers, bulk copies, clusters, and what else came with sm_80 and sm_90.

use crate::program::{Program, check};
use virtual_gpu::tensor::tma::{DataType, TensorMap};

fn any(random: &mut crate::harness::Random, _: usize, _: usize) -> u32 {
    random.next() as u32
}

const SHARED: &str = ".shared .align 1024 .b8 smem[8192];\n.shared .align 8 .b64 bar[4];\nmov.u32 %r10, smem;\n\
                      mov.u32 %r11, bar;\nmad.lo.u32 %r12, %l, 16, %r10;\n";

pub fn programs() -> Vec<Program> {
    let mut all = small_copies();
    all.extend(barriers_in_memory());
    all.extend(bulk_copies());
    all.extend(bulk_reductions());
    all.extend(tensor_copies());
    all.extend(clusters());
    all.extend(rest());
    all
}

/// `cp.async` of each size, with fewer bytes, and with a predicate.
fn small_copies() -> Vec<Program> {
    let mut all = Vec::new();
    for (opcode, words) in [
        ("cp.async.ca.shared.global", 1usize),
        ("cp.async.ca.shared.global", 2),
        ("cp.async.ca.shared.global.L2::128B", 4),
        ("cp.async.cg.shared.global", 4),
        ("cp.async.cg.shared::cta.global.L2::256B", 4),
    ] {
        let bytes = 4 * words;
        for (what, operand, kept) in [
            ("", "", bytes),
            ("some", ", 3", 3),
            ("none", ", 0", 0),
            ("ignored", ", %p1", 0),
            ("not", ", !%p1", bytes),
        ] {
            for wait in ["cp.async.commit_group;\ncp.async.wait_group 0;", "cp.async.wait_all;"] {
                let results: String =
                    (0..words).map(|i| format!("ld.shared.u32 %d{i}, [%r12+{}];\n", 4 * i)).collect();
                let body = format!(
                    "{SHARED}setp.eq.u32 %p1, 0, 0;\n{opcode} [%r12], [%i], {bytes}{operand};\n{wait}\n{results}"
                );
                let name = format!("{opcode} {bytes} {what}");
                all.push(Program::new(&name, [2, 64], [words, words], any, &body, |rows| {
                    let part = |i: usize, w: u32| match kept.saturating_sub(4 * i) {
                        0 => 0,
                        n if n >= 4 => w,
                        n => w & ((1 << (8 * n)) - 1),
                    };
                    rows.iter().map(|r| r.iter().enumerate().map(|(i, w)| part(i, *w)).collect()).collect()
                }));
            }
        }
    }
    // Groups end in order: with one left, the older is there.
    let body = format!(
        "{SHARED}cp.async.ca.shared.global [%r12], [%i], 4;\ncp.async.commit_group;\ncp.async.ca.shared.global \
         [%r12+4], [%i+4], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\nld.shared.u32 %d0, \
         [%r12];\ncp.async.wait_group 0;\nld.shared.u32 %d1, [%r12+4];"
    );
    all.push(Program::new("cp.async groups", [1, 64], [2, 2], any, &body, |rows| rows.to_vec()));
    // Told to an mbarrier, which counts the thread itself or not.
    for (noinc, count) in [(".noinc", 64), ("", 64)] {
        for space in ["", ".shared", ".shared::cta"] {
            let arrive = if noinc.is_empty() { "mbarrier.arrive.shared.b64 _, [%r11];" } else { "" };
            let address = if space.is_empty() { "[%x3]" } else { "[%r11]" };
            let body = format!(
                "{SHARED}cvt.u64.u32 %x3, %r11;\ncvta.shared.u64 %x3, %x3;\nsetp.ne.u32 %p0, %l, 0;\n@%p0 bra \
                 GO;\nmbarrier.init.shared.b64 [%r11], {count};\nGO:\nbar.sync 0;\ncp.async.ca.shared.global [%r12], \
                 [%i], 4;\ncp.async.mbarrier.arrive{noinc}{space}.b64 {address};\n{arrive}\nWAIT:\n\
                 mbarrier.test_wait.parity.shared.b64 %p1, [%r11], 0;\n@!%p1 bra WAIT;\nxor.b32 %r13, %l, 63;\nmad.lo.u32 \
                 %r13, %r13, 16, %r10;\nld.shared.u32 %d0, [%r13];"
            );
            let name = format!("cp.async.mbarrier.arrive{noinc}{space}");
            all.push(Program::new(&name, [1, 64], [1, 1], any, &body, |rows| {
                (0..64).map(|t| rows[t ^ 63].clone()).collect()
            }));
        }
    }
    all
}

/// Each form of arriving and waiting. A thread's word is seen by its neighbour after the phase.
fn barriers_in_memory() -> Vec<Program> {
    let mut all = Vec::new();
    let frame = |count: u32, arrive: &str, wait: &str| {
        format!(
            "{SHARED}cvt.u64.u32 %x3, %r11;\ncvta.shared.u64 %x3, %x3;\nsetp.ne.u32 %p0, %l, 0;\n@%p0 bra \
             GO;\nmbarrier.init.shared::cta.b64 [%r11], {count};\nGO:\nbar.sync 0;\nst.shared.u32 [%r12], \
             %a0;\n{arrive}\nWAIT:\n{wait}\n@!%p1 bra WAIT;\nxor.b32 %r13, %l, 63;\nmad.lo.u32 %r13, %r13, 16, \
             %r10;\nld.shared.u32 %d0, [%r13];\nbar.sync 0;\n@%p0 bra END;\nmbarrier.inval.shared.b64 [%r11];\nEND:"
        )
    };
    let by_state = "mbarrier.test_wait.shared.b64 %p1, [%r11], %x4;";
    let by_parity = "mbarrier.try_wait.parity.shared.b64 %p1, [%r11], 0;";
    for (count, arrive, wait) in [
        (64, "mbarrier.arrive.shared.b64 %x4, [%r11];", by_state),
        (64, "mbarrier.arrive.b64 %x4, [%x3];", "mbarrier.test_wait.b64 %p1, [%x3], %x4;"),
        (
            64,
            "mbarrier.arrive.release.cta.shared::cta.b64 %x4, [%r11];",
            "mbarrier.try_wait.acquire.cta.shared::cta.b64 %p1, [%r11], %x4;",
        ),
        (128, "mbarrier.arrive.shared.b64 %x4, [%r11], 2;", by_state),
        (64, "mbarrier.arrive_drop.shared.b64 %x4, [%r11];", by_state),
        (64, "mbarrier.arrive_drop.release.cta.shared::cta.b64 _, [%r11];", by_parity),
        (
            64,
            "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r11];",
            "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [%r11], 0, 1000;",
        ),
        (
            128,
            "mbarrier.arrive.noComplete.shared.b64 %x4, [%r11], 1;\nmbarrier.arrive.shared.b64 %x4, [%r11];",
            by_state,
        ),
        (
            128,
            "mbarrier.arrive_drop.noComplete.shared.b64 %x4, [%r11], 1;\nmbarrier.arrive.shared.b64 %x4, [%r11];",
            by_state,
        ),
        (
            64,
            "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r11], 8;\nmbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r11], 8;\nmbarrier.arrive.shared.b64 %x4, [%r11];",
            by_state,
        ),
        (
            64,
            "mbarrier.arrive.expect_tx.shared.b64 %x4, [%r11], 16;\nmbarrier.complete_tx.shared.b64 [%r11], 16;",
            by_state,
        ),
        (
            64,
            "mbarrier.arrive.expect_tx.relaxed.cta.shared::cta.b64 %x4, [%r11], 16;\nfence.acq_rel.cta;\nmbarrier.complete_tx.shared.b64 [%r11], 16;\nbar.sync 0;",
            by_state,
        ),
        (
            64,
            "mbarrier.arrive_drop.expect_tx.shared.b64 %x4, [%r11], 16;\nmbarrier.complete_tx.shared.b64 [%r11], 16;",
            by_state,
        ),
    ] {
        let body = frame(count, arrive, wait);
        all.push(Program::new(arrive, [2, 64], [1, 1], any, &body, |rows| {
            (0..rows.len()).map(|t| rows[t / 64 * 64 + ((t % 64) ^ 63)].clone()).collect()
        }));
    }
    let body = format!(
        "{SHARED}mad.lo.u32 %r12, %l, 8, %r10;\nmbarrier.init.shared.b64 [%r12], 7;\nmbarrier.arrive.shared.b64 %x4, \
         [%r12];\nmbarrier.arrive.shared.b64 %x4, [%r12], 2;\nmbarrier.pending_count.b64 %d0, %x4;"
    );
    // The state is the one before the arrival.
    all.push(Program::new("mbarrier.pending_count", [1, 32], [0, 1], any, &body, |rows| {
        vec![vec![6]; rows.len()]
    }));
    all
}

/// Thread 0 starts a copy and all wait for its mbarrier.
fn with_mbarrier(bytes: u32, copy: &str, rest: &str) -> String {
    format!(
        "{SHARED}setp.ne.u32 %p0, %l, 0;\n@%p0 bra GO;\nmbarrier.init.shared.b64 [%r11], \
         1;\nfence.mbarrier_init.release.cluster;\nfence.proxy.async;\nmbarrier.arrive.expect_tx.shared.b64 _, [%r11], \
         {bytes};\n{copy}\nGO:\nbar.sync 0;\nWAIT:\nmbarrier.try_wait.parity.shared.b64 %p1, [%r11], 0;\n@!%p1 bra \
         WAIT;\n{rest}"
    )
}

fn bulk_copies() -> Vec<Program> {
    let mut all = Vec::new();
    for copy in [
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%in], 1024, [%r11];",
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r10], [%in], 1024, [%r11];",
        "mov.u64 %x5, 0;\ncp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r10], \
         [%in], 1024, [%r11], %x5;",
        "cp.async.bulk.prefetch.L2.global [%in], 1024;\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%in], 1024, [%r11];",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r10], [%in], 1024, \
         [%r11], 1;",
    ] {
        let body = with_mbarrier(1024, copy, "mad.lo.u32 %r12, %l, 4, %r10;\nld.shared.u32 %d0, [%r12];");
        all.push(Program::new(copy, [1, 256], [1, 1], any, &body, |rows| rows.to_vec()));
    }
    // Within the CTA's own shared memory, as a cluster's.
    let copy =
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%in], 1024, [%r11];";
    let again = "bar.sync 0;\n@%p0 bra NEXT;\nmbarrier.arrive.expect_tx.shared.b64 _, [%r11], \
                 1024;\nfence.proxy.async;\nadd.u32 %r14, %r10, \
                 1024;\ncp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r14], [%r10], 1024, \
                 [%r11];\nNEXT:\nAGAIN:\nmbarrier.try_wait.parity.shared.b64 %p1, [%r11], 1;\n@!%p1 bra \
                 AGAIN;\nmad.lo.u32 %r12, %l, 4, %r10;\nld.shared.u32 %d0, [%r12+1024];";
    let body = with_mbarrier(1024, copy, again);
    all.push(Program::new("bulk within shared", [1, 256], [1, 1], any, &body, |rows| rows.to_vec()));
    // Out of shared memory; the epilogue stores the same, after the copy has ended.
    for (name, wait) in [
        ("wait_group", "cp.async.bulk.wait_group 0;"),
        ("read", "cp.async.bulk.wait_group.read 0;\ncp.async.bulk.wait_group 0;"),
    ] {
        let body = format!(
            "{SHARED}mad.lo.u32 %r12, %l, 4, %r10;\nst.shared.u32 [%r12], %a0;\nfence.proxy.async.shared::cta;\nbar.sync \
             0;\nsetp.ne.u32 %p0, %l, 0;\n@%p0 bra GO;\ncp.async.bulk.global.shared::cta.bulk_group [%out], [%r10], \
             1024;\ncp.async.bulk.commit_group;\n{wait}\nGO:\nbar.sync 0;\nfence.proxy.async;\nld.global.u32 %d0, [%o];"
        );
        all.push(Program::new(&format!("bulk store {name}"), [1, 256], [1, 1], any, &body, |rows| {
            rows.to_vec()
        }));
    }
    all
}

/// `cp.reduce.async.bulk` into global memory: the output begins as the second operand.
fn bulk_reductions() -> Vec<Program> {
    type Reduce = fn(u32, u32) -> u32;
    let list: [(&str, Reduce); 12] = [
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("inc.u32", |a, b| if b >= a { 0 } else { b + 1 }),
        ("dec.u32", |a, b| if b == 0 || b > a { a } else { b - 1 }),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("add.f32", |a, b| (f32::from_bits(a) + f32::from_bits(b)).to_bits()),
    ];
    let kernel = |opcode: &str| {
        format!(
            "{SHARED}mad.lo.u32 %r12, %l, 8, %r10;\nst.shared.v2.u32 [%r12], {{%a0, %a1}};\nst.global.v2.u32 [%o], {{%a2, \
             %a3}};\nfence.proxy.async;\nbar.sync 0;\nsetp.ne.u32 %p0, %l, 0;\n@%p0 bra \
             GO;\ncp.reduce.async.bulk.global.shared::cta.bulk_group.{opcode} [%out], [%r10], \
             512;\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\nGO:\nbar.sync \
             0;\nfence.proxy.async;\nld.global.v2.u32 {{%d0, %d1}}, [%o];"
        )
    };
    let numbers = |random: &mut crate::harness::Random, _: usize, _: usize| {
        (random.below(200) as f32 - 100.0).to_bits()
    };
    let mut all: Vec<Program> = list
        .iter()
        .map(|&(opcode, f)| {
            let operand = if opcode == "add.f32" { numbers } else { any };
            Program::new(opcode, [1, 64], [4, 2], operand, &kernel(opcode), |rows| {
                rows.iter().map(|r| vec![f(r[0], r[2]), f(r[1], r[3])]).collect()
            })
        })
        .collect();
    type Wide = fn(u64, u64) -> u64;
    let list64: [(&str, Wide); 8] = [
        ("and.b64", |a, b| a & b),
        ("or.b64", |a, b| a | b),
        ("xor.b64", |a, b| a ^ b),
        ("add.u64", u64::wrapping_add),
        ("min.u64", u64::min),
        ("max.u64", u64::max),
        ("min.s64", |a, b| (a as i64).min(b as i64) as u64),
        ("max.s64", |a, b| (a as i64).max(b as i64) as u64),
    ];
    for (opcode, f) in list64 {
        all.push(Program::new(opcode, [1, 64], [4, 2], any, &kernel(opcode), |rows| {
            rows.iter()
                .map(|r| {
                    let [a, b] = [0, 2].map(|i| u64::from(r[i]) | u64::from(r[i + 1]) << 32);
                    let d = f(a, b);
                    vec![d as u32, (d >> 32) as u32]
                })
                .collect()
        }));
    }
    // Halves: small whole numbers, whose sums are exact.
    let halves = |bits: fn(f32) -> u16| {
        move |random: &mut crate::harness::Random, _: usize, _: usize| {
            let [a, b] = [0, 1].map(|_| u32::from(bits(random.below(100) as f32 - 50.0)));
            a | b << 16
        }
    };
    let f16 = (|v| half::f16::from_f32(v).to_bits()) as fn(f32) -> u16;
    let bf16 = (|v| half::bf16::from_f32(v).to_bits()) as fn(f32) -> u16;
    for (opcode, bits, brain) in [
        ("add.noftz.f16", f16, false),
        ("min.f16", f16, false),
        ("max.f16", f16, false),
        ("add.noftz.bf16", bf16, true),
        ("min.bf16", bf16, true),
        ("max.bf16", bf16, true),
    ] {
        all.push(Program::new(opcode, [1, 64], [4, 2], halves(bits), &kernel(opcode), |rows| {
            let value = |x: u16| {
                if brain { half::bf16::from_bits(x).to_f32() } else { half::f16::from_bits(x).to_f32() }
            };
            let one = |a: u32, b: u32| -> u32 {
                let half = |at: u32| {
                    let (x, y) = (value((a >> at) as u16), value((b >> at) as u16));
                    let z = match &opcode[..3] {
                        "add" => x + y,
                        "min" => x.min(y),
                        _ => x.max(y),
                    };
                    u32::from(bits(z)) << at
                };
                half(0) | half(16)
            };
            rows.iter().map(|r| vec![one(r[0], r[2]), one(r[1], r[3])]).collect()
        }));
    }
    let doubles = |random: &mut crate::harness::Random, _: usize, i: usize| {
        if i % 2 == 1 { ((random.below(50) as f64 - 25.0).to_bits() >> 32) as u32 } else { 0 }
    };
    all.push(Program::new("add.f64", [1, 64], [4, 2], doubles, &kernel("add.f64"), |rows| {
        rows.iter()
            .map(|r| {
                let [a, b] = [0, 2].map(|i| f64::from_bits(u64::from(r[i]) | u64::from(r[i + 1]) << 32));
                let d = (a + b).to_bits();
                vec![d as u32, (d >> 32) as u32]
            })
            .collect()
    }));
    all
}

/// A box of a matrix in, and one out.
fn tensor_copies() -> Vec<Program> {
    let map = |box_dims: [u32; 2]| TensorMap::dense(DataType::U32, 0, &[16, 16], &box_dims);
    let mut all = Vec::new();
    for space in ["shared::cluster", "shared::cta"] {
        let copy = format!(
            "mov.u64 %x6, map0;\ncvta.param.u64 %x6, %x6;\nprefetch.tensormap [%x6];\n\
             cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%x6, {{4, 2}}];\n\
             cp.async.bulk.tensor.2d.{space}.global.tile.mbarrier::complete_tx::bytes [%r10], [%x6, {{4, 2}}], [%r11];"
        );
        let body = with_mbarrier(256, &copy, "mad.lo.u32 %r12, %l, 4, %r10;\nld.shared.u32 %d0, [%r12];");
        let mut program = Program::new(&copy, [1, 64], [1, 1], any, &body, |rows| vec![vec![0]; rows.len()]);
        program.maps = vec![map([8, 8])];
        let mut random = crate::harness::Random(5);
        program.data = (0..256).map(|_| random.next() as u32).collect();
        program.expect = (0..64).map(|i| program.data[(2 + i / 8) * 16 + 4 + i % 8]).collect();
        all.push(program);
    }
    all
}

fn clusters() -> Vec<Program> {
    let mut all = Vec::new();
    let meet = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";
    // The neighbour's word, by each way of addressing it.
    for (name, load) in [
        (
            "mapa.shared::cluster.u32",
            "mapa.shared::cluster.u32 %r14, %r12, %r13;\nld.shared::cluster.u32 %d0, [%r14];\ngetctarank.shared::cluster.u32 %d1, %r14;",
        ),
        (
            "mapa.shared::cluster.u64",
            "cvt.u64.u32 %x3, %r12;\nmapa.shared::cluster.u64 %x4, %x3, %r13;\nld.shared::cluster.u32 %d0, [%x4];\ngetctarank.shared::cluster.u64 %d1, %x4;",
        ),
        (
            "mapa.u64",
            "cvt.u64.u32 %x3, %r12;\ncvta.shared.u64 %x3, %x3;\nmapa.u64 %x4, %x3, %r13;\nld.u32 %d0, [%x4];\ngetctarank.u64 %d1, %x4;",
        ),
        (
            "atom.shared::cluster",
            "mapa.shared::cluster.u32 %r14, %r12, %r13;\natom.relaxed.cluster.shared::cluster.add.u32 %d0, [%r14], 1;\ngetctarank.shared::cluster.u32 %d1, %r14;",
        ),
    ] {
        let body = format!(
            "{SHARED}st.shared.u32 [%r12], %a0;\n{meet}mov.u32 %r13, %cluster_ctarank;\nxor.b32 %r13, %r13, 1;\n{load}\n{meet}"
        );
        let mut program = Program::new(name, [4, 64], [1, 2], any, &body, |rows| {
            (0..rows.len()).map(|t| vec![rows[t ^ 64][0], (t / 64 % 2) as u32 ^ 1]).collect()
        });
        program.cluster = 2;
        all.push(program);
    }
    // Words sent to the neighbour, which its mbarrier counts.
    for (name, words, send) in [
        (
            "st.async.weak.b32",
            1usize,
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r14], %a0, [%r15];",
        ),
        (
            "st.async.v2.b32",
            2,
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r14], {%a0, %a1}, [%r15];",
        ),
        (
            "st.async.v4.u32",
            4,
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [%r14], {%a0, %a1, %a2, %a3}, [%r15];",
        ),
        (
            "st.async.b64",
            2,
            "mov.b64 %x3, {%a0, %a1};\nst.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%r14], %x3, [%r15];",
        ),
    ] {
        let bytes = 4 * words * 64;
        let loads: String = (0..words).map(|i| format!("ld.shared.u32 %d{i}, [%r12+{}];\n", 4 * i)).collect();
        let body = format!(
            "{SHARED}setp.ne.u32 %p0, %l, 0;\n@%p0 bra GO;\nmbarrier.init.shared.b64 [%r11], \
             1;\nfence.mbarrier_init.release.cluster;\nmbarrier.arrive.expect_tx.shared.b64 _, [%r11], \
             {bytes};\nGO:\n{meet}mov.u32 %r13, %cluster_ctarank;\nxor.b32 %r13, %r13, 1;\nmapa.shared::cluster.u32 %r14, \
             %r12, %r13;\nmapa.shared::cluster.u32 %r15, %r11, %r13;\n{send}\nWAIT:\n\
             mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [%r11], 0;\n@!%p1 bra WAIT;\n{loads}{meet}"
        );
        let mut program = Program::new(name, [2, 64], [words, words], any, &body, |rows| {
            (0..rows.len()).map(|t| rows[t ^ 64].clone()).collect()
        });
        program.cluster = 2;
        all.push(program);
    }
    type Reduce = fn(u32, u32) -> u32;
    let list: [(&str, Reduce); 10] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
        ("inc.u32", |a, b| if b >= a { 0 } else { b + 1 }),
    ];
    for (op, f) in list {
        let body = format!(
            "{SHARED}st.shared.u32 [%r12], %a1;\nsetp.ne.u32 %p0, %l, 0;\n@%p0 bra GO;\nmbarrier.init.shared.b64 [%r11], \
             1;\nfence.mbarrier_init.release.cluster;\nmbarrier.arrive.expect_tx.shared.b64 _, [%r11], \
             256;\nGO:\n{meet}mov.u32 %r13, %cluster_ctarank;\nxor.b32 %r13, %r13, 1;\nmapa.shared::cluster.u32 %r14, \
             %r12, %r13;\nmapa.shared::cluster.u32 %r15, %r11, \
             %r13;\nred.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.{op} [%r14], %a0, \
             [%r15];\nWAIT:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [%r11], 0;\n@!%p1 bra \
             WAIT;\nld.shared.u32 %d0, [%r12];\n{meet}"
        );
        let mut program = Program::new(&format!("red.async {op}"), [2, 64], [2, 1], any, &body, |rows| {
            (0..rows.len()).map(|t| vec![f(rows[t ^ 64][0], rows[t][1])]).collect()
        });
        program.cluster = 2;
        all.push(program);
    }
    // One copy for both.
    let body = format!(
        "{SHARED}setp.ne.u32 %p0, %l, 0;\n@%p0 bra GO;\nmbarrier.init.shared.b64 [%r11], \
         1;\nfence.mbarrier_init.release.cluster;\nmbarrier.arrive.expect_tx.shared.b64 _, [%r11], \
         256;\nGO:\n{meet}mov.u32 %r13, %cluster_ctarank;\nor.b32 %r13, %r13, %l;\nsetp.ne.u32 %p2, %r13, 0;\n@%p2 bra \
         WAIT;\ncp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r10], [%in], 256, \
         [%r11], 3;\nWAIT:\nmbarrier.try_wait.parity.shared.b64 %p1, [%r11], 0;\n@!%p1 bra WAIT;\nmad.lo.u32 %r12, %l, \
         4, %r10;\nld.shared.u32 %d0, [%r12];\n{meet}"
    );
    let mut program = Program::new("multicast", [2, 64], [1, 1], any, &body, |rows| {
        (0..128).map(|t| rows[t % 64].clone()).collect()
    });
    program.cluster = 2;
    all.push(program);
    all
}

/// Registers handed from one warpgroup to another, dependent launches, directives.
fn rest() -> Vec<Program> {
    let body = "setp.lt.u32 %p0, %l, 128;\n@%p0 bra LOW;\nsetmaxnreg.inc.sync.aligned.u32 232;\nbra.uni END;\nLOW:\n\
                setmaxnreg.dec.sync.aligned.u32 40;\nEND:\ngriddepcontrol.launch_dependents;\ngriddepcontrol.wait;\n\
                add.u32 %d0, %a0, 1;";
    let plus = |rows: &[Vec<u32>]| rows.iter().map(|r| vec![r[0].wrapping_add(1)]).collect::<Vec<_>>();
    let mut hand = Program::new("setmaxnreg", [1, 256], [1, 1], any, body, plus);
    hand.directives = ".maxntid 256, 1, 1\n.minnctapersm 1\n.maxnreg 128".into();
    let mut shaped = Program::new("directives", [2, 64], [1, 1], any, "add.u32 %d0, %a0, 1;", plus);
    shaped.directives =
        ".reqntid 64, 1, 1\n.explicitcluster\n.reqnctapercluster 2, 1, 1\n.maxclusterrank 4\n".into();
    shaped.directives = shaped.directives.replace(".maxclusterrank 4\n", "");
    shaped.cluster = 2;
    let mut ranked = Program::new("rank", [2, 64], [1, 1], any, "add.u32 %d0, %a0, 1;", plus);
    ranked.directives = ".maxntid 64\n.maxclusterrank 4\n.maxnctapersm 8".into();
    vec![hand, shaped, ranked]
}

#[test]
fn asynchronous_work_and_clusters() {
    check(&programs());
}
