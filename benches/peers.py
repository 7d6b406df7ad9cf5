#!/usr/bin/env python3
"""Times what PyTorch makes of the work that `nanomoe bench` measures, in turn with ours, on the same GPU.

    python3 benches/peers.py --nanomoe target/release/nanomoe --json peers.json --ours ours.json [--op OP] [--resume]
    nanomoe bench --compare ours.json peers.json

Shapes come from `nanomoe bench --list`: one of each gate first, then all that something is wanted of (--quick: only the
first; --all: every shape). For every shape ours and then each peer is timed, --rounds times over; ours by a program
that stays open, so that both are as warm. Files hold a line a call, with the median of all rounds, and the ceilings:
cuBLAS on 8192x8192x8192 and a large copy. Inputs are random bf16; between cold launches the L2 cache is overwritten;
work on less than 60 MB is also timed in a CUDA graph of twenty, its inputs in L2. A peer that this machine's PyTorch has
not, or that fails, is written down as not measured, and why. Exit code 3: --time-limit ended it; --resume goes on.

--list prints the calls, and needs no PyTorch. --check makes every call once on small sizes, on a GPU or the CPU, and
says which fail; nothing is timed.
"""

import argparse
import json
import math
import pathlib
import queue
import subprocess
import sys
import threading
import time

from peer_calls import PEERS, Calls, calls_of

SCHEMA = "nanomoe-bench-1"
FLUSH_BYTES = 256 << 20
GRAPH_LAUNCHES = 20
L2_RESIDENT_BYTES = 60e6
# In each round; samples end early where launches are long.
SAMPLES, FEWEST_SAMPLES, ENOUGH_US = 30, 7, 0.7e6
# Sleep between shapes, so that all of them meet a GPU equally warm.
REST_SECONDS = 0.3
# Without an answer ours is given up for this shape.
ANSWER_SECONDS = 240


class Ours:
    """`nanomoe bench --serve`, kept open: a request a line, an answer a line."""

    def __init__(self, command):
        self.command, self.process, self.header = command, None, {}

    def start(self):
        self.process = subprocess.Popen([*self.command, "bench", "--serve"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, args=(self.process, self.lines), daemon=True).start()
        self.header = self.next_line()

    @staticmethod
    def read(process, lines):
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    def next_line(self):
        try:
            line = self.lines.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            self.stop()
            raise RuntimeError(f"no answer in {ANSWER_SECONDS} s") from None
        if line is None:
            code = self.process.wait()
            self.process = None
            raise RuntimeError(f"nanomoe bench --serve ended with exit code {code}")
        return json.loads(line)

    def ask(self, request):
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # What it ended with is read below.
        return self.next_line()

    def time(self, case):
        """A line of ours: its time, or why it has none."""
        shape = case["shape"] + (":" + case["variant"] if case["variant"] else "")
        try:
            return self.ask(f"{case['op']} {shape}")
        except RuntimeError as error:
            return {key: case[key] for key in ("op", "shape", "variant", "row")} | {
                "call": "nanomoe", "us": None, "reason": str(error)}

    def free(self):
        """Gives the memory of the last case back."""
        if self.process is not None:
            try:
                self.ask("")
            except RuntimeError:
                pass  # It is started anew for the next case.

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Clock:
    """Times by CUDA events, in microseconds."""

    def __init__(self, torch):
        self.torch = torch
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

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
        while len(times) < SAMPLES and (sum(times) < ENOUGH_US or len(times) < FEWEST_SAMPLES):
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

    def ceilings(self):
        """TFLOP/s of cuBLAS on 8192x8192x8192, and GB/s of a copy of 2 GiB, read plus write."""
        torch, n = self.torch, 8192
        a, b = (torch.randn(n, n, device="cuda").bfloat16() for _ in range(2))
        product = quantile(self.cold(lambda: torch.mm(a, b.t())), 0.5)
        source, target = (torch.empty(2 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
        copy = quantile(self.cold(lambda: target.copy_(source)), 0.5)
        return {"tflops": 2 * n**3 / product * 1e-6, "gb_per_s": 2 * (2 << 30) / copy * 1e-3}


def quantile(times, part):
    times = sorted(times)
    return times[round((len(times) - 1) * part)]


def merged(lines):
    """One line of the lines of several rounds."""
    timed = [line for line in lines if line.get("us")]
    if not timed:
        return lines[0]
    line = dict(timed[0])
    line["us"] = quantile([one["us"] for one in timed], 0.5)
    line["us_low"] = min(one["us_low"] for one in timed)
    line["us_high"] = max(one["us_high"] for one in timed)
    line["samples"] = sum(one["samples"] for one in timed)
    warm = [one["warm_us"] for one in timed if one.get("warm_us")]
    line["warm_us"] = quantile(warm, 0.5) if warm else None
    line["rounds"] = len(timed)
    return line


def said(error):
    """An exception as a reason, in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def finite(torch, result):
    for part in result if isinstance(result, (tuple, list)) else [result]:
        if torch.is_tensor(part) and part.is_floating_point() and not part.isfinite().all():
            raise ValueError("the peer's result is not finite")


class Measurement:
    """One case: the calls of the peers, ready to run, and what was timed of them and of ours."""

    def __init__(self, torch, calls, case):
        self.torch, self.case = torch, case
        self.works, self.lines, self.failed, self.warm_failed, self.ours = {}, {}, {}, {}, []
        for name, _ in calls_of(case):
            try:
                work = getattr(calls, case["op"])(name, case["variant"], *case["dims"])
                with torch.no_grad():
                    finite(torch, work())
                self.works[name], self.lines[name] = work, []
            except Exception as error:  # Whatever a peer raises is the reason that it was not measured.
                self.failed[name] = said(error)

    def round(self, clock, ours):
        line = ours.time(self.case)
        self.ours.append(line)
        small = line.get("bytes") and line["bytes"] < L2_RESIDENT_BYTES
        for name, work in self.works.items():
            try:
                with self.torch.no_grad():
                    times = clock.cold(work)
                    warm = self.warm(clock, name, work) if small else None
                self.lines[name].append({
                    "us": quantile(times, 0.5), "us_low": quantile(times, 0.1), "us_high": quantile(times, 0.9),
                    "samples": len(times), "warm_us": warm})
            except Exception as error:
                self.failed[name] = said(error)

    def warm(self, clock, name, work):
        """`None` for what cannot be captured, which is tried once."""
        if name in self.warm_failed:
            return None
        try:
            return quantile(clock.warm(work), 0.5)
        except Exception as error:
            self.warm_failed[name] = said(error)
            self.torch.cuda.synchronize()
            return None

    def results(self):
        """(our line, the peers' lines)"""
        theirs = []
        for name, call in calls_of(self.case):
            line = {key: self.case[key] for key in ("op", "shape", "variant", "row")} | {"call": name, "exactly": call}
            if self.lines.get(name):
                line |= merged(self.lines[name])
            else:
                line |= {"us": None, "reason": self.failed.get(name, "no reason is known")}
            if name in self.warm_failed:
                line["not_captured"] = self.warm_failed[name]
            theirs.append(line)
        return merged(self.ours), theirs


def save(path, file):
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(file, indent=1) + "\n")
    partial.replace(path)


def load(path, source, resume):
    if resume and path.is_file():
        return json.loads(path.read_text())
    return {"schema": SCHEMA, "source": source, "lines": []}


def smi(query):
    try:
        asked = subprocess.run(["nvidia-smi", "--id=0", f"--query-gpu={query}", "--format=csv,noheader"],
                               capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return asked.stdout.strip() or "unknown"


def machine(torch):
    return {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(), "driver": smi("driver_version"),
            "clocks": smi("clocks.sm,clocks.max.sm,clocks.mem"), "unix_time": int(time.time())}


def listed(command, *options):
    output = subprocess.run([*command, "bench", "--list", *options], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in output.stdout.splitlines()]


def chosen(args):
    """The cases in order of worth."""
    cases = listed(args.command, "--quick")
    if not args.quick:
        cases += [case for case in listed(args.command) if case not in cases]
    return [case for case in cases if (case["row"] or args.all) and (not args.op or case["op"] in args.op)]


def check(args, torch):
    """Makes every call once on small sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    calls, failures = Calls(torch, device), 0
    # There is no Mixtral of ours whose small sizes would be listed.
    mixtral = {"op": "forward", "variant": "mixtral", "dims": [1, 1, 6, 2, 64, 4, 97]}
    for case in listed(args.command, "--device", "virtual") + [mixtral]:
        if args.op and case["op"] not in args.op:
            continue
        if case["op"] == "attention":
            case["dims"][1] = case["dims"][2]  # As many queries as keys, as in the tables.
        for name, _ in calls_of(case):
            try:
                with torch.no_grad():
                    finite(torch, getattr(calls, case["op"])(name, case["variant"], *case["dims"])())
                verdict = "ran"
            except Exception as error:
                verdict = said(error)
                failures += 1
            print(f"{case['op']} {case['dims']} {case['variant']}: {name}: {verdict}", flush=True)
    print(f"{failures} failed on {device}")
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanomoe", default="target/release/nanomoe", help="the program [%(default)s]")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("peers.json"), help="[%(default)s]")
    parser.add_argument("--ours", type=pathlib.Path, default=pathlib.Path("ours.json"), help="[%(default)s]")
    parser.add_argument("--op", action="append", help="only this operation; again for more")
    parser.add_argument("--quick", action="store_true", help="one shape of each gate")
    parser.add_argument("--all", action="store_true", help="shapes of which nothing is wanted as well")
    parser.add_argument("--rounds", type=int, default=3, help="times that ours and peers take turns [%(default)s]")
    parser.add_argument("--resume", action="store_true", help="leave out what the files have")
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="SECONDS")
    parser.add_argument("--list", action="store_true", help="print the calls")
    parser.add_argument("--check", action="store_true", help="make every call once on small sizes")
    args = parser.parse_args()
    args.command = [args.nanomoe]
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
    torch.manual_seed(0)
    if args.check:
        return check(args, torch)
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU")
    our_file, their_file = load(args.ours, "nanomoe", args.resume), load(args.json, "torch", args.resume)
    known = {(line["op"], line["shape"], line["variant"]) for line in our_file["lines"]}
    clock, calls, ours = Clock(torch), Calls(torch), Ours(args.command)
    their_file |= {"machine": machine(torch), "ceilings": clock.ceilings()}
    torch.cuda.empty_cache()
    try:
        for case in chosen(args):
            if (case["op"], case["shape"], case["variant"]) in known:
                continue
            if time.monotonic() - started > args.time_limit:
                print("stopped at the time limit: run it again with --resume", file=sys.stderr)
                return 3
            measurement = Measurement(torch, calls, case)
            # What PyTorch keeps for later is given back, since ours needs memory in another process.
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            for _ in range(args.rounds):
                measurement.round(clock, ours)
            our_line, their_lines = measurement.results()
            our_line["clock_after"] = smi("clocks.sm")
            del measurement
            ours.free()
            our_file |= {key: ours.header[key] for key in ("machine", "ceilings") if key in ours.header}
            our_file["lines"].append(our_line)
            their_file["lines"] += their_lines
            save(args.json, their_file)
            save(args.ours, our_file)
            times = ", ".join(f"{line['call']} {line['us']:.2f}" if line["us"] else f"{line['call']} not measured"
                              for line in their_lines)
            print(f"{case['op']} {case['shape']} {case['variant']}: ours {our_line.get('us') or 'not measured'}, {times}",
                  flush=True)
            time.sleep(REST_SECONDS)
    finally:
        ours.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
