//! Any case at all: shapes that nobody thought of.

use libtest_mimic::Failed;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::Layout;

/// How far a property looks: so many cases, no dimension beyond `most` but where an operation says so.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    pub cases: u32,
    pub most: usize,
}

/// Runs the cases of `strategy`, the same at every run, and names the smallest that fails.
pub fn for_any<C: std::fmt::Debug>(
    reach: Reach,
    strategy: impl Strategy<Value = C>,
    run: impl Fn(C) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let config = Config { cases: reach.cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let found = TestRunner::new_with_rng(config, rng).run(&strategy, |case| {
        run(case).map_err(|failed| TestCaseError::fail(failed.message().unwrap_or("failed").to_owned()))
    });
    found.map_err(|error| match error {
        TestError::Fail(reason, case) => format!("{reason}; the smallest such case is {case:?}").into(),
        TestError::Abort(reason) => format!("no cases: {reason}").into(),
    })
}

/// Any way for rows to lie.
pub fn any_layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Dense), Just(Layout::Strided), Just(Layout::Unaligned)]
}
