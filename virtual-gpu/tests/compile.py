#!/usr/bin/env python3
"""Compiles tests/cuda/*.cu to the PTX under tests/ptx that the tests run, so that they need no compiler.

    tests/compile.py [NAME ...]      only the named programs, else every one whose PTX is stale

A program names its targets in its first line: `// targets: sm_80 sm_90a`. The PTX's first line keeps a hash of the
source and of the shared headers; `cargo test` compares it. nvcc 13.0 is looked for in $NVCC, on PATH, in
/usr/local/cuda and in the per-user cache.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CRATE = Path(__file__).resolve().parent.parent
CUDA = CRATE / "tests" / "cuda"
PTX = CRATE / "tests" / "ptx"
COMPUTE = {"sm_80": "compute_80", "sm_90a": "compute_90a"}


def find_nvcc():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    candidates = [
        os.environ.get("NVCC"),
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
        cache / "nanomoe/cuda-13.0.88/nvidia/cu13/bin/nvcc",
    ]
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            return str(candidate)
    sys.exit("compile.py: no nvcc; set NVCC")


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def source_hash(source):
    """FNV-1a of the source followed by the shared headers in name order."""
    files = [source, *sorted(CUDA.glob("*.cuh"))]
    return f"{fnv1a(b''.join(f.read_bytes() for f in files)):016x}"


def portable(line):
    """Paths of this machine become relative to the crate, those of the toolkit to its root."""
    match = re.match(r'(\s*\.file\s+\d+\s+)"(.*)"(.*)', line)
    if not match:
        return line
    path = os.path.normpath(match[2])
    if path.startswith(f"{CRATE}/"):
        path = os.path.relpath(path, CRATE)
    elif "/include/" in path:
        path = "cuda/include/" + path.split("/include/", 1)[1]
    else:
        path = os.path.basename(path)
    # What follows the name is the time and size of the file, which a checkout changes.
    return f'{match[1]}"{path}"'


def compile_one(nvcc, source, target):
    out = PTX / f"{source.stem}.{target}.ptx"
    head = f"// source: tests/cuda/{source.name} {source_hash(source)}\n"
    if out.exists() and out.read_text().startswith(head):
        return False
    relative = source.relative_to(CRATE)
    command = [nvcc, "-ptx", "-std=c++17", f"-arch={COMPUTE[target]}", "-lineinfo", "-o", str(out), str(relative)]
    result = subprocess.run(command, cwd=CRATE, capture_output=True, text=True)
    if result.returncode:
        out.unlink(missing_ok=True)
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    sys.stderr.write(result.stderr)
    text = "\n".join(portable(line) for line in out.read_text().splitlines())
    out.write_text(head + text + "\n")
    print(f"{out.relative_to(CRATE)}: {out.stat().st_size // 1024} KiB")
    return True


def main():
    nvcc = find_nvcc()
    PTX.mkdir(exist_ok=True)
    names = sys.argv[1:]
    for source in sorted(CUDA.glob("*.cu")):
        if names and source.stem not in names:
            continue
        first = source.read_text().splitlines()[0]
        if not first.startswith("// targets:"):
            sys.exit(f"{source.name}: the first line names no targets")
        for target in first.removeprefix("// targets:").split():
            compile_one(nvcc, source, target)


if __name__ == "__main__":
    main()
