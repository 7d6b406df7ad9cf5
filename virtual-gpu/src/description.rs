//! What device is simulated.

/// Limits and properties of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Name.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub num_sms: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Shared memory of a multiprocessor in bytes.
    pub shared_per_sm: u32,
    /// Shared memory of a CTA without opting in, in bytes.
    pub shared_per_cta: u32,
    /// Shared memory of a CTA that opts in, in bytes.
    pub shared_per_cta_optin: u32,
    /// 32-bit registers of a multiprocessor (and of a CTA).
    pub registers_per_sm: u32,
    /// Threads of a multiprocessor.
    pub threads_per_sm: u32,
    /// Threads of a CTA.
    pub threads_per_cta: u32,
    /// CTAs of a multiprocessor.
    pub ctas_per_sm: u32,
    /// CTAs of a cluster that every kernel may ask for.
    pub max_cluster: u32,
    /// CTAs of a cluster that a kernel allowed non-portable sizes may ask for.
    pub max_cluster_nonportable: u32,
    /// L2 cache in bytes.
    pub l2_bytes: u32,
    /// Clock in kHz, as a driver reports it.
    pub clock_khz: u32,
}

impl Description {
    /// An H200 SXM.
    pub fn h200() -> Self {
        Self {
            name: "Virtual H200".into(),
            compute_capability: (9, 0),
            num_sms: 132,
            // 141 GB of HBM3e; this much is nvidia-smi's total.
            memory_bytes: 143_771 << 20,
            shared_per_sm: 228 << 10,
            shared_per_cta: 48 << 10,
            shared_per_cta_optin: 227 << 10,
            registers_per_sm: 65536,
            threads_per_sm: 2048,
            threads_per_cta: 1024,
            ctas_per_sm: 32,
            max_cluster: 8,
            max_cluster_nonportable: 16,
            l2_bytes: 50 << 20,
            clock_khz: 1_980_000,
        }
    }

    /// CTAs of so many threads, bytes of shared memory and registers a thread that one multiprocessor holds
    /// at once; 0 where not even one fits. Registers that are not known do not limit it.
    pub fn resident_ctas(&self, threads: u32, shared_bytes: u32, registers: Option<u32>) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        // A kilobyte of each CTA's shared memory is the system's.
        let by_shared = self.shared_per_sm / (shared_bytes + 1024);
        let by_registers = registers.map_or(u32::MAX, |count| {
            // A warp's registers come in units of 256, from those of one of the four partitions.
            let of_warp = (count.max(1) * 32).next_multiple_of(256);
            if of_warp * warps.next_multiple_of(4) > self.registers_per_sm {
                return 0;
            }
            self.registers_per_sm / 4 / of_warp * 4 / warps
        });
        (self.threads_per_sm / (32 * warps)).min(by_shared).min(self.ctas_per_sm).min(by_registers)
    }

    /// An A100 SXM.
    pub fn a100() -> Self {
        Self {
            name: "Virtual A100".into(),
            compute_capability: (8, 0),
            num_sms: 108,
            memory_bytes: 80 << 30,
            shared_per_sm: 164 << 10,
            shared_per_cta_optin: 163 << 10,
            l2_bytes: 40 << 20,
            clock_khz: 1_410_000,
            max_cluster: 1,
            max_cluster_nonportable: 1,
            ..Self::h200()
        }
    }
}

impl Default for Description {
    fn default() -> Self {
        Self::h200()
    }
}
