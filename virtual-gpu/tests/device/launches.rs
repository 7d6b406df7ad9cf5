//! The limits of a launch and their error codes.

use crate::{HEAD, kernel};
use virtual_gpu::{Description, Error, Gpu, Launch, Options, Stream};

fn launch(directives: &str, change: impl Fn(&mut Launch<'_>)) -> Result<(), Error> {
    let (gpu, function) = kernel(directives, "", Options::default());
    let out = gpu.alloc(64).expect("memory").to_le_bytes();
    let args: [&[u8]; 1] = [&out];
    let mut launch = Launch { args: &args, ..Launch::default() };
    change(&mut launch);
    gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize())
}

#[test]
fn what_fits_runs() {
    launch("", |_| {}).expect("the default");
    launch("", |l| l.block = [1024, 1, 1]).expect("1024 threads");
    launch("", |l| l.block = [4, 4, 64]).expect("64 in z");
    launch("", |l| l.dynamic_shared_bytes = 48 << 10).expect("48 KiB");
    launch("", |l| (l.grid, l.cluster) = ([8, 1, 1], Some([8, 1, 1]))).expect("a cluster of eight");
    launch(".reqntid 64", |l| l.block = [64, 1, 1]).expect("the block it requires");
    launch("", |l| (l.grid, l.cooperative) = ([264, 1, 1], true)).expect("as many as fit");
}

#[test]
fn what_is_beyond_the_limits_is_refused() {
    let refused =
        |directives: &str, change: fn(&mut Launch<'_>)| launch(directives, change).expect_err("too much");
    let value = |error: Error| matches!(error, Error::InvalidValue(_));
    assert!(value(refused("", |l| l.grid = [0, 1, 1])));
    assert!(value(refused("", |l| l.block = [0, 1, 1])));
    assert!(value(refused("", |l| l.grid = [1, 65536, 1])));
    assert!(value(refused("", |l| l.grid = [1, 1, 65536])));
    assert!(value(refused("", |l| l.grid = [1 << 31, 1, 1])));
    assert!(value(refused("", |l| l.block = [1025, 1, 1])));
    assert!(value(refused("", |l| l.block = [32, 33, 1])));
    assert!(value(refused("", |l| l.block = [1, 1, 65])));
    assert!(value(refused(".maxntid 64", |l| l.block = [96, 1, 1])));
    assert!(value(refused(".reqntid 64", |l| l.block = [32, 1, 1])));
    assert!(value(refused("", |l| l.dynamic_shared_bytes = (48 << 10) + 1)));
    assert!(value(refused("", |l| l.args = &[])));
    assert!(value(refused("", |l| l.args = &[&[0; 4]])));
    let cluster = |error: Error| matches!(error, Error::InvalidCluster(_));
    assert!(cluster(refused("", |l| (l.grid, l.cluster) = ([16, 1, 1], Some([16, 1, 1])))));
    assert!(cluster(refused("", |l| (l.grid, l.cluster) = ([3, 1, 1], Some([2, 1, 1])))));
    assert!(cluster(refused("", |l| l.cluster = Some([0, 1, 1]))));
    assert!(cluster(refused(".reqnctapercluster 2", |l| (l.grid, l.cluster) = ([4, 1, 1], Some([4, 1, 1])))));
    assert!(matches!(
        refused("", |l| (l.grid, l.block, l.cooperative) = ([265, 1, 1], [1024, 1, 1], true)),
        Error::CooperativeTooLarge(_)
    ));
    assert!(matches!(refused(".maxnreg 128", |l| l.block = [1024, 1, 1]), Error::OutOfResources(_)));
}

#[test]
fn opting_in_raises_limits() {
    let (gpu, function) = kernel("", "", Options::default());
    let out = gpu.alloc(64).expect("memory").to_le_bytes();
    let args: [&[u8]; 1] = [&out];
    let run = |bytes: u32, cluster: u32| {
        let launch = Launch {
            grid: [16, 1, 1],
            dynamic_shared_bytes: bytes,
            cluster: Some([cluster, 1, 1]),
            args: &args,
            ..Launch::default()
        };
        gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize())
    };
    run(227 << 10, 1).expect_err("not allowed yet");
    function.set_max_dynamic_shared(227 << 10);
    run(227 << 10, 1).expect("allowed");
    run((227 << 10) + 1, 1).expect_err("more than there is");
    run(0, 16).expect_err("not portable");
    function.allow_nonportable_cluster(true);
    run(0, 16).expect("allowed");
}

#[test]
fn another_device_has_other_limits() {
    let gpu = Gpu::new(Description::a100());
    let text = format!("{HEAD}.visible .entry k()\n{{\nret;\n}}\n");
    let function = gpu.load_module(&text).expect("PTX").function("k").expect("a kernel");
    let error = gpu.launch(&function, &Launch::default(), Stream::default()).expect_err("sm_90 on sm_80");
    assert!(matches!(error, Error::InvalidValue(_)), "{error}");
    let text = text.replace("sm_90a", "sm_80");
    let function = gpu.load_module(&text).expect("PTX").function("k").expect("a kernel");
    gpu.launch(&function, &Launch::default(), Stream::default()).expect("its own architecture");
    function.set_max_dynamic_shared(164 << 10);
    let launch = Launch { dynamic_shared_bytes: 164 << 10, ..Launch::default() };
    gpu.launch(&function, &launch, Stream::default()).expect_err("163 KiB are the most");
}

#[test]
fn memory_calls_are_checked() {
    let gpu = Gpu::new(Description::h200());
    let value = |r: Result<(), Error>| assert!(matches!(r, Err(Error::InvalidValue(_))), "{r:?}");
    assert_eq!(gpu.alloc(1 << 50), Err(Error::OutOfMemory));
    assert!(matches!(gpu.alloc(0), Err(Error::InvalidValue(_))));
    let a = gpu.alloc(100).expect("memory");
    gpu.write(a, &[1; 100]).expect("all of it");
    value(gpu.write(a + 1, &[1; 100]));
    value(gpu.read(a + 99, &mut [0; 2]));
    value(gpu.memset(a, 0, 101));
    value(gpu.copy(a, a + 60, 50));
    value(gpu.write(12345, &[1]));
    value(gpu.free(a + 4));
    gpu.free(a).expect("an allocation");
    value(gpu.write(a, &[1]));
    value(gpu.free(a));
    gpu.free(0).expect("nothing");
}

/// How a kernel ends decides the error, which stays until it is cleared.
#[test]
fn failures_have_their_codes() {
    for (body, error) in [
        ("trap;", Error::LaunchFailed),
        ("brkpt;", Error::LaunchFailed),
        ("st.global.u32 [%out+64], %r0;", Error::IllegalAddress),
        ("st.global.u32 [%out+2], %r0;", Error::MisalignedAddress),
        ("ld.shared.u32 %r1, [%r0];", Error::IllegalAddress),
        ("bar.sync 17;", Error::IllegalInstruction),
        ("LOOP:\nbra LOOP;", Error::Timeout),
        ("setp.eq.u32 %p1, %r0, 3;\n@%p1 bra END;\nbar.warp.sync 0x8;\nEND:", Error::IllegalInstruction),
    ] {
        let (gpu, function) = kernel("", body, Options { patience: 100_000, ..Options::default() });
        let address = gpu.alloc(64).expect("memory");
        let args: [&[u8]; 1] = [&address.to_le_bytes()];
        let launch = Launch { args: &args, ..Launch::default() };
        let ended = gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize());
        assert_eq!(ended, Err(error.clone()), "{body}");
        // As on a chip, every call fails from here on.
        assert_eq!(gpu.read(address, &mut [0]), Err(error.clone()), "{body}");
        assert_eq!(gpu.synchronize(), Err(error), "{body}");
        let findings = gpu.take_findings();
        assert!(findings.last().is_some_and(|f| f.fatal && f.kernel == "k"), "{body}: {findings:?}");
        gpu.memset(address, 0, 64).expect("the device is usable again");
        let _ = gpu.launch(&function, &launch, Stream::default()).map(|()| gpu.synchronize());
        assert!(!gpu.take_findings().is_empty(), "{body}: kernels run again");
    }
}
