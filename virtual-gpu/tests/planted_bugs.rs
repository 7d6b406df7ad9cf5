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

/// What nothing orders is a race whichever comes first.
#[test]
fn races_between_streams_are_found_in_every_order() {
    for bug in planted::BUGS.iter().filter(|bug| bug.family == "two_streams") {
        for order in planted::ORDERS {
            let out = planted::run(bug, order);
            let found = out.findings.iter().any(|f| f.kind == virtual_gpu::Kind::GlobalRace);
            assert!(found, "{}_{}, {order:?}", bug.family, bug.variant);
        }
    }
}

#[test]
fn correct_kernels_raise_no_false_alarm() {
    let bad = planted::false_alarms(&planted::FAMILIES, 1000);
    assert!(bad.is_empty(), "{} false alarms, the first:\n{}", bad.len(), bad[0]);
}
