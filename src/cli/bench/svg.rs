//! Drawings of measurements: a roofline, and bars against the peers.

use std::fmt::Write as _;

use serde_json::Value;

use super::compare::Ratio;

/// Colours of the operations, in the order in which they are met.
const COLORS: [&str; 7] = ["#1b6ca8", "#c8553d", "#2d936c", "#8e5572", "#b8860b", "#4a4e69", "#6a994e"];
/// Outlines of their marks, about the origin: circle, square, triangles, diamond, hourglass, cross.
const MARKS: [&str; 7] = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-4-4h8v8h-8z",
    "M0-5l5 9h-10z",
    "M0 5l5-9h-10z",
    "M0-6l4 6l-4 6l-4-6z",
    "M-4-5h8l-8 10h8z",
    "M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
];

/// The mark of operation `index` at a point: told by its outline, and by being filled or hollow, before its colour.
fn mark(index: usize, x: f64, y: f64, name: &str) -> String {
    let (color, outline) = (COLORS[index % COLORS.len()], MARKS[index % MARKS.len()]);
    let fill = if (index / MARKS.len()).is_multiple_of(2) { color } else { "white" };
    format!(
        "<path d=\"{outline}\" transform=\"translate({x:.1} {y:.1})\" fill=\"{fill}\" stroke=\"{color}\">\
         <title>{}</title></path>",
        escape(name)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn open(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"24\" font-size=\"16\">{}</text>\n",
        escape(title)
    )
}

/// Rate over operations a byte, both by powers of ten, under the ceilings measured in the same run. `None` where
/// nothing in the file was measured.
pub fn roofline(file: &Value) -> Option<String> {
    let (peak, bandwidth) = (file["ceilings"]["tflops"].as_f64()?, file["ceilings"]["gb_per_s"].as_f64()?);
    let lines: Vec<&Value> =
        file["lines"].as_array()?.iter().filter(|l| l["tflops"].as_f64().is_some_and(|x| x > 0.0)).collect();
    let intensity =
        |line: &Value| line["flops"].as_f64().unwrap_or(1.0) / line["bytes"].as_f64().unwrap_or(1.0);
    let lowest_x = lines.iter().map(|l| intensity(l)).fold(1.0, f64::min).log10().floor();
    let highest_x = lines.iter().map(|l| intensity(l)).fold(1000.0, f64::max).log10().ceil();
    let lowest_y = lines.iter().filter_map(|l| l["tflops"].as_f64()).fold(1.0, f64::min).log10().floor();
    let highest_y = peak.log10().ceil();
    let x = |value: f64| 70.0 + (value.log10() - lowest_x) / (highest_x - lowest_x) * 660.0;
    let y = |value: f64| 440.0 - (value.log10() - lowest_y) / (highest_y - lowest_y) * 390.0;
    let device = file["machine"]["device"].as_str().unwrap_or("");
    let mut svg = open(900.0, 500.0, &format!("Roofline: {device}"));
    for power in lowest_x as i32..=highest_x as i32 {
        let at = x(10f64.powi(power));
        let _ = writeln!(svg, "<path d=\"M{at:.1} 50V440\" stroke=\"#ddd\"/>");
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"458\" text-anchor=\"middle\">1e{power}</text>");
    }
    for power in lowest_y as i32..=highest_y as i32 {
        let at = y(10f64.powi(power));
        let _ = writeln!(svg, "<path d=\"M70 {at:.1}H730\" stroke=\"#ddd\"/>");
        let _ = writeln!(svg, "<text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">1e{power}</text>", at + 4.0);
    }
    let _ = writeln!(svg, "<text x=\"400\" y=\"482\" text-anchor=\"middle\">FLOP a byte</text>");
    let _ = writeln!(svg, "<text x=\"20\" y=\"44\">TFLOP/s</text>");
    let ridge = peak * 1e3 / bandwidth;
    // The slanted part begins where it enters the frame.
    let start = 10f64.powf(lowest_x).max(10f64.powf(lowest_y) * 1e3 / bandwidth);
    let _ = writeln!(
        svg,
        "<path d=\"M{:.1} {:.1}L{:.1} {:.1}H730\" fill=\"none\" stroke=\"black\" stroke-width=\"1.5\"/>",
        x(start),
        y(start * bandwidth * 1e-3),
        x(ridge),
        y(peak)
    );
    let _ = writeln!(
        svg,
        "<text x=\"728\" y=\"{:.1}\" text-anchor=\"end\">{peak:.0} TFLOP/s</text>",
        y(peak) - 6.0
    );
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\">{bandwidth:.0} GB/s</text>",
        x(start) + 8.0,
        y(start * bandwidth * 1e-3) - 14.0
    );
    let mut ops: Vec<&str> = Vec::new();
    for line in &lines {
        let op = line["op"].as_str().unwrap_or("");
        let index = ops.iter().position(|known| *known == op).unwrap_or_else(|| {
            ops.push(op);
            ops.len() - 1
        });
        let text = |key: &str| line[key].as_str().unwrap_or("").to_owned();
        let name = format!(
            "{op} {} {}: {:.1} us",
            text("shape"),
            text("variant"),
            line["us"].as_f64().unwrap_or(0.0)
        );
        let (at_x, at_y) = (x(intensity(line)), y(line["tflops"].as_f64().unwrap_or(1.0)));
        let _ = writeln!(svg, "{}", mark(index, at_x, at_y, &name));
    }
    for (index, op) in ops.iter().enumerate() {
        let at = 70.0 + 20.0 * index as f64;
        let _ = writeln!(svg, "{}", mark(index, 756.0, at, op));
        let _ = writeln!(svg, "<text x=\"766\" y=\"{}\">{}</text>", at + 4.0, escape(op));
    }
    (!lines.is_empty()).then(|| svg + "</svg>\n")
}

/// A bar a ratio, the peer's time over ours, with a mark where the gate is; hatched where it was missed.
pub fn bars(ratios: &[Ratio]) -> String {
    let longest = ratios.iter().map(|r| r.ratio).fold(2.0, f64::max);
    let x = |ratio: f64| 420.0 + ratio / longest * 330.0;
    let height = 70.0 + 18.0 * ratios.len() as f64;
    let mut svg = open(900.0, height, "Time of the peer over ours; the upright mark is the gate");
    svg += "<defs><pattern id=\"missed\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\">\
            <path d=\"M0 5L5 0\" stroke=\"#c8553d\" stroke-width=\"1.5\"/></pattern></defs>\n";
    let _ = writeln!(svg, "<path d=\"M{0:.1} 36V{height}\" stroke=\"#888\" stroke-dasharray=\"3\"/>", x(1.0));
    for (index, ratio) in ratios.iter().enumerate() {
        let y = 44.0 + 18.0 * index as f64;
        let verdict = ratio.verdict();
        let (fill, stroke) = match verdict.gate {
            Some(false) => ("url(#missed)", "#c8553d"),
            _ => ("#1b6ca8", "#1b6ca8"),
        };
        let name = format!("{}, {}", ratio.case.name(), ratio.peer);
        let (width, beside) = (x(ratio.ratio) - 420.0, x(ratio.ratio.max(ratio.gate)) + 6.0);
        let _ =
            writeln!(svg, "<text x=\"412\" y=\"{}\" text-anchor=\"end\">{}</text>", y + 11.0, escape(&name));
        let _ = writeln!(
            svg,
            "<rect x=\"420\" y=\"{y}\" width=\"{width:.1}\" height=\"14\" fill=\"{fill}\" stroke=\"{stroke}\"/>"
        );
        if ratio.gate > 0.0 {
            let at = x(ratio.gate);
            let _ = writeln!(svg, "<path d=\"M{at:.1} {y}v14\" stroke=\"black\" stroke-width=\"2\"/>");
        }
        let shown = format!("{:.2} {}", ratio.ratio, verdict.words());
        let _ = writeln!(svg, "<text x=\"{beside:.1}\" y=\"{}\">{shown}</text>", y + 11.0);
    }
    svg + "</svg>\n"
}
