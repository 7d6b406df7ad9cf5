//! The copy engine, clusters, warpgroups and overlapping kernels.

use crate::support::{Case, Map, assert_close, product, random_f32, random_u64, targets};
use half::{bf16, f16};
use virtual_gpu::tensor::descriptor::Swizzle;
use virtual_gpu::tensor::tma::DataType;

const HOPPER: [&str; 1] = targets::HOPPER;

#[test]
fn bulk_copies() {
    let x = random_f32(61, 3 * 256);
    let mut case = Case::new("hopper_copies", &HOPPER, "bulk_copy").grid(3).block(128);
    let (a, o) = (case.input(&x), case.output::<f32>(x.len()));
    case.buffers(&[a, o]);
    let want: Vec<f32> = x.iter().map(|v| v + 1.0).collect();
    case.check(|out| assert_eq!(out.get::<f32>(o), want));

    let x: Vec<f32> = (0..4 * 64).map(|i| (i % 50) as f32).collect();
    let mut case = Case::new("hopper_copies", &HOPPER, "bulk_reduce").grid(4).block(64);
    let (a, o) = (case.input(&x), case.input(&[1f32; 64]));
    case.buffers(&[a, o]);
    let want: Vec<f32> = (0..64).map(|i| 1.0 + (0..4).map(|b| x[64 * b + i]).sum::<f32>()).collect();
    case.check(|out| assert_eq!(out.get::<f32>(o), want));
}

#[test]
fn ring() {
    for tiles in [1usize, 4, 11] {
        let x: Vec<f32> = (0..tiles * 192).map(|i| (i % 97) as f32).collect();
        let mut case = Case::new("hopper_copies", &HOPPER, "bulk_ring").grid(1).block(128);
        let (a, o) = (case.input(&x), case.output::<f32>(192));
        case.buffers(&[a, o]).value(tiles as i32);
        let want: Vec<f32> = (0..192).map(|i| (0..tiles).map(|t| x[192 * t + i]).sum()).collect();
        case.check(|out| assert_eq!(out.get::<f32>(o), want));
    }
}

#[test]
fn tensor_copies_in_one_to_five_dimensions() {
    let dims = [20u64, 6, 5, 4, 3];
    let boxes = [8u32, 3, 2, 3, 2];
    for rank in 1..=5 {
        for start in [[0i32; 5], [4, 1, 2, 1, 1], [16, 4, 4, 3, 2], [-4, -1, -1, -2, -1]] {
            let (dims, boxes) = (&dims[..rank], &boxes[..rank]);
            let total: u64 = dims.iter().product();
            let x: Vec<f32> = (0..total).map(|i| i as f32).collect();
            let elements: u32 = boxes.iter().product();
            let kernel = format!("tensor_{rank}d");
            let mut case =
                Case::new("hopper_copies", &HOPPER, &kernel).grid(1).block(64).shared(4 * elements);
            let (a, o) = (case.input(&x), case.output::<f32>(elements as usize));
            let c = case.input(&start);
            case.map(Map::new(a, DataType::F32, dims, boxes))
                .buffers(&[o])
                .value(elements as i32)
                .buffers(&[c]);
            let want: Vec<f32> = (0..elements)
                .map(|element| {
                    let (mut rest, mut index, mut pitch, mut inside) = (element, 0i64, 1i64, true);
                    for i in 0..rank {
                        let at = start[i] as i64 + (rest % boxes[i]) as i64;
                        rest /= boxes[i];
                        inside &= (0..dims[i] as i64).contains(&at);
                        index += at * pitch;
                        pitch *= dims[i] as i64;
                    }
                    if inside { x[index as usize] } else { 0.0 }
                })
                .collect();
            case.check(|out| assert_eq!(out.get::<f32>(o), want, "{kernel} at {start:?}"));
        }
    }
}

#[test]
fn tensor_loads_and_stores() {
    let (width, height) = (72usize, 40);
    let x: Vec<f32> = (0..width * height).map(|i| (i % 1001) as f32).collect();
    for add in [0i32, 1] {
        let before = vec![5f32; x.len()];
        let mut case = Case::new("hopper_copies", &HOPPER, "tensor_double").grid3([3, 3, 1]).block(128);
        let a = case.input(&x);
        let o = if add == 1 { case.input(&before) } else { case.output::<f32>(x.len()) };
        let map =
            |b| Map::new(b, DataType::F32, &[width as u64, height as u64], &[32, 16]).swizzle(Swizzle::B128);
        case.map(map(a)).map(map(o)).value(add);
        let want: Vec<f32> = x.iter().map(|v| 2.0 * v + 5.0 * add as f32).collect();
        case.check(|out| assert_eq!(out.get::<f32>(o), want));
    }
}

#[test]
fn stored_matrices() {
    let mut case = Case::new("hopper_copies", &HOPPER, "store_matrices").grid(1).block(32);
    let o = case.output::<u16>(384);
    case.buffers(&[o]);
    let mut want: Vec<u16> = (0..256).collect();
    for i in 0..2 {
        for row in 0..8 {
            want.extend((0..8).map(|col| i * 64 + col * 8 + row));
        }
    }
    case.check(|out| assert_eq!(out.get::<u16>(o), want));
}

#[test]
fn clusters() {
    let x: Vec<f32> = (0..8 * 256).map(|i| (i % 61) as f32).collect();
    for cluster in [1u32, 2, 4, 8] {
        let mut case =
            Case::new("hopper_cluster", &HOPPER, "cluster_sum").grid(8).block(128).cluster(cluster);
        let (a, o) = (case.input(&x), case.output::<f32>(8));
        case.buffers(&[a, o]);
        let per = 256 * cluster as usize;
        let want: Vec<f32> = (0..8).map(|b| x[b * 256 / per * per..][..per].iter().sum()).collect();
        case.check(|out| assert_eq!(out.get::<f32>(o), want));
    }

    let n = 1000;
    let x: Vec<u32> = random_u64(62, n).into_iter().map(|v| v as u32).collect();
    let mut case = Case::new("hopper_cluster", &HOPPER, "cluster_histogram").grid(4).block(128).cluster(4);
    let (a, o) = (case.input(&x), case.output::<u32>(128));
    case.buffers(&[a, o]).value(n as i32);
    let mut want = vec![0u32; 128];
    x.iter().for_each(|v| want[(v % 128) as usize] += 1);
    case.check(|out| assert_eq!(out.get::<u32>(o), want));

    let x = random_f32(63, 4 * 32);
    let mut case = Case::new("hopper_cluster", &HOPPER, "neighbours").grid(4).block(32).cluster(2);
    let (a, o) = (case.input(&x), case.output::<f32>(128));
    case.buffers(&[a, o]);
    let want: Vec<f32> = (0..128).map(|i| x[((i / 32) ^ 1) * 32 + 31 - i % 32]).collect();
    case.check(|out| assert_eq!(out.get::<f32>(o), want));
}

#[test]
fn multicast() {
    let boxes = 5;
    let x: Vec<f32> = (0..boxes * 32 * 16).map(|i| i as f32).collect();
    let mut case = Case::new("hopper_cluster", &HOPPER, "multicast").grid(2).block(128).cluster(2);
    let (a, o) = (case.input(&x), case.output::<f32>(boxes * 1024));
    case.map(Map::new(a, DataType::F32, &[32 * boxes as u64, 16], &[32, 16]))
        .buffers(&[o])
        .value(boxes as i32);
    let want: Vec<f32> = (0..boxes * 1024)
        .map(|i| {
            let (b, rank, row, col) = (i / 1024, i / 512 % 2, i % 512 / 32, i % 32);
            x[row * 32 * boxes + 32 * b + col] + rank as f32
        })
        .collect();
    case.check(|out| assert_eq!(out.get::<f32>(o), want));
}

#[test]
fn dependent_launch() {
    let n = 300;
    let x = random_f32(64, n);
    let mut case = Case::new("hopper_cluster", &HOPPER, "first_kernel").grid(3).block(128);
    let (a, b, o) = (case.input(&x), case.output::<f32>(n), case.output::<f32>(n));
    case.buffers(&[a, b]).value(n as i32);
    case.then_dependent("second_kernel", 3, 128).buffers(&[b, o]).value(n as i32);
    let want: Vec<f32> = x.iter().map(|v| v * 3.0 * 0.5).collect();
    case.check(|out| assert_eq!(out.get::<f32>(o), want));
}

fn narrow<T>(seed: u64, n: usize, from: fn(f32) -> T) -> Vec<T> {
    random_f32(seed, n).into_iter().map(from).collect()
}

fn wide<T: Copy + Into<f64>>(v: &[T]) -> Vec<f64> {
    v.iter().map(|v| (*v).into()).collect()
}

#[test]
fn wgmma_with_operands_in_shared_memory() {
    for k in [64usize, 192] {
        let (a, b) = (narrow(65, 64 * k, bf16::from_f32), narrow(66, 32 * k, bf16::from_f32));
        let mut case = Case::new("hopper_wgmma", &HOPPER, "wgmma_bf16").grid(1).block(128);
        let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(64 * 32));
        let map = |b, rows| {
            Map::new(b, DataType::Bf16, &[k as u64, rows], &[64, rows as u32]).swizzle(Swizzle::B128)
        };
        case.map(map(x, 64)).map(map(y, 32)).buffers(&[o]).value(k as i32);
        let want = product(&wide(&a), &wide(&b), 64, 32, k);
        case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-5, 1e-5));
    }
    // A and B with M and N contiguous.
    let (a, b) = (narrow(67, 64 * 64, bf16::from_f32), narrow(68, 64 * 32, bf16::from_f32));
    let mut case = Case::new("hopper_wgmma", &HOPPER, "wgmma_transposed").grid(1).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(64 * 32));
    case.map(Map::new(x, DataType::Bf16, &[64, 64], &[64, 64]).swizzle(Swizzle::B128));
    case.map(Map::new(y, DataType::Bf16, &[32, 64], &[32, 64]).swizzle(Swizzle::B64)).buffers(&[o]);
    let turned = |v: &[bf16], rows: usize| -> Vec<f64> {
        (0..rows * 64).map(|i| v[i % 64 * rows + i / 64].to_f64()).collect()
    };
    let want = product(&turned(&a, 64), &turned(&b, 32), 64, 32, 64);
    case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-5, 1e-5));
    // tf32.
    let (a, b) = (random_f32(69, 64 * 8), random_f32(70, 32 * 8));
    let mut case = Case::new("hopper_wgmma", &HOPPER, "wgmma_tf32").grid(1).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(64 * 32));
    let map = |b, rows| Map::new(b, DataType::F32, &[8, rows], &[8, rows as u32]).swizzle(Swizzle::B32);
    case.map(map(x, 64)).map(map(y, 32)).buffers(&[o]);
    let cut =
        |v: &[f32]| -> Vec<f64> { v.iter().map(|v| f32::from_bits(v.to_bits() & !0x1fff) as f64).collect() };
    let want = product(&cut(&a), &cut(&b), 64, 32, 8);
    case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-6, 1e-6));
}

#[test]
fn wgmma_with_operands_the_threads_wrote() {
    let (a, b) = (narrow(71, 64 * 16, f16::from_f32), narrow(72, 32 * 16, f16::from_f32));
    let mut case = Case::new("hopper_wgmma", &HOPPER, "wgmma_plain_f16").grid(1).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(64 * 32));
    case.buffers(&[x, y, o]);
    let want = product(&wide(&a), &wide(&b), 64, 32, 16);
    case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-6, 1e-6));

    let (a, b) = (narrow(73, 64 * 16, bf16::from_f32), narrow(74, 32 * 16, bf16::from_f32));
    let c = random_f32(75, 64 * 32);
    let mut case = Case::new("hopper_wgmma", &HOPPER, "wgmma_registers").grid(1).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.input(&c));
    case.buffers(&[x, y, o]);
    let products = product(&wide(&a), &wide(&b), 64, 32, 16);
    let want: Vec<f64> = c.iter().zip(products).map(|(c, p)| *c as f64 - p).collect();
    case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-5, 1e-5));
}

#[test]
fn warp_specialised_product() {
    for (m, n, k) in [(128usize, 32usize, 64usize), (256, 64, 448)] {
        let (a, b) = (narrow(76, m * k, bf16::from_f32), narrow(77, n * k, bf16::from_f32));
        let grid = [n as u32 / 32, m as u32 / 128, 1];
        let bytes = 4 * (128 * 64 + 32 * 64) * 2 + 64;
        let mut case =
            Case::new("hopper_wgmma", &HOPPER, "warp_specialised").grid3(grid).block(384).shared(bytes);
        let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(m * n));
        let map = |b, rows: usize, taken| {
            Map::new(b, DataType::Bf16, &[k as u64, rows as u64], &[64, taken]).swizzle(Swizzle::B128)
        };
        case.map(map(x, m, 128)).map(map(y, n, 32)).buffers(&[o]).value(n as i32).value(k as i32);
        let want = product(&wide(&a), &wide(&b), m, n, k);
        case.check(|out| assert_close(&out.get::<f32>(o), &want, 2e-5, 2e-5));
    }
}

/// -3 to 3 in a format of eight bits.
fn eight_bits(value: i32, exponent_bits: u32) -> u8 {
    let (mantissa_bits, bias) = (7 - exponent_bits, (1 << (exponent_bits - 1)) - 1);
    let magnitude = match value.unsigned_abs() {
        0 => 0,
        m => (m.ilog2() + bias) << mantissa_bits | (m - (1 << m.ilog2())) << (mantissa_bits - m.ilog2()),
    };
    magnitude as u8 | if value < 0 { 0x80 } else { 0 }
}

#[test]
fn wgmma_of_eight_bits_and_sums_in_f16() {
    let whole = |seed, n: usize, m: u64| -> Vec<i32> {
        random_u64(seed, n).into_iter().map(|v| (v % m) as i32 - m as i32 / 2).collect()
    };
    let exact = |v: &[i32]| -> Vec<f64> { v.iter().map(|v| f64::from(*v)).collect() };
    let (a, b) = (whole(78, 64 * 32, 7), whole(79, 16 * 32, 7));
    let want = product(&exact(&a), &exact(&b), 64, 16, 32);
    for (kernel, of_a, of_b) in
        [("wgmma_e4m3", 4, 4), ("wgmma_e5m2", 5, 5), ("wgmma_e4m3_e5m2", 4, 5), ("wgmma_e4m3_f16_sums", 4, 4)]
    {
        let narrow = |v: &[i32], bits| -> Vec<u8> { v.iter().map(|v| eight_bits(*v, bits)).collect() };
        let mut case = Case::new("hopper_types", &HOPPER, kernel).grid(1).block(128);
        let (x, y) = (case.input(&narrow(&a, of_a)), case.input(&narrow(&b, of_b)));
        if kernel.ends_with("f16_sums") {
            let o = case.output::<f16>(64 * 16);
            case.buffers(&[x, y, o]);
            case.check(|out| assert_eq!(wide(&out.get::<f16>(o)), want, "{kernel}"));
        } else {
            let o = case.output::<f32>(64 * 16);
            case.buffers(&[x, y, o]);
            case.check(|out| assert_eq!(wide(&out.get::<f32>(o)), want, "{kernel}"));
        }
    }
    let narrow = |v: &[i32]| -> Vec<f16> { v.iter().map(|v| f16::from_f32(*v as f32)).collect() };
    let (a, b) = (whole(80, 64 * 16, 9), whole(81, 16 * 16, 9));
    let mut case = Case::new("hopper_types", &HOPPER, "wgmma_f16_sums").grid(1).block(128);
    let (x, y, o) = (case.input(&narrow(&a)), case.input(&narrow(&b)), case.output::<f16>(64 * 16));
    case.buffers(&[x, y, o]);
    let want = product(&exact(&a), &exact(&b), 64, 16, 16);
    case.check(|out| assert_eq!(wide(&out.get::<f16>(o)), want));

    let (a, b) = (whole(82, 64 * 32, 256), whole(83, 16 * 32, 256));
    let narrow = |v: &[i32]| -> Vec<i8> { v.iter().map(|v| *v as i8).collect() };
    let mut case = Case::new("hopper_types", &HOPPER, "wgmma_s8").grid(1).block(128);
    let (x, y, o) = (case.input(&narrow(&a)), case.input(&narrow(&b)), case.output::<i32>(64 * 16));
    case.buffers(&[x, y, o]);
    let want: Vec<f64> = product(&exact(&a), &exact(&b), 64, 16, 32).iter().map(|v| 2.0 * v).collect();
    case.check(|out| assert_eq!(wide(&out.get::<i32>(o)), want));
}
