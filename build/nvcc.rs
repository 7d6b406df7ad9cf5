//! Finding nvcc, or fetching the pinned one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// The oldest compiler that knows every target.
const OLDEST: (u32, u32) = (12, 8);
/// How long a failed fetch is not tried again.
const BACK_OFF: Duration = Duration::from_secs(600);

/// A compiler that answered `--version`.
pub struct Nvcc {
    pub path: PathBuf,
    /// As `13.0`.
    pub version: String,
}

/// Where to look, in this order: an explicit path (a bad one is an error), the toolkit's variables, `PATH`, the usual
/// folders, the per-user cache, and last the package index if allowed. `Err` stops the build, `Ok(Err(reason))`
/// goes on without kernels.
pub fn find(manifest: &Path) -> Result<Result<Nvcc, String>, String> {
    for name in ["NANOMOE_NVCC", "NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let explicit = std::env::var("NANOMOE_NVCC").unwrap_or_default();
    if explicit == "none" {
        return Ok(Err("NANOMOE_NVCC=none".to_owned()));
    }
    let fetch_allowed = explicit == "auto-fetch" || std::env::var_os("CARGO_FEATURE_FETCH_NVCC").is_some();
    let named = if explicit.is_empty() || explicit == "auto-fetch" {
        std::env::var("NVCC").ok()
    } else {
        Some(explicit)
    };
    if let Some(path) = named {
        return check(Path::new(&path)).map(Ok).map_err(|why| format!("nvcc was set to {path}, but {why}"));
    }
    let mut refused = Vec::new();
    for candidate in candidates() {
        if candidate.is_file() {
            match check(&candidate) {
                Ok(nvcc) => return Ok(Ok(nvcc)),
                Err(why) => refused.push(format!("{}: {why}", candidate.display())),
            }
        }
    }
    let fetched =
        if fetch_allowed { fetch(manifest) } else { Err("NANOMOE_NVCC=auto-fetch is not set".to_owned()) };
    match fetched.and_then(|path| check(&path)) {
        Ok(nvcc) => Ok(Ok(nvcc)),
        Err(why) => {
            refused.push(format!("not fetched: {why}"));
            // A file that never exists: the absence of a compiler is looked into again at every build.
            println!("cargo::rerun-if-changed={}", manifest.join("no-nvcc-yet").display());
            Ok(Err(format!("no nvcc found ({})", refused.join("; "))))
        }
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"]
        .iter()
        .filter_map(std::env::var_os)
        .map(|root| PathBuf::from(root).join("bin/nvcc"))
        .collect();
    if let Some(path) = std::env::var_os("PATH") {
        found.extend(std::env::split_paths(&path).map(|folder| folder.join("nvcc")));
    }
    found.extend(
        ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].map(|root| Path::new(root).join("bin/nvcc")),
    );
    let mut versioned: Vec<PathBuf> = fs::read_dir("/usr/local")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    versioned.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda-")));
    versioned.sort();
    found.extend(versioned.iter().rev().map(|root| root.join("bin/nvcc")));
    found.extend(cache_folder().map(|folder| in_wheels(&folder)));
    found
}

/// Runs `--version`. A symbolic link is followed first: nvcc looks for its profile beside the name it was called by.
fn check(path: &Path) -> Result<Nvcc, String> {
    let path = path.canonicalize().map_err(|error| error.to_string())?;
    let output = Command::new(&path).arg("--version").output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .split("release ")
        .nth(1)
        .and_then(|rest| rest.split([',', ' ', '\n']).next())
        .ok_or_else(|| format!("`{} --version` names no release", path.display()))?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
        return Err(format!("it is CUDA {version}, {}.{} or newer is needed", OLDEST.0, OLDEST.1));
    }
    println!("cargo::rerun-if-changed={}", path.display());
    Ok(Nvcc { version: version.to_owned(), path })
}

fn cache_folder() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
    };
    Some(base.join("nanomoe").join("cuda-13.0.88"))
}

fn in_wheels(folder: &Path) -> PathBuf {
    folder.join("nvidia/cu13/bin/nvcc")
}

/// Fetches the pinned wheels with pip into the per-user cache; one process at a time.
fn fetch(manifest: &Path) -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed=CARGO_NET_OFFLINE");
    if std::env::var("CARGO_NET_OFFLINE").is_ok_and(|value| value == "true" || value == "1") {
        return Err("CARGO_NET_OFFLINE is set".to_owned());
    }
    let folder = cache_folder().ok_or("HOME is not set")?;
    let parent = folder.parent().ok_or("the cache has no parent folder")?.to_owned();
    fs::create_dir_all(&parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    let lock = fs::File::create(parent.join("fetch.lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if in_wheels(&folder).is_file() {
        return Ok(in_wheels(&folder));
    }
    let failed = parent.join("fetch-failed");
    if let Ok(age) = fs::metadata(&failed)
        .and_then(|file| file.modified())
        .map(|time| SystemTime::now().duration_since(time))
        && age.is_ok_and(|age| age < BACK_OFF)
    {
        let reason = fs::read_to_string(&failed).unwrap_or_default();
        return Err(format!(
            "{} (tried less than ten minutes ago; delete {} to try now)",
            reason.trim(),
            failed.display()
        ));
    }
    let staging = parent.join(format!("fetching-{}", std::process::id()));
    let result = pip(manifest, &staging).and_then(|()| {
        fs::rename(&staging, &folder).map_err(|error| format!("{}: {error}", folder.display()))
    });
    if let Err(reason) = result {
        // Leftovers of a failed fetch; the reason is what matters.
        let _ = fs::remove_dir_all(&staging);
        let _ = fs::write(&failed, &reason);
        return Err(reason);
    }
    let _ = fs::remove_file(&failed);
    Ok(in_wheels(&folder))
}

fn pip(manifest: &Path, target: &Path) -> Result<(), String> {
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ])
        .args(["--require-hashes", "--no-compile", "--target"])
        .arg(target)
        .arg("-r")
        .arg(manifest.join("build/cuda-toolchain.txt"))
        .output()
        .map_err(|error| format!("python3 could not be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().rfind(|line| line.contains("ERROR") || line.contains("rror:"));
    Err(format!("pip: {}", reason.or(text.lines().next_back()).unwrap_or("failed without a word")))
}
