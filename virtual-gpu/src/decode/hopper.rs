//! Instructions of sm_90: mbarriers, bulk and tensor copies, clusters, wgmma.

use super::memory::{skip_cache_hints, take_scope, take_space};
use super::program::*;
use super::tensor::{accumulator, element, shape};
use super::{Decoder, Modifiers, Result};
use crate::exec::bulk::{Completion, Copy, Reduction, Side};
use crate::exec::hopper::{HopperOp, ProxyFence};
use crate::exec::wgmma::{AOperand, Wgmma};
use crate::ptx::ast::*;
use crate::registers::*;
use crate::tensor::descriptor::Major;
use crate::tensor::wgmma as layout;

impl<'a> Decoder<'_, 'a> {
    /// Hopper's instructions; false if the name is none of them.
    pub(super) fn hopper(&mut self, name: &str, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<bool> {
        let (op, class) = match name {
            "mbarrier" => (self.mbarrier(m, i)?, Class::Sync),
            "cp" if m.take("reduce") => {
                m.take("async");
                (self.bulk(true, m, i)?, Class::Asynchronous)
            }
            "cp" if m.has("mbarrier") => {
                for word in ["async", "mbarrier", "arrive", "b64"] {
                    m.take(word);
                }
                let noinc = m.take("noinc");
                take_space(m);
                let [address] = self.operands(i)?;
                let barrier = self.address(address, Space::Shared)?;
                (HopperOp::CpAsyncArrive { barrier, noinc }, Class::Asynchronous)
            }
            "cp" => {
                m.take("async");
                (self.bulk(false, m, i)?, Class::Asynchronous)
            }
            "st" | "red" => {
                m.take("async");
                (self.remote_store(name == "red", m, i)?, Class::Asynchronous)
            }
            "wgmma" => (self.wgmma(m, i)?, Class::Tensor),
            "barrier" | "bar" => {
                m.take("cluster");
                let arrive = m.take("arrive");
                let op = if arrive {
                    let relaxed = m.take("relaxed");
                    m.take("release");
                    HopperOp::ClusterArrive { relaxed }
                } else if m.take("wait") {
                    m.take("acquire");
                    self.program.cluster_barriers = true;
                    HopperOp::ClusterWait
                } else {
                    return self.error("barrier.cluster without .arrive or .wait");
                };
                m.take("aligned");
                (op, Class::Sync)
            }
            "mapa" => {
                let shared = m.take("shared::cluster");
                let bits = self.need_type(m)?.bits();
                let [d, a, rank] = self.operands(i)?;
                let (a, rank) = (self.source(a, bits)?, self.source(rank, 32)?);
                let d = self.destination(d, bits)?;
                (HopperOp::Mapa { d, a, rank, wide: bits == 64, generic: !shared }, Class::Integer)
            }
            "getctarank" => {
                m.take("shared::cluster");
                let bits = self.need_type(m)?.bits();
                let [d, a] = self.operands(i)?;
                let (a, d) = (self.source(a, bits)?, self.destination(d, 32)?);
                (HopperOp::CtaRank { d, a, wide: bits == 64 }, Class::Integer)
            }
            "setmaxnreg" => {
                let increase = m.take("inc");
                for word in ["dec", "sync", "aligned", "u32"] {
                    m.take(word);
                }
                let [Operand::Integer(count)] = self.operands(i)? else {
                    return self.error("setmaxnreg needs a constant");
                };
                (HopperOp::SetMaxReg { count: *count as u32, increase }, Class::Sync)
            }
            "griddepcontrol" => {
                let op = if m.take("wait") {
                    HopperOp::GridWait
                } else if m.take("launch_dependents") {
                    HopperOp::GridLaunch
                } else {
                    return self.error("griddepcontrol without .wait or .launch_dependents");
                };
                (op, Class::Sync)
            }
            "fence" => {
                let mut fence = if m.take("mbarrier_init") {
                    ProxyFence::MbarrierInit
                } else {
                    m.take("proxy");
                    if m.take("async") {
                        ProxyFence::Async { shared: true, global: true }
                    } else if m.take("async::generic") {
                        // Restricted to shared memory.
                        ProxyFence::Async { shared: true, global: false }
                    } else if m.take("alias") || m.take("tensormap::generic") {
                        ProxyFence::Other
                    } else {
                        return self.error("unknown proxy of a fence");
                    }
                };
                for word in
                    ["acquire", "release", "sync_restrict::shared::cluster", "sync_restrict::shared::cta"]
                {
                    m.take(word);
                }
                if let (ProxyFence::Async { shared, global }, Some(space)) = (&mut fence, take_space(m)) {
                    *shared &= space != Space::Global;
                    *global &= space == Space::Global;
                }
                take_scope(m);
                // The operands of a tensor map fence name the map.
                (HopperOp::FenceProxy(fence), Class::Sync)
            }
            _ => return Ok(false),
        };
        self.emit(Op::Hopper(Box::new(op)), class);
        Ok(true)
    }

    fn mbarrier(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<HopperOp> {
        let which = m.find(|w| {
            [
                "init",
                "inval",
                "arrive",
                "arrive_drop",
                "expect_tx",
                "complete_tx",
                "test_wait",
                "try_wait",
                "pending_count",
            ]
            .iter()
            .find(|k| **k == w)
            .copied()
        });
        let Some(which) = which else { return self.error("mbarrier without an operation") };
        let (expect, no_complete, parity) = (m.take("expect_tx"), m.take("noComplete"), m.take("parity"));
        for word in ["release", "acquire", "relaxed", "b64"] {
            m.take(word);
        }
        take_scope(m);
        let space = take_space(m).unwrap_or(Space::Generic);
        let operands = i.operands.as_slice();
        Ok(match (which, operands) {
            ("init", [a, count]) => {
                HopperOp::MbarrierInit { barrier: self.address(a, space)?, count: self.source(count, 32)? }
            }
            ("inval", [a]) => HopperOp::MbarrierInval { barrier: self.address(a, space)? },
            ("arrive" | "arrive_drop", rest) => {
                // An optional state comes first, a count or byte count last.
                let (state, rest) = match rest {
                    [Operand::Address { .. }, ..] => (None, rest),
                    [state, rest @ ..] => (Some(state), rest),
                    [] => return self.error("mbarrier.arrive needs an address"),
                };
                let state = match state {
                    Some(Operand::Name("_", 0)) | None => None,
                    Some(state) => Some(self.destination(state, 64)?),
                };
                let (a, value) = match rest {
                    [a] => (a, None),
                    [a, value] => (a, Some(self.source(value, 32)?)),
                    _ => return self.error("wrong number of operands"),
                };
                HopperOp::MbarrierArrive {
                    barrier: self.address(a, space)?,
                    count: if expect { None } else { value },
                    tx: if expect { value } else { None },
                    drop: which == "arrive_drop",
                    no_complete,
                    state,
                }
            }
            ("expect_tx" | "complete_tx", [a, tx]) => HopperOp::MbarrierTx {
                barrier: self.address(a, space)?,
                tx: self.source(tx, 32)?,
                complete: which == "complete_tx",
            },
            ("test_wait" | "try_wait", [p, a, state, ..]) => {
                let p = self.pred_destination(p)?;
                let bits = if parity { 32 } else { 64 };
                let state = self.source(state, bits)?;
                HopperOp::MbarrierWait {
                    barrier: self.address(a, space)?,
                    blocks: which == "try_wait",
                    parity,
                    state,
                    p,
                }
            }
            ("pending_count", [d, state]) => {
                let (d, state) = (self.destination(d, 32)?, self.source(state, 64)?);
                HopperOp::PendingCount { d, state }
            }
            _ => return self.error("wrong number of operands"),
        })
    }

    fn reduction(&mut self, m: &mut Modifiers<'a>) -> Result<Reduction> {
        let Some(op) =
            m.find(|w| ["and", "or", "xor", "add", "inc", "dec", "min", "max"].iter().position(|n| *n == w))
        else {
            return self.error("reduction without an operation");
        };
        m.take("noftz");
        let ty = m.ty().unwrap_or(Type::B8);
        use Type::*;
        let op = match (op, ty) {
            (0, _) => Rmw::And,
            (1, _) => Rmw::Or,
            (2, _) => Rmw::Xor,
            (3, F16) => Rmw::AddF16,
            (3, Bf16) => Rmw::AddBf16,
            (3, F32) => Rmw::AddF32,
            (3, F64) => Rmw::AddF64,
            (3, _) => Rmw::Add,
            (4, _) => Rmw::Inc,
            (5, _) => Rmw::Dec,
            (6, F16) => Rmw::MinF16,
            (7, F16) => Rmw::MaxF16,
            (6, Bf16) => Rmw::MinBf16,
            (7, Bf16) => Rmw::MaxBf16,
            (6, t) if t.signed() => Rmw::MinS,
            (7, t) if t.signed() => Rmw::MaxS,
            (6, _) => Rmw::MinU,
            _ => Rmw::MaxU,
        };
        Ok(Reduction { op, bytes: ty.bytes() })
    }

    /// `cp.async.bulk…` and `cp.reduce.async.bulk…`.
    fn bulk(&mut self, reduce: bool, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<HopperOp> {
        if !m.take("bulk") {
            return self.error(format!("unknown instruction `{}`", i.opcode));
        }
        if m.take("commit_group") {
            return Ok(HopperOp::BulkCommit);
        }
        if m.take("wait_group") {
            let read = m.take("read");
            let [Operand::Integer(pending)] = self.operands(i)? else {
                return self.error("wait_group needs a constant");
            };
            return Ok(HopperOp::BulkWait { pending: *pending as u32, read });
        }
        if m.take("prefetch") {
            while m.find(|_| Some(())).is_some() {}
            return Ok(HopperOp::Nothing);
        }
        let hint = m.take("L2::cache_hint");
        let multicast = m.take("multicast::cluster");
        let group = m.take("bulk_group");
        let signals = m.take("mbarrier::complete_tx::bytes");
        let tensor = m.take("tensor");
        if m.take("im2col") || m.take("cp_mask") {
            return self.error(format!("unknown instruction `{}`", i.opcode));
        }
        m.take("tile");
        let rank = m.find(|w| {
            w.strip_suffix('d').and_then(|r| r.parse::<usize>().ok()).filter(|r| (1..=5).contains(r))
        });
        let (Some(to), Some(from)) = (take_space(m), take_space(m)) else {
            return self.error("a bulk copy needs two state spaces");
        };
        self.program.bulk_copies |= to == Space::Global || from == Space::Global;
        let reduction = if reduce { Some(self.reduction(m)?) } else { None };
        skip_cache_hints(m);
        let mut operands: Vec<&Operand<'a>> = i.operands.iter().collect();
        if hint {
            operands.pop();
        }
        let mask = if multicast {
            let Some(mask) = operands.pop() else { return self.error("multicast without a mask") };
            Some(self.source(mask, 32)?)
        } else {
            None
        };
        let completion = match (signals, group, to) {
            (true, false, _) => {
                let Some(barrier) = operands.pop() else { return self.error("copy without an mbarrier") };
                let space = if to == Space::Shared { Space::Shared } else { Space::SharedCluster };
                Completion::Mbarrier(self.address(barrier, space)?)
            }
            (false, true, _) => Completion::Group,
            _ => return self.error("a bulk copy completes on an mbarrier or in a bulk group"),
        };
        let tensor_side = |decoder: &mut Self, operand: &Operand<'a>| -> Result<Side> {
            let Operand::Address { base, offset, coordinates } = operand else {
                return decoder.error("expected [tensor map, {coordinates}]");
            };
            if Some(coordinates.len()) != rank {
                return decoder.error("as many coordinates as dimensions are needed");
            }
            let map = decoder.address_parts(*base, *offset, Space::Generic)?;
            let coordinates =
                coordinates.iter().map(|c| decoder.source(c, 32)).collect::<Result<Vec<_>>>()?;
            Ok(Side::Tensor { map, coordinates })
        };
        let side = |decoder: &mut Self, operand: &Operand<'a>, space: Space| -> Result<Side> {
            Ok(match space {
                Space::Global => Side::Global(decoder.address(operand, Space::Global)?),
                Space::Shared | Space::SharedCluster => Side::Shared(decoder.address(operand, space)?),
                _ => return decoder.error("bulk copies move between global and shared memory"),
            })
        };
        let (dst, src, size) = match (tensor, operands.as_slice()) {
            (true, [dst, src]) if to == Space::Global => {
                (tensor_side(self, dst)?, side(self, src, from)?, ZERO)
            }
            (true, [dst, src]) => (side(self, dst, to)?, tensor_side(self, src)?, ZERO),
            (false, [dst, src, size]) => {
                (side(self, dst, to)?, side(self, src, from)?, self.source(size, 32)?)
            }
            _ => return self.error("wrong number of operands"),
        };
        Ok(HopperOp::Bulk(Copy { dst, src, size, completion, multicast: mask, reduction }))
    }

    /// `st.async` and `red.async` into the shared memory of a cluster.
    fn remote_store(&mut self, red: bool, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<HopperOp> {
        for word in ["weak", "relaxed", "mbarrier::complete_tx::bytes"] {
            m.take(word);
        }
        take_space(m);
        take_scope(m);
        let count = m.find(|w| match w {
            "v2" => Some(2usize),
            "v4" => Some(4),
            _ => None,
        });
        let reduction = if red { Some(self.reduction(m)?) } else { None };
        let bytes = match &reduction {
            Some(r) => r.bytes,
            None => self.need_type(m)?.bytes(),
        };
        let [address, value, barrier] = self.operands(i)?;
        let parts = match value {
            Operand::Vector(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        if parts.len() != count.unwrap_or(1) {
            return self.error("vector of another length than the instruction says");
        }
        let mut values = Vec::new();
        for part in parts {
            values.push(Self::reg(self.source(part, 8 * bytes)?, 8 * bytes));
        }
        Ok(HopperOp::RemoteStore {
            address: self.address(address, Space::SharedCluster)?,
            values,
            bytes,
            barrier: self.address(barrier, Space::SharedCluster)?,
            reduction,
        })
    }

    fn wgmma(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<HopperOp> {
        for word in ["sync", "aligned"] {
            m.take(word);
        }
        if m.take("fence") {
            return Ok(HopperOp::WgmmaFence);
        }
        if m.take("commit_group") {
            return Ok(HopperOp::WgmmaCommit);
        }
        if m.take("wait_group") {
            let [Operand::Integer(pending)] = self.operands(i)? else {
                return self.error("wait_group needs a constant");
            };
            return Ok(HopperOp::WgmmaWait { pending: *pending as u32 });
        }
        let unknown = format!("unknown instruction `{}`", i.opcode);
        if !m.take("mma_async") || m.has("sp") {
            return self.error(unknown);
        }
        let saturate = m.take("satfinite");
        let Some((64, n, k)) = m.find(shape) else { return self.error(unknown) };
        let (Some(d_type), Some(a_type), Some(b_type)) =
            (m.find(accumulator), m.find(element), m.find(element))
        else {
            return self.error(unknown);
        };
        let Some(kind) = layout::Wgmma::new(n, a_type, b_type, d_type).filter(|w| w.k() == k) else {
            return self.error(unknown);
        };
        let (d, a, b, scale, flags) = match i.operands.as_slice() {
            [d, a, b, scale, flags @ ..] => (d, a, b, scale, flags),
            _ => return self.error("wrong number of operands"),
        };
        let d = self.slots(d, kind.accumulator_registers(), 32, true)?;
        let in_registers = matches!(a, Operand::Vector(_));
        let a = if in_registers {
            AOperand::Registers(self.slots(a, 4, 32, false)?)
        } else {
            AOperand::Descriptor(self.source(a, 64)?)
        };
        let b = self.source(b, 64)?;
        let scale_d = self.pred_source(scale)?;
        let mut values = Vec::new();
        for flag in flags {
            let Operand::Integer(value) = flag else { return self.error("wgmma scales are constants") };
            values.push(*value as i64);
        }
        // Scales of A and B (-1 or 1), then transposes: of B alone when A is in registers.
        let negate = |at: usize| values.get(at) == Some(&-1);
        let major = |at: usize| if values.get(at) == Some(&1) { Major::Mn } else { Major::K };
        let (a_major, b_major) = if in_registers { (Major::K, major(2)) } else { (major(2), major(3)) };
        Ok(HopperOp::Wgmma(Wgmma {
            kind,
            a,
            b,
            d,
            scale_d,
            negate_a: negate(0),
            negate_b: negate(1),
            a_major,
            b_major,
            saturate,
        }))
    }
}
