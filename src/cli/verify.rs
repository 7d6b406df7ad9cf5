//! `nanomoe verify`: a model against what another program computed.

use std::io::Write;

use nanomoe::error::printable;
use nanomoe::model::MoeMode;
use nanomoe::tensor::DType;
use nanomoe::verify::{Check, verify};

use super::output::{Done, Failure, tell};
use super::session::{Defaults, Source};
use super::{ModelArgs, VerifyArgs};

pub fn run(args: &VerifyArgs) -> Done {
    let VerifyArgs { dir, model } = args;
    let named = ModelArgs {
        model: Some(model.model.clone().unwrap_or_else(|| dir.clone())),
        check_weights: model.check_weights,
        ..*model
    };
    let defaults = Defaults { device_dtype: DType::F32, moe: MoeMode::Capacity };
    let session = Source::open(&named)?.load(&named, defaults)?;
    let report = verify(dir, session.ops.as_ref(), &session.model, session.moe)?;

    let mut out = std::io::stdout().lock();
    let dtype = session.model.dtype();
    let bound = report.bound;
    writeln!(
        out,
        "{dtype} on {}; bound {} + {} of the golden value",
        session.ops.name(),
        bound.absolute,
        bound.relative
    )?;
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        writeln!(out, "{}", line(check, width))?;
    }
    for (what, names) in [("not in the folder", &report.missing), ("not known here", &report.unknown)] {
        if !names.is_empty() {
            writeln!(out, "{what}: {}", printable(&names.join(", ")))?;
        }
    }
    if report.checks.is_empty() {
        tell("nothing was compared: golden.safetensors holds no tensor by a name of this program's");
        return Err(Failure::Found);
    }
    if report.passed() {
        writeln!(out, "all {} tensors are within the bound", report.checks.len())?;
        Ok(())
    } else {
        let failed = report.checks.iter().filter(|check| !check.passed()).count();
        writeln!(out, "{failed} of {} tensors are out of bound", report.checks.len())?;
        Err(Failure::Found)
    }
}

fn line(check: &Check, width: usize) -> String {
    let verdict = if check.passed() { "ok  " } else { "FAIL" };
    let mut text = format!(
        "{verdict} {:width$}  largest error {:.3e} at {:?} ({:.6} for {:.6})",
        check.name, check.largest_error, check.at, check.got, check.golden
    );
    if check.num_outside > 0 {
        text += &format!(", {} of {} out of bound", check.num_outside, check.shape.iter().product::<usize>());
    }
    if check.num_excused > 0 {
        text += &format!(", {} too close to tell", check.num_excused);
    }
    text
}
