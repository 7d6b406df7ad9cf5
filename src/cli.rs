//! Arguments as typed become options once, here; each command is a function of its options.

mod bench;
mod generate;
mod info;
mod kernels;
mod logits;
mod loss;
mod output;
mod profile;
mod routing;
mod session;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nanomoe::model::MoeMode;
use nanomoe::tensor::DType;

use nanomoe::error::printable;
use output::{Failure, tell};

/// The forward pass of GPT and Mixture-of-Experts language models.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a text
    Generate(GenerateArgs),
    /// Run ids from a safetensors file, and write logits and what else is asked for to another
    Logits(LogitsArgs),
    /// How well a model predicts a text: nats a token, bits a byte, perplexity
    Loss(LossArgs),
    /// Which experts each token is sent to
    Routing(RoutingArgs),
    /// Compare a model with what another program computed: a folder with golden.safetensors
    Verify(VerifyArgs),
    /// The shape, parameters and memory of a model
    Info(ModelArgs),
    /// The compiled kernels and what they need
    Kernels(KernelsArgs),
    /// What the kernels of an operation do and move, counted on the virtual GPU
    Profile(ProfileArgs),
    /// How long the kernels take, and how that compares
    Bench(BenchArgs),
}

/// What every command that runs a model takes.
#[derive(Args, Default)]
struct ModelArgs {
    /// Folder with config.json and model.safetensors [default: the model of this repository]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// What runs the model [default: cuda where a GPU answers, else cpu]
    #[arg(long)]
    device: Option<DeviceName>,
    /// Type of matrices and activations [default: f32 on cpu and for verify and logits, else bf16]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<DTypeName>,
    /// Whether an expert that is full drops tokens [default: dropless for generate, else capacity]
    #[arg(long, value_name = "MODE")]
    moe: Option<MoeName>,
    /// Look for NaN and infinity in the weights before running
    #[arg(long)]
    check_weights: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceName {
    Cuda,
    Virtual,
    Cpu,
}

#[derive(Clone, Copy, ValueEnum)]
enum DTypeName {
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, ValueEnum)]
enum MoeName {
    Capacity,
    Dropless,
}

#[derive(Args)]
struct GenerateArgs {
    /// The beginning [default: the end-of-text token alone]
    prompt: Option<String>,
    /// Most tokens to add
    #[arg(long, value_name = "N", default_value_t = 200, allow_negative_numbers = true)]
    max_tokens: usize,
    /// Divides the logits; 0 always takes the most likely token
    #[arg(long, value_name = "F", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f32,
    /// Choose among the N most likely tokens only; 0 for all
    #[arg(long, value_name = "N", default_value_t = 200, allow_negative_numbers = true)]
    top_k: usize,
    /// Choose among the fewest tokens that have this probability together
    #[arg(long, value_name = "F", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Choose among the tokens at least F times as probable as the most probable one only
    #[arg(long, value_name = "F", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
    /// Makes tokens that were there before less likely; 1 for no penalty
    #[arg(long, value_name = "F", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 1337, allow_negative_numbers = true)]
    seed: u64,
    /// A file of prompts, a line of JSON each (a string, or an object with `prompt`), `-` for standard input; a line of
    /// JSON comes out for each text
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// Texts from each prompt
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    num_samples: usize,
    /// Texts that are made at a time
    #[arg(long, value_name = "N", default_value_t = 32, allow_negative_numbers = true)]
    max_batch: usize,
    /// End a text before this string; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Give the logarithm of each token's probability too
    #[arg(long)]
    logprobs: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Args)]
struct LogitsArgs {
    /// File with input_ids, int64 [batch, seq], and perhaps targets of the same shape (-1 is not scored)
    #[arg(long, value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write
    #[arg(long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Logits of the last position only, as last_logits
    #[arg(long)]
    last: bool,
    /// Also hidden_states and final_norm
    #[arg(long)]
    hidden_states: bool,
    /// Also everything the routers decided
    #[arg(long)]
    routing: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Args)]
struct LossArgs {
    /// UTF-8 text
    #[arg(value_name = "FILE.txt")]
    file: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Args)]
struct RoutingArgs {
    /// The text whose tokens are routed
    #[arg(
        default_value = "Once upon a time there was a king who had a daughter, and she was very beautiful."
    )]
    text: String,
    /// Show where a later token changed an earlier one, which capacity mode allows
    #[arg(long)]
    leaks: bool,
    /// Also write a page for a browser: tokens by expert, load by layer, the attention of a head
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Whose attention the page shows
    #[arg(long, value_name = "LAYER:HEAD", default_value = "0:0", requires = "html")]
    attention: String,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Args)]
struct VerifyArgs {
    /// Folder with golden.safetensors, and the model unless --model names another
    dir: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Args)]
struct KernelsArgs {
    /// Fail where a kernel exceeds its budget, spills, uses local memory, or lacks wgmma or TMA, or where ptxas
    /// serialised wgmma
    #[arg(long)]
    check: bool,
    /// Also what each may use of a multiprocessor, how often a named shape fills the GPU, and what bounds it
    #[arg(long)]
    budgets: bool,
}

#[derive(Args)]
struct ProfileArgs {
    /// As `nanomoe bench` names them: gemm, attention, layer_norm, topk_gating, moe_gemm, ...
    op: String,
    /// Sizes in the operation's order, and after a colon what is fused: 1024x768x768:residual
    shape: String,
    /// Also every source line
    #[arg(long)]
    lines: bool,
    /// Where a GPU has more than one set of kernels, the portable ones
    #[arg(long)]
    portable: bool,
    /// Type of matrices and activations [default: bf16]
    #[arg(long)]
    dtype: Option<DTypeName>,
}

#[derive(Args)]
struct BenchArgs {
    /// gemm, mlp, attention, layer_norm, embedding, router_logits, topk_gating, moe_dispatch, moe_gemm, moe_combine,
    /// moe_layer, lm_head, sampling, forward [default: all]; or generate: tokens/s of a model, --shape BATCH
    op: Option<String>,
    /// One shape of each operation and gate
    #[arg(long)]
    quick: bool,
    /// Sizes in the operation's order, and after a colon what is fused: 1024x768x768:residual; again for more
    #[arg(long, value_name = "SHAPE")]
    shape: Vec<String>,
    /// cuda, or virtual: small shapes, answers checked, nothing timed [default: cuda]; generate takes cpu too
    #[arg(long)]
    device: Option<DeviceName>,
    /// Folder of the model that generates
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// File for everything measured, written anew after each line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder for roofline.svg, and with --compare bars.svg
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Table of ratios from files of ours and of benches/peers.py; exit code 1 where a gate is missed
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["op", "shape", "json"])]
    compare: Vec<PathBuf>,
    /// Leave out what the --json file has already
    #[arg(long, requires = "json")]
    resume: bool,
    /// Begin no line after this; exit code 3 where lines are left
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
    /// Print the shapes as JSON, a line each, instead of measuring them
    #[arg(long)]
    list: bool,
    /// Measure each `OP SHAPE` of standard input, again and again if asked, and answer with a line of JSON
    #[arg(long, conflicts_with_all = ["op", "shape", "json", "svg", "compare", "list"])]
    serve: bool,
}

impl From<DTypeName> for DType {
    fn from(name: DTypeName) -> Self {
        match name {
            DTypeName::F32 => DType::F32,
            DTypeName::Bf16 => DType::BF16,
            DTypeName::F16 => DType::F16,
        }
    }
}

impl From<MoeName> for MoeMode {
    fn from(name: MoeName) -> Self {
        match name {
            MoeName::Capacity => MoeMode::Capacity,
            MoeName::Dropless => MoeMode::Dropless,
        }
    }
}

/// Runs the command on the command line. Exit codes: 0 done, 1 failed, 2 used wrongly, 3 out of the time allowed,
/// 130 interrupted.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return explain(&error),
    };
    let done = match command {
        Command::Generate(args) => generate::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Loss(args) => loss::run(&args),
        Command::Routing(args) => routing::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match done {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Found) => ExitCode::FAILURE,
        Err(Failure::OutOfTime) => ExitCode::from(3),
        Err(Failure::Interrupted) => ExitCode::from(130),
        Err(Failure::Error(error)) => {
            tell(format_args!("error: {}", printable(&error.to_string())));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help and the version where they were asked for; what is wrong with the command line, in one line.
fn explain(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        // clap's help has colours in a terminal; nobody may be reading it.
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        }
        _ => {
            tell(printable(&one_line(&error.to_string())));
            ExitCode::from(2)
        }
    }
}

/// The sentences of clap's message, without its usage and its pointer to help.
fn one_line(message: &str) -> String {
    let paragraphs = message.split("\n\n").map(|paragraph| {
        paragraph.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    });
    let said = paragraphs.filter(|paragraph| {
        !paragraph.is_empty()
            && !paragraph.starts_with("Usage:")
            && !paragraph.starts_with("For more information")
    });
    said.collect::<Vec<_>>().join("; ")
}
