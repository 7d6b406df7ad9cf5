//! The table of planted bugs: every variant of tests/cuda/planted_*.cu and what must catch it.

#![allow(dead_code)]

pub mod scenes;

use crate::support::{Case, Output};
use virtual_gpu::Kind::{self, *};
use virtual_gpu::{Options, Order};

/// What must catch a bug.
#[derive(Clone, Copy, Debug)]
pub enum Catcher {
    /// A finding of one of these kinds.
    Detector(&'static [Kind]),
    /// No finding: only the comparison with the reference shows it.
    Reference,
}

/// One planted bug.
pub struct Bug {
    /// Kernel family: `FAMILY_0` is correct, `FAMILY_VARIANT` has the bug.
    pub family: &'static str,
    pub variant: u32,
    pub what: &'static str,
    pub catcher: Catcher,
}

const fn found(family: &'static str, variant: u32, kinds: &'static [Kind], what: &'static str) -> Bug {
    Bug { family, variant, what, catcher: Catcher::Detector(kinds) }
}

const fn numeric(family: &'static str, variant: u32, what: &'static str) -> Bug {
    Bug { family, variant, what, catcher: Catcher::Reference }
}

/// A prepared launch and what its result must be.
pub struct Scene {
    pub case: Case,
    pub correct: Box<dyn Fn(&Output) -> bool>,
}

/// Every family of kernels; each one's variant 0 is correct.
pub const FAMILIES: [&str; 37] = [
    "row_sums",
    "scale",
    "transpose",
    "gemm",
    "histogram",
    "local_sort",
    "warp_reverse",
    "hand_over",
    "exchange",
    "block_scan",
    "pipeline",
    "mma_gemm",
    "bulk",
    "ring",
    "tensor",
    "neighbours",
    "multicast",
    "product",
    "specialised",
    "downstream",
    "tickets",
    "two_streams",
    "pass_on",
    "detour",
    "fences",
    "halves",
    "arrivals",
    "early_load",
    "one_waits",
    "cluster_rows",
    "in_registers",
    "renamed",
    "pools",
    "few_threads",
    "dispatch",
    "tiles",
    "report",
];

/// All planted bugs.
pub const BUGS: &[Bug] = &[
    found("row_sums", 1, &[SharedRace], "no __syncthreads before another warp's sums are read"),
    found("row_sums", 2, &[OutOfBounds], "i <= n reads one past the last row"),
    found("row_sums", 3, &[OutOfBounds], "shared array indexed one past its end"),
    found("row_sums", 4, &[OutOfBounds], "shared array one element too small"),
    found("row_sums", 5, &[Undefined], "the first warp's sum is never stored"),
    found("row_sums", 6, &[WarpSync], "shuffle whose member mask leaves out half of the warp"),
    found("row_sums", 7, &[Barrier, Deadlock, SharedRace], "__syncthreads that half of the block passes by"),
    found("row_sums", 8, &[GlobalRace, Undefined], "every block adds to one word without an atomic"),
    found("row_sums", 9, &[OutOfBounds], "every result one element further on"),
    found("row_sums", 10, &[Undefined], "block 0 does not write its result"),
    found("row_sums", 11, &[Misaligned], "a float stored two bytes off"),
    numeric("row_sums", 12, "every thread's sum starts at 1"),
    numeric("row_sums", 13, "the first step of the butterfly is left out"),
    found("scale", 1, &[OutOfBounds], "no check against n in the last block"),
    found("scale", 2, &[Misaligned], "float4 read from a multiple of 4 bytes"),
    found("scale", 3, &[OutOfBounds, InvalidAccess], "null pointer"),
    found("scale", 4, &[Undefined], "output read before it is written"),
    numeric("scale", 5, "the constant forgotten in one branch"),
    found("transpose", 1, &[SharedRace], "no __syncthreads between store and load of the tile"),
    found("transpose", 2, &[OutOfBounds], "bounds of the input used for the output"),
    found("transpose", 3, &[Undefined], "tile read as it was written: the part beyond the edge"),
    found("gemm", 1, &[SharedRace], "no __syncthreads after the tiles are loaded"),
    found("gemm", 2, &[SharedRace], "no __syncthreads before the tiles are loaded again"),
    found("gemm", 3, &[OutOfBounds], "tail of A not checked"),
    found("gemm", 4, &[Undefined], "last row of B's tile never loaded"),
    numeric("gemm", 5, "B read transposed"),
    found("histogram", 1, &[Undefined], "bins not set to zero"),
    found("histogram", 2, &[SharedRace], "no __syncthreads after the bins are set to zero"),
    found("histogram", 3, &[SharedRace], "bins counted without an atomic"),
    found("histogram", 4, &[GlobalRace], "blocks add up without an atomic"),
    found("histogram", 5, &[OutOfBounds], "values above 63 not masked"),
    found("local_sort", 1, &[OutOfBounds, Undefined], "local array indexed to the wrong bound"),
    found("local_sort", 2, &[Undefined], "last element of a local array not set"),
    found("warp_reverse", 1, &[SharedRace], "no __syncwarp between lanes of one warp"),
    found("warp_reverse", 2, &[SharedRace], "the other warp's row without a barrier"),
    found("warp_reverse", 3, &[Deadlock, WarpSync], "ballot of all lanes in a branch of half of them"),
    found("hand_over", 1, &[Barrier, Deadlock], "named barrier expects 96 threads of 64"),
    found("hand_over", 2, &[Deadlock], "one arrival forgotten"),
    found("hand_over", 3, &[SharedRace, Barrier], "producer does not wait until the buffer is free"),
    found("hand_over", 4, &[SharedRace], "one buffer for two stages"),
    found("exchange", 1, &[GlobalRace], "grid barrier without fences"),
    found("exchange", 2, &[GlobalRace, Undefined], "no grid barrier"),
    found("exchange", 3, &[GlobalRace], "the block's other warps not joined before the grid barrier"),
    found("block_scan", 1, &[SharedRace], "sum read and written in one step"),
    found("pipeline", 1, &[AsyncHazard], "wait_group leaves one group too many in flight"),
    found("pipeline", 2, &[SharedRace, AsyncHazard], "no __syncthreads after wait_group"),
    found("pipeline", 3, &[AsyncHazard, SharedRace], "no wait_group"),
    found("pipeline", 4, &[SharedRace, AsyncHazard], "the stage being read is filled"),
    found("pipeline", 5, &[Misaligned], "16-byte copy to a multiple of 4"),
    found("pipeline", 6, &[OutOfBounds], "copies past the last tile"),
    found("pipeline", 7, &[AsyncHazard, SharedRace], "prologue does not commit its groups"),
    numeric("pipeline", 8, "tile not reversed"),
    found("mma_gemm", 1, &[SharedRace, AsyncHazard], "no __syncthreads before a stage is filled again"),
    found("mma_gemm", 2, &[AsyncHazard], "last tile not waited for"),
    found("mma_gemm", 3, &[Misaligned], "row pitch of 72 bytes under ldmatrix"),
    found("mma_gemm", 4, &[OutOfBounds, Undefined, SharedRace, AsyncHazard], "ldmatrix rows past the tile"),
    found("mma_gemm", 5, &[Undefined], "last row of B not loaded"),
    found("mma_gemm", 6, &[Undefined], "one accumulator not set to zero"),
    numeric("mma_gemm", 7, "halves of B's fragment swapped"),
    found("mma_gemm", 8, &[OutOfBounds, GlobalRace], "epilogue rows 40 apart instead of 8"),
    found("bulk", 1, &[ProxyFence], "no fence.proxy.async before the bulk store"),
    found("bulk", 2, &[AsyncHazard, SharedRace], "mbarrier not waited for"),
    found("bulk", 3, &[Mbarrier, Deadlock, AsyncHazard], "expect_tx half of what is copied"),
    found("bulk", 4, &[Mbarrier, AsyncHazard, SharedRace], "arrive without expect_tx"),
    found("bulk", 5, &[Deadlock], "expect_tx twice what is copied"),
    found("bulk", 6, &[Misaligned], "bulk copy from a multiple of 4 bytes"),
    found("bulk", 7, &[Mbarrier, Undefined], "mbarrier not initialised"),
    found(
        "bulk",
        8,
        &[Mbarrier, ProxyFence],
        "mbarrier's initialisation not made visible to the copy engine",
    ),
    found("bulk", 9, &[Unfinished], "CTA exits while a bulk store reads its shared memory"),
    found("bulk", 10, &[Deadlock], "mbarrier expects two arrivals, one comes"),
    found("bulk", 11, &[AsyncHazard, SharedRace], "wrong parity: the wait passes at once"),
    found("bulk", 12, &[SharedRace, AsyncHazard, ProxyFence], "no __syncthreads before the bulk store"),
    found("bulk", 13, &[OutOfBounds], "bulk store four elements too far"),
    found("bulk", 14, &[AsyncHazard, SharedRace], "buffer written while a bulk store reads it"),
    found("ring", 1, &[Deadlock], "empty barrier expects four arrivals of three consumers"),
    found("ring", 2, &[AsyncHazard, SharedRace, Mbarrier], "producer does not wait for empty stages"),
    found("ring", 3, &[Deadlock], "producer waits for the wrong parity"),
    found("ring", 4, &[AsyncHazard, SharedRace], "stage given back before it is read"),
    found("ring", 5, &[AsyncHazard, SharedRace, Undefined], "consumers never flip the parity"),
    found("ring", 6, &[AsyncHazard, SharedRace, Deadlock], "all stages wait on the first full barrier"),
    found(
        "ring",
        7,
        &[AsyncHazard, SharedRace, Mbarrier],
        "empty barrier satisfied by two of three consumers",
    ),
    found("ring", 8, &[Mbarrier, SharedRace], "no __syncthreads after the barriers are initialised"),
    found("ring", 9, &[AsyncHazard, SharedRace, Undefined], "copy into the other stage"),
    found("tensor", 1, &[ProxyFence], "no fence.proxy.async before the tensor store"),
    numeric("tensor", 2, "box one element too far right"),
    numeric("tensor", 3, "wrong swizzle in the kernel's own indexing"),
    found("tensor", 4, &[Unfinished], "bulk group not committed before the wait"),
    found("tensor", 5, &[Misaligned], "tensor load to an address that is not a multiple of 128"),
    found("neighbours", 1, &[SharedRace, Cluster, Undefined], "no cluster barrier before remote reads"),
    found("neighbours", 2, &[Cluster], "CTA exits while its neighbour reads its memory"),
    found("neighbours", 3, &[OutOfBounds, Cluster, InvalidAccess], "rank outside the cluster"),
    found(
        "multicast",
        1,
        &[Mbarrier, Cluster, AsyncHazard],
        "no cluster barrier after the mbarriers are initialised",
    ),
    found(
        "multicast",
        2,
        &[AsyncHazard, SharedRace, Mbarrier],
        "box loaded again before the other CTA has read it",
    ),
    found("multicast", 3, &[Deadlock], "multicast mask without the other CTA"),
    found("multicast", 4, &[Cluster, Mbarrier], "arrives at a CTA that may have exited"),
    found("multicast", 5, &[AsyncHazard, SharedRace], "box given back before all warps have read it"),
    found("product", 1, &[ProxyFence], "no fence.proxy.async before wgmma reads what threads wrote"),
    found("product", 2, &[SharedRace, AsyncHazard, ProxyFence], "no __syncthreads before wgmma"),
    found("product", 3, &[Wgmma], "no wgmma.fence after the accumulators are written"),
    found("product", 4, &[Wgmma], "accumulators read before wait_group"),
    found("product", 5, &[Undefined], "scale-d 1 with accumulators never set"),
    numeric("product", 6, "leading and stride offsets swapped in A's descriptor"),
    found("product", 7, &[Wgmma, Unfinished], "group not committed before the wait"),
    found("product", 8, &[OutOfBounds], "B's stride leads past shared memory"),
    found("product", 9, &[Undefined], "last row of B not written"),
    found("specialised", 1, &[AsyncHazard, SharedRace], "stage given back while wgmma may still read it"),
    found("specialised", 2, &[Undefined], "first product accumulates on undefined registers"),
    found("specialised", 3, &[SetMaxReg, Deadlock], "setmaxnreg asks for more than the pool has"),
    numeric("specialised", 4, "both consumers read the first half of A"),
    found("specialised", 5, &[Deadlock], "empty barrier expects an arrival of every thread"),
    found("specialised", 6, &[AsyncHazard, SharedRace], "consumers never flip the parity"),
    found("specialised", 7, &[Mbarrier, AsyncHazard, SharedRace], "expect_tx leaves out B"),
    numeric("specialised", 8, "accumulators reset at every tile"),
    numeric("specialised", 9, "descriptor of B says 64-byte swizzle"),
    found("downstream", 1, &[GlobalRace, Undefined], "no griddepcontrol.wait"),
    found("tickets", 1, &[GlobalRace], "atomic of scope cta on a word of all CTAs"),
    found("two_streams", 1, &[GlobalRace], "no event between a memset and the kernel that fills the rest"),
    found("two_streams", 2, &[GlobalRace], "no event between a kernel and the copy of its result"),
    found("two_streams", 3, &[GlobalRace], "input overwritten by a copy while the kernel may read it"),
    found("two_streams", 4, &[GlobalRace], "memset by a call that does not wait for the kernel's stream"),
    found("two_streams", 5, &[GlobalRace, Undefined], "host reads the result without waiting for the stream"),
    found("two_streams", 6, &[GlobalRace], "no event before the copy of what one block writes"),
    found("two_streams", 7, &[GlobalRace], "event recorded before the kernel, not after it"),
    found("pass_on", 1, &[GlobalRace], "all CTAs store to the same row by bulk copies"),
    found("pass_on", 2, &[GlobalRace], "row of another CTA loaded without waiting for its flag"),
    found("pass_on", 3, &[GlobalRace], "flag raised when the bulk store has only been read"),
    found("detour", 1, &[ProxyFence], "no proxy fence before the copy engine loads what threads stored"),
    found("detour", 2, &[ProxyFence], "fence.proxy.async of shared memory, the bytes are in global memory"),
    found("detour", 3, &[ProxyFence], "fence.proxy.alias in place of fence.proxy.async, global memory"),
    found("fences", 1, &[ProxyFence], "fence.proxy.alias in place of fence.proxy.async, shared memory"),
    found("fences", 2, &[ProxyFence], "fence.proxy.async of global memory, the bytes are in shared memory"),
    found("fences", 3, &[ProxyFence], "fence.proxy.tensormap in place of fence.proxy.async"),
    found("fences", 4, &[ProxyFence], "fence.mbarrier_init in place of fence.proxy.async"),
    found("fences", 5, &[Mbarrier], "plain store over a live mbarrier"),
    found("halves", 1, &[GlobalRace], "partial cp.async of what another CTA writes"),
    found(
        "arrivals",
        1,
        &[AsyncHazard],
        "mbarrier that cp.async arrives at not waited for by the same thread",
    ),
    found("arrivals", 2, &[ProxyFence], "no fence.proxy.async between cp.async and a bulk store"),
    found("early_load", 1, &[GlobalRace], "bulk load before griddepcontrol.wait"),
    found("one_waits", 1, &[GlobalRace], "lanes read without the griddepcontrol.wait of another lane"),
    found("one_waits", 2, &[GlobalRace], "warps read without the griddepcontrol.wait of another warp"),
    found("one_waits", 3, &[GlobalRace], "__syncthreads before the one griddepcontrol.wait"),
    found("one_waits", 4, &[GlobalRace], "named barrier after griddepcontrol.wait without the last warp"),
    found("one_waits", 5, &[GlobalRace], "griddepcontrol.wait after the reads"),
    found("one_waits", 6, &[GlobalRace], "block that does not wait for the flag of the one that waited"),
    found("cluster_rows", 1, &[GlobalRace], "relaxed arrival at the cluster barrier, and no fence"),
    found("in_registers", 1, &[Wgmma], "register of A overwritten in flight"),
    found("in_registers", 2, &[Wgmma], "accumulator in flight compared by setp"),
    found("in_registers", 3, &[Wgmma], "accumulator in flight moved and shuffled"),
    found("in_registers", 4, &[Wgmma], "accumulator in flight added by an atomic"),
    found("in_registers", 5, &[Wgmma], "accumulator in flight used by mma.sync"),
    found("in_registers", 6, &[Wgmma], "accumulator overwritten between two products"),
    found("in_registers", 7, &[Wgmma], "no wgmma.fence at all"),
    found("in_registers", 8, &[Wgmma], "wgmma.fence by one warp of the warpgroup"),
    found("in_registers", 9, &[Unfinished], "exit without wait_group"),
    found("in_registers", 10, &[Wgmma], "register of A written after the fence"),
    found("in_registers", 11, &[Wgmma], "copy of an accumulator made in flight and used after the wait"),
    found("in_registers", 12, &[Wgmma], "copy made in flight by several moves, used after the wait"),
    found("pools", 1, &[SetMaxReg], "setmaxnreg by one warp of a warpgroup"),
    found("pools", 2, &[SetMaxReg], "different setmaxnreg in one warpgroup"),
    found("dispatch", 1, &[InvalidAccess], "call through a null pointer"),
    found("dispatch", 2, &[Undefined], "call through an entry of a table that nobody set"),
    found("dispatch", 3, &[InvalidAccess], "call of a function that takes something else"),
    found("dispatch", 4, &[InvalidAccess], "call through a pointer to data"),
    found("dispatch", 5, &[SharedRace], "no __syncthreads in a function called through an address"),
    found(
        "dispatch",
        6,
        &[InvalidAccess, OutOfBounds],
        "virtual function of an object whose table was cleared",
    ),
    numeric("dispatch", 7, "the other function of two"),
    found("tiles", 1, &[OutOfBounds], "stride of 32 of a tile with 16"),
    found("tiles", 2, &[Misaligned], "wmma tile at a multiple of 8 bytes"),
    found("tiles", 3, &[Misaligned], "stride of 20 halves"),
    found("tiles", 4, &[SharedRace], "no __syncthreads before a tile is loaded"),
    found("tiles", 5, &[Undefined], "accumulator never filled"),
    found("tiles", 6, &[WarpSync], "each lane loads its own tile"),
    found("tiles", 7, &[WarpSync, Deadlock], "half of a warp in mma_sync"),
    found("tiles", 8, &[Undefined], "last row of a tile not written"),
    numeric("tiles", 9, "A loaded by columns"),
    found("report", 1, &[Undefined], "printf of a value that is never set"),
    found("report", 2, &[OutOfBounds], "text without an end"),
    found("report", 3, &[OutOfBounds], "number printed as a text"),
    found("few_threads", 1, &[SetMaxReg], "setmaxnreg.inc to fewer registers, from a launch with 255"),
];

/// The schedules a bug may show in; a detector needs one of them.
pub const ORDERS: [Order; 5] =
    [Order::Eager, Order::Lazy, Order::Random(1), Order::Random(2), Order::Random(3)];

/// What came of one planted bug.
pub struct Verdict {
    pub caught: bool,
    /// The finding's kind and schedule, or what was seen instead.
    pub how: String,
}

/// Runs a bug under one schedule.
pub fn run(bug: &Bug, order: Order) -> Output {
    scenes::scene(bug.family, bug.variant).case.run_first(options(order))
}

/// Runs a bug under the schedules until it is caught.
pub fn judge(bug: &Bug) -> Verdict {
    let mut seen = Vec::new();
    for order in ORDERS {
        let scene = scenes::scene(bug.family, bug.variant);
        let out = scene.case.run_first(options(order));
        match bug.catcher {
            Catcher::Detector(kinds) => {
                if let Some(finding) = out.findings.iter().find(|f| kinds.contains(&f.kind)) {
                    return Verdict { caught: true, how: format!("{} ({order:?})", finding.kind.name()) };
                }
                seen.extend(out.findings.iter().map(|f| f.kind.name()));
            }
            Catcher::Reference => {
                if let Some(finding) = out.findings.first() {
                    return Verdict {
                        caught: false,
                        how: format!("unexpected {} ({order:?})", finding.kind.name()),
                    };
                }
                if (scene.correct)(&out) {
                    return Verdict { caught: false, how: format!("right numbers ({order:?})") };
                }
            }
        }
    }
    match bug.catcher {
        Catcher::Reference => Verdict { caught: true, how: "reference".into() },
        Catcher::Detector(_) => {
            seen.dedup();
            Verdict { caught: false, how: format!("missed; seen: {}", seen.join(", ")) }
        }
    }
}

/// Runs the correct kernels of these families `runs` times in all under random schedules; returns what went wrong in each bad run.
pub fn false_alarms(families: &[&str], runs: u64) -> Vec<String> {
    let mut bad = Vec::new();
    for seed in 0..runs {
        let family = families[(seed % families.len() as u64) as usize];
        let scene = scenes::scene(family, 0);
        let out = scene.case.run_first(options(Order::Random(seed)));
        if let Some(finding) = out.findings.first() {
            bad.push(format!("{family}, seed {seed}: {finding}"));
        } else if !(scene.correct)(&out) {
            bad.push(format!("{family}, seed {seed}: wrong numbers"));
        }
    }
    bad
}

fn options(order: Order) -> Options {
    // A planted endless wait should end soon.
    Options { order, patience: 2_000_000, ..Options::default() }
}
