//! Prints the table of planted bugs and what caught each: `cargo run --release -p virtual-gpu --example planted_bugs`.

#[path = "../tests/planted/mod.rs"]
mod planted;
#[path = "../tests/support/mod.rs"]
mod support;

fn main() -> std::process::ExitCode {
    let mut caught = 0;
    for bug in planted::BUGS {
        let verdict = planted::judge(bug);
        caught += usize::from(verdict.caught);
        let name = format!("{}_{}", bug.family, bug.variant);
        let mark = if verdict.caught { "caught" } else { "MISSED" };
        println!("{mark}  {name:<16} {:<68} {}", bug.what, verdict.how);
    }
    let alarms = planted::false_alarms(1000);
    alarms.iter().for_each(|alarm| println!("false alarm: {alarm}"));
    let total = planted::BUGS.len();
    println!("caught {caught} of {total}, false alarms {} of 1000", alarms.len());
    std::process::ExitCode::from(u8::from(caught != total || !alarms.is_empty()))
}
