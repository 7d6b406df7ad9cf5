//! How to run and what to check.

/// In which order things that no synchronisation orders happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// Asynchronous work is done at once; warps and CTAs run in order.
    #[default]
    Eager,
    /// Asynchronous work is done at the last legal moment; warps run in reverse order.
    Lazy,
    /// Both at random; the same seed gives the same run.
    Random(u64),
}

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checks {
    /// Everything.
    #[default]
    All,
    /// Addresses and misuse only: no races, no undefined values.
    Bounds,
    /// Only what would corrupt the virtual GPU itself (addresses), fatal.
    None,
}

/// Options of a virtual GPU; they may be changed between launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Schedule.
    pub order: Order,
    /// Checks.
    pub checks: Checks,
    /// CPU threads for the CTAs of kernels that do not talk to each other; 0 is one for each core.
    pub threads: usize,
    /// Warp instructions without any progress (store, barrier, exit) after which a launch is given up.
    pub patience: u64,
    /// Warp instructions in all after which a launch is given up.
    pub limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { order: Order::Eager, checks: Checks::All, threads: 1, patience: 100_000_000, limit: u64::MAX }
    }
}
