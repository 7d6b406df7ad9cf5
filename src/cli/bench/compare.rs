//! Our times beside the peers' and beside the ceilings of the same run, with what is wanted of both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nanomoe::{Error, Result};
use serde_json::Value;

use super::cases::{self, Case};
use super::rows::Row;
use super::{floor_us, shapes};

/// Files of measurements, compared.
pub struct Comparison {
    /// What the ceilings were measured with: our kernels, and PyTorch.
    pub ceilings: Vec<Ceilings>,
    /// Our lines, in the order of the tables.
    pub ours: Vec<Ours>,
    pub ratios: Vec<Ratio>,
    /// Why lines have no times: (case, whose, reason).
    pub not_measured: Vec<(Case, String, String)>,
}

/// The rates of a large product and a large copy.
pub struct Ceilings {
    pub source: String,
    pub tflops: f64,
    pub gb_per_s: f64,
}

/// A line of ours.
pub struct Ours {
    pub case: Case,
    pub us: f64,
    pub warm_us: Option<f64>,
    pub tflops: Option<f64>,
    pub gb_per_s: Option<f64>,
    /// Of the time that each of the ceilings allows, in their order.
    pub percents: Vec<f64>,
}

/// The peer's time over ours.
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

/// Whether what is wanted was reached; `None` where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    pub gate: Option<bool>,
    pub goal: Option<bool>,
}

impl Verdict {
    fn of(value: f64, gate: f64, goal: f64) -> Self {
        let reached = |wanted: f64| (wanted > 0.0).then_some(value >= wanted);
        Verdict { gate: reached(gate), goal: reached(goal) }
    }

    /// For the table.
    pub fn words(self) -> &'static str {
        match self {
            Verdict { gate: Some(false), .. } => "gate missed",
            Verdict { goal: Some(true), .. } => "goal met",
            Verdict { gate: Some(true), .. } => "gate met",
            Verdict { goal: Some(false), .. } => "goal not met",
            _ => "",
        }
    }
}

impl Ratio {
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self.ratio, self.gate, self.goal)
    }
}

impl Ours {
    /// The percent of the higher ceiling, which is the smaller.
    pub fn percent(&self) -> Option<f64> {
        self.percents.iter().copied().min_by(f64::total_cmp)
    }

    /// The time that an absolute goal is about: in a graph where the row is compared so.
    pub fn goal_time(&self) -> f64 {
        let is_warm = self.case.row.is_some_and(|row| row.warm);
        self.warm_us.filter(|_| is_warm).unwrap_or(self.us)
    }

    pub fn verdict(&self) -> Verdict {
        let Some(row) = self.case.row else { return Verdict::default() };
        let mut verdict = match self.percent() {
            Some(percent) => Verdict::of(percent, row.percent.0, row.percent.1),
            None => Verdict::default(),
        };
        if row.goal_us > 0.0 {
            let met = self.goal_time() <= row.goal_us;
            verdict.goal = Some(verdict.goal.is_none_or(|goal| goal) && met);
        }
        verdict
    }
}

/// A line of a file.
struct Line {
    call: String,
    /// `None` where it was not measured, and why.
    us: Option<f64>,
    low: f64,
    high: f64,
    warm_us: Option<f64>,
    work: Option<(f64, f64)>, // flops, bytes
    reason: String,
}

/// Reads a file that `nanomoe bench --json` or benches/peers.py wrote.
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

fn line(value: &Value, path: &Path) -> Result<Line> {
    let fail = |message: String| Error::File { path: path.to_owned(), message };
    let number = |key: &str| value[key].as_f64().filter(|x| *x > 0.0);
    let us = number("us");
    if us.is_none() && !value["us"].is_null() {
        return Err(fail(format!("us is no time: {value}")));
    }
    Ok(Line {
        call: text(value, "call", path)?,
        us,
        low: number("us_low").or(us).unwrap_or(0.0),
        high: number("us_high").or(us).unwrap_or(0.0),
        warm_us: number("warm_us"),
        work: number("flops").zip(number("bytes")),
        reason: value["reason"].as_str().unwrap_or("no reason is known").to_owned(),
    })
}

fn text(value: &Value, key: &str, path: &Path) -> Result<String> {
    let message = || format!("a line has no {key}: {value}");
    value[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::File { path: path.to_owned(), message: message() })
}

/// Lines by (op, shape, variant).
type Lines = BTreeMap<(String, String, String), Vec<Line>>;

impl Comparison {
    /// Reads and compares; of two lines for the same the last file's wins.
    ///
    /// # Errors
    /// [`Error::File`] for what is no file of measurements; [`Error::Io`].
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let (mut lines, mut ceilings) = (Lines::new(), Vec::<Ceilings>::new());
        for path in paths {
            let file = read(path)?;
            let source = text(&file, "source", path)?;
            let (of_file, rate) = (&file["ceilings"], |value: &Value| value.as_f64().filter(|x| *x > 0.0));
            if let Some((tflops, gb_per_s)) = rate(&of_file["tflops"]).zip(rate(&of_file["gb_per_s"])) {
                ceilings.retain(|known| known.source != source);
                ceilings.push(Ceilings { source, tflops, gb_per_s });
            }
            for value in file["lines"].as_array().into_iter().flatten() {
                let read = line(value, path)?;
                let key =
                    (text(value, "op", path)?, text(value, "shape", path)?, text(value, "variant", path)?);
                let of_case = lines.entry(key).or_default();
                of_case.retain(|line| line.call != read.call);
                of_case.push(read);
            }
        }
        let mut all = Comparison { ceilings, ours: Vec::new(), ratios: Vec::new(), not_measured: Vec::new() };
        for case in cases_of(&lines) {
            all.add(&case, &lines[&key(&case)]);
        }
        Ok(all)
    }

    fn add(&mut self, case: &Case, lines: &[Line]) {
        for line in lines.iter().filter(|line| line.us.is_none()) {
            self.not_measured.push((case.clone(), line.call.clone(), line.reason.clone()));
        }
        let is_ours = |line: &&Line| line.call == "nanomoe";
        let Some((ours, us)) = lines.iter().find(is_ours).and_then(|ours| Some((ours, ours.us?))) else {
            return;
        };
        let percents = ours.work.map_or(Vec::new(), |(flops, bytes)| {
            self.ceilings.iter().map(|c| 100.0 * floor_us(flops, bytes, c.tflops, c.gb_per_s) / us).collect()
        });
        self.ours.push(Ours {
            case: case.clone(),
            us,
            warm_us: ours.warm_us,
            tflops: ours.work.map(|(flops, _)| flops / us * 1e-6),
            gb_per_s: ours.work.map(|(_, bytes)| bytes / us * 1e-3),
            percents,
        });
        for (peer, cold_us) in lines.iter().filter(|l| !is_ours(l)).filter_map(|peer| Some((peer, peer.us?)))
        {
            let is_warm = case.row.is_some_and(|row| row.warm);
            let warm = ours.warm_us.zip(peer.warm_us).filter(|_| is_warm);
            let (ours_us, peer_us) = warm.unwrap_or((us, cold_us));
            let (gate, goal) = case.row.map_or((0.0, 0.0), |row| wanted(row, &peer.call));
            self.ratios.push(Ratio {
                case: case.clone(),
                ours_us,
                peer: peer.call.clone() + if warm.is_some() { " (warm)" } else { "" },
                peer_us,
                ratio: peer_us / ours_us,
                gate,
                goal,
                overlaps: warm.is_none() && ours.low <= peer.high && peer.low <= ours.high,
            });
        }
    }

    /// What was found of a row.
    pub fn verdicts(&self, row: &Row) -> Vec<Verdict> {
        let of_row = |case: &Case| case.row == Some(row);
        let ratios = self.ratios.iter().filter(|r| of_row(&r.case)).map(Ratio::verdict);
        ratios.chain(self.ours.iter().filter(|o| of_row(&o.case)).map(Ours::verdict)).collect()
    }
}

fn wanted(row: &Row, peer: &str) -> (f64, f64) {
    row.peers.iter().find(|(name, ..)| *name == peer).map_or((0.0, 0.0), |(_, gate, goal)| (*gate, *goal))
}

fn key(case: &Case) -> (String, String, String) {
    (case.op.to_owned(), case.shape(), case.variant.to_owned())
}

/// The cases of the tables that the files have, and after them the others of the files.
fn cases_of(lines: &Lines) -> Vec<Case> {
    let mut cases: Vec<Case> =
        shapes::all().into_iter().filter(|case| lines.contains_key(&key(case))).collect();
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
