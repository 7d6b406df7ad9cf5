//! The limits of a launch and their error codes.

use crate::{HEAD, kernel};
use virtual_gpu::{Description, Error, Gpu, Kind, Launch, Options, Stream};

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
    let text = text.replace("sm_90a", "sm_80");
    let function = gpu.load_module(&text).expect("PTX").function("k").expect("a kernel");
    gpu.launch(&function, &Launch::default(), Stream::default()).expect("its own architecture");
    function.set_max_dynamic_shared(164 << 10);
    let launch = Launch { dynamic_shared_bytes: 164 << 10, ..Launch::default() };
    gpu.launch(&function, &launch, Stream::default()).expect_err("163 KiB are the most");
}

/// PTX for a newer architecture, or for another one alone, is refused when it is loaded.
#[test]
fn ptx_of_another_architecture_is_refused() {
    let mut blackwell = Description::h200();
    blackwell.compute_capability = (10, 0);
    let mut newer = Description::h200();
    newer.compute_capability = (9, 1);
    for (device, target, runs) in [
        (Description::a100(), "sm_80", true),
        (Description::a100(), "sm_90", false),
        (Description::a100(), "sm_90a", false),
        (Description::h200(), "sm_80", true),
        (Description::h200(), "sm_90", true),
        (Description::h200(), "sm_90a", true),
        (Description::h200(), "sm_100", false),
        (newer, "sm_90a", false),
        (blackwell.clone(), "sm_90", true),
        (blackwell.clone(), "sm_90a", false),
        (blackwell.clone(), "sm_100f", true),
        (blackwell, "sm_103f", false),
    ] {
        let gpu = Gpu::new(device);
        let text = format!("{HEAD}.visible .entry k()\n{{\nret;\n}}\n").replace("sm_90a", target);
        let loaded = gpu.load_module(&text).map(|_| ()).map_err(Error::from);
        let why = format!("PTX for {target} does not run");
        match loaded {
            Ok(()) => assert!(runs, "{target}"),
            Err(Error::InvalidPtx(message)) => assert!(!runs && message.starts_with(&why), "{message}"),
            Err(other) => panic!("{other}"),
        }
    }
    let gpu = Gpu::new(Description::h200());
    let malformed = gpu.load_module("frob").map(|_| ()).map_err(Error::from);
    assert!(matches!(malformed, Err(Error::InvalidPtx(_))), "{malformed:?}");
}

/// Against the tables of NVIDIA's occupancy calculator for 65536 registers and 2048 threads.
#[test]
fn registers_limit_what_is_resident() {
    let (gpu, function) = kernel("", "", Options::default());
    let out = gpu.alloc(64).expect("memory").to_le_bytes();
    for (registers, threads, ctas) in [
        (32, 256, 8),
        (33, 256, 6),
        (40, 256, 6),
        (41, 256, 5),
        (64, 256, 4),
        (65, 256, 3),
        (128, 128, 4),
        (168, 384, 1),
        (255, 256, 1),
        (255, 32, 8),
        (16, 32, 32),
    ] {
        function.set_registers(registers);
        assert_eq!(gpu.occupancy(&function, threads, 0), ctas, "{registers} registers, {threads} threads");
        assert_eq!(gpu.attributes(&function).registers, registers);
        // A cooperative launch may have as many CTAs as are resident.
        for (more, fits) in [(0, true), (1, false)] {
            let launch = Launch {
                grid: [ctas * 132 + more, 1, 1],
                block: [threads, 1, 1],
                cooperative: true,
                args: &[&out],
                ..Launch::default()
            };
            let result = gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize());
            assert_eq!(result.is_ok(), fits, "{registers} {threads}: {result:?}");
        }
    }
    let launch = Launch { block: [512, 1, 1], args: &[&out], ..Launch::default() };
    function.set_registers(128);
    gpu.launch(&function, &launch, Stream::default()).expect("as many as there are");
    function.set_registers(129);
    let error = gpu.launch(&function, &launch, Stream::default()).expect_err("too many");
    assert!(matches!(error, Error::OutOfResources(_)), "{error}");
}

/// The pool that `setmaxnreg` draws on is what the launch took.
#[test]
fn setmaxnreg_goes_by_the_registers_of_the_launch() {
    let body = "setp.lt.u32 %p1, %r0, 128;\n@%p1 bra LESS;\nsetmaxnreg.inc.sync.aligned.u32 232;\nbra DONE;\nLESS:\n\
                setmaxnreg.dec.sync.aligned.u32 40;\nDONE:\nbar.sync 0;\n";
    for (registers, kind) in [(168, None), (160, Some(Kind::Deadlock)), (32, Some(Kind::SetMaxReg))] {
        let (gpu, function) = kernel(".maxntid 384", body, Options::default());
        function.set_registers(registers);
        let out = gpu.alloc(64).expect("memory").to_le_bytes();
        let launch = Launch { block: [384, 1, 1], args: &[&out], ..Launch::default() };
        gpu.launch(&function, &launch, Stream::default()).expect("a launch");
        gpu.synchronize().err();
        let found = gpu.take_findings().first().map(|f| f.kind);
        assert_eq!(found, kind, "{registers} registers");
    }
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
