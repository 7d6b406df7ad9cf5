//! The page of `nanomoe routing --html`: one file that needs no network and no script. Every number that a colour stands
//! for is there as text too.

use std::fmt::Write;

use nanomoe::model::LayerRouting;

/// Tokens whose attention is shown: the first, since those attend to nothing but each other.
pub const MOST_ATTENDED: usize = 64;

/// What the page shows.
pub struct Page<'a> {
    /// One line about the model and how it was run.
    pub model: &'a str,
    /// The text of each token.
    pub tokens: &'a [String],
    /// What each MoE layer decided; empty for a dense model.
    pub routing: &'a [LayerRouting],
    /// The attention of one head.
    pub attention: Attention<'a>,
}

/// How much each token attends to itself and to those before it, in one head.
pub struct Attention<'a> {
    pub layer: usize,
    pub head: usize,
    /// `[num_tokens, num_tokens]`, rows are queries.
    pub weights: &'a [f32],
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #fff; --line: #c8c8d0; --light: 86%; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ee; --paper: #17171b; --line: #4a4a55; --light: 27%; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
p, li, h1, h2, h3 { overflow-wrap: anywhere; }
.tokens { white-space: pre-wrap; line-height: 2; }
.token { background: hsl(var(--hue) 70% var(--light)); border-radius: .2em; padding: .1em 0; }
.token sub { font-size: .7em; font-weight: 600; padding: 0 .15em; }
.dropped { text-decoration: line-through; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { border: 1px solid var(--line); padding: .15rem .4rem; text-align: right; white-space: pre; }
.heat { background: hsl(210 90% 50% / calc(var(--part) * .55)); }
.attention { font-size: .75rem; }
.attention tbody th { text-align: left; }
";

/// The whole page.
pub fn page(page: &Page<'_>) -> String {
    let mut html = String::new();
    // Writing into a string does not fail.
    let _ = write(&mut html, page);
    html
}

fn write(html: &mut String, page: &Page<'_>) -> std::fmt::Result {
    let Page { model, tokens, routing, attention } = page;
    writeln!(html, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(html, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(html, "<title>Routing of {} tokens</title>\n<style>{STYLE}", tokens.len())?;
    let num_experts = routing.iter().map(|layer| layer.num_experts).max().unwrap_or(0);
    for expert in 0..num_experts {
        writeln!(html, ".e{expert} {{ --hue: {}; }}", hue(expert))?;
    }
    writeln!(html, "</style>\n</head>\n<body>\n<main>\n<h1>Routing of {} tokens</h1>", tokens.len())?;
    writeln!(html, "<p>{}</p>", escape(model))?;
    if routing.is_empty() {
        writeln!(html, "<p id=\"dense\">The model is dense: no layer has experts.</p>")?;
    } else {
        writeln!(html, "<section id=\"tokens\">\n<h2>Tokens by their first expert</h2>")?;
        writeln!(
            html,
            "<p>The number behind a token is the expert it chose first; struck out where that expert was full. \
             Point at a token for all its experts and their weights.</p>"
        )?;
        for layer in *routing {
            write_tokens(html, tokens, layer)?;
        }
        writeln!(html, "</section>")?;
        write_load(html, routing, num_experts)?;
    }
    write_attention(html, tokens, attention)?;
    writeln!(html, "</main>\n</body>\n</html>")
}

/// The text, each token in the colour of its first expert.
fn write_tokens(html: &mut String, tokens: &[String], routing: &LayerRouting) -> std::fmt::Result {
    let (layer, k) = (routing.layer, routing.num_experts_per_token);
    write!(html, "<h3>layer {layer}</h3>\n<p class=\"tokens\" id=\"tokens-{layer}\">")?;
    for (at, token) in tokens.iter().enumerate() {
        let choices: Vec<String> = (at * k..(at + 1) * k)
            .map(|choice| {
                let (expert, weight) = (routing.expert_ids[choice], routing.expert_weights[choice]);
                let dropped = if routing.slots[choice] < 0 { ", dropped" } else { "" };
                format!("expert {expert} ({weight:.2}{dropped})")
            })
            .collect();
        let expert = routing.expert_ids[at * k];
        let dropped = if routing.slots[at * k] < 0 { " dropped" } else { "" };
        write!(
            html,
            "<span class=\"token e{expert}{dropped}\" title=\"token {at}: {}\">{}<sub>{expert}</sub></span>",
            choices.join(", "),
            visible(token)
        )?;
        // A line of the text ends here as well.
        if token.contains('\n') {
            writeln!(html)?;
        }
    }
    writeln!(html, "</p>")
}

/// How many assignments each expert of each layer was chosen for.
fn write_load(html: &mut String, routing: &[LayerRouting], num_experts: usize) -> std::fmt::Result {
    writeln!(
        html,
        "<section id=\"load\">\n<h2>Load by layer and expert</h2>\n<div class=\"wide\" tabindex=\"0\">\n<table>"
    )?;
    writeln!(
        html,
        "<caption>Assignments to each expert, and their share of the layer's in percent. The auxiliary loss is as many as \
         a token has experts when the load is even.</caption>"
    )?;
    write!(html, "<thead>\n<tr><th scope=\"col\">layer</th>")?;
    for expert in 0..num_experts {
        write!(html, "<th scope=\"col\">expert {expert}</th>")?;
    }
    for name in ["dropped", "auxiliary loss", "z loss"] {
        write!(html, "<th scope=\"col\">{name}</th>")?;
    }
    writeln!(html, "</tr>\n</thead>\n<tbody>")?;
    for layer in routing {
        let (chosen, kept) = (layer.chosen_per_expert(), layer.kept_per_expert());
        let all = chosen.iter().sum::<i32>().max(1);
        let largest = chosen.iter().copied().max().unwrap_or(0).max(1);
        write!(html, "<tr><th scope=\"row\">{}</th>", layer.layer)?;
        for (expert, (chosen, kept)) in chosen.iter().zip(&kept).enumerate() {
            write!(
                html,
                "<td class=\"heat\" style=\"--part: {:.3}\" title=\"layer {}, expert {expert}: {chosen} of {all} assignments, \
                 {} dropped\">{chosen} ({:.0}%)</td>",
                f64::from(*chosen) / f64::from(largest),
                layer.layer,
                chosen - kept,
                100.0 * f64::from(*chosen) / f64::from(all)
            )?;
        }
        // A layer of fewer experts than another
        write!(html, "{}", "<td></td>".repeat(num_experts - chosen.len()))?;
        let (dropped, aux_loss, z_loss) = (layer.num_dropped(), layer.aux_loss, layer.z_loss);
        writeln!(html, "<td>{dropped}</td><td>{aux_loss:.4}</td><td>{z_loss:.4}</td></tr>")?;
    }
    writeln!(html, "</tbody>\n</table>\n</div>\n</section>")
}

/// A row a token, a column a token it attends to.
fn write_attention(html: &mut String, tokens: &[String], attention: &Attention<'_>) -> std::fmt::Result {
    let Attention { layer, head, weights } = attention;
    let shown = tokens.len().min(MOST_ATTENDED);
    writeln!(html, "<section id=\"attention\">\n<h2>Attention of layer {layer}, head {head}</h2>")?;
    writeln!(html, "<div class=\"wide\" tabindex=\"0\">\n<table class=\"attention\">")?;
    write!(html, "<caption>Percent of its attention that the token of a row gives to that of a column")?;
    if shown < tokens.len() {
        write!(html, "; the first {shown} of {} tokens", tokens.len())?;
    }
    write!(html, ".</caption>\n<thead>\n<tr><th scope=\"col\">token</th>")?;
    for (at, token) in tokens[..shown].iter().enumerate() {
        write!(html, "<th scope=\"col\" title=\"{}\">{at}</th>", visible(token))?;
    }
    writeln!(html, "</tr>\n</thead>\n<tbody>")?;
    for (query, token) in tokens[..shown].iter().enumerate() {
        write!(html, "<tr><th scope=\"row\">{query} {}</th>", visible(token))?;
        for weight in &weights[query * tokens.len()..][..query + 1] {
            write!(
                html,
                "<td class=\"heat\" style=\"--part: {weight:.3}\">{:.0}</td>",
                100.0 * f64::from(*weight)
            )?;
        }
        writeln!(html, "{}</tr>", "<td></td>".repeat(shown - query - 1))?;
    }
    writeln!(html, "</tbody>\n</table>\n</div>\n</section>")
}

/// Hues of neighbouring numbers are far apart, and so are those of few numbers: steps of the golden angle.
fn hue(expert: usize) -> usize {
    (expert * 1_375 / 10) % 360
}

/// The text of a token with what cannot be seen made visible, escaped.
fn visible(token: &str) -> String {
    let seen = token.chars().map(|c| match c {
        '\n' => "↵".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    });
    escape(&seen.collect::<String>())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
