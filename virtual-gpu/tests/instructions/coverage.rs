//! Nothing that the decoder knows is without a test: every word in its sources (names of instructions, modifiers, types,
//! state spaces, special registers, directives) occurs in a kernel whose results a test compares.

use crate::harness::{HEAD, opcodes, words};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The kernels of the tables here.
fn tables() -> Vec<String> {
    let cases = [
        crate::integer::cases(),
        crate::compare::cases(),
        crate::float::cases(),
        crate::convert::cases(),
        crate::special::cases(),
        crate::memory::cases(),
    ];
    let programs = [crate::warp::programs(), crate::control::programs(), crate::asynchronous::programs()];
    let cases = cases.into_iter().flatten().map(|c| HEAD.to_string() + &c.kernel(0));
    cases.chain(programs.into_iter().flatten().map(|p| p.text())).collect()
}

fn texts_in(folder: &str, chosen: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(folder).expect("a folder").map(|f| f.expect("a file").path());
    let mut files: Vec<PathBuf> = files.filter(|f| chosen(&f.to_string_lossy())).collect();
    files.sort();
    files.iter().map(|f| std::fs::read_to_string(f).expect("a text")).collect()
}

/// The programs whose results tests/corpus compares, and the kernels that tests/hardware compares with plain loops.
fn elsewhere() -> Vec<String> {
    let mut all = texts_in("tests/ptx", |name| name.ends_with(".ptx") && !name.contains("planted"));
    all.extend(texts_in("tests/hardware", |name| name.ends_with(".ptx")));
    // What is refused, and what ends a launch.
    all.extend(texts_in("tests/device", |name| name.ends_with(".rs")));
    all
}

/// The string literals of a source that could be words of PTX. Comments, messages and formats have blanks or signs.
fn literals(source: &str, into: &mut BTreeSet<String>) {
    for line in source.lines() {
        let code = line.split("//").next().unwrap_or_default();
        // Every other piece between quotation marks.
        into.extend(code.split('"').skip(1).step_by(2).map(String::from));
    }
}

#[test]
fn every_word_of_the_decoder_is_tested() {
    let mut known = BTreeSet::new();
    for source in texts_in("src/decode", |name| name.ends_with(".rs") && !name.ends_with("program.rs")) {
        literals(&source, &mut known);
    }
    let is_word = |w: &String| {
        !w.is_empty()
            && w.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
            && !w.starts_with('_')
            && !w.ends_with(':')
    };
    known.retain(is_word);
    assert!(known.len() > 250, "only {} words: is this still how the decoder is written?", known.len());
    let mut tested = BTreeSet::new();
    tables().iter().chain(&elsewhere()).for_each(|text| words(text, &mut tested));
    let missing: Vec<&String> = known.difference(&tested).collect();
    assert!(missing.is_empty(), "{} of {} words have no test: {missing:?}", missing.len(), known.len());
}

#[test]
fn opcodes_are_counted() {
    let mut tested = BTreeSet::new();
    tables().iter().for_each(|text| opcodes(text, &mut tested));
    let names: BTreeSet<&str> = tested.iter().filter_map(|o| o.split('.').next()).collect();
    // The number in the README.
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a README");
    let line = format!("{} opcodes of {} instructions", tested.len(), names.len());
    assert!(readme.contains(&line), "the README should say: {line}");
}

/// NVIDIA's assembler agrees that all of this is PTX: `PTXAS=…/ptxas cargo test --test instructions -- --ignored`.
#[test]
#[ignore = "needs ptxas, named by PTXAS"]
fn ptxas_accepts_the_tables() {
    let ptxas = std::env::var("PTXAS").expect("PTXAS names ptxas");
    let folder = std::env::temp_dir();
    let (mut refused, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for text in tables() {
        let mut here = BTreeSet::new();
        opcodes(&text, &mut here);
        if here.is_subset(&seen) {
            continue;
        }
        let path = folder.join(format!("instructions-{}.ptx", std::process::id()));
        std::fs::write(&path, &text).expect("a writable folder");
        let run =
            std::process::Command::new(&ptxas).args(["-arch=sm_90a", "-o", "/dev/null"]).arg(&path).output();
        let run = run.expect("ptxas runs");
        seen.extend(here);
        if run.status.success() {
            continue;
        }
        for message in String::from_utf8_lossy(&run.stderr).lines() {
            // `ptxas FILE, line N; error   : WHAT`
            if let Some((place, what)) = message.split_once("; error   : ") {
                let line = place.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(1);
                let line = text.lines().nth(line - 1).unwrap_or_default();
                // Text that only later architectures have is decoded as well.
                if !what.contains("requires .target sm_100") && !what.contains("256 bit") {
                    refused.insert(format!("{line} {what}"));
                }
            }
        }
    }
    let refused: Vec<String> = refused.into_iter().collect();
    assert!(refused.is_empty(), "{} refused:\n{}", refused.len(), refused.join("\n"));
}
