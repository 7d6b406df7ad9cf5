//! Our times beside the peers', as ratios with what is wanted of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nanomoe::{Error, Result};
use serde_json::Value;

use super::cases::{self, Case, ROWS};

/// A measured line of a file.
#[derive(Clone, Debug)]
pub struct Line {
    pub call: String,
    pub us: f64,
    pub low: f64,
    pub high: f64,
    pub warm_us: Option<f64>,
    pub percent: Option<f64>,
}

/// One ratio: the peer's time over ours.
pub struct Ratio {
    pub case: Case,
    pub ours_us: f64,
    pub peer: String,
    pub peer_us: f64,
    pub ratio: f64,
    pub gate: f64,
    pub goal: f64,
    /// The times' middle eighty percent overlap: no difference was measured.
    pub overlaps: bool,
}

/// A share of the ceiling of the same run, in percent, and what is wanted of it.
pub struct Share {
    pub case: Case,
    pub percent: f64,
    pub gate: f64,
    pub goal: f64,
}

impl Ratio {
    /// `missed`, `gate`, `goal`, or nothing where nothing is wanted.
    pub fn verdict(&self) -> &'static str {
        match () {
            () if self.gate > 0.0 && self.ratio < self.gate => "missed",
            () if self.goal > 0.0 && self.ratio >= self.goal => "goal",
            () if self.gate > 0.0 => "gate",
            () => "",
        }
    }
}

/// Lines by (op, shape, variant).
type Lines = BTreeMap<(String, String, String), Vec<Line>>;

/// Reads the lines of a file that `nanomoe bench --json` or benches/peers.py wrote.
pub fn read(path: &Path) -> Result<Value> {
    let fail = |message: String| Error::File { path: path.to_owned(), message };
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    if value["schema"] != super::SCHEMA || !value["lines"].is_array() {
        return Err(fail(format!(
            "no file of measurements: \"schema\" is {}, expected {:?}",
            value["schema"],
            super::SCHEMA
        )));
    }
    Ok(value)
}

fn lines(paths: &[PathBuf]) -> Result<Lines> {
    let mut lines = Lines::new();
    for path in paths {
        let fail = |message: String| Error::File { path: path.clone(), message };
        let file = read(path)?;
        for line in file["lines"].as_array().into_iter().flatten() {
            let text = |key: &str| {
                line[key]
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| fail(format!("a line has no {key}: {line}")))
            };
            if line["us"].is_null() {
                continue; // It was not measured; the file says why.
            }
            let number = |key: &str| line[key].as_f64().filter(|x| *x > 0.0);
            let us = number("us").ok_or_else(|| fail(format!("us is no time: {line}")))?;
            let read = Line {
                call: text("call")?,
                us,
                low: number("us_low").unwrap_or(us),
                high: number("us_high").unwrap_or(us),
                warm_us: number("warm_us"),
                percent: number("percent_of_ceiling"),
            };
            let of_case = lines.entry((text("op")?, text("shape")?, text("variant")?)).or_default();
            // The last file wins.
            of_case.retain(|line| line.call != read.call);
            of_case.push(read);
        }
    }
    Ok(lines)
}

/// Every ratio that the files allow, and every share of which something is wanted, in the order of the tables.
pub fn ratios(paths: &[PathBuf]) -> Result<(Vec<Ratio>, Vec<Share>)> {
    let lines = lines(paths)?;
    let (mut ratios, mut shares) = (Vec::new(), Vec::new());
    for case in cases_of(&lines) {
        let found = &lines[&key(&case)];
        let Some(ours) = found.iter().find(|line| line.call == "nanomoe") else { continue };
        let row = case.row.checked_sub(1).map(|row| &ROWS[row]);
        if let (Some(row), Some(percent)) = (row, ours.percent)
            && row.percent.1 > 0.0
        {
            let (gate, goal) = row.percent;
            shares.push(Share { case: case.clone(), percent, gate, goal });
        }
        for peer in found.iter().filter(|line| line.call != "nanomoe") {
            let wanted = row.and_then(|row| row.peers.iter().find(|(name, ..)| *name == peer.call));
            let warm = row.is_some_and(|row| row.warm).then_some(()).and(ours.warm_us.zip(peer.warm_us));
            let (ours_us, peer_us) = warm.unwrap_or((ours.us, peer.us));
            ratios.push(Ratio {
                case: case.clone(),
                ours_us,
                peer: peer.call.clone() + if warm.is_some() { " (warm)" } else { "" },
                peer_us,
                ratio: peer_us / ours_us,
                gate: wanted.map_or(0.0, |w| w.1),
                goal: wanted.map_or(0.0, |w| w.2),
                overlaps: warm.is_none() && ours.low <= peer.high && peer.low <= ours.high,
            });
        }
    }
    Ok((ratios, shares))
}

fn key(case: &Case) -> (String, String, String) {
    (case.op.to_owned(), case.shape(), case.variant.to_owned())
}

/// The cases of the tables that were measured, and after them the others of the files.
fn cases_of(lines: &Lines) -> Vec<Case> {
    let mut cases: Vec<Case> =
        cases::all().into_iter().filter(|case| lines.contains_key(&key(case))).collect();
    for (op, shape, variant) in lines.keys() {
        let Some(known) = cases::OPS.iter().find(|known| known.name == op) else { continue };
        let text = if variant.is_empty() { shape.clone() } else { format!("{shape}:{variant}") };
        if let Ok(case) = Case::parse(known, &text)
            && !cases.contains(&case)
        {
            cases.push(case);
        }
    }
    cases
}

/// The table as text, and whether a gate was missed.
pub fn table(paths: &[PathBuf]) -> Result<(String, bool)> {
    let (ratios, shares) = ratios(paths)?;
    let mut text = String::new();
    let width =
        ratios.iter().map(|r| r.case.name().len()).chain(shares.iter().map(|s| s.case.name().len())).max();
    let width = width.unwrap_or(4).max(4);
    let wanted = |value: f64| if value > 0.0 { format!("{value:.2}") } else { "-".to_owned() };
    let mut missed = shares.iter().filter(|share| share.percent < share.gate).count();
    let mut row = usize::MAX;
    for ratio in &ratios {
        if ratio.case.row != row {
            row = ratio.case.row;
            let what = row.checked_sub(1).map_or("other shapes", |row| ROWS[row].what);
            let _ = writeln!(text, "\n{what}");
            let _ = writeln!(
                text,
                "{:width$}  {:>10}  {:24}  {:>10}  {:>6}  {:>5}  {:>5}",
                "case", "ours us", "peer", "peer us", "ratio", "gate", "goal"
            );
        }
        missed += usize::from(ratio.verdict() == "missed");
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
            ratio.verdict(),
        );
    }
    if !shares.is_empty() {
        let _ = writeln!(text, "\npercent of the ceiling measured in the same run");
    }
    for Share { case, percent, gate, goal } in &shares {
        let verdict = if percent < gate {
            "missed"
        } else if percent >= goal {
            "goal"
        } else {
            "gate"
        };
        let _ = writeln!(text, "{:width$}  {percent:6.1}  {gate:>5}  {goal:>5}  {verdict}", case.name());
    }
    let compared = ratios.iter().filter(|r| r.gate > 0.0).count() + shares.len();
    let _ = writeln!(
        text,
        "\n{compared} gates, {missed} missed; ~ the times overlap: no difference was measured"
    );
    if ratios.is_empty() && shares.is_empty() {
        return Err(Error::Usage(
            "the files have no line of ours and of a peer for the same work".to_owned(),
        ));
    }
    Ok((text, missed > 0))
}
