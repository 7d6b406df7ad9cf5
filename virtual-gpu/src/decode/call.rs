//! Calls: of functions by name, of functions through an address, and of what the driver provides.

use super::program::*;
use super::{CallSite, Decoder, FunctionLayout, Indirect, Modifiers, Name, Result};
use crate::hash::FastSet;
use crate::ptx::LoadError;
use crate::ptx::ast::*;

impl<'a> Decoder<'_, 'a> {
    pub(super) fn call(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        m.take("uni");
        // `call (results), function, (arguments), prototype`; the lists and the prototype may be missing.
        let mut operands = i.operands.as_slice();
        let results = self.frame_places(&mut operands)?;
        let [Operand::Name(target, 0), rest @ ..] = operands else {
            return self.error("call without a function");
        };
        operands = rest;
        let arguments = self.frame_places(&mut operands)?;
        let site = match operands {
            [] => None,
            [Operand::Name(label, 0)] => Some(*label),
            _ => return self.error("wrong operands of a call"),
        };
        if let Some(label) = site {
            return self.indirect_call(target, label, arguments, results);
        }
        let module = self.module;
        let known = module.functions.iter().find(|f| f.name == *target && f.body.is_some());
        let of_system = matches!(*target, "vprintf" | "__assertfail");
        if known.is_none() && !of_system {
            let why = match self.lookup(target) {
                Ok(Name::Register(..)) => "call through an address without a prototype".into(),
                _ => format!("call of `{target}`, which has no body in this module"),
            };
            return self.error(why);
        }
        let Some(function) = known else { return self.system_call(target, &arguments, &results) };
        let at = self.program.code.len();
        let call = Call { target: 0, arguments, results, frame_bytes: 0, callee_frame_bytes: 0, saved: None };
        self.emit(Op::Call(Box::new(call)), Class::Control);
        self.calls.push((at, function.name, i.position, self.current));
        self.await_function(function.name);
        Ok(())
    }

    /// The variables of a call's list of results or arguments, if one is next.
    fn frame_places(&mut self, operands: &mut &[Operand<'a>]) -> Result<Vec<FrameCopy>> {
        let [Operand::List(items), rest @ ..] = *operands else { return Ok(Vec::new()) };
        *operands = rest;
        let mut places = Vec::new();
        for item in items {
            let Operand::Name(name, 0) = item else { return self.error("call with a constant argument") };
            match self.lookup(name)? {
                Name::Local(at, bytes) => places.push((at, 0, bytes)),
                _ => return self.error("call arguments must be .param variables"),
            }
        }
        Ok(places)
    }

    /// The current function calls this one, which must be decoded.
    fn await_function(&mut self, name: &'a str) {
        if !self.functions.contains_key(name) {
            self.functions.insert(name, FunctionLayout::default());
            self.queue.push(name);
        }
        let current = self.current;
        if let Some(caller) = self.functions.get_mut(current) {
            caller.calls.push(name.to_string());
        }
    }

    fn indirect_call(
        &mut self,
        target: &'a str,
        label: &'a str,
        arguments: Vec<FrameCopy>,
        results: Vec<FrameCopy>,
    ) -> Result<()> {
        let Some(site) = self.call_sites.get(label).cloned() else {
            return self.error(format!("`{label}` is neither a .callprototype nor .calltargets"));
        };
        let callees = match &site {
            CallSite::Targets(names) => names.clone(),
            CallSite::Prototype { .. } => self.address_taken().to_vec(),
        };
        for name in &callees {
            if !self.module.functions.iter().any(|f| f.name == *name && f.body.is_some()) {
                return self.error(format!("call of `{name}`, which has no body in this module"));
            }
        }
        let address = self.source(&Operand::Name(target, 0), 64)?;
        callees.iter().for_each(|name| self.await_function(name));
        let (at, caller) = (self.program.code.len(), self.current);
        let call = IndirectCall { address, callees: Vec::new() };
        self.emit(Op::CallIndirect(Box::new(call)), Class::Control);
        self.indirect_calls.push(Indirect { at, caller, callees, site, arguments, results });
        Ok(())
    }

    /// The functions whose address some instruction or initial value of the module names.
    pub(super) fn address_taken(&mut self) -> &[&'a str] {
        let module = self.module;
        self.address_taken.get_or_insert_with(|| {
            let functions = module.functions.iter().filter(|f| !f.entry && f.body.is_some());
            let functions: FastSet<&str> = functions.map(|f| f.name).collect();
            let mut taken = FastSet::default();
            for initial in module.variables.iter().flat_map(|v| &v.initial) {
                if let Initial::AddressOf(name, _) = initial {
                    taken.insert(*name);
                }
            }
            for statement in module.functions.iter().filter_map(|f| f.body.as_ref()).flatten() {
                if let Statement::Instruction(i) = statement
                    && !is_call(i)
                {
                    i.operands.iter().for_each(|operand| super::function::collect_names(operand, &mut taken));
                }
            }
            module
                .functions
                .iter()
                .map(|f| f.name)
                .filter(|f| functions.contains(f) && taken.contains(f))
                .collect()
        })
    }

    pub(super) fn finish_calls(&mut self) -> Result<()> {
        for (at, name, position, caller) in std::mem::take(&mut self.calls) {
            let Op::Call(call) = &self.program.code[at].op else { continue };
            let Some(finished) = self.finished_call(name, caller, &call.arguments, &call.results) else {
                let why = format!("call of `{name}` with other parameters than it has");
                return Err(LoadError::new(position, why));
            };
            self.program.code[at].op = Op::Call(Box::new(finished));
        }
        for indirect in std::mem::take(&mut self.indirect_calls) {
            let callees: Vec<Callee> =
                indirect.callees.iter().map(|name| self.callee(name, &indirect)).collect();
            if let Op::CallIndirect(call) = &mut self.program.code[indirect.at].op {
                call.callees = callees;
            }
        }
        Ok(())
    }

    /// A call whose callee is laid out, unless it has another number of parameters.
    fn finished_call(
        &self,
        name: &str,
        caller: &str,
        arguments: &[FrameCopy],
        results: &[FrameCopy],
    ) -> Option<Call> {
        let callee = self.functions.get(name)?;
        let pair = |copies: &[FrameCopy], places: &[(u32, u32)]| -> Option<Vec<FrameCopy>> {
            let copies =
                copies.iter().zip(places).map(|(copy, (at, bytes))| (copy.0, *at, copy.2.min(*bytes)));
            (copies.len() == places.len()).then(|| copies.collect())
        };
        if arguments.len() != callee.parameters.len() || results.len() != callee.returns.len() {
            return None;
        }
        Some(Call {
            target: callee.start,
            arguments: pair(arguments, &callee.parameters)?,
            results: pair(results, &callee.returns)?,
            frame_bytes: self.functions.get(caller).map_or(0, |f| f.frame_bytes),
            callee_frame_bytes: callee.frame_bytes,
            saved: self.calls_itself(name).then(|| (callee.slots.clone(), callee.preds.clone())),
        })
    }

    /// A function as an indirect call may find it.
    fn callee(&self, name: &str, indirect: &Indirect<'a>) -> Callee {
        let layout = self.functions.get(name);
        let sizes = |places: &[(u32, u32)]| -> Vec<u32> { places.iter().map(|(_, bytes)| *bytes).collect() };
        let fits = match &indirect.site {
            CallSite::Targets(_) => true,
            CallSite::Prototype { returns, parameters } => {
                layout.is_some_and(|f| sizes(&f.returns) == *returns && sizes(&f.parameters) == *parameters)
            }
        };
        let call = self.finished_call(name, indirect.caller, &indirect.arguments, &indirect.results);
        Callee {
            address: self.symbols.get(name).copied().unwrap_or(0),
            name: crate::findings::demangled(name),
            call: call.filter(|_| fits),
        }
    }

    /// Whether a call of this function can lead to another call of it.
    fn calls_itself(&self, name: &str) -> bool {
        let mut seen = FastSet::default();
        let mut pending = vec![name];
        while let Some(from) = pending.pop() {
            for next in self.functions.get(from).map_or(&[][..], |f| &f.calls) {
                if next == name {
                    return true;
                }
                if seen.insert(next.as_str()) {
                    pending.push(next);
                }
            }
        }
        false
    }

    /// A call of a function that the driver provides.
    fn system_call(&mut self, name: &str, arguments: &[FrameCopy], results: &[FrameCopy]) -> Result<()> {
        match (name, arguments, results) {
            ("__assertfail", [message, file, line, function, _], [])
                if [message.2, file.2, line.2, function.2] == [8, 8, 4, 8] =>
            {
                let arguments = [message.0, file.0, line.0, function.0];
                self.emit(Op::AssertFail { arguments }, Class::Control);
            }
            ("vprintf", [format, values], [] | [(_, _, 4)]) if [format.2, values.2] == [8, 8] => {
                let result = results.first().map(|r| r.0);
                self.emit(Op::Print { arguments: [format.0, values.0], result }, Class::Control);
            }
            _ => return self.error(format!("call of `{name}` with other parameters than it has")),
        }
        Ok(())
    }
}

pub(super) fn is_call(i: &Instruction<'_>) -> bool {
    i.opcode == "call" || i.opcode.starts_with("call.")
}

/// Whether a call goes through an address: a prototype or its targets stand at its end.
pub(super) fn is_indirect(i: &Instruction<'_>) -> bool {
    is_call(i) && i.operands.iter().filter(|o| matches!(o, Operand::Name(..))).count() > 1
}
