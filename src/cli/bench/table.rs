//! A comparison as text: ratios row by row, our times beside the ceilings, and what was reached of each row.

use std::fmt::Write as _;

use nanomoe::{Error, Result};

use super::compare::{Comparison, Ours, Ratio, Verdict};
use super::rows::ROWS;

/// The text, and whether a gate was missed.
///
/// # Errors
/// [`Error::Usage`] where the files have nothing to compare.
pub fn of(comparison: &Comparison) -> Result<(String, bool)> {
    if comparison.ratios.is_empty() && comparison.ours.is_empty() {
        return Err(Error::Usage("the files have no measured line of ours".to_owned()));
    }
    let names = comparison.ours.iter().map(|ours| ours.case.name().len());
    let width = names.max().unwrap_or(4).max(4);
    let mut text = String::new();
    ratios(&mut text, &comparison.ratios, width);
    ceilings(&mut text, comparison, width);
    for (case, call, reason) in &comparison.not_measured {
        let _ = writeln!(text, "not measured: {}, {call}: {reason}", case.name());
    }
    let missed = summary(&mut text, comparison);
    Ok((text, missed > 0))
}

fn wanted(value: f64) -> String {
    if value > 0.0 { format!("{value:.2}") } else { "-".to_owned() }
}

fn ratios(text: &mut String, ratios: &[Ratio], width: usize) {
    let mut heading = None;
    for ratio in ratios {
        if heading != Some(ratio.case.row) {
            heading = Some(ratio.case.row);
            let _ = writeln!(text, "\n{}", ratio.case.row.map_or("other shapes", |row| row.what));
            let _ = writeln!(
                text,
                "{:width$}  {:>10}  {:24}  {:>10}  {:>6}  {:>5}  {:>5}",
                "case", "ours us", "peer", "peer us", "ratio", "gate", "goal"
            );
        }
        let _ = writeln!(
            text,
            "{:width$}  {:10.2}  {:24}  {:10.2}  {:5.2}{}  {:>5}  {:>5}  {}",
            ratio.case.name(),
            ratio.ours_us,
            ratio.peer,
            ratio.peer_us,
            ratio.ratio,
            if ratio.overlaps { "~" } else { " " },
            wanted(ratio.gate),
            wanted(ratio.goal),
            ratio.verdict().words(),
        );
    }
}

/// Our times, rates and percents of every ceiling.
fn ceilings(text: &mut String, comparison: &Comparison, width: usize) {
    let _ = writeln!(text, "\nours beside the ceilings of the same run");
    for of in &comparison.ceilings {
        let (source, tflops, gb_per_s) = (&of.source, of.tflops, of.gb_per_s);
        let _ = writeln!(text, "{source}: {tflops:.1} TFLOP/s (8192x8192x8192), {gb_per_s:.0} GB/s (copy)");
    }
    let _ =
        write!(text, "{:width$}  {:>10}  {:>10}  {:>8}  {:>8}", "case", "us", "warm us", "TFLOP/s", "GB/s");
    for of in &comparison.ceilings {
        let _ = write!(text, "  {:>10}", format!("% {}", of.source));
    }
    let _ = writeln!(text, "  {:>6}  {:>6}  {:>8}", "gate %", "goal %", "goal us");
    for ours in &comparison.ours {
        ours_line(text, ours, width);
    }
}

fn ours_line(text: &mut String, ours: &Ours, width: usize) {
    let shown = |value: Option<f64>, decimals: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
    };
    let _ = write!(
        text,
        "{:width$}  {:10.2}  {:>10}  {:>8}  {:>8}",
        ours.case.name(),
        ours.us,
        shown(ours.warm_us, 2),
        shown(ours.tflops, 1),
        shown(ours.gb_per_s, 0),
    );
    for percent in &ours.percents {
        let _ = write!(text, "  {percent:10.1}");
    }
    let (percent, goal_us) = ours.case.row.map_or(((0.0, 0.0), 0.0), |row| (row.percent, row.goal_us));
    let _ = writeln!(
        text,
        "  {:>6}  {:>6}  {:>8}  {}",
        wanted(percent.0),
        wanted(percent.1),
        wanted(goal_us),
        ours.verdict().words(),
    );
}

/// What was reached of each row; gives the number of gates that were missed.
fn summary(text: &mut String, comparison: &Comparison) -> usize {
    let width = ROWS.iter().map(|row| row.what.len()).max().unwrap_or(0);
    let _ = writeln!(text, "\n{:width$}  {:>12}  {:>12}", "row", "gates met", "goals met");
    let (mut gates, mut missed) = (0, 0);
    for row in ROWS {
        let verdicts = comparison.verdicts(row);
        let count = |of: fn(&Verdict) -> Option<bool>| {
            let all: Vec<bool> = verdicts.iter().filter_map(of).collect();
            (all.iter().filter(|met| **met).count(), all.len())
        };
        let ((gates_met, of_gates), (goals_met, of_goals)) = (count(|v| v.gate), count(|v| v.goal));
        let shown = |met: usize, of: usize| match of {
            0 if verdicts.is_empty() => "not measured".to_owned(),
            0 => "-".to_owned(),
            _ => format!("{met} of {of}"),
        };
        let (gates_shown, goals_shown) = (shown(gates_met, of_gates), shown(goals_met, of_goals));
        let _ = writeln!(text, "{:width$}  {gates_shown:>12}  {goals_shown:>12}", row.what);
        gates += of_gates;
        missed += of_gates - gates_met;
    }
    let _ = writeln!(text, "{gates} gates, {missed} missed; ~ the times overlap: no difference was measured");
    missed
}
