//! The program `virtual-gpu`: its exit codes, its reports, and the README's transcripts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn run(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_virtual-gpu"))
        .args(line.split_whitespace())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

const ROW_SUMS: &str = "--grid 3 --block 128 --buffer x=f32:600:random:7 --buffer sums=f32:3:undefined \
                        --arg ptr:x --arg ptr:sums --arg i32:200";

fn row_sums(variant: u32, more: &str) -> Output {
    run(&format!("run tests/ptx/planted_simple.sm_80.ptx row_sums_{variant} {ROW_SUMS} {more}"))
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn a_correct_kernel_exits_with_0_and_saves_its_result() {
    let (input, output) = (scratch("ones.bin"), scratch("sums.bin"));
    std::fs::write(&input, 1f32.to_le_bytes().repeat(600)).expect("scratch");
    let line = format!(
        "run tests/ptx/planted_simple.sm_80.ptx row_sums_0 --grid 3 --block 128 --buffer x=f32:600:file:{} \
         --buffer sums=f32:3:undefined --arg ptr:x --arg ptr:sums --arg i32:200 --save sums={}",
        input.display(),
        output.display()
    );
    for order in ["eager", "lazy", "random --seed 5"] {
        let out = run(&format!("{line} --order {order}"));
        assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
        assert_eq!(std::fs::read(&output).expect("saved"), 200f32.to_le_bytes().repeat(3));
    }
    let out = row_sums(0, "--order random --seed 5");
    assert_eq!(text(&out.stdout), "row_sums_0: no findings (random order, seed 5)\n");
}

#[test]
fn findings_exit_with_1_and_name_kind_line_and_the_other_party() {
    let out = row_sums(1, "");
    assert_eq!(out.status.code(), Some(1));
    let report = text(&out.stdout);
    for part in
        ["race in shared memory", "row_sums_1, CTA (0, 0, 0)", "tests/cuda/planted_simple.cu:", "against"]
    {
        assert!(report.contains(part), "{part:?} is missing in\n{report}");
    }
    // An undefined byte in what is saved is a finding.
    let out = row_sums(10, &format!("--save sums={}", scratch("undefined.bin").display()));
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("undefined value used"));
    assert_eq!(row_sums(10, "").status.code(), Some(0), "nobody reads it");
    // Without the check for races the race is not reported.
    assert_eq!(row_sums(1, "--check bounds").status.code(), Some(0));
    assert_eq!(row_sums(2, "--check none").status.code(), Some(1), "out of bounds is always reported");
    // A launch beyond the device's limits.
    let out = row_sums(0, "--shared 300000");
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("launch failed"));
}

#[test]
fn threads_change_nothing_and_registers_are_held_against_the_device() {
    for order in ["--order eager", "--order random --seed 3"] {
        // Correct, racing and out of bounds.
        for variant in [0, 1, 2] {
            let line = format!(
                "run tests/ptx/planted_simple.sm_80.ptx row_sums_{variant} --grid 700 --block 128 --buffer \
                 x=f32:140000:random --buffer sums=f32:700:undefined --arg ptr:x --arg ptr:sums --arg i32:200 \
                 --counters --json {order}"
            );
            let one = run(&line);
            assert_eq!(one.status.code(), Some(i32::from(variant > 0)));
            for threads in [0, 3] {
                let many = run(&format!("{line} --threads {threads}"));
                assert_eq!(
                    (many.status, &many.stdout),
                    (one.status, &one.stdout),
                    "{variant} {order} {threads}"
                );
            }
        }
    }
    assert_eq!(row_sums(0, "--registers 255").status.code(), Some(0));
    let out = run(
        "run tests/ptx/planted_simple.sm_80.ptx row_sums_0 --grid 1 --block 512 --registers 255 --buffer \
                   x=f32:8:zeros --arg ptr:x --arg ptr:x --arg i32:1",
    );
    assert!(text(&out.stdout).contains("512 threads of 255 registers"), "{}", text(&out.stdout));
    assert_eq!(out.status.code(), Some(1));
}

#[test]
fn what_a_kernel_prints_goes_to_standard_output() {
    let line = "run tests/ptx/printing.sm_80.ptx some --grid 1 --block 32 --arg i32:4";
    let out = run(line);
    assert_eq!(out.status.code(), Some(0));
    let lines = ["five (nil)", "   0|0.33", "  16|0.33", "some: no findings (eager order)"];
    let mut printed: Vec<String> = text(&out.stdout).lines().map(str::to_string).collect();
    printed[..3].sort_unstable_by_key(|line| lines.iter().position(|l| l == line));
    assert_eq!(printed, lines);
    let json = text(&run(&format!("{line} --json")).stdout);
    assert!(json.contains(r#","printed":""#) && json.contains(r"  16|0.33\u000a"), "{json}");
}

#[test]
fn json_has_the_same_findings_and_counters() {
    let out = row_sums(2, "--json --counters");
    assert_eq!(out.status.code(), Some(1));
    let report = text(&out.stdout);
    assert_eq!(report.lines().count(), 1);
    for part in [
        r#"{"kernel":"row_sums_2","order":"eager","seed":null,"error":null,"findings":[{"kind":"out of bounds""#,
        r#""file":"tests/cuda/planted_simple.cu","line":"#,
        r#""cta":[2,0,0],"warp":2,"lane":8"#,
        r#""counters":[{"kernel":"row_sums_2","warp_instructions":"#,
    ] {
        assert!(report.contains(part), "{part} is missing in\n{report}");
    }
    let clean = text(&row_sums(0, "--json").stdout);
    let want =
        "{\"kernel\":\"row_sums_0\",\"order\":\"eager\",\"seed\":null,\"error\":null,\"findings\":[]}\n";
    assert_eq!(clean, want);
    // Three rows of 200 floats read, three floats written; every sector once.
    let counters = text(&row_sums(0, "--json --counters").stdout);
    assert!(counters.contains(r#""global_bytes":2412,"global_sectors":78"#), "{counters}");
}

#[test]
fn what_cannot_be_used_exits_with_2() {
    for (line, expected) in [
        ("", "usage"),
        ("walk", "unknown command"),
        ("run tests/ptx/none.ptx k --grid 1 --block 1", "none.ptx"),
        ("run tests/ptx/planted_simple.sm_80.ptx none --grid 1 --block 1", "no kernel \"none\""),
        ("run tests/ptx/planted_simple.sm_80.ptx scale_0 --grid 1 --block 1", "takes 3 arguments, got 0"),
        ("run tests/cuda/ptx.cuh k --grid 1 --block 1", "PTX line 2, column 1"),
        (
            "run tests/ptx/planted_simple.sm_80.ptx warp_reverse_0 --grid 1 --block 64 --arg i32:1 --arg i32:1",
            "argument 0 has 4 bytes, expected 8",
        ),
        (
            "run tests/ptx/planted_hopper.sm_90a.ptx tensor_0 --grid 1 --block 128 --buffer x=f32:64:zeros \
             --arg map:x,dims=8x8,box=3x3 --arg map:x,dims=8x8,box=8x8",
            "12 bytes is not a multiple of 16",
        ),
    ] {
        let out = run(line);
        assert_eq!(out.status.code(), Some(2), "{line}");
        assert!(text(&out.stderr).contains(expected), "{line}: {}", text(&out.stderr));
    }
    assert_eq!(run("--help").status.code(), Some(0));
}

/// Every `console` block of the README that runs the program shows what it prints.
#[test]
fn the_readme_shows_what_the_program_prints() {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README");
    let mut checked = 0;
    for block in readme.split("```console\n").skip(1) {
        let block = block.split("```").next().expect("a block");
        let Some(rest) = block.strip_prefix("$ virtual-gpu ") else { continue };
        // A command goes on after a backslash at a line's end.
        let mut command = String::new();
        let mut lines = rest.lines();
        for line in lines.by_ref() {
            command.push_str(line.trim_end_matches('\\'));
            command.push(' ');
            if !line.ends_with('\\') {
                break;
            }
        }
        let expected: Vec<&str> = lines.collect();
        let out = run(&command);
        assert_eq!(text(&out.stdout).trim_end(), expected.join("\n").trim_end(), "{command}");
        checked += 1;
    }
    assert!(checked >= 2, "{checked} transcripts");
}
