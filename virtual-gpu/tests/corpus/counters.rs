//! What asynchronous copies and products count, against what the kernels' shapes say.

use crate::support::{Case, Map, targets};
use half::bf16;
use virtual_gpu::counters::Traffic;
use virtual_gpu::tensor::descriptor::Swizzle;
use virtual_gpu::tensor::tma::DataType;

const HOPPER: [&str; 1] = targets::HOPPER;

fn traffic(requests: u64, bytes: u64, sectors: u64, sectors_least: u64) -> Traffic {
    Traffic { requests, bytes, sectors, sectors_least }
}

#[test]
fn bulk_copies_are_loads_and_stores() {
    let mut case = Case::new("hopper_copies", &HOPPER, "bulk_copy").grid(3).block(128);
    let (a, o) = (case.input(&[1f32; 768]), case.output::<f32>(768));
    case.buffers(&[a, o]);
    case.check(|out| {
        let want = traffic(3, 3072, 96, 96);
        assert_eq!([out.counts.async_loads, out.counts.async_stores], [want; 2]);
        assert_eq!([out.counts.global_loads, out.counts.global_stores], [want; 2]);
    });

    // Each of 128 threads moves two floats up by one: four warps read and write twice, without conflicts.
    case.check(|out| assert_eq!((out.counts.shared_bytes, out.counts.shared_wavefronts), (2 * 1024 * 3, 48)));

    let mut case = Case::new("hopper_copies", &HOPPER, "bulk_reduce").grid(4).block(64);
    let (a, o) = (case.input(&[1f32; 256]), case.input(&[1f32; 64]));
    case.buffers(&[a, o]);
    case.check(|out| {
        assert_eq!(
            (out.counts.async_loads, out.counts.async_stores),
            (traffic(0, 0, 0, 0), traffic(4, 1024, 32, 32))
        );
        assert_eq!(out.counts.global_loads, traffic(8, 1024, 32, 32), "by threads");
    });
}

#[test]
fn only_the_part_of_a_box_inside_the_tensor_is_read() {
    // Of 8 by 3 floats at (16, 4) of 20 by 6, 4 by 2: 16 bytes of two sectors.
    let mut case = Case::new("hopper_copies", &HOPPER, "tensor_2d").grid(1).block(64).shared(96);
    let (a, o, c) = (case.input(&[1f32; 120]), case.output::<f32>(24), case.input(&[16i32, 4]));
    case.map(Map::new(a, DataType::F32, &[20, 6], &[8, 3])).buffers(&[o]).value(24i32).buffers(&[c]);
    case.check(|out| {
        assert_eq!(out.counts.async_loads, traffic(1, 32, 2, 1));
        assert_eq!(out.counts.global_loads.bytes, 32 + 8, "and the coordinates");
        assert_eq!(out.counts.global_stores, traffic(1, 96, 3, 3));
    });

    // 72 by 40 floats in 3 by 3 boxes of 32 by 16, in pieces of 16 bytes, as the swizzle says.
    let mut case = Case::new("hopper_copies", &HOPPER, "tensor_double").grid3([3, 3, 1]).block(128);
    let (a, o) = (case.input(&[1f32; 72 * 40]), case.output::<f32>(72 * 40));
    let map = |b| Map::new(b, DataType::F32, &[72, 40], &[32, 16]).swizzle(Swizzle::B128);
    case.map(map(a)).map(map(o)).value(0i32);
    case.check(|out| {
        let want = traffic(9, 72 * 40 * 4, 72 * 40 / 8, 72 * 40 / 8);
        assert_eq!([out.counts.async_loads, out.counts.async_stores], [want; 2]);
    });
}

#[test]
fn a_multicast_copy_reads_once() {
    let mut case = Case::new("hopper_cluster", &HOPPER, "multicast").grid(2).block(128).cluster(2);
    let (a, o) = (case.input(&[1f32; 5 * 512]), case.output::<f32>(5 * 1024));
    case.map(Map::new(a, DataType::F32, &[160, 16], &[32, 16])).buffers(&[o]).value(5i32);
    case.check(|out| {
        assert_eq!(out.counts.global_loads, traffic(5, 5 * 2048, 5 * 64, 5 * 64));
        assert_eq!(out.counts.global_stores.bytes, 2 * 5 * 2048);
    });
}

#[test]
fn products_read_their_operands_in_shared_memory() {
    let mut case = Case::new("hopper_wgmma", &HOPPER, "wgmma_bf16").grid(1).block(128);
    let one = [bf16::from_f32(1.0); 64 * 64];
    let (x, y, o) = (case.input(&one), case.input(&one[..32 * 64]), case.output::<f32>(64 * 32));
    let map = |b, rows| Map::new(b, DataType::Bf16, &[64, rows], &[64, rows as u32]).swizzle(Swizzle::B128);
    case.map(map(x, 64)).map(map(y, 32)).buffers(&[o]).value(64i32);
    case.check(|out| {
        let bytes = (64 + 32) * 64 * 2;
        assert_eq!(out.counts.tensor_macs, 64 * 32 * 64);
        assert_eq!(out.counts.global_loads, traffic(2, bytes, bytes / 32, bytes / 32));
        let shared = [out.counts.shared_requests, out.counts.shared_bytes];
        assert_eq!(shared, [4, bytes], "four steps of 16 along k");
        let wavefronts = [out.counts.shared_wavefronts, out.counts.shared_wavefronts_least];
        assert_eq!(wavefronts, [bytes / 128; 2]);
    });
}
