//! A decoded kernel: a flat list of instructions whose operands are register numbers.

use crate::ptx::ast::Space;
use crate::registers::Slot;

/// Width of a lane operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    W32,
    W64,
    Pred,
}

/// A register of a given width.
#[derive(Clone, Copy, Debug)]
pub struct Reg {
    pub slot: Slot,
    pub width: Width,
}

/// Operations over whole warp registers, the frequent ones. Operands d, a, b, c and an immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alu {
    Mov32,
    Mov64,
    Add32,
    Sub32,
    Mul32,
    MulHiU32,
    MulHiS32,
    Mad32,
    MinU32,
    MaxU32,
    MinS32,
    MaxS32,
    And32,
    Or32,
    Xor32,
    Not32,
    Neg32,
    Abs32,
    Shl32,
    ShrU32,
    ShrS32,
    Lop3,
    ShfL,
    ShfR,
    Add16,
    Prmt,
    Add64,
    Sub64,
    Mul64,
    Mad64,
    Shl64,
    ShrU64,
    ShrS64,
    And64,
    Or64,
    Xor64,
    MulWideU,
    MulWideS,
    MadWideU,
    MadWideS,
    U32To64,
    S32To64,
    Low64,
    High64,
    Pack64,
    Pack32,
    FAdd,
    FSub,
    FMul,
    FFma,
    FMin,
    FMax,
    FNeg,
    FAbs,
    FAddFtz,
    FSubFtz,
    FMulFtz,
    FFmaFtz,
    Ex2,
    Rcp,
    RcpRn,
    Rsqrt,
    SqrtRn,
    DivRn,
    S32ToF32,
    U32ToF32,
    F32ToS32Rz,
    F16ToF32,
    Bf16ToF32,
    F32ToF16,
    F32ToBf16,
    PackF16x2,
    PackBf16x2,
    DAdd,
    DSub,
    DMul,
    DFma,
    F32ToF64,
    F64ToF32,
    HAdd2,
    HMul2,
    HFma2,
    BAdd2,
    BMul2,
    BFma2,
}

/// A rare operation, lane by lane: operands zero-extended to 64 bits, predicates as 0 or 1.
pub type LaneFn = fn(u64, u64, u64, u32) -> u64;

#[derive(Clone, Copy)]
pub struct LaneOp {
    pub apply: LaneFn,
    pub parameter: u32,
    pub d: Reg,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
}

/// Type that a comparison reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareType {
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

/// Comparison; the unordered forms are true on NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Logic over predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    And,
    Or,
    Xor,
}

/// A predicate read, perhaps negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredRead {
    pub pred: u32,
    pub negated: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Compare {
    pub ty: CompareType,
    pub op: Comparison,
    pub ftz: bool,
    pub a: Slot,
    pub b: Slot,
    pub p: u32,
    pub q: u32,
    pub combine: Option<(Logic, PredRead)>,
}

/// How strong a memory access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    Weak,
    Volatile,
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

/// Scope of an access or fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    System,
}

/// Where an address comes from: register plus constant.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub space: Space,
    pub base: Slot,
    /// Whether the base is a 64-bit register.
    pub wide: bool,
    /// Whether the frame pointer of the function is added (`.local` and `.param` variables of functions).
    pub frame: bool,
    pub offset: i64,
}

/// A load or store of `count` elements of `bytes` bytes.
#[derive(Clone, Debug)]
pub struct Access {
    pub address: Address,
    pub bytes: u32,
    pub count: u32,
    pub registers: [Reg; 8],
    /// Sign-extend a loaded element to its register.
    pub signed: bool,
    pub strength: Strength,
    pub scope: Scope,
    /// `ld.global.nc`: must not read what the kernel writes.
    pub constant_cache: bool,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rmw {
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Add,
    Inc,
    Dec,
    MinU,
    MaxU,
    MinS,
    MaxS,
    AddF16,
    AddF16x2,
    AddBf16,
    AddBf16x2,
    MinF16x2,
    MaxF16x2,
    MinBf16x2,
    MaxBf16x2,
    MinF16,
    MaxF16,
    MinBf16,
    MaxBf16,
    AddF32,
    AddF64,
}

#[derive(Clone, Debug)]
pub struct Atomic {
    pub op: Rmw,
    pub address: Address,
    /// Of 16 bytes, a register is the first of two 64-bit ones.
    pub bytes: u32,
    pub count: u32,
    /// Destinations, `None` for `red`.
    pub d: Option<[Reg; 8]>,
    pub b: [Reg; 8],
    pub c: Reg,
    pub strength: Strength,
    pub scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShuffleMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redux {
    And,
    Or,
    Xor,
    AddU,
    MinU,
    MaxU,
    MinS,
    MaxS,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierReduce {
    Popc,
    And,
    Or,
}

#[derive(Clone, Debug)]
pub struct Barrier {
    pub id: Slot,
    /// Number of threads; `None` is the whole CTA.
    pub count: Option<Slot>,
    pub arrive_only: bool,
    pub aligned: bool,
    /// Operation, source predicate, destination (register or predicate).
    pub reduce: Option<(BarrierReduce, PredRead, Reg)>,
}

#[derive(Clone, Debug)]
pub struct CpAsync {
    pub dst: Address,
    pub src: Address,
    pub bytes: u32,
    /// Bytes really read, the rest is zero.
    pub src_bytes: Option<Slot>,
    pub ignore_src: Option<PredRead>,
}

/// Where a call copies bytes between frames: (offset in the caller's, offset in the callee's, bytes).
pub type FrameCopy = (u32, u32, u32);

#[derive(Clone, Debug)]
pub struct Call {
    pub target: u32,
    pub arguments: Vec<FrameCopy>,
    pub results: Vec<FrameCopy>,
    /// Size of the caller's frame.
    pub frame_bytes: u32,
    pub callee_frame_bytes: u32,
    /// Registers of the callee, saved around a recursive call.
    pub saved: Option<(std::ops::Range<Slot>, std::ops::Range<u32>)>,
}

/// A call of the function whose address a register holds.
#[derive(Clone, Debug)]
pub struct IndirectCall {
    pub address: Slot,
    pub callees: Vec<Callee>,
}

/// A function that an indirect call may find.
#[derive(Clone, Debug)]
pub struct Callee {
    pub address: u64,
    pub name: String,
    /// `None` where the function takes or returns something else than the call says.
    pub call: Option<Call>,
}

/// What an instruction does.
pub enum Op {
    Alu {
        op: Alu,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        imm: u32,
    },
    Lane(Box<LaneOp>),
    Compare(Box<Compare>),
    Select32 {
        d: Slot,
        a: Slot,
        b: Slot,
        p: PredRead,
    },
    Select64 {
        d: Slot,
        a: Slot,
        b: Slot,
        p: PredRead,
    },
    PredLogic {
        op: Logic,
        d: u32,
        a: PredRead,
        b: PredRead,
    },
    /// Address of a local variable of this function's frame.
    FrameAddress {
        d: Slot,
        offset: u32,
    },
    Clock {
        d: Slot,
        wide: bool,
        nanoseconds: bool,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Branch {
        target: u32,
    },
    BranchIndexed {
        index: Slot,
        targets: Box<[u32]>,
    },
    Call(Box<Call>),
    CallIndirect(Box<IndirectCall>),
    Return,
    Exit,
    /// `__assertfail`: where in the frame its arguments are: message, file, line, function.
    AssertFail {
        arguments: [u32; 4],
    },
    /// `vprintf`: where in the frame its arguments, format and values, and its result are.
    Print {
        arguments: [u32; 2],
        result: Option<u32>,
    },
    /// Room in the frame whose size is known only now.
    StackAllocate {
        d: Slot,
        size: Slot,
        align: u32,
    },
    StackSave {
        d: Slot,
    },
    StackRestore {
        a: Slot,
    },
    Trap {
        breakpoint: bool,
    },
    Nop,
    Barrier(Box<Barrier>),
    WarpSync {
        members: Slot,
    },
    Shuffle {
        mode: ShuffleMode,
        d: Slot,
        p: u32,
        a: Slot,
        b: Slot,
        c: Slot,
        members: Slot,
    },
    Vote {
        mode: VoteMode,
        d: Reg,
        p: PredRead,
        members: Slot,
    },
    Match {
        all: bool,
        wide: bool,
        d: Slot,
        p: u32,
        a: Slot,
        members: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    Reduce {
        op: Redux,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    Elect {
        d: Slot,
        p: u32,
        members: Slot,
    },
    Fence {
        scope: Scope,
        light: bool,
    },
    IsSpace {
        p: u32,
        a: Slot,
        wide: bool,
        space: Space,
    },
    CpAsync(Box<CpAsync>),
    CpAsyncCommit,
    CpAsyncWait {
        pending: u32,
        all: bool,
    },
    Ldmatrix(Box<crate::exec::matrix::Ldmatrix>),
    Mma(Box<crate::exec::matrix::Mma>),
    Wmma(Box<crate::exec::wmma::WmmaOp>),
    Hopper(Box<crate::exec::hopper::HopperOp>),
}

/// Class of an instruction, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    Integer,
    Float,
    Special,
    Convert,
    Move,
    Control,
    Memory,
    Warp,
    Tensor,
    Asynchronous,
    Sync,
}

impl Class {
    pub const COUNT: usize = 11;
    /// Names in the order of the enumeration.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "integer",
        "float",
        "special function",
        "convert",
        "move and select",
        "control",
        "memory",
        "warp",
        "tensor core",
        "asynchronous",
        "synchronise",
    ];
}

/// No guard: the instruction always executes.
pub const ALWAYS: PredRead = PredRead { pred: crate::registers::PRED_TRUE, negated: false };

pub struct Inst {
    pub op: Op,
    pub guard: PredRead,
    /// Index into [`Program::places`].
    pub place: u32,
    pub class: Class,
    /// It touches registers that wgmma works on.
    pub watched: bool,
}

/// A source place: file, line and the function it is in, with the chain of inlining.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Frame {
    /// File name as the compiler recorded it.
    pub file: String,
    /// Line, from 1; 0 if unknown.
    pub line: u32,
    /// Column.
    pub column: u32,
    /// Inlined function, without its parameters; empty for the kernel's own code.
    pub function: String,
}

/// Where an instruction comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Innermost first; empty without line information.
    pub frames: Vec<Frame>,
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// The opcode as written.
    pub opcode: String,
}

/// A special register filled when a warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    ClusterId(u8),
    NClusterId(u8),
    ClusterCtaId(u8),
    ClusterNCtaId(u8),
    ClusterCtaRank,
    ClusterNCtaRank,
    IsExplicitCluster,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicShared,
    TotalShared,
    Zero,
}

/// A kernel's parameter in its parameter buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Byte offset.
    pub offset: u32,
    /// Size in bytes.
    pub bytes: u32,
}

impl Program {
    /// Where an instruction comes from.
    pub fn place(&self, pc: u32) -> Place {
        self.code.get(pc as usize).map(|i| self.places.get(i.place)).unwrap_or_default()
    }
}

/// A decoded kernel.
#[derive(Default)]
pub struct Program {
    pub name: String,
    pub code: Vec<Inst>,
    pub places: super::places::Places,
    pub slots: u32,
    pub preds: u32,
    /// (slot, value, 64 bits wide)
    pub constants: Vec<(Slot, u64, bool)>,
    pub specials: Vec<(Slot, Special)>,
    pub parameters: Vec<Parameter>,
    pub parameter_bytes: u32,
    /// Static shared memory in bytes, from the start of the CTA's window.
    pub static_shared: u32,
    /// Where dynamic shared memory begins, counted like `static_shared`.
    pub dynamic_shared_at: u32,
    pub frame_bytes: u32,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub min_ctas: u32,
    pub max_registers: Option<u32>,
    pub required_cluster: Option<[u32; 3]>,
    pub explicit_cluster: bool,
    /// `.maxclusterrank`
    pub max_cluster_rank: Option<u32>,
    /// The architecture of the module, such as 80 or 90.
    pub architecture: u32,
    /// Whether CTAs can be seen to talk to each other: atomics, strong accesses or fences in global memory.
    pub communicates: bool,
    /// Whether CTAs of a cluster meet at its barrier.
    pub cluster_barriers: bool,
    /// Whether the copy engine moves bytes from or to global memory.
    pub bulk_copies: bool,
}
