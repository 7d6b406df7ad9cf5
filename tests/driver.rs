//! Drivers that cannot be used: what goes by the name `libcuda.so.1` may be no driver, an old one, or half of one.

use std::process::{Command, Output, Stdio};

use libtest_mimic::{Failed, Trial};
use nanomoe::device::Device;

use crate::cli::{err, out, run, text};
use crate::common::Scratch;

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        no_driver(),
        with_virtual_driver("driver::out_of_memory::cuda", out_of_memory),
        with_virtual_driver("driver::no_code::cuda", no_code),
    ];
    let compiler = Command::new("g++").arg("--version").output().is_ok_and(|output| output.status.success());
    let built = nanomoe::kernels::compiled::compiler_version();
    for case in CASES {
        let name = format!("driver::{}", case.name);
        let reason = match (&built, case.library) {
            (Err(error), _) => Some(error.to_string()),
            (_, Library::Source(_)) if !compiler => Some("there is no g++ to make a driver with".to_owned()),
            _ => None,
        };
        trials.push(match reason {
            None => Trial::test(name, || unusable(case)),
            Some(reason) => Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true),
        });
    }
    trials
}

/// What is put in the driver's place.
#[derive(Clone, Copy)]
enum Library {
    /// A file that is no library.
    Text(&'static str),
    /// C for a library with these functions.
    Source(&'static str),
}

struct Case {
    name: &'static str,
    library: Library,
    /// What the error says.
    says: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "junk",
        library: Library::Text("no library at all"),
        says: "no NVIDIA driver can be used (",
    },
    Case {
        name: "stub",
        library: Library::Source(
            "int cuInit(unsigned) { return 34; } int cuDriverGetVersion(int *) { return 34; }",
        ),
        says: "libcuda.so.1 is a toolkit's stub, not a driver",
    },
    Case {
        name: "no_device",
        library: Library::Source(
            "int cuInit(unsigned) { return 100; } int cuDriverGetVersion(int *) { return 0; }",
        ),
        says: "the NVIDIA driver answers, but gives no device: CUDA_ERROR_NO_DEVICE",
    },
    Case {
        name: "too_old",
        library: Library::Source(
            "int cuInit(unsigned) { return 0; } int cuDriverGetVersion(int *v) { *v = 12040; return 0; }",
        ),
        says: "the NVIDIA driver supports CUDA 12.4, the kernels were built by CUDA 13",
    },
    Case {
        name: "lacks_a_function",
        library: Library::Source(
            "int cuInit(unsigned) { return 0; } int cuDriverGetVersion(int *v) { *v = 13000; return 0; } \
             int cuCtxGetCurrent(void *) { return 0; } int cuCtxSetCurrent(void *) { return 0; }",
        ),
        says: "libcuda.so.1 lacks cuDeviceGet",
    },
    Case { name: "empty_library", library: Library::Source(""), says: "libcuda.so.1 lacks cuInit" },
];

/// The program with a folder where the driver is looked for first.
fn with_driver(folder: &Scratch, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .args(args)
        .env("LD_LIBRARY_PATH", &folder.0)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// Asked for, the driver is an error of one line; not asked for, it is said and the CPU does the work.
fn unusable(case: &Case) -> Result<(), Failed> {
    let folder = Scratch::new();
    let library = folder.0.join("libcuda.so.1");
    match case.library {
        Library::Text(words) => std::fs::write(&library, words)?,
        Library::Source(source) => {
            let path = folder.0.join("driver.cpp");
            std::fs::write(&path, format!("extern \"C\" {{ {source} }}"))?;
            let made =
                Command::new("g++").args(["-shared", "-fPIC", "-o", text(&library), text(&path)]).output()?;
            assert!(made.status.success(), "{}", err(&made));
        }
    }
    let asked = with_driver(&folder, &["generate", "Once", "--max-tokens", "1", "--device", "cuda"]);
    let error = err(&asked);
    assert_eq!((asked.status.code(), out(&asked).as_str()), (Some(1), ""), "{error}");
    assert!(error.starts_with("error: ") && error.contains(case.says), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");

    let info = with_driver(&folder, &["info"]);
    assert!(info.status.success(), "{}", err(&info));
    assert!(err(&info).contains("running on CPU") && out(&info).contains("CPU, "), "{}", err(&info));
    assert_eq!(err(&info).trim_end().lines().count(), 1, "{}", err(&info));
    Ok(())
}

/// A trial for the driver over the virtual GPU, whose environment says what device there is.
fn with_virtual_driver(name: &str, run: fn() -> Result<(), Failed>) -> Trial {
    let reason = match nanomoe::device::cuda::CudaDevice::new(0) {
        Ok(device) if device.properties().name.starts_with("Virtual") => return Trial::test(name, run),
        Ok(_) => "the driver is a real one".to_owned(),
        Err(error) => error.to_string().split(" (").next().unwrap_or_default().to_owned(),
    };
    Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true)
}

/// The program on the driver at hand, with a variable that it reads.
fn fails_with(variable: &str, value: &str, expected: &str) -> Result<(), Failed> {
    let output = Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .args(["generate", "Once", "--max-tokens", "1", "--device", "cuda"])
        .env(variable, value)
        .output()?;
    // The virtual driver tells beside its codes what they are about.
    let said = err(&output);
    let error = said.lines().filter(|line| !line.starts_with("virtual GPU: ")).collect::<Vec<_>>().join("\n");
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("error: ") && error.contains(expected), "{error:?}, expected {expected:?}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    Ok(())
}

/// The weights take 23 MB in bf16.
fn out_of_memory() -> Result<(), Failed> {
    fails_with("VIRTUAL_GPU_MEMORY", "10000000", "out of device memory: ")?;
    fails_with("VIRTUAL_GPU_MEMORY", "10000000", " of 10000000 free")
}

fn no_code() -> Result<(), Failed> {
    let expected = "no kernel of this build runs on Virtual T4 (compute capability 7.5); built for";
    fails_with("VIRTUAL_GPU_DEVICE", "t4", expected)
}

/// `--device cuda` where there is no driver.
fn no_driver() -> Trial {
    let name = "driver::none";
    if nanomoe::device::cuda::probe().is_ok() {
        return Trial::test(name, || Ok(())).with_kind("this machine has a driver").with_ignored_flag(true);
    }
    Trial::test(name, || {
        let output = run(&["generate", "x", "--device", "cuda"]);
        let error = err(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
        assert!(
            error.contains("no NVIDIA driver can be used (") || error.contains("no GPU kernels"),
            "{error}"
        );
        Ok(())
    })
}
