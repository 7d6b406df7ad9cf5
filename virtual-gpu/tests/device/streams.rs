//! Streams, events, graphs and overlapping launches, in every order that they leave open.

use crate::HEAD;
use virtual_gpu::{Description, Error, Function, Gpu, Kind, Launch, Options, Order, Stream};

const ORDERS: [Order; 6] =
    [Order::Eager, Order::Lazy, Order::Random(1), Order::Random(2), Order::Random(3), Order::Random(4)];

/// `set(out, value)` stores a word, `twice(out, from)` stores twice a word, both by one thread.
fn device(order: Order) -> (Gpu, Function, Function) {
    let gpu = Gpu::with_options(Description::h200(), Options { order, ..Options::default() });
    let text = format!(
        "{HEAD}.visible .entry set(.param .u64 out, .param .u32 value)\n{{\n.reg .b64 %x<9>;\n.reg .b32 %r<9>;\n\
         ld.param.u64 %x1, [out];\nld.param.u32 %r1, [value];\ngriddepcontrol.launch_dependents;\nst.global.u32 [%x1], \
         %r1;\nret;\n}}\n.visible .entry twice(.param .u64 out, .param .u64 from)\n{{\n.reg .b64 %x<9>;\n.reg .b32 \
         %r<9>;\nld.param.u64 %x1, [out];\nld.param.u64 %x2, [from];\ngriddepcontrol.wait;\nld.global.u32 %r1, \
         [%x2];\nadd.u32 %r1, %r1, %r1;\nst.global.u32 [%x1], %r1;\nret;\n}}\n"
    );
    let module = gpu.load_module(&text).expect("PTX");
    let (set, twice) = (module.function("set"), module.function("twice"));
    (gpu, set.expect("set"), twice.expect("twice"))
}

fn set(gpu: &Gpu, function: &Function, out: u64, value: u32, stream: Stream) {
    let args: [&[u8]; 2] = [&out.to_le_bytes(), &value.to_le_bytes()];
    let launch = Launch { block: [1, 1, 1], args: &args, ..Launch::default() };
    gpu.launch(function, &launch, stream).expect("a launch");
}

fn twice(gpu: &Gpu, function: &Function, out: u64, from: u64, stream: Stream, dependent: bool) {
    let args: [&[u8]; 2] = [&out.to_le_bytes(), &from.to_le_bytes()];
    let launch =
        Launch { block: [1, 1, 1], args: &args, programmatic_dependent: dependent, ..Launch::default() };
    gpu.launch(function, &launch, stream).expect("a launch");
}

fn word(gpu: &Gpu, at: u64) -> u32 {
    let mut data = [0; 4];
    gpu.read(at, &mut data).expect("in bounds");
    u32::from_le_bytes(data)
}

#[test]
fn a_stream_keeps_its_order() {
    for order in ORDERS {
        let (gpu, store, double) = device(order);
        let (a, b) = (gpu.alloc(4).expect("memory"), gpu.alloc(4).expect("memory"));
        let stream = gpu.create_stream(true);
        set(&gpu, &store, a, 5, stream);
        twice(&gpu, &double, b, a, stream, false);
        set(&gpu, &store, a, 7, stream);
        gpu.copy_async(a, b, 4, stream).expect("in bounds");
        twice(&gpu, &double, b, a, stream, false);
        gpu.stream_synchronize(stream).expect("no error");
        assert_eq!((word(&gpu, a), word(&gpu, b)), (10, 20), "{order:?}");
        assert!(gpu.take_findings().is_empty(), "{order:?}");
    }
}

#[test]
fn an_event_orders_streams_and_its_absence_shows() {
    for (with_event, overtaken) in [(true, false), (false, true)] {
        let mut values = Vec::new();
        for order in ORDERS {
            let (gpu, store, double) = device(order);
            let (a, b) = (gpu.alloc(4).expect("memory"), gpu.alloc(4).expect("memory"));
            gpu.memset(a, 1, 4).expect("in bounds");
            let (first, second) = (gpu.create_stream(false), gpu.create_stream(false));
            set(&gpu, &store, a, 5, first);
            let event = gpu.create_event();
            gpu.record_event(event, first).expect("a stream");
            if with_event {
                gpu.wait_event(second, event).expect("a stream");
            }
            twice(&gpu, &double, b, a, second, false);
            gpu.synchronize().expect("no error");
            gpu.event_query(event).expect("it was reached");
            values.push(word(&gpu, b));
            let races = gpu.take_findings();
            assert_eq!(races.iter().any(|f| f.kind == Kind::GlobalRace), overtaken, "{order:?}");
            assert!(races.iter().all(|f| f.other.as_ref().is_some_and(|o| o.what.contains("order them"))));
        }
        assert_eq!(values.iter().any(|v| *v != 10), overtaken, "event: {with_event}, {values:?}");
    }
}

#[test]
fn the_default_stream_waits_for_blocking_ones() {
    for order in ORDERS {
        let (gpu, store, double) = device(order);
        let (a, b) = (gpu.alloc(4).expect("memory"), gpu.alloc(4).expect("memory"));
        let stream = gpu.create_stream(true);
        set(&gpu, &store, a, 5, stream);
        twice(&gpu, &double, b, a, Stream::default(), false);
        set(&gpu, &store, a, 9, stream);
        gpu.synchronize().expect("no error");
        assert_eq!((word(&gpu, a), word(&gpu, b)), (9, 10), "{order:?}");
    }
}

#[test]
fn events_measure_and_are_asked() {
    let (gpu, store, _) = device(Order::Lazy);
    let a = gpu.alloc(4).expect("memory");
    let stream = gpu.create_stream(false);
    let [start, end] = [gpu.create_event(), gpu.create_event()];
    gpu.record_event(start, stream).expect("a stream");
    set(&gpu, &store, a, 1, stream);
    gpu.record_event(end, stream).expect("a stream");
    assert_eq!(gpu.event_query(end), Err(Error::NotReady));
    assert_eq!(gpu.stream_query(stream), Err(Error::NotReady));
    gpu.event_synchronize(end).expect("no error");
    gpu.event_query(end).expect("it was reached");
    assert!(gpu.event_elapsed(start, end).expect("both were reached") >= 0.0);
    gpu.stream_synchronize(stream).expect("no error");
    gpu.stream_query(stream).expect("all is done");
    gpu.destroy_event(start).and_then(|()| gpu.destroy_event(end)).expect("events");
    gpu.destroy_stream(stream).expect("a stream");
}

#[test]
fn a_graph_does_its_work_each_time() {
    for order in ORDERS {
        let (gpu, _, double) = device(order);
        let a = gpu.alloc(4).expect("memory");
        gpu.write(a, &3u32.to_le_bytes()).expect("in bounds");
        let stream = gpu.create_stream(false);
        gpu.begin_capture(stream).expect("a stream");
        assert!(gpu.is_capturing(stream));
        twice(&gpu, &double, a, a, stream, false);
        twice(&gpu, &double, a, a, stream, false);
        let graph = gpu.end_capture(stream).expect("a capture");
        assert_eq!(graph.len(), 2);
        assert_eq!(word(&gpu, a), 3, "capturing does nothing");
        for round in 1..=3 {
            gpu.launch_graph(&graph, stream).expect("a graph");
            gpu.stream_synchronize(stream).expect("no error");
            assert_eq!(word(&gpu, a), 3 << (2 * round), "{order:?}");
        }
    }
}

/// Kernels on different streams with others before and after, whatever the host waits for in between.
#[test]
fn a_missing_event_is_found_in_every_order() {
    for order in ORDERS {
        for (with_event, waited) in [(false, 0), (false, 1), (false, 2), (true, 0), (true, 1), (true, 2)] {
            let (gpu, store, double) = device(order);
            let [a, b, c, d] = [(); 4].map(|()| gpu.alloc(4).expect("memory"));
            gpu.memset(a, 1, 4).expect("in bounds");
            gpu.memset(c, 1, 4).expect("in bounds");
            let [first, second, third] = [(); 3].map(|()| gpu.create_stream(false));
            // Nothing else touches what these write.
            set(&gpu, &store, d, 1, first);
            twice(&gpu, &double, b, c, second, false);
            // The writer, behind the first; the reader on another stream.
            set(&gpu, &store, a, 5, first);
            let event = gpu.create_event();
            gpu.record_event(event, first).expect("a stream");
            match waited {
                1 => gpu.stream_synchronize(second).expect("no error"),
                2 => gpu.destroy_stream(second).expect("no error"),
                _ => {}
            }
            if with_event {
                gpu.wait_event(third, event).expect("a stream");
            }
            gpu.destroy_event(event).expect("an event");
            twice(&gpu, &double, b, a, third, false);
            gpu.synchronize().expect("no error");
            let findings = gpu.take_findings();
            // The two that write b are ordered by the host's wait for the first alone.
            let reads =
                findings.iter().filter(|f| f.message.starts_with("read") || f.kernel == "set").count();
            assert_eq!(reads > 0, !with_event, "{order:?} {waited} {findings:?}");
            let writes = findings.iter().filter(|f| f.message.starts_with("write") && f.kernel == "twice");
            assert_eq!(writes.count() > 0, waited != 1, "{order:?} {waited} {findings:?}");
        }
    }
}

#[test]
fn what_the_host_waits_for_orders_streams() {
    for order in ORDERS {
        let (gpu, store, double) = device(order);
        let (a, b) = (gpu.alloc(4).expect("memory"), gpu.alloc(4).expect("memory"));
        let (first, second) = (gpu.create_stream(false), gpu.create_stream(false));
        let event = gpu.create_event();
        for round in 0..4 {
            set(&gpu, &store, a, round, first);
            gpu.record_event(event, first).expect("a stream");
            match round % 2 {
                0 => gpu.stream_synchronize(first).expect("no error"),
                _ => gpu.event_synchronize(event).expect("no error"),
            }
            twice(&gpu, &double, b, a, second, false);
            while gpu.stream_query(second) == Err(Error::NotReady) {}
            assert_eq!(word(&gpu, b), 2 * round, "{order:?}");
        }
        assert!(gpu.take_findings().is_empty(), "{order:?}");
    }
}

/// `await` spins until another kernel sets the flag and then reads what that wrote before.
#[test]
fn a_kernel_waits_for_one_of_another_stream() {
    for order in ORDERS {
        for correct in [true, false] {
            let gpu = Gpu::with_options(Description::h200(), Options { order, ..Options::default() });
            let release = if correct { "st.release.gpu.global.u32" } else { "st.relaxed.gpu.global.u32" };
            let text = format!(
                "{HEAD}.visible .entry wait(.param .u64 out)\n{{\n.reg .b64 %x<9>;\n.reg .b32 %r<9>;\n.reg .pred \
                 %p<2>;\nld.param.u64 %x1, [out];\nL:\nld.acquire.gpu.global.u32 %r1, [%x1];\nsetp.eq.u32 %p1, %r1, \
                 0;\n@%p1 bra L;\nld.global.u32 %r2, [%x1+4];\nst.global.u32 [%x1+8], %r2;\nret;\n}}\n\
                 .visible .entry go(.param .u64 out)\n{{\n.reg .b64 %x<9>;\nld.param.u64 %x1, \
                 [out];\nst.global.u32 [%x1+4], 7;\n{release} [%x1], 1;\nret;\n}}\n"
            );
            let module = gpu.load_module(&text).expect("PTX");
            let [wait, go] = ["wait", "go"].map(|name| module.function(name).expect("a kernel"));
            let out = gpu.alloc(12).expect("memory");
            gpu.memset(out, 0, 12).expect("in bounds");
            let args: [&[u8]; 1] = [&out.to_le_bytes()];
            let launch = Launch { block: [1, 1, 1], args: &args, ..Launch::default() };
            let [first, second, other] = [(); 3].map(|()| gpu.create_stream(false));
            gpu.launch(&wait, &launch, first).expect("a launch");
            // Behind a copy that nobody waits for.
            let spare = gpu.alloc(4).expect("memory");
            gpu.set_async(spare, &[0], 4, other).expect("in bounds");
            gpu.set_async(spare, &[1], 4, second).expect("in bounds");
            gpu.launch(&go, &launch, second).expect("a launch");
            gpu.stream_synchronize(first).expect("no deadlock");
            gpu.synchronize().expect("no error");
            assert_eq!(word(&gpu, out + 8), 7, "{order:?}");
            let findings = gpu.take_findings();
            assert_eq!(findings.is_empty(), correct, "{order:?} {findings:?}");
        }
    }
}

#[test]
fn a_graph_keeps_its_branches() {
    for order in ORDERS {
        for joined in [true, false] {
            let (gpu, store, double) = device(order);
            let [a, b, c, d] = [(); 4].map(|()| gpu.alloc(4).expect("memory"));
            gpu.memset(c, 0, 4).expect("in bounds");
            let (main, side) = (gpu.create_stream(false), gpu.create_stream(false));
            let (fork, join) = (gpu.create_event(), gpu.create_event());
            gpu.begin_capture(main).expect("a stream");
            set(&gpu, &store, a, 3, main);
            gpu.record_event(fork, main).expect("a stream");
            gpu.wait_event(side, fork).expect("a stream");
            assert!(gpu.is_capturing(side));
            twice(&gpu, &double, b, a, side, false);
            gpu.record_event(join, side).expect("a stream");
            // On the main branch beside it: reads what the side writes unless it waits.
            if joined {
                gpu.wait_event(main, join).expect("a stream");
            }
            twice(&gpu, &double, c, b, main, false);
            gpu.wait_event(main, join).expect("a stream");
            twice(&gpu, &double, d, c, main, false);
            let graph = gpu.end_capture(main).expect("a capture");
            assert!(!gpu.is_capturing(side));
            assert_eq!(graph.len(), 4);
            gpu.memset(b, 0, 4).expect("in bounds");
            for _ in 0..3 {
                gpu.launch_graph(&graph, main).expect("a graph");
                gpu.launch_graph(&graph, main).expect("a graph");
                gpu.stream_synchronize(main).expect("no error");
                if joined {
                    assert_eq!(word(&gpu, d), 24, "{order:?}");
                }
            }
            let findings = gpu.take_findings();
            assert_eq!(findings.is_empty(), joined, "{order:?} {findings:?}");
        }
    }
}

#[test]
fn captures_refuse_what_the_driver_refuses() {
    let begun = || {
        let (gpu, store, _) = device(Order::Eager);
        let a = gpu.alloc(4).expect("memory");
        let (main, side) = (gpu.create_stream(true), gpu.create_stream(true));
        let event = gpu.create_event();
        gpu.begin_capture(main).expect("a stream");
        set(&gpu, &store, a, 1, main);
        (gpu, store, a, main, side, event)
    };
    let (gpu, store, a, main, side, fork) = begun();
    assert!(matches!(gpu.begin_capture(main), Err(Error::IllegalState(_))));
    assert!(matches!(gpu.begin_capture(Stream::default()), Err(Error::CaptureUnsupported(_))));
    assert!(matches!(gpu.end_capture(side), Err(Error::IllegalState(_))));
    gpu.record_event(fork, main).expect("a stream");
    gpu.wait_event(side, fork).expect("a stream");
    set(&gpu, &store, a, 2, side);
    assert!(matches!(gpu.end_capture(main), Err(Error::CaptureUnjoined(_))), "a branch that is not joined");
    assert!(!gpu.is_capturing(main) && !gpu.is_capturing(side));
    assert!(matches!(gpu.end_capture(main), Err(Error::IllegalState(_))));

    let (gpu, _, _, main, side, fork) = begun();
    gpu.record_event(fork, main).expect("a stream");
    gpu.wait_event(side, fork).expect("a stream");
    assert!(matches!(gpu.end_capture(side), Err(Error::CaptureUnmatched(_))));
    assert!(matches!(gpu.end_capture(main), Err(Error::CaptureInvalidated(_))));

    type Call = fn(&Gpu, Stream, Stream, virtual_gpu::Event) -> Result<(), Error>;
    type Refused = fn(&Error) -> bool;
    let calls: [(Call, Refused); 7] = [
        (|gpu, main, _, _| gpu.stream_synchronize(main), |e| matches!(e, Error::CaptureUnsupported(_))),
        (|gpu, main, _, _| gpu.stream_query(main), |e| matches!(e, Error::CaptureUnsupported(_))),
        (|gpu, _, _, _| gpu.synchronize(), |e| matches!(e, Error::CaptureUnsupported(_))),
        (
            |gpu, main, side, event| {
                gpu.record_event(event, side)?;
                gpu.wait_event(main, event)
            },
            |e| matches!(e, Error::CaptureIsolation(_)),
        ),
        (
            |gpu, main, side, event| {
                gpu.begin_capture(side)?;
                gpu.record_event(event, side)?;
                gpu.wait_event(main, event)
            },
            |e| matches!(e, Error::CaptureMerge(_)),
        ),
        (
            |gpu, main, _, event| {
                gpu.record_event(event, main)?;
                gpu.event_synchronize(event)
            },
            |e| matches!(e, Error::CapturedEvent(_)),
        ),
        (
            |gpu, _, _, _| gpu.set_async(gpu.alloc(4)?, &[0], 4, Stream::default()),
            |e| matches!(e, Error::CaptureImplicit(_)),
        ),
    ];
    for (i, (call, refused)) in calls.iter().enumerate() {
        let (gpu, _, _, main, side, event) = begun();
        let error = call(&gpu, main, side, event).expect_err("refused");
        assert!(refused(&error), "{i}: {error}");
        assert!(matches!(gpu.end_capture(main), Err(Error::CaptureInvalidated(_))), "{i}");
    }
}

#[test]
fn dependent_launches_overlap_until_they_wait() {
    for order in ORDERS {
        let (gpu, store, double) = device(order);
        let (a, b) = (gpu.alloc(4).expect("memory"), gpu.alloc(4).expect("memory"));
        let stream = gpu.create_stream(false);
        set(&gpu, &store, a, 21, stream);
        twice(&gpu, &double, b, a, stream, true);
        gpu.synchronize().expect("no error");
        assert_eq!(word(&gpu, b), 42, "{order:?}");
        assert!(gpu.take_findings().is_empty(), "{order:?}");
    }
    // Without the wait the second reads what the first may not have written yet.
    for order in ORDERS {
        let (gpu, store, _) = device(order);
        let text = format!(
            "{HEAD}.visible .entry hasty(.param .u64 out, .param .u64 from)\n{{\n.reg .b64 %x<9>;\n.reg .b32 %r<9>;\n\
             ld.param.u64 %x1, [out];\nld.param.u64 %x2, [from];\nld.global.u32 %r1, [%x2];\nst.global.u32 [%x1], \
             %r1;\nret;\n}}\n"
        );
        let hasty = gpu.load_module(&text).expect("PTX").function("hasty").expect("a kernel");
        let (a, b) = (gpu.alloc(4).expect("memory"), gpu.alloc(4).expect("memory"));
        gpu.memset(a, 0, 4).expect("in bounds");
        let stream = gpu.create_stream(false);
        set(&gpu, &store, a, 21, stream);
        twice(&gpu, &hasty, b, a, stream, true);
        gpu.synchronize().ok();
        let findings = gpu.take_findings();
        let seen = findings.iter().any(|f| matches!(f.kind, Kind::GlobalRace | Kind::Undefined));
        assert!(seen, "{order:?}: a dependent launch that does not wait is found");
    }
}
