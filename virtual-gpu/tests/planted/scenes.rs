//! How each family of planted kernels is launched, and what its correct variant computes.

use super::Scene;
use crate::support::{Buffer, Case, HostStep, Map, Output, is_close, product, random_f32, random_u64};
use half::{bf16, f16};
use virtual_gpu::tensor::descriptor::Swizzle;
use virtual_gpu::tensor::tma::DataType;

/// The launch of `family`'s variant.
pub fn scene(family: &str, variant: u32) -> Scene {
    let kernel = format!("{family}_{variant}");
    match family {
        "row_sums" => row_sums(&kernel),
        "scale" => scale(&kernel),
        "transpose" => transpose(&kernel),
        "gemm" => gemm(&kernel),
        "histogram" => histogram(&kernel),
        "local_sort" => local_sort(&kernel),
        "warp_reverse" => warp_reverse(&kernel),
        "hand_over" => hand_over(&kernel),
        "exchange" => exchange(&kernel),
        "block_scan" => block_scan(&kernel),
        "pipeline" => pipeline(&kernel),
        "mma_gemm" => mma_gemm(&kernel),
        "bulk" => bulk(&kernel),
        "ring" => ring(&kernel),
        "tensor" => tensor(&kernel),
        "neighbours" => neighbours(&kernel),
        "multicast" => multicast(&kernel),
        "product" => wgmma_product(&kernel),
        "specialised" => specialised(&kernel),
        "downstream" => downstream(&kernel),
        "two_streams" => two_streams(variant),
        "tickets" => tickets(&kernel),
        "pass_on" => pass_on(&kernel),
        "detour" => detour(&kernel),
        "fences" => fences(&kernel),
        "halves" => halves(&kernel),
        "arrivals" => arrivals(&kernel),
        "early_load" => early_load(&kernel),
        "one_waits" => one_waits(&kernel),
        "cluster_rows" => cluster_rows(&kernel),
        "in_registers" => in_registers(&kernel),
        "renamed" => in_registers(&kernel),
        "pools" => same_numbers(&kernel, 384),
        "few_threads" => same_numbers(&kernel, 128),
        "dispatch" => dispatch(&kernel),
        "tiles" => tiles(&kernel),
        "report" => report(&kernel),
        _ => panic!("no family {family}"),
    }
}

fn simple(kernel: &str) -> Case {
    Case::new("planted_simple", &["sm_80"], kernel)
}

fn hopper(kernel: &str) -> Case {
    Case::new("planted_hopper", &["sm_90a"], kernel)
}

fn exact<T: crate::support::Value + PartialEq + 'static>(case: Case, buffer: Buffer, want: Vec<T>) -> Scene {
    Scene { case, correct: Box::new(move |out: &Output| out.get::<T>(buffer) == want) }
}

fn close(case: Case, buffer: Buffer, want: Vec<f64>, bound: f64) -> Scene {
    Scene {
        case,
        correct: Box::new(move |out: &Output| is_close(&out.get::<f32>(buffer), &want, bound, bound)),
    }
}

fn row_sums(kernel: &str) -> Scene {
    let (rows, n) = (3, 200);
    let x = random_f32(101, rows * n);
    let mut case = simple(kernel).grid(rows as u32).block(128);
    let (a, o) = (case.input(&x), case.output::<f32>(rows));
    case.buffers(&[a, o]).value(n as i32);
    close(case, o, x.chunks(n).map(|r| r.iter().map(|v| *v as f64).sum()).collect(), 1e-4)
}

fn scale(kernel: &str) -> Scene {
    let n = 150;
    let x = random_f32(102, n);
    let mut case = simple(kernel).grid(3).block(64);
    let (a, o) = (case.input(&x), case.output::<f32>(n));
    case.buffers(&[a, o]).value(n as i32);
    close(case, o, x.iter().map(|v| 2.0 * *v as f64 + 1.0).collect(), 1e-6)
}

fn transpose(kernel: &str) -> Scene {
    let (m, n) = (40, 70);
    let x = random_f32(103, m * n);
    let mut case = simple(kernel).grid3([3, 2, 1]).block3([32, 8, 1]);
    let (a, o) = (case.input(&x), case.output::<f32>(m * n));
    case.buffers(&[a, o]).value(m as i32).value(n as i32);
    exact(case, o, (0..m * n).map(|i| x[i % m * n + i / m]).collect())
}

fn gemm(kernel: &str) -> Scene {
    let (m, n, k) = (20, 24, 40);
    let (a, b) = (random_f32(104, m * k), random_f32(105, k * n));
    let mut case = simple(kernel).grid3([2, 2, 1]).block3([16, 16, 1]);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(m * n));
    case.buffers(&[x, y, o]).value(m as i32).value(n as i32).value(k as i32);
    let want =
        (0..m * n).map(|i| (0..k).map(|j| a[i / n * k + j] as f64 * b[j * n + i % n] as f64).sum()).collect();
    close(case, o, want, 1e-4)
}

fn histogram(kernel: &str) -> Scene {
    let n = 1000;
    let x: Vec<u8> = random_u64(106, n).into_iter().map(|v| v as u8).collect();
    let mut case = simple(kernel).grid(2).block(128);
    let (a, b) = (case.input(&x), case.input(&[0u32; 64]));
    case.buffers(&[a, b]).value(n as i32);
    let mut want = vec![0u32; 64];
    x.iter().for_each(|v| want[(v & 63) as usize] += 1);
    exact(case, b, want)
}

fn local_sort(kernel: &str) -> Scene {
    let n = 40;
    let x: Vec<i32> = random_u64(107, 16 * n).into_iter().map(|v| v as i32 >> 16).collect();
    let mut case = simple(kernel).grid(1).block(64);
    let (a, o) = (case.input(&x), case.output::<i32>(16 * n));
    case.buffers(&[a, o]).value(n as i32);
    let mut want = x;
    want.chunks_mut(16).for_each(|c| c.sort());
    exact(case, o, want)
}

fn warp_reverse(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..128).collect();
    let mut case = simple(kernel).grid(2).block(64);
    let (a, o) = (case.input(&x), case.output::<i32>(128));
    case.buffers(&[a, o]);
    exact(case, o, (0..128).map(|i| x[i / 32 * 32 + 31 - i % 32]).collect())
}

fn hand_over(kernel: &str) -> Scene {
    let n = 6;
    let x: Vec<i32> = (0..32 * n as i32).collect();
    let mut case = simple(kernel).grid(1).block(64);
    let (a, o) = (case.input(&x), case.output::<i32>(32 * n));
    case.buffers(&[a, o]).value(n as i32);
    exact(case, o, (0..32 * n).map(|i| 2 * x[i / 32 * 32 + 31 - i % 32]).collect())
}

fn exchange(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..256).map(|i| i * 3).collect();
    let mut case = simple(kernel).grid(4).block(64);
    let (a, b, o) = (case.input(&x), case.output::<i32>(256), case.output::<i32>(256));
    let c = case.input(&[0u32]);
    case.buffers(&[a, b, o, c]);
    exact(case, o, (0..256).map(|i| x[(i + 64) % 256] + 1).collect())
}

fn block_scan(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..192).map(|i| i % 13 - 4).collect();
    let mut case = simple(kernel).grid(2).block(96).shared(4 * 96);
    let (a, o) = (case.input(&x), case.output::<i32>(192));
    case.buffers(&[a, o]);
    let want = x.chunks(96).flat_map(|c| {
        c.iter().scan(0, |sum, v| {
            *sum += v;
            Some(*sum)
        })
    });
    let want = want.collect();
    exact(case, o, want)
}

fn pipeline(kernel: &str) -> Scene {
    let tiles = 6;
    let x = random_f32(108, tiles * 512);
    let mut case = Case::new("planted_ampere", &["sm_80"], kernel).grid(1).block(128);
    let (a, o) = (case.input(&x), case.output::<f32>(x.len()));
    case.buffers(&[a, o]).value(tiles as i32);
    exact(case, o, (0..x.len()).map(|i| 2.0 * x[i / 512 * 512 + 511 - i % 512]).collect())
}

fn narrow<T>(seed: u64, n: usize, from: fn(f32) -> T) -> Vec<T> {
    random_f32(seed, n).into_iter().map(from).collect()
}

fn wide<T: Copy + Into<f64>>(v: &[T]) -> Vec<f64> {
    v.iter().map(|v| (*v).into()).collect()
}

fn mma_gemm(kernel: &str) -> Scene {
    let k = 96;
    let (a, b) = (narrow(109, 64 * k, bf16::from_f32), narrow(110, 64 * k, bf16::from_f32));
    let mut case = Case::new("planted_ampere", &["sm_80"], kernel).grid(1).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(64 * 64));
    case.buffers(&[x, y, o]).value(k as i32);
    close(case, o, product(&wide(&a), &wide(&b), 64, 64, k), 1e-4)
}

fn bulk(kernel: &str) -> Scene {
    let x = random_f32(111, 3 * 256);
    let mut case = hopper(kernel).grid(3).block(128);
    let (a, o) = (case.input(&x), case.output::<f32>(x.len()));
    case.buffers(&[a, o]);
    exact(case, o, x.iter().map(|v| v + 1.0).collect())
}

fn ring(kernel: &str) -> Scene {
    let tiles = 7;
    let x: Vec<f32> = (0..tiles * 192).map(|i| (i % 97) as f32).collect();
    let mut case = hopper(kernel).grid(1).block(128);
    let (a, o) = (case.input(&x), case.output::<f32>(192));
    case.buffers(&[a, o]).value(tiles as i32);
    exact(case, o, (0..192).map(|i| (0..tiles).map(|t| x[192 * t + i]).sum::<f32>()).collect())
}

fn tensor(kernel: &str) -> Scene {
    let (width, height) = (72usize, 40);
    let x: Vec<f32> = (0..width * height).map(|i| (i % 1001) as f32 + 1.0).collect();
    let mut case = hopper(kernel).grid3([3, 3, 1]).block(128);
    let (a, o) = (case.input(&x), case.output::<f32>(x.len()));
    let map =
        |b| Map::new(b, DataType::F32, &[width as u64, height as u64], &[32, 16]).swizzle(Swizzle::B128);
    case.map(map(a)).map(map(o));
    exact(case, o, x.iter().map(|v| 2.0 * v).collect())
}

fn neighbours(kernel: &str) -> Scene {
    let x = random_f32(112, 4 * 32);
    let mut case = hopper(kernel).grid(4).block(32).cluster(2);
    let (a, o) = (case.input(&x), case.output::<f32>(128));
    case.buffers(&[a, o]);
    exact(case, o, (0..128).map(|i| x[((i / 32) ^ 1) * 32 + 31 - i % 32]).collect())
}

fn multicast(kernel: &str) -> Scene {
    let boxes = 4;
    let x: Vec<f32> = (0..boxes * 512).map(|i| i as f32).collect();
    let mut case = hopper(kernel).grid(2).block(128).cluster(2);
    let (a, o) = (case.input(&x), case.output::<f32>(boxes * 1024));
    case.map(Map::new(a, DataType::F32, &[32 * boxes as u64, 16], &[32, 16]))
        .buffers(&[o])
        .value(boxes as i32);
    let want = (0..boxes * 1024).map(|i| {
        let (b, rank, row, col) = (i / 1024, i / 512 % 2, i % 512 / 32, i % 32);
        x[row * 32 * boxes + 32 * b + col] + rank as f32
    });
    let want = want.collect();
    exact(case, o, want)
}

fn wgmma_product(kernel: &str) -> Scene {
    let (a, b) = (narrow(113, 64 * 16, f16::from_f32), narrow(114, 32 * 16, f16::from_f32));
    let mut case = hopper(kernel).grid(1).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(64 * 32));
    case.buffers(&[x, y, o]);
    close(case, o, product(&wide(&a), &wide(&b), 64, 32, 16), 1e-5)
}

fn specialised(kernel: &str) -> Scene {
    let k = 64 * 5;
    let (a, b) = (narrow(115, 128 * k, bf16::from_f32), narrow(116, 32 * k, bf16::from_f32));
    let bytes = 2 * (128 * 64 + 32 * 64) * 2 + 32;
    let mut case = hopper(kernel).grid(1).block(384).shared(bytes);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(128 * 32));
    let map = |b, rows: u32| {
        Map::new(b, DataType::Bf16, &[k as u64, rows.into()], &[64, rows]).swizzle(Swizzle::B128)
    };
    case.map(map(x, 128)).map(map(y, 32)).buffers(&[o]).value(k as i32);
    close(case, o, product(&wide(&a), &wide(&b), 128, 32, k), 1e-4)
}

fn downstream(kernel: &str) -> Scene {
    let n = 300;
    let x = random_f32(117, n);
    let mut case = hopper("upstream").grid(3).block(128);
    let (a, b, o) = (case.input(&x), case.output::<f32>(n), case.output::<f32>(n));
    case.buffers(&[a, b]).value(n as i32);
    case.then_dependent(kernel, 3, 128).buffers(&[b, o]).value(n as i32);
    exact(case, o, x.iter().map(|v| v * 3.0 * 0.5).collect())
}

/// The host sets y to zero in stream 0, a kernel in stream 1 writes its first part, and stream 0 copies y. The bugs are
/// the host's.
fn two_streams(variant: u32) -> Scene {
    let (n, blocks) = if variant == 6 { (60, 1) } else { (150, 3) };
    let x = random_f32(125, n);
    let mut case = simple("scale_0").grid(blocks).block(64);
    let (a, y, z) = (case.input(&x), case.output::<f32>(n + 20), case.output::<f32>(n + 20));
    case.buffers(&[a, y]).value(n as i32).stream(1);
    case.first(HostStep::Memset(y, 0));
    if variant != 1 {
        case.first(HostStep::Order(0, 1));
    }
    if variant == 7 {
        case.first(HostStep::Order(1, 0));
    }
    match variant {
        2 | 6 | 7 => {}
        3 => {
            case.host(HostStep::Write(a, vec![0; 4 * n], 0)).host(HostStep::Order(1, 0));
        }
        4 => {
            case.host(HostStep::MemsetNow(y)).host(HostStep::Order(1, 0));
        }
        5 => {
            case.host(HostStep::ReadNow(y)).host(HostStep::Order(1, 0));
        }
        _ => {
            case.host(HostStep::Order(1, 0));
        }
    }
    case.host(HostStep::Copy(z, y, 0)).host(HostStep::Wait(0)).host(HostStep::ReadNow(z));
    let want = x.iter().map(|v| 2.0 * f64::from(*v) + 1.0).chain([0.0; 20]).collect();
    close(case, z, want, 1e-6)
}

fn copies(kernel: &str) -> Case {
    Case::new("planted_copies", &["sm_90a"], kernel)
}

fn tickets(kernel: &str) -> Scene {
    let mut case = simple(kernel).grid(4).block(32);
    let counter = case.input(&[0u32]);
    case.buffers(&[counter]);
    exact(case, counter, vec![4u32])
}

fn pass_on(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..128).map(|i| 5 * i).collect();
    let mut case = copies(kernel).grid(4).block(32);
    let (a, b, o) = (case.input(&x), case.output::<i32>(128), case.output::<i32>(128));
    let flags = case.input(&[0u32; 4]);
    case.buffers(&[a, b, o, flags]);
    exact(case, o, (0..128).map(|i| x[(i + 96) % 128] + 1).collect())
}

fn detour(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..3 * 128).collect();
    let mut case = copies(kernel).grid(3).block(128);
    let (a, b, o) = (case.input(&x), case.output::<i32>(x.len()), case.output::<i32>(x.len()));
    case.buffers(&[a, b, o]);
    exact(case, o, x.iter().map(|v| 2 * v).collect())
}

fn fences(kernel: &str) -> Scene {
    let x = random_f32(118, 2 * 128);
    let mut case = copies(kernel).grid(2).block(128);
    let (a, o) = (case.input(&x), case.output::<f32>(x.len()));
    case.buffers(&[a, o]);
    exact(case, o, x.iter().map(|v| v + 1.0).collect())
}

fn halves(kernel: &str) -> Scene {
    let x: Vec<i32> = (1..1 + 3 * 128).collect();
    let mut case = copies(kernel).grid(3).block(32);
    let (a, b, o) = (case.input(&x), case.output::<i32>(x.len()), case.output::<i32>(x.len()));
    case.buffers(&[a, b, o]);
    exact(case, o, x.iter().enumerate().map(|(i, v)| if i % 4 < 2 { *v } else { 0 }).collect())
}

fn arrivals(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..2 * 256).map(|i| 3 * i + 1).collect();
    let mut case = copies(kernel).grid(2).block(64);
    let (a, o, copy) = (case.input(&x), case.output::<i32>(x.len()), case.output::<i32>(x.len()));
    case.buffers(&[a, o, copy]);
    Scene { case, correct: Box::new(move |out: &Output| out.get::<i32>(o) == x && out.get::<i32>(copy) == x) }
}

fn early_load(kernel: &str) -> Scene {
    let x = random_f32(119, 3 * 128);
    let mut case = copies("rows_upstream").grid(3).block(128);
    let (a, b, o) = (case.input(&x), case.output::<f32>(x.len()), case.output::<f32>(x.len()));
    case.buffers(&[a, b]);
    case.then_dependent(kernel, 3, 128).buffers(&[b, o]);
    exact(case, o, x.iter().map(|v| v * 3.0 * 0.5).collect())
}

fn one_waits(kernel: &str) -> Scene {
    let x = random_f32(124, 3 * 128);
    let mut case = copies("rows_upstream").grid(3).block(128);
    let (a, b, o) = (case.input(&x), case.output::<f32>(x.len()), case.output::<f32>(x.len()));
    let flag = case.input(&[0u32]);
    case.buffers(&[a, b]);
    case.then_dependent(kernel, 3, 128).buffers(&[b, o, flag]);
    exact(case, o, x.iter().map(|v| v * 3.0 * 0.5).collect())
}

fn cluster_rows(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..128).collect();
    let mut case = copies(kernel).grid(4).block(32).cluster(2);
    let (a, b, o) = (case.input(&x), case.output::<i32>(128), case.output::<i32>(128));
    case.buffers(&[a, b, o]);
    exact(case, o, (0..128).map(|i| x[i ^ 32] + 1).collect())
}

fn in_registers(kernel: &str) -> Scene {
    let (a, b) = (narrow(120, 64 * 16, f16::from_f32), narrow(121, 32 * 16, f16::from_f32));
    let mut case = Case::new("planted_registers", &["sm_90a"], kernel).grid(1).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(64 * 32));
    case.buffers(&[x, y, o]);
    let want = product(&wide(&a), &wide(&b), 64, 32, 16).iter().map(|v| 2.0 * v).collect();
    close(case, o, want, 1e-5)
}

fn planted_calls(kernel: &str) -> Case {
    Case::new("planted_calls", &["sm_80"], kernel)
}

fn dispatch(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..128).map(|i| i * i % 50).collect();
    let mut case = planted_calls(kernel).grid(2).block(64);
    let (a, o) = (case.input(&x), case.output::<i32>(128));
    case.buffers(&[a, o]);
    exact(
        case,
        o,
        (0..128).map(|i| if i % 64 < 32 { x[i] + 1 } else { x[i ^ 1] } + 3 * (i as i32 / 64)).collect(),
    )
}

fn tiles(kernel: &str) -> Scene {
    let (a, b) = (narrow(122, 16 * 16, f16::from_f32), narrow(123, 16 * 16, f16::from_f32));
    let mut case = planted_calls(kernel).grid(1).block(64);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(2 * 16 * 16));
    case.buffers(&[x, y, o]);
    let want = product(&wide(&a), &wide(&b), 16, 16, 16);
    close(case, o, [want.clone(), want].concat(), 1e-5)
}

fn report(kernel: &str) -> Scene {
    let x: Vec<i32> = (0..32).map(|i| 3 * i).collect();
    let mut case = planted_calls(kernel).grid(1).block(32);
    let a = case.input(&x);
    case.buffers(&[a]);
    let want: String = x.iter().enumerate().map(|(i, x)| format!("lane {i}: {x}\n")).collect();
    Scene { case, correct: Box::new(move |out: &Output| out.printed == want.as_bytes()) }
}

fn same_numbers(kernel: &str, threads: u32) -> Scene {
    let x: Vec<i32> = (0..threads as i32).collect();
    let mut case = Case::new("planted_registers", &["sm_90a"], kernel).grid(1).block(threads);
    let (a, o) = (case.input(&x), case.output::<i32>(x.len()));
    case.buffers(&[a, o]);
    exact(case, o, x)
}
