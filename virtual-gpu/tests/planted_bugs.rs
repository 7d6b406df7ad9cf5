//! Every planted bug is caught by what must catch it, and the correct kernels raise no false alarm.

#[path = "planted/mod.rs"]
mod planted;
#[path = "support/mod.rs"]
mod support;

#[test]
fn every_planted_bug_is_caught() {
    let missed: Vec<String> = planted::BUGS
        .iter()
        .filter_map(|bug| {
            let verdict = planted::judge(bug);
            (!verdict.caught)
                .then(|| format!("{}_{}, {}: {}", bug.family, bug.variant, bug.what, verdict.how))
        })
        .collect();
    assert!(planted::BUGS.len() >= 50);
    assert!(missed.is_empty(), "{} of {} missed:\n{}", missed.len(), planted::BUGS.len(), missed.join("\n"));
}

#[test]
fn correct_kernels_raise_no_false_alarm() {
    let bad = planted::false_alarms(&planted::FAMILIES, 1000);
    assert!(bad.is_empty(), "{} false alarms, the first:\n{}", bad.len(), bad[0]);
}
