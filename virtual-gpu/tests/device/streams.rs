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
        // What would wait is refused while it records.
        assert!(matches!(gpu.stream_synchronize(stream), Err(Error::CaptureUnsupported(_))));
        assert!(matches!(gpu.synchronize(), Err(Error::CaptureUnsupported(_))));
        let graph = gpu.end_capture(stream).expect("a capture");
        assert_eq!(graph.len(), 2);
        assert_eq!(word(&gpu, a), 3, "capturing does nothing");
        for round in 1..=3 {
            gpu.launch_graph(&graph, stream).expect("a graph");
            gpu.stream_synchronize(stream).expect("no error");
            assert_eq!(word(&gpu, a), 3 << (2 * round), "{order:?}");
        }
        assert!(matches!(gpu.begin_capture(Stream::default()), Err(Error::CaptureUnsupported(_))));
        assert!(matches!(gpu.end_capture(stream), Err(Error::CaptureUnsupported(_))));
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
    let mut seen = false;
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
        seen |= findings.iter().any(|f| matches!(f.kind, Kind::GlobalRace | Kind::Undefined));
    }
    assert!(seen, "a dependent launch that does not wait is found in some order");
}
