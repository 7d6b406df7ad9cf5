//! `nanomoe routing`: which experts each token went to, and how much each expert had to do.

mod html;

use std::io::{self, Write};

use nanomoe::config::ModelConfig;
use nanomoe::model::{Forward, LayerRouting, Leak, MoeMode, find_leaks};
use nanomoe::tensor::DType;
use nanomoe::tokenizer::Specials;
use nanomoe::{Error, Result};

use super::RoutingArgs;
use super::output::{Done, colors, tell, write_whole};
use super::session::{Defaults, Source};

/// Prefixes that are run to look for leaks: each costs a pass over its tokens.
const MOST_PREFIXES: usize = 64;
/// Leaks shown one by one; the rest is counted.
const MOST_LEAKS: usize = 20;
/// Width of the longest load bar.
const BAR: usize = 40;

pub fn run(args: &RoutingArgs) -> Done {
    let source = Source::open(&args.model)?;
    let tokenizer = source.tokenizer()?;
    let ids = tokenizer.encode(&args.text, Specials::Parse)?;
    if ids.is_empty() {
        return Err(Error::Usage("the text has no tokens, expected at least one".into()).into());
    }
    let chosen_head = match &args.html {
        Some(_) => Some(chosen_head(&args.attention, source.checkpoint.config())?),
        None => None,
    };
    let defaults = Defaults { device_dtype: DType::BF16, moe: MoeMode::Capacity };
    let session = source.load(&args.model, defaults)?;
    let ops = session.ops.as_ref();
    let mut workspace = session.model.workspace(ops, ids.len())?;
    let request =
        Forward { moe: session.moe, routing: true, attention_weights: chosen_head, ..Forward::default() };
    let output = session.model.forward(ops, &mut workspace, 1, &ids, &request)?;
    let routing = output.routing;
    if let (Some(path), Some((layer, head))) = (&args.html, chosen_head) {
        let texts: Vec<String> = ids.iter().map(|&id| tokenizer.token_text(id)).collect();
        let mode = match session.moe {
            MoeMode::Capacity => "capacity",
            MoeMode::Dropless => "dropless",
        };
        let model = format!("{}, {mode} routing, on {}", session.model.dtype(), ops.name());
        let attention = html::Attention { layer, head, weights: &output.attention_weights };
        let page = html::page(&html::Page { model: &model, tokens: &texts, routing: &routing, attention });
        write_whole(path, page.as_bytes())?;
        tell(format_args!("wrote {}", path.display()));
    }

    let mut page = Page { out: io::stdout().lock(), colors: colors() };
    if routing.is_empty() {
        writeln!(page.out, "the model is dense: no layer has experts")?;
        return Ok(());
    }
    let tokens: Vec<String> =
        ids.iter().map(|&id| tokenizer.token_text(id).escape_debug().to_string()).collect();
    page.tokens(&tokens, &routing)?;
    for layer in &routing {
        page.load(layer)?;
    }
    if args.leaks {
        let lens = prefix_lens(ids.len());
        let leaks = find_leaks(&session.model, ops, &mut workspace, &ids, &lens, session.moe)?;
        page.leaks(&tokens, leaks)?;
        if lens.len() + 1 < ids.len() {
            let (looked, all) = (lens.len(), ids.len() - 1);
            writeln!(
                page.out,
                "compared with {looked} of its {all} prefixes, evenly spaced: there may be more"
            )?;
        }
    }
    Ok(())
}

/// `LAYER:HEAD` as typed.
fn chosen_head(text: &str, config: &ModelConfig) -> Result<(usize, usize)> {
    let (num_layers, num_heads) = (config.num_layers, config.num_heads);
    let parsed =
        text.split_once(':').and_then(|(layer, head)| Some((layer.parse().ok()?, head.parse().ok()?)));
    parsed.filter(|&(layer, head): &(usize, usize)| layer < num_layers && head < num_heads).ok_or_else(|| {
        Error::Usage(format!(
            "--attention is {text}, expected LAYER:HEAD with a layer below {num_layers} and a head below {num_heads}"
        ))
    })
}

/// All proper prefixes of a short text, some of a long one.
fn prefix_lens(num_tokens: usize) -> Vec<usize> {
    let all = num_tokens - 1;
    let count = all.min(MOST_PREFIXES);
    (1..=count).map(|index| index * all / count).collect()
}

/// Where the tables go.
struct Page<'a> {
    out: io::StdoutLock<'a>,
    colors: bool,
}

impl Page<'_> {
    /// One line a token: the experts of each layer with the weight of their output.
    fn tokens(&mut self, tokens: &[String], routing: &[LayerRouting]) -> io::Result<()> {
        let width = tokens.iter().map(|token| token.chars().count()).max().unwrap_or(0).max(5);
        let cell = routing.iter().map(|layer| layer.num_experts_per_token * 9).max().unwrap_or(0).max(9);
        write!(self.out, "{:width$}", "token")?;
        for layer in routing {
            write!(self.out, "  {:cell$}", format!("layer {}", layer.layer))?;
        }
        writeln!(self.out)?;
        for (at, token) in tokens.iter().enumerate() {
            write!(self.out, "{token:width$}")?;
            for layer in routing {
                write!(self.out, "  ")?;
                let k = layer.num_experts_per_token;
                for choice in at * k..(at + 1) * k {
                    let expert = layer.expert_ids[choice];
                    let text = if layer.slots[choice] < 0 {
                        format!("{expert:>3} drop ")
                    } else {
                        format!("{expert:>3} {:.2} ", layer.expert_weights[choice])
                    };
                    self.colored(expert, &text)?;
                }
                write!(self.out, "{:1$}", "", cell - k * 9)?;
            }
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// One line an expert: how many assignments it was chosen for, and how many it dropped.
    fn load(&mut self, layer: &LayerRouting) -> io::Result<()> {
        let (chosen, kept) = (layer.chosen_per_expert(), layer.kept_per_expert());
        let all: i32 = chosen.iter().sum();
        let largest = chosen.iter().copied().max().unwrap_or(0).max(1);
        let mode = match layer.capacity {
            Some(capacity) => format!("capacity {capacity} each, {} dropped", layer.num_dropped()),
            None => "dropless".to_owned(),
        };
        writeln!(self.out, "\nlayer {}: {all} assignments, {mode}", layer.layer)?;
        for (expert, (&chosen, &kept)) in chosen.iter().zip(&kept).enumerate() {
            let share = 100.0 * f64::from(chosen) / f64::from(all.max(1));
            write!(self.out, "expert {expert:>3}  {chosen:>5}  {share:5.1}%  ")?;
            let bar = "#".repeat((chosen as usize * BAR).div_ceil(largest as usize));
            self.colored(expert as i32, &bar)?;
            let dropped = chosen - kept;
            if dropped > 0 {
                write!(self.out, "  {dropped} dropped")?;
            }
            writeln!(self.out)?;
        }
        writeln!(self.out, "auxiliary loss {:.4}, z loss {:.4}", layer.aux_loss, layer.z_loss)
    }

    /// Where a token's routing depends on what comes after it.
    fn leaks(&mut self, tokens: &[String], mut leaks: Vec<Leak>) -> io::Result<()> {
        writeln!(self.out)?;
        // The longest prefix that still differs names the token that made the change.
        leaks
            .sort_by_key(|leak| (leak.layer, leak.position, leak.expert, std::cmp::Reverse(leak.prefix_len)));
        leaks.dedup_by_key(|leak| (leak.layer, leak.position, leak.expert));
        if leaks.is_empty() {
            return writeln!(self.out, "no leaks: no token's routing depends on a later token");
        }
        for leak in leaks.iter().take(MOST_LEAKS) {
            let say = |weight: f32| {
                if weight == 0.0 { "dropped".to_owned() } else { format!("weight {weight:.2}") }
            };
            writeln!(
                self.out,
                "layer {}, token {} \"{}\", expert {}: {} before token {} \"{}\", {} with all {}",
                leak.layer,
                leak.position,
                tokens[leak.position],
                leak.expert,
                say(leak.weight_in_prefix),
                leak.prefix_len,
                tokens[leak.prefix_len],
                say(leak.weight),
                tokens.len(),
            )?;
        }
        if leaks.len() > MOST_LEAKS {
            writeln!(self.out, "and {} more", leaks.len() - MOST_LEAKS)?;
        }
        writeln!(self.out, "{} assignments depend on later tokens", leaks.len())
    }

    /// Text in the colour of an expert, where there are colours.
    fn colored(&mut self, expert: i32, text: &str) -> io::Result<()> {
        // Of the terminal's 256 colours, ones that are apart and readable on light and dark.
        const PALETTE: [u8; 12] = [33, 166, 35, 161, 98, 136, 37, 202, 70, 127, 61, 244];
        if self.colors {
            let color = PALETTE[expert as usize % PALETTE.len()];
            write!(self.out, "\x1b[38;5;{color}m{text}\x1b[0m")
        } else {
            write!(self.out, "{text}")
        }
    }
}
