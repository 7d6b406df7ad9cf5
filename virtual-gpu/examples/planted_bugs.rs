//! Prints the table of planted bugs and what caught each: `cargo run --release -p virtual-gpu --example planted_bugs`.
//! Names of kernel families after `--` restrict it to these.

#[path = "../tests/planted/mod.rs"]
mod planted;
#[path = "../tests/support/mod.rs"]
mod support;

fn main() -> std::process::ExitCode {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let chosen = |family: &str| only.is_empty() || only.iter().any(|name| name == family);
    let bugs: Vec<_> = planted::BUGS.iter().filter(|bug| chosen(bug.family)).collect();
    let families: Vec<_> = planted::FAMILIES.into_iter().filter(|family| chosen(family)).collect();
    let mut caught = 0;
    for bug in &bugs {
        let verdict = planted::judge(bug);
        caught += usize::from(verdict.caught);
        let name = format!("{}_{}", bug.family, bug.variant);
        let mark = if verdict.caught { "caught" } else { "MISSED" };
        println!("{mark}  {name:<16} {:<68} {}", bug.what, verdict.how);
    }
    let alarms = planted::false_alarms(&families, 1000);
    alarms.iter().for_each(|alarm| println!("false alarm: {alarm}"));
    let total = bugs.len();
    println!("caught {caught} of {total}, false alarms {} of 1000", alarms.len());
    std::process::ExitCode::from(u8::from(caught != total || !alarms.is_empty()))
}
