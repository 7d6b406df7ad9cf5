//! Operations of a warp: shuffles, votes, matches, reductions; special registers.

use crate::program::{Program, check};

fn any(random: &mut crate::harness::Random, _: usize, _: usize) -> u32 {
    random.next() as u32
}

/// The warp of a thread.
fn warp(rows: &[Vec<u32>], thread: usize) -> &[Vec<u32>] {
    &rows[thread / 32 * 32..thread / 32 * 32 + 32]
}

fn each(rows: &[Vec<u32>], f: impl Fn(usize, &[Vec<u32>]) -> Vec<u32>) -> Vec<Vec<u32>> {
    (0..rows.len()).map(|t| f(t % 32, warp(rows, t))).collect()
}

pub fn programs() -> Vec<Program> {
    let mut all = shuffles();
    all.extend(votes());
    all.extend(reductions());
    all.extend(special_registers());
    all
}

fn shuffles() -> Vec<Program> {
    let mut all = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        for clamp in [0u32, 0x1f, 0x1807, 0x1c03, 0x101f, 0x0a12] {
            let body = format!(
                "shfl.sync.{mode}.b32 %d0|%p0, %a0, %a1, {clamp}, 0xffffffff;\nselp.u32 %d1, 1, 0, %p0;\n\
                 shfl.sync.{mode}.b32 %d2, %a0, 3, {clamp}, -1;"
            );
            let source = move |lane: usize, b: u32| -> (usize, bool) {
                let (lane, b, c, segment) = (lane as u32, b & 31, clamp & 31, clamp >> 8 & 31);
                let (most, least) = ((lane & segment) | (c & !segment), lane & segment);
                let (from, inside) = match mode {
                    "up" => (lane as i32 - b as i32, lane as i32 - b as i32 >= most as i32),
                    "down" => ((lane + b) as i32, lane + b <= most),
                    "bfly" => ((lane ^ b) as i32, lane ^ b <= most),
                    _ => ((least | (b & !segment)) as i32, least | (b & !segment) <= most),
                };
                (if inside { from as usize } else { lane as usize }, inside)
            };
            all.push(Program::new(&format!("shfl {mode} {clamp:#x}"), [1, 64], [2, 3], any, &body, |rows| {
                each(rows, |lane, warp| {
                    let (from, inside) = source(lane, warp[lane][1]);
                    let (fixed, _) = source(lane, 3);
                    vec![warp[from][0], inside.into(), warp[fixed][0]]
                })
            }));
        }
    }
    // The two halves of a warp shuffle on their own, in different branches.
    let body = "mov.u32 %r2, %laneid;\nsetp.lt.u32 %p0, %r2, 16;\n@%p0 bra LOW;\n\
                shfl.sync.bfly.b32 %d0, %a0, 1, 0x1f, 0xffff0000;\nbra.uni BOTH;\nLOW:\n\
                shfl.sync.bfly.b32 %d0, %a0, 2, 0x1f, 0x0000ffff;\nBOTH:\nbar.warp.sync -1;";
    all.push(Program::new("shfl in branches", [1, 32], [1, 1], any, body, |rows| {
        each(rows, |lane, warp| vec![warp[lane ^ if lane < 16 { 2 } else { 1 }][0]])
    }));
    all
}

fn votes() -> Vec<Program> {
    let body = "setp.ne.u32 %p0, %a0, 0;\nvote.sync.all.pred %p1, %p0, -1;\nselp.u32 %d0, 1, 0, %p1;\n\
                vote.sync.any.pred %p1, %p0, -1;\nselp.u32 %d1, 1, 0, %p1;\nvote.sync.uni.pred %p1, %p0, -1;\n\
                selp.u32 %d2, 1, 0, %p1;\nvote.sync.ballot.b32 %d3, !%p0, -1;";
    // Warps with all, none, and some.
    let mut all = vec![Program::new(
        "vote",
        [1, 128],
        [1, 4],
        |random, thread, _| match thread / 32 {
            0 => 1,
            1 => 0,
            _ => random.below(2) as u32,
        },
        body,
        |rows| {
            each(rows, |_, warp| {
                let set: Vec<bool> = warp.iter().map(|r| r[0] != 0).collect();
                let (every, some) = (set.iter().all(|s| *s), set.iter().any(|s| *s));
                let ballot: u32 = set.iter().enumerate().map(|(l, s)| u32::from(!s) << l).sum();
                vec![every.into(), some.into(), (every || !some).into(), ballot]
            })
        },
    )];
    let body = "mov.u32 %r2, %laneid;\nmov.u32 %d0, 0;\nsetp.lt.u32 %p0, %r2, 7;\n@%p0 activemask.b32 %d0;\n\
                mov.u32 %d1, 7;\nelect.sync %r3|%p1, 0xfffffff0;\n@%p1 mov.u32 %d1, 9;\nmov.u32 %d2, %r3;";
    let body = body.replace("elect.sync", "setp.ge.u32 %p2, %r2, 4;\nmov.u32 %r3, 0;\n@%p2 elect.sync");
    let body = body.replace("@%p1 mov", "and.pred %p1, %p1, %p2;\n@%p1 mov");
    let body = body.replace("mov.u32 %d1, 7;", "mov.u32 %d1, 7;\nsetp.eq.u32 %p1, 0, 1;");
    all.push(Program::new("activemask, elect", [1, 64], [0, 3], any, &body, |rows| {
        let elected = |lane: usize| {
            vec![if lane < 7 { 0x7f } else { 0 }, if lane == 4 { 9 } else { 7 }, if lane < 4 { 0 } else { 4 }]
        };
        each(rows, |lane, _| elected(lane))
    }));
    let body = "match.any.sync.b32 %d0, %a0, -1;\nmatch.all.sync.b32 %d1|%p0, %a1, -1;\nselp.u32 %d2, 1, 0, %p0;\n\
                mov.b64 %x0, {%a0, %a1};\nmatch.any.sync.b64 %d3, %x0, -1;\nmatch.all.sync.b64 %d4|%p0, %x0, -1;\n\
                match.all.sync.b32 %d5, %a0, -1;";
    all.push(Program::new(
        "match",
        [1, 96],
        [2, 6],
        |random, thread, i| if thread < 32 || (thread < 64 && i == 1) { 5 } else { random.below(4) as u32 },
        body,
        |rows| {
            each(rows, |lane, warp| {
                let mask = |f: &dyn Fn(&Vec<u32>) -> bool| -> u32 {
                    warp.iter().enumerate().map(|(l, r)| u32::from(f(r)) << l).sum()
                };
                let whole = |same: u32| if same == u32::MAX { u32::MAX } else { 0 };
                let mine = &warp[lane];
                let (first, second, both) =
                    (mask(&|r| r[0] == mine[0]), mask(&|r| r[1] == mine[1]), mask(&|r| r[..2] == mine[..2]));
                let all_second = whole(second);
                vec![first, all_second, u32::from(all_second != 0), both, whole(both), whole(first)]
            })
        },
    ));
    all
}

fn reductions() -> Vec<Program> {
    type Reduce = fn(u32, u32) -> u32;
    let list: [(&str, Reduce); 8] = [
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
        ("add.u32", |a, b| a.wrapping_add(b)),
        ("add.s32", |a, b| a.wrapping_add(b)),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
    ];
    let mut all: Vec<Program> = list
        .iter()
        .map(|&(op, f)| {
            let body = format!("redux.sync.{op} %d0, %a0, -1;");
            Program::new(op, [1, 64], [1, 1], any, &body, |rows| {
                each(rows, |_, warp| vec![warp.iter().map(|r| r[0]).reduce(f).expect("32 lanes")])
            })
        })
        .collect();
    // Of some lanes only.
    let body = "mov.u32 %r2, %laneid;\nand.b32 %r2, %r2, 1;\nsetp.eq.u32 %p0, %r2, 1;\nmov.u32 %d0, 0;\n\
                @%p0 redux.sync.max.s32 %d0, %a0, 0xaaaaaaaa;";
    all.push(Program::new("redux of odd lanes", [1, 32], [1, 1], any, body, |rows| {
        each(rows, |lane, warp| {
            let most = warp.iter().skip(1).step_by(2).map(|r| r[0] as i32).max().expect("16 lanes");
            vec![if lane % 2 == 1 { most as u32 } else { 0 }]
        })
    }));
    all
}

/// Registers of what a thread is and where.
fn special_registers() -> Vec<Program> {
    // Expected as a function of the thread in a grid of three CTAs of 40 threads.
    type OfThread = fn(u32) -> u32;
    let list: [(&str, OfThread); 34] = [
        ("%tid.x", |t| t % 40),
        ("%tid.y", |_| 0),
        ("%tid.z", |_| 0),
        ("%ntid.x", |_| 40),
        ("%ntid.y", |_| 1),
        ("%ctaid.x", |t| t / 40),
        ("%ctaid.y", |_| 0),
        ("%nctaid.x", |_| 3),
        ("%nctaid.z", |_| 1),
        ("%laneid", |t| t % 40 % 32),
        ("%warpid", |t| t % 40 / 32),
        ("%nsmid", |_| 132),
        ("%clusterid.x", |t| t / 40),
        ("%nclusterid.x", |_| 3),
        ("%cluster_ctaid.x", |_| 0),
        ("%cluster_nctaid.x", |_| 1),
        ("%cluster_ctarank", |_| 0),
        ("%cluster_nctarank", |_| 1),
        ("%lanemask_eq", |t| 1 << (t % 40 % 32)),
        ("%lanemask_lt", |t| (1 << (t % 40 % 32)) - 1),
        ("%lanemask_le", |t| ((2u64 << (t % 40 % 32)) - 1) as u32),
        ("%lanemask_gt", |t| !((2u64 << (t % 40 % 32)) - 1) as u32),
        ("%lanemask_ge", |t| !((1u64 << (t % 40 % 32)) - 1) as u32),
        ("%dynamic_smem_size", |_| 0),
        ("%total_smem_size", |_| 0),
        ("%aggr_smem_size", |_| 0),
        ("%current_graph_exec", |_| 0),
        ("%reserved_smem_offset_begin", |_| 0),
        ("%tid.w", |_| 0),
        ("%ntid.z", |_| 1),
        ("%ctaid.z", |_| 0),
        ("%nctaid.y", |_| 1),
        ("WARP_SZ", |_| 32),
        ("%gridid", |_| 1),
    ];
    let mut all: Vec<Program> = list
        .iter()
        .map(|&(register, f)| {
            let body = format!("mov.u32 %d0, {register};");
            Program::new(register, [3, 40], [0, 1], any, &body, |rows| {
                (0..rows.len() as u32).map(|t| vec![f(t)]).collect()
            })
        })
        .collect();
    // Clocks go forward; an SM is one of 132.
    let body = "mov.u32 %r2, %clock;\nmov.u64 %x0, %clock64;\nmov.u32 %r3, %clock_hi;\nmov.u64 %x2, %globaltimer;\n\
                mov.u32 %r4, %globaltimer_lo;\nmov.u32 %r5, %globaltimer_hi;\nmov.u32 %r6, %smid;\n\
                setp.lt.u32 %p0, %r6, 132;\nselp.u32 %d0, 1, 0, %p0;\nmov.u64 %x1, %clock64;\n\
                setp.gt.u64 %p0, %x1, %x0;\nselp.u32 %d1, 1, 0, %p0;\nmov.u64 %x3, %globaltimer;\n\
                setp.ge.u64 %p0, %x3, %x2;\nselp.u32 %d2, 1, 0, %p0;\nsetp.eq.u32 %p1, %r3, 0;\n\
                mov.u32 %r7, %warpid;\nmov.u32 %r8, %nwarpid;\nsetp.lt.and.u32 %p1, %r7, %r8, %p1;\nselp.u32 %d3, 1, 0, %p1;";
    all.push(Program::new("clocks", [2, 32], [0, 4], any, body, |rows| vec![vec![1; 4]; rows.len()]));
    all
}

#[test]
fn operations_of_a_warp() {
    check(&programs());
}
