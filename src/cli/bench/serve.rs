//! Measuring on request, so that another program can time its own work in turn with ours on a GPU that both keep warm.
//!
//! A request is a line `gemm 1024x768x768:residual`, its answer a line of JSON as in the files. Inputs stay, and the
//! answer stays checked, as long as the same case is asked for; an empty line gives the memory back.

use std::io::{BufRead, Write};
use std::sync::Arc;

use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::Operations;
use nanomoe::{Error, Result};
use serde_json::{Value, json};

use super::cases::{Case, OPS};
use super::work::{self, Work};
use super::{ALLOWED, Bench, SCHEMA, machine, not_measured};
use crate::cli::output::Done;

/// On a GPU. The first line tells the machine and the ceilings.
pub fn measured(bench: &Bench) -> Done {
    let first = json!({
        "schema": SCHEMA, "source": "nanomoe", "machine": machine(&bench.ops)?, "ceilings": bench.ceilings(),
    });
    let mut held: Option<(Case, Box<dyn Work>)> = None;
    answer(&first, |case| {
        let Some(case) = case else {
            held = None;
            return Ok(json!({}));
        };
        if held.as_ref().is_none_or(|(known, _)| *known != case) {
            // Before the next is prepared, so that both never need memory together.
            held = None;
            held = Some((case.clone(), bench.prepare(&case)?.0));
        }
        held.as_mut().map_or(Ok(json!({})), |(case, work)| bench.time(case, work.as_mut()))
    })
}

/// Without a GPU: answers are checked, and the lines say that there are no times.
pub fn checked() -> Done {
    let ops = DeviceOperations::new(Arc::new(VirtualDevice::new()))?;
    let first =
        json!({ "schema": SCHEMA, "source": "nanomoe", "machine": { "device": ops.name() }, "ceilings": {} });
    answer(&first, |case| {
        let Some(case) = case else { return Ok(json!({})) };
        let mut work = work::prepare(&ops, &case)?;
        work.launch(&ops)?;
        ops.synchronize()?;
        let error = work.check(&ops)?;
        let verdict = if error <= ALLOWED { "right" } else { "WRONG" };
        Err(Error::Input(format!(
            "{verdict}, error {error:.3} of what is allowed; not timed on the virtual GPU"
        )))
    })
}

/// Answers every line until there are no more. What fails is in the answer.
fn answer(first: &Value, mut line_of: impl FnMut(Option<Case>) -> Result<Value>) -> Done {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{first}")?;
    out.flush()?;
    for request in std::io::stdin().lock().lines() {
        let request = request.map_err(|error| Error::io("standard input", error))?;
        let answer = match parse(&request) {
            Ok(case) => line_of(case.clone()).unwrap_or_else(|error| match &case {
                Some(case) => not_measured(case, &error.to_string()),
                None => json!({ "reason": error.to_string() }),
            }),
            Err(error) => json!({ "us": null, "reason": error.to_string() }),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn parse(request: &str) -> Result<Option<Case>> {
    let request = request.trim();
    if request.is_empty() {
        return Ok(None);
    }
    let (op, shape) = request.split_once(' ').unwrap_or((request, ""));
    let op = OPS
        .iter()
        .find(|known| known.name == op)
        .ok_or_else(|| Error::Usage(format!("there is no benchmark of `{op}`")))?;
    Case::parse(op, shape).map(Some)
}
