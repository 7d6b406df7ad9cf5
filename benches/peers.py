#!/usr/bin/env python3
"""Times what PyTorch makes of the work that `nanomoe bench` measures, in turn with ours, on the same GPU.

    python3 benches/peers.py --nanomoe target/release/nanomoe --json peers.json --ours ours.json [--op OP] [--resume]
    nanomoe bench --compare ours.json peers.json

Shapes come from `nanomoe bench --list`. For every shape ours and then each peer is timed, --rounds times over; files hold
a line a call, with the median of all rounds. Inputs are random bf16; between cold launches the L2 cache is overwritten;
work on less than 60 MB is also timed in a CUDA graph of twenty, its inputs in L2. A peer that this machine's PyTorch has
not, or that fails, is written down as not measured, and why. Exit code 3: --time-limit ended it; --resume goes on.

--list prints the calls, and needs no PyTorch.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

SCHEMA = "nanomoe-bench-1"
FLUSH_BYTES = 256 << 20
GRAPH_LAUNCHES = 20
L2_RESIDENT_BYTES = 60e6
# Sleep between shapes, so that all of them meet a GPU equally warm.
REST_SECONDS = 0.3

# What is called for each operation: (name, call, variants it is for; None for all).
PEERS = {
    "gemm": [
        ("cublas", "F.linear(x, w, b) [+ residual], preferred_blas_library('cublas')", ("", "bias", "residual")),
        ("cublaslt", "F.linear(x, w, b) [+ residual], preferred_blas_library('cublaslt')", ("", "bias", "residual")),
        ("max-autotune", "torch.compile(F.linear [+ residual], mode='max-autotune-no-cudagraphs')",
         ("", "bias", "residual")),
        ("addmm_activation", "torch._addmm_activation(b, x, w.t(), use_gelu=True)", ("gelu_tanh",)),
        ("compile", "torch.compile(F.gelu(F.linear(x, w, b)), mode='max-autotune-no-cudagraphs')",
         ("gelu_tanh", "gelu_erf")),
        ("eager", "F.gelu(F.linear(x, w, b))", ("gelu_tanh", "gelu_erf")),
    ],
    "attention": [
        ("cudnn", "sdpa_kernel(CUDNN_ATTENTION): F.scaled_dot_product_attention(q, k, v, is_causal=True)", None),
        ("fa2", "sdpa_kernel(FLASH_ATTENTION): F.scaled_dot_product_attention(q, k, v, is_causal=True)", None),
    ],
    "layer_norm": [
        ("compile", "torch.compile(F.layer_norm(x [+ delta]), mode='max-autotune-no-cudagraphs')", None),
        ("eager", "F.layer_norm(x [+ delta])", None),
    ],
    "topk_gating": [
        ("eager", "torch.topk(torch.softmax(logits, -1), k)", None),
        ("compile", "torch.compile of it", None),
    ],
    "moe_dispatch": [("argsort", "torch.argsort(ids.flatten(), stable=True), bincount, cumsum", None)],
    "moe_gemm": [("grouped_mm", "torch._grouped_mm(x, w, offs=offs, out_dtype=torch.bfloat16)", None)],
    "moe_layer": [
        ("grouped_mm", "torch.compile(softmax, topk, argsort, 2 x torch._grouped_mm, gelu, index_add_)", None),
        ("transformers", "MixtralSparseMoeBlock, experts_implementation grouped_mm, 2/3 of the width (it is gated)",
         ("",)),
    ],
    "lm_head": [
        ("mm+argmax", "torch.mm(x, w.t()).argmax(-1)", ("argmax",)),
        ("compile", "torch.compile(F.cross_entropy((x @ w.t()).float(), targets, reduction='none'))",
         ("cross_entropy",)),
    ],
}


def calls_of(case):
    return [(name, call) for name, call, variants in PEERS.get(case["op"], ()) if variants is None
            or case["variant"] in variants]


class Peers:
    """The calls, on random data of one case."""

    def __init__(self):
        import torch
        import torch.nn.functional as F

        self.torch, self.F = torch, F
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        torch.manual_seed(0)

    def random(self, *shape, scale=1.0):
        return (self.torch.randn(*shape, device="cuda") * scale).bfloat16()

    def compiled(self, function):
        self.torch._dynamo.reset()
        return self.torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)

    def gemm(self, name, variant, m, n, k):
        torch, F = self.torch, self.F
        x, w = self.random(m, k), self.random(n, k, scale=k**-0.5)
        bias = self.random(n) if variant else None
        residual = self.random(m, n) if variant == "residual" else None
        approximate = "tanh" if variant == "gelu_tanh" else "none"

        def linear():
            out = F.linear(x, w, bias)
            if residual is not None:
                out = out + residual
            return F.gelu(out, approximate=approximate) if variant.startswith("gelu") else out

        if name in ("cublas", "cublaslt"):
            torch.backends.cuda.preferred_blas_library(name)
        if name == "addmm_activation":
            return lambda: torch._addmm_activation(bias, x, w.t(), use_gelu=True)
        return self.compiled(linear) if name in ("compile", "max-autotune") else linear

    def attention(self, name, _variant, batch, seq, kv, heads, kv_heads, head_dim):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def heads_first(length, count):
            return self.random(batch, length, count, head_dim).transpose(1, 2)

        q, k, v = heads_first(seq, heads), heads_first(kv, kv_heads), heads_first(kv, kv_heads)
        backend = SDPBackend.CUDNN_ATTENTION if name == "cudnn" else SDPBackend.FLASH_ATTENTION
        # A single query at the end of its cache sees every key.
        if seq not in (1, kv):
            raise ValueError("PyTorch's causal mask is aligned to the first key")

        def attend():
            with sdpa_kernel(backend):
                return self.F.scaled_dot_product_attention(
                    q, k, v, is_causal=seq > 1, enable_gqa=heads != kv_heads)
        return attend

    def layer_norm(self, name, variant, tokens, width):
        torch, F = self.torch, self.F
        x, gamma, beta = self.random(tokens, width), self.random(width), self.random(width)
        delta = self.random(tokens, width) if variant == "residual" else None

        def norm():
            if delta is None:
                return F.layer_norm(x, (width,), gamma, beta)
            total = x + delta
            return total, F.layer_norm(total, (width,), gamma, beta)
        return self.compiled(norm) if name == "compile" else norm

    def topk_gating(self, name, _variant, tokens, experts, k):
        torch = self.torch
        logits = torch.randn(tokens, experts, device="cuda")

        def gate():
            return torch.topk(torch.softmax(logits, -1), k)
        return self.compiled(gate) if name == "compile" else gate

    def ids(self, variant, tokens, experts, k):
        torch = self.torch
        weight = torch.zeros(experts, device="cuda")
        if variant == "zipf":
            weight = -torch.arange(1, experts + 1, device="cuda").float().log()
        if variant == "one":
            weight[0] = 100.0
        gumbel = -torch.log(-torch.log(torch.rand(tokens, experts, device="cuda").clamp(1e-7, 1 - 1e-7)))
        logits = weight + gumbel
        return logits, torch.topk(logits, k).indices

    def moe_dispatch(self, _name, variant, tokens, experts, k):
        torch = self.torch
        ids = self.ids(variant, tokens, experts, k)[1].flatten()

        def dispatch():
            order = torch.argsort(ids, stable=True)
            return order, torch.argsort(order), torch.bincount(ids, minlength=experts).cumsum(0)
        return dispatch

    def moe_gemm(self, _name, variant, tokens, hidden, inner, experts, k):
        torch = self.torch
        ids = self.ids(variant, tokens, experts, k)[1].flatten()
        offsets = torch.bincount(ids, minlength=experts).cumsum(0).to(torch.int32)
        x, w = self.random(tokens * k, hidden), self.random(experts, inner, hidden, scale=hidden**-0.5)
        return lambda: torch._grouped_mm(x, w.transpose(-2, -1), offs=offsets, out_dtype=torch.bfloat16)

    def moe_layer(self, name, variant, tokens, hidden, inner, experts, k):
        torch, F = self.torch, self.F
        x = self.random(tokens, hidden)
        if name == "transformers":
            return self.transformers(x, hidden, inner, experts, k)
        up = self.random(experts, inner, hidden, scale=hidden**-0.5)
        down = self.random(experts, hidden, inner, scale=inner**-0.5)
        logits = self.ids(variant, tokens, experts, k)[0]

        def layer():
            chosen, ids = torch.topk(logits, k)
            weights, ids = torch.softmax(chosen, -1).flatten(), ids.flatten()
            order = torch.argsort(ids, stable=True)
            token = order // k
            experts_of_rows = ids[order]
            offsets = torch.searchsorted(experts_of_rows, torch.arange(experts, device="cuda"), right=True)
            offsets = offsets.to(torch.int32)
            rows = torch._grouped_mm(x[token], up.transpose(-2, -1), offs=offsets, out_dtype=torch.bfloat16)
            rows = torch._grouped_mm(F.gelu(rows), down.transpose(-2, -1), offs=offsets, out_dtype=torch.bfloat16)
            out = torch.zeros(tokens, hidden, device="cuda", dtype=torch.float32)
            return out.index_add_(0, token, rows * weights[order, None]).bfloat16()
        return self.compiled(layer)

    def transformers(self, x, hidden, inner, experts, k):
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

        torch = self.torch
        # It multiplies three matrices, we two: at 2/3 of the width, rounded down, it has no more to do than we.
        config = MixtralConfig(hidden_size=hidden, intermediate_size=2 * inner // 3 // 64 * 64,
                               num_local_experts=experts, num_experts_per_tok=k)
        # Small token counts have their own implementation there.
        config._experts_implementation = "batched_mm" if x.shape[0] <= 64 else "grouped_mm"
        with torch.device("cuda"):
            block = MixtralSparseMoeBlock(config).bfloat16().eval()
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.normal_(0, 0.02)
        compiled, batch = self.compiled(block), x[None]
        return lambda: compiled(batch)

    def lm_head(self, name, _variant, tokens, vocabulary, hidden):
        torch, F = self.torch, self.F
        x, w = self.random(tokens, hidden), self.random(vocabulary, hidden, scale=hidden**-0.5)
        targets = torch.randint(0, vocabulary, (tokens,), device="cuda")
        if name == "mm+argmax":
            return lambda: torch.mm(x, w.t()).argmax(-1)
        return self.compiled(lambda: F.cross_entropy((x @ w.t()).float(), targets, reduction="none"))

    def finite(self, result):
        parts = result if isinstance(result, (tuple, list)) else [result]
        for part in parts:
            if self.torch.is_tensor(part) and part.is_floating_point() and not part.isfinite().all():
                raise ValueError("the peer's result is not finite")

    def events(self, work):
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3

    def samples(self, one):
        for _ in range(3):
            one()
        times = []
        while len(times) < 60 and (sum(times) < 1.5e6 or len(times) < 7):
            times.append(one())
        return times

    def cold(self, work):
        def one():
            self.flush.zero_()
            return self.events(work)
        return self.samples(one)

    def warm(self, work):
        torch = self.torch
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            for _ in range(GRAPH_LAUNCHES):
                work()
        return [time / GRAPH_LAUNCHES for time in self.samples(lambda: self.events(graph.replay))]


def quantile(times, part):
    times = sorted(times)
    return times[round((len(times) - 1) * part)]


def ours(program, case, work_dir):
    """One measurement of ours, in a process of its own: (its line, its whole file)."""
    path = work_dir / "line.json"
    path.unlink(missing_ok=True)
    shape = case["shape"] + (":" + case["variant"] if case["variant"] else "")
    done = subprocess.run([program, "bench", case["op"], "--shape", shape, "--json", path], capture_output=True,
                          text=True, timeout=300)
    if not path.is_file():
        raise RuntimeError((done.stderr.strip() or "no file").splitlines()[-1])
    file = json.loads(path.read_text())
    return file["lines"][0], file


def merged(lines):
    """One line of the lines of several rounds."""
    timed = [line for line in lines if line.get("us")]
    if not timed:
        return lines[0]
    line = dict(timed[0])
    line["us"] = quantile([one["us"] for one in timed], 0.5)
    line["us_low"] = min(one["us_low"] for one in timed)
    line["us_high"] = max(one["us_high"] for one in timed)
    warm = [one["warm_us"] for one in timed if one.get("warm_us")]
    line["warm_us"] = quantile(warm, 0.5) if warm else None
    line["rounds"] = len(timed)
    return line


def save(path, file):
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(file, indent=1) + "\n")
    partial.replace(path)


def load(path, source, resume):
    if resume and path.is_file():
        return json.loads(path.read_text())
    return {"schema": SCHEMA, "source": source, "lines": []}


def machine(torch):
    asked = subprocess.run(["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.max.sm,clocks.mem",
                            "--format=csv,noheader"], capture_output=True, text=True)
    return {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(), "driver_and_clocks": asked.stdout.strip() or "unknown",
            "unix_time": int(time.time())}


def measure_case(peers, case, program, work_dir, rounds):
    """Lines of ours and of the peers for one case, and the file that ours came in."""
    torch = peers.torch
    works, failed = {}, {}
    for name, _ in calls_of(case):
        try:
            work = getattr(peers, case["op"])(name, case["variant"], *case["dims"])
            with torch.no_grad():
                peers.finite(work())
            torch.cuda.synchronize()
            works[name] = work
        except Exception as error:  # Whatever a peer raises is the reason that it was not measured.
            failed[name] = f"{type(error).__name__}: {error}"[:300]
    our_lines, file, their_lines = [], None, {name: [] for name in works}
    # What PyTorch keeps for later is given back, since ours needs memory in another process.
    torch.cuda.empty_cache()
    for _ in range(rounds):
        line, file = ours(program, case, work_dir)
        our_lines.append(line)
        for name, work in works.items():
            try:
                if case["op"] == "gemm" and name in ("cublas", "cublaslt"):
                    torch.backends.cuda.preferred_blas_library(name)
                with torch.no_grad():
                    times = peers.cold(work)
                    small = line.get("bytes") and line["bytes"] < L2_RESIDENT_BYTES
                    warm = peers.warm(work) if small else None
                their_lines[name].append({"us": quantile(times, 0.5), "us_low": quantile(times, 0.1),
                                          "us_high": quantile(times, 0.9), "samples": len(times),
                                          "warm_us": quantile(warm, 0.5) if warm else None})
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"[:300]
    about = {key: case[key] for key in ("op", "shape", "variant", "row")}
    theirs = []
    for name, call in calls_of(case):
        line = {**about, "call": name, "exactly": call}
        if their_lines.get(name):
            line.update(merged(their_lines[name]))
        else:
            line.update({"us": None, "reason": failed.get(name, "no reason is known")})
        if name in failed and line["us"]:
            line["reason"] = failed[name]
        theirs.append(line)
    return merged(our_lines), theirs, file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanomoe", default="target/release/nanomoe", help="the program [%(default)s]")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("peers.json"), help="[%(default)s]")
    parser.add_argument("--ours", type=pathlib.Path, default=pathlib.Path("ours.json"), help="[%(default)s]")
    parser.add_argument("--op", action="append", help="only this operation; again for more")
    parser.add_argument("--rounds", type=int, default=2, help="times that ours and peers take turns [%(default)s]")
    parser.add_argument("--resume", action="store_true", help="leave out what the files have")
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="SECONDS")
    parser.add_argument("--list", action="store_true", help="print the calls")
    args = parser.parse_args()
    if args.list:
        for op, peers in PEERS.items():
            for name, call, _ in peers:
                print(f"{op:13s} {name:17s} {call}")
        return 0
    started = time.monotonic()
    try:
        import torch
    except ImportError as error:
        sys.exit(f"error: PyTorch is needed: {error}")
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU")
    listed = subprocess.run([args.nanomoe, "bench", "--list"], capture_output=True, text=True, check=True)
    cases = [json.loads(line) for line in listed.stdout.splitlines()]
    # Lines without a row have no peer that is asked for.
    cases = [case for case in cases if case["row"] and (not args.op or case["op"] in args.op)]
    our_file, their_file = load(args.ours, "nanomoe", args.resume), load(args.json, "torch", args.resume)
    their_file["machine"] = machine(torch)
    known = {(line["op"], line["shape"], line["variant"]) for line in our_file["lines"]}
    peers = Peers()
    with tempfile.TemporaryDirectory() as work_dir:
        for case in cases:
            if (case["op"], case["shape"], case["variant"]) in known:
                continue
            if time.monotonic() - started > args.time_limit:
                print("stopped at the time limit: run it again with --resume", file=sys.stderr)
                return 3
            our_line, their_lines, file = measure_case(peers, case, args.nanomoe, pathlib.Path(work_dir), args.rounds)
            our_file.update({key: file[key] for key in ("machine", "ceilings")})
            our_file["lines"].append(our_line)
            their_file["lines"] += their_lines
            save(args.json, their_file)
            save(args.ours, our_file)
            times = ", ".join(f"{line['call']} {line['us']:.2f}" if line["us"] else f"{line['call']} not measured"
                              for line in their_lines)
            print(f"{case['op']} {case['shape']} {case['variant']}: ours {our_line.get('us') or 'not measured'}, {times}",
                  flush=True)
            time.sleep(REST_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
