//! The README says what is: its transcript, its commands, its example, its map of folders.

use std::process::Command;

use libtest_mimic::{Failed, Trial};

use crate::common::repository;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("readme::transcript", transcript),
        Trial::test("readme::commands", commands),
        Trial::test("readme::example", example),
        Trial::test("readme::folders", folders),
    ]
}

fn readme() -> Result<String, Failed> {
    Ok(std::fs::read_to_string(repository("README.md"))?)
}

fn nanomoe(args: &[&str]) -> Result<String, Failed> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_nanomoe")).args(args).current_dir(repository(".")).output()?;
    if !output.status.success() {
        return Err(format!("nanomoe {args:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The command that the README shows, and the words of the text below it.
fn shown(text: &str) -> Option<(&str, Vec<&str>)> {
    let (_, rest) = text.split_once("    $ cargo run --release -- ")?;
    let (command, rest) = rest.split_once('\n')?;
    let words =
        rest.lines().take_while(|line| line.starts_with("    ")).flat_map(str::split_whitespace).collect();
    Some((command, words))
}

/// Another CPU may round a logit otherwise and go another way late in the text, so the first twelve words count.
fn transcript() -> Result<(), Failed> {
    let text = readme()?;
    let (command, words) = shown(&text).ok_or("no transcript")?;
    let mut args = Vec::new();
    for (i, part) in command.split('"').enumerate() {
        match i % 2 {
            1 => args.push(part),
            _ => args.extend(part.split_whitespace()),
        }
    }
    let printed = nanomoe(&args)?;
    let printed: Vec<&str> = printed.split_whitespace().take(12).collect();
    match words.get(..12) {
        Some(first) if first == printed => Ok(()),
        _ => Err(format!("{args:?} printed {printed:?}, the README says {words:?}").into()),
    }
}

/// Every command listed is one, and says so itself.
fn commands() -> Result<(), Failed> {
    let text = readme()?;
    let listed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("    nanomoe ")?.split_whitespace().next())
        .collect();
    if listed.len() < 8 {
        return Err(format!("only {listed:?}").into());
    }
    listed.into_iter().try_for_each(|command| nanomoe(&[command, "--help"]).map(|_| ()))
}

/// The example is the file that is compiled.
fn example() -> Result<(), Failed> {
    let text = readme()?;
    let (_, rest) = text.split_once("```rust\n").ok_or("no example")?;
    let (code, _) = rest.split_once("```").ok_or("the example has no end")?;
    if code != std::fs::read_to_string(repository("examples/embed.rs"))? {
        return Err("the README's example is not examples/embed.rs".into());
    }
    Ok(())
}

/// Every path in the map of folders exists.
fn folders() -> Result<(), Failed> {
    let text = readme()?;
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split('|').nth(1))
        .collect();
    if rows.is_empty() {
        return Err("no map of folders".into());
    }
    for path in rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2)) {
        if !repository(path).exists() {
            return Err(format!("{path} does not exist").into());
        }
    }
    Ok(())
}
