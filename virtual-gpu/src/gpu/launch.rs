//! Launches, held against the device's limits.

use super::module::{known_registers, registers};
use super::{Error, Function, Gpu, State, lock};
use crate::counters::Raw;
use crate::exec::Grid;
use crate::exec::engine::Engine;
use crate::stream::{Stream, Work};

/// How to launch a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads of a CTA.
    pub block: [u32; 3],
    /// CTAs of a cluster; `None` takes the kernel's own.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory in bytes.
    pub dynamic_shared_bytes: u32,
    /// All CTAs must be resident together.
    pub cooperative: bool,
    /// May begin before the kernel before it in the stream has ended (programmatic stream serialisation).
    pub programmatic_dependent: bool,
    /// The arguments' bytes, in the kernel's order.
    pub args: &'a [&'a [u8]],
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self {
            grid: [1; 3],
            block: [32, 1, 1],
            cluster: None,
            dynamic_shared_bytes: 0,
            cooperative: false,
            programmatic_dependent: false,
            args: &[],
        }
    }
}

impl Gpu {
    /// Launches a kernel.
    pub fn launch(&self, function: &Function, launch: &Launch<'_>, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let grid = Box::new(self.grid(&mut state, function, launch)?);
        self.enqueue(&mut state, stream, Work::Launch { grid, dependent: launch.programmatic_dependent })
    }

    pub(super) fn grid(
        &self,
        state: &mut State,
        function: &Function,
        launch: &Launch<'_>,
    ) -> Result<Grid, Error> {
        let (d, p) = (&self.description, &function.program);
        let invalid = |m: String| Err(Error::InvalidValue(format!("{}: {m}", p.name)));
        if launch.grid.contains(&0) || launch.block.contains(&0) {
            return invalid(format!(
                "grid {:?} and block {:?} must not contain 0",
                launch.grid, launch.block
            ));
        }
        if launch.grid[0] > i32::MAX as u32 || launch.grid[1] > 65535 || launch.grid[2] > 65535 {
            return invalid(format!("grid {:?} is above the limits", launch.grid));
        }
        let threads: u64 = launch.block.iter().map(|&x| u64::from(x)).product();
        if launch.block[2] > 64
            || launch.block[0] > 1024
            || launch.block[1] > 1024
            || threads > u64::from(d.threads_per_cta)
        {
            return invalid(format!("block {:?} has more than {} threads", launch.block, d.threads_per_cta));
        }
        if let Some(max) = p.max_threads
            && threads > max.iter().map(|&x| u64::from(x)).product()
        {
            return invalid(format!("{threads} threads, the kernel allows {max:?}"));
        }
        if let Some(required) = p.required_threads
            && launch.block != required
        {
            return invalid(format!("block {:?}, the kernel requires {required:?}", launch.block));
        }
        let settings = lock(&function.settings);
        let shared = u64::from(p.dynamic_shared_at) + u64::from(launch.dynamic_shared_bytes);
        let default = d.shared_per_cta.saturating_sub(p.static_shared);
        let allowed = settings.max_dynamic_shared.unwrap_or(default).max(default);
        if launch.dynamic_shared_bytes > allowed || shared > u64::from(d.shared_per_cta_optin) {
            return invalid(format!(
                "{} bytes of dynamic shared memory beside {} static ones; allowed are {allowed}",
                launch.dynamic_shared_bytes, p.static_shared
            ));
        }
        let known = known_registers(p, &settings);
        let fit = d.resident_ctas(threads as u32, shared as u32, known);
        if let (Some(registers), 0) = (known, fit) {
            let why = format!("{}: {threads} threads of {registers} registers", p.name);
            return Err(Error::OutOfResources(why));
        }
        let cluster = launch.cluster.or(p.required_cluster).unwrap_or([1; 3]);
        let size: u64 = cluster.iter().map(|&x| u64::from(x)).product();
        let most = if settings.nonportable_cluster { d.max_cluster_nonportable } else { d.max_cluster };
        if cluster.contains(&0) || size > u64::from(most) {
            return Err(Error::InvalidCluster(format!(
                "{}: cluster {cluster:?}, at most {most} CTAs",
                p.name
            )));
        }
        if size > u64::from(fit) * u64::from(d.num_sms) {
            return Err(Error::InvalidCluster(format!("{}: {size} CTAs do not fit at once", p.name)));
        }
        if p.required_cluster.is_some_and(|r| r != cluster) {
            return Err(Error::InvalidCluster(format!(
                "{}: cluster {cluster:?}, the kernel requires {:?}",
                p.name, p.required_cluster
            )));
        }
        if (0..3).any(|i| !launch.grid[i].is_multiple_of(cluster[i])) {
            return Err(Error::InvalidCluster(format!(
                "{}: grid {:?} is no multiple of cluster {cluster:?}",
                p.name, launch.grid
            )));
        }
        if launch.args.len() != p.parameters.len() {
            return invalid(format!("{} arguments, expected {}", launch.args.len(), p.parameters.len()));
        }
        let mut parameters = vec![0u8; p.parameter_bytes as usize];
        for (i, (arg, parameter)) in launch.args.iter().zip(&p.parameters).enumerate() {
            if arg.len() != parameter.bytes as usize {
                return invalid(format!(
                    "argument {i} has {} bytes, expected {}",
                    arg.len(),
                    parameter.bytes
                ));
            }
            parameters[parameter.offset as usize..][..arg.len()].copy_from_slice(arg);
        }
        state.launches += 1;
        let grid = Grid {
            program: p.clone(),
            grid: launch.grid,
            block: launch.block,
            cluster,
            dynamic_shared: launch.dynamic_shared_bytes,
            parameters,
            id: state.launches,
            next: 0,
            end: launch.grid.iter().zip(cluster).map(|(g, c)| u64::from(g / c)).product(),
            finished: 0,
            started: 0,
            counters: Raw::new(p),
            waits_for_others: false,
            traced: false,
            overlaps: Vec::new(),
            position: Default::default(),
            registers: registers(p, d, &settings),
            known_registers: known,
        };
        if launch.cooperative && grid.ctas() > Engine::capacity(&grid, d) {
            return Err(Error::CooperativeTooLarge(format!("{}: {} CTAs", p.name, grid.ctas())));
        }
        Ok(grid)
    }
}
