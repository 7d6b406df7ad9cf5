//! Deadlocks name who waits; the same seed gives the same run.

use crate::kernel;
use virtual_gpu::{Finding, Gpu, Kind, Launch, Options, Order, Stream};

fn findings(gpu: &Gpu, function: &virtual_gpu::Function, grid: u32, block: u32) -> Vec<Finding> {
    let out = gpu.alloc(4096).expect("memory");
    gpu.memset(out, 0, 4096).expect("in bounds");
    let args: [&[u8]; 1] = [&out.to_le_bytes()];
    let launch = Launch { grid: [grid, 1, 1], block: [block, 1, 1], args: &args, ..Launch::default() };
    gpu.launch(function, &launch, Stream::default()).and_then(|()| gpu.synchronize()).ok();
    gpu.take_findings()
}

#[test]
fn a_barrier_that_one_warp_misses() {
    let body = "setp.lt.u32 %p1, %r0, 32;\n@%p1 bar.sync 1, 96;\n@!%p1 bar.sync 2, 96;";
    let (gpu, function) = kernel("", body, Options::default());
    let all = findings(&gpu, &function, 1, 96);
    let last = all.last().expect("a finding");
    assert_eq!((last.kind, last.fatal), (Kind::Deadlock, true));
    for part in [
        "waits at barrier 1 at bar.sync (PTX line",
        "CTA (0, 0, 0): warp 0\n",
        "waits at barrier 2",
        ": warps 1-2",
    ] {
        assert!(last.message.contains(part), "{part} is not in {}", last.message);
    }
}

#[test]
fn an_mbarrier_that_nobody_arrives_at() {
    let body = ".shared .align 8 .b64 bar;\nmov.u32 %r1, bar;\nsetp.ne.u32 %p1, %r0, 0;\n@%p1 bra \
                WAIT;\nmbarrier.init.shared.b64 [%r1], 5;\nWAIT:\nbar.sync 0;\nmbarrier.arrive.shared.b64 _, [%r1];\nLOOP:\n\
                mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;\n@!%p2 bra LOOP;";
    let (gpu, function) = kernel("", body, Options { patience: 200_000, ..Options::default() });
    let all = findings(&gpu, &function, 1, 2);
    let last = all.last().expect("a finding");
    assert!(last.fatal && matches!(last.kind, Kind::Deadlock | Kind::TimeLimit), "{last}");
    assert!(last.place.opcode.starts_with("mbarrier.try_wait") || last.place.opcode == "bra", "{last}");
}

/// The last of the CTAs to add gives the order away.
const RACE: &str = "mov.u32 %r1, %ctaid.x;\natom.global.add.u32 %r2, [%out], 1;\nmul.wide.u32 %x1, %r1, 4;\nadd.u64 %x1, \
                    %x1, %out;\nst.global.u32 [%x1+4], %r2;";

#[test]
fn a_seed_repeats_a_run() {
    let run = |seed: u64| -> Vec<u8> {
        let options = Options { order: Order::Random(seed), ..Options::default() };
        let (gpu, function) = kernel("", RACE, options);
        let out = gpu.alloc(4096).expect("memory");
        gpu.memset(out, 0, 4096).expect("in bounds");
        let args: [&[u8]; 1] = [&out.to_le_bytes()];
        let launch = Launch { grid: [64, 1, 1], block: [1, 1, 1], args: &args, ..Launch::default() };
        gpu.launch(&function, &launch, Stream::default()).expect("legal");
        let mut data = vec![0; 260];
        gpu.read(out, &mut data).expect("in bounds");
        assert!(gpu.take_findings().is_empty());
        data
    };
    let runs: Vec<Vec<u8>> = (0..8).map(run).collect();
    assert!((0..8).all(|seed| run(seed) == runs[seed as usize]), "a seed gives different runs");
    assert!(runs.iter().any(|r| *r != runs[0]), "eight seeds give one order");
}

#[test]
fn a_finding_is_repeated_with_its_seed() {
    // The two warps of a CTA race for a word.
    let body = ".shared .b32 word;\nmov.u32 %r1, word;\nst.shared.u32 [%r1], %r0;";
    let run = |seed: u64| -> Vec<String> {
        let (gpu, function) = kernel("", body, Options { order: Order::Random(seed), ..Options::default() });
        findings(&gpu, &function, 2, 64).iter().map(ToString::to_string).collect()
    };
    for seed in 0..10 {
        let first = run(seed);
        assert!(!first.is_empty() && first == run(seed), "seed {seed}");
    }
}

#[test]
fn a_limit_ends_a_launch_that_stores_for_ever() {
    let (gpu, function) = kernel(
        "",
        "LOOP:\nst.global.u32 [%out], 1;\nbra LOOP;",
        Options { limit: 10_000, ..Options::default() },
    );
    let all = findings(&gpu, &function, 1, 1);
    let last = all.last().expect("a finding");
    assert_eq!((last.kind, last.fatal), (Kind::TimeLimit, true), "{last}");
}

#[test]
fn a_relaxed_arrival_needs_a_fence() {
    for (fence, clean) in [("fence.acq_rel.cluster;", true), ("", false)] {
        let body = format!(
            ".shared .b32 words[64];\nmov.u32 %r1, words;\nmad.lo.u32 %r2, %r0, 4, %r1;\nst.shared.u32 [%r2], \
             %r0;\n{fence}\nbarrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;\nxor.b32 %r3, %r0, \
             32;\nmad.lo.u32 %r2, %r3, 4, %r1;\nld.shared.u32 %r4, [%r2];"
        );
        let (gpu, function) = kernel("", &body, Options::default());
        let all = findings(&gpu, &function, 1, 64);
        assert_eq!(all.is_empty(), clean, "{fence}: {all:?}");
        assert!(all.iter().all(|f| f.kind == Kind::SharedRace));
    }
}

#[test]
fn a_report_lists_every_warp() {
    // Everybody waits for an mbarrier at which nobody arrives.
    let deadlock = ".shared .align 8 .b64 bar;\nmov.u32 %r1, bar;\nsetp.ne.u32 %p1, %r0, 0;\n@%p1 bra \
                    WAIT;\nmbarrier.init.shared.b64 [%r1], 5;\nWAIT:\nbar.sync 0;\nLOOP:\n\
                    mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;\n@!%p2 bra LOOP;";
    for (ctas, threads, listed) in [
        (1, 1, "CTA (0, 0, 0): warp 0"),
        (2, 1024, "2 CTAs, (0, 0, 0) to (1, 0, 0): warps 0-31"),
        (200, 80, "200 CTAs, (0, 0, 0) to (199, 0, 0): warps 0-2"),
    ] {
        let (gpu, function) = kernel("", deadlock, Options::default());
        let all = findings(&gpu, &function, ctas, threads);
        let last = all.last().expect("a finding");
        assert_eq!((last.kind, last.message.lines().count()), (Kind::Deadlock, 2), "{last}");
        assert!(last.message.ends_with(listed), "{last}");
    }
    // Block 1 goes on; of warp 1 only the even lanes wait.
    let parts = "mov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, 1;\n@%p1 bra END;\nand.b32 %r2, %r0, 33;\n\
                 setp.eq.u32 %p2, %r2, 33;\n@%p2 bra OTHER;\nbar.sync 1, 96;\nbra END;\nOTHER:\n\
                 bar.warp.sync 0xffffffff;\nEND:";
    let (gpu, function) = kernel("", parts, Options::default());
    let all = findings(&gpu, &function, 4, 96);
    let last = all.last().expect("a finding");
    for part in
        ["CTA (0, 0, 0): warps 0, 2; 2 CTAs, (2, 0, 0) to (3, 0, 0): warps 0, 2", "warp 1 lanes 0xaaaaaaaa"]
    {
        assert!(last.message.contains(part), "{part} is not in {last}");
    }
    // Polls for what never comes.
    let poll = "LOOP:\nld.volatile.global.u32 %r1, [%out];\nsetp.ne.u32 %p0, %r1, 7;\n@%p0 bra LOOP;";
    let (gpu, function) = kernel("", poll, Options { patience: 100_000, ..Options::default() });
    let all = findings(&gpu, &function, 1, 96);
    let last = all.last().expect("a finding");
    assert!(last.kind == Kind::TimeLimit && last.message.ends_with(": warps 0-2"), "{last}");
}
