"""The layers beside their peers: time, memory and error of each, in one run.

    python benchmarks/layers.py                 # every case; about ten minutes
    python benchmarks/layers.py --only small    # one case
    python benchmarks/layers.py --quick         # a few rounds of each, to see that it runs
    python benchmarks/layers.py --table         # only write the table from the committed records

Candidates take turns, round by round, in one process, so that whatever else the machine does hits all of them;
times are medians over rounds, and ratios are medians of the ratios within a round with a 95 % bootstrap interval.
Errors are relative: of ridge against arithmetic of 50 digits, of the other layers against ours. Memory is the
growth of the peak resident size of a process of its own, from after the imports to after the first fit and
gradient. One thread, if --threads does not say more.

Peers are in the extra `bench`, but for qpth, whose metadata ask for versions of numpy and cvxpy that are too old
for us, although it runs with ours: `pip install --no-deps qpth`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layer_cases import CASES, LAM, Case, example
from layer_exact import exact, relative
from layer_peers import Work
from layer_problem_peers import OURS

from convexdistill.errors import SolveError
from convexdistill.layers import ridge

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "layers.jsonl"
TABLE = HERE.parent / "docs" / "results" / "layers.md"


def prepared(case: Case) -> dict[str, Work | str]:
    """The work of every candidate, or why it has none."""
    X, Y = example(case)
    works: dict[str, Work | str] = {}
    for peer in case.peers:
        try:
            work = peer.make(X, Y, LAM, case.wanted)
            work()
            works[peer.name] = work
        except ImportError as error:
            works[peer.name] = f"not installed: {error.name}"
        except NotImplementedError as error:
            works[peer.name] = f"left out: {error}"
        except Exception as error:  # a peer that fails is a result; that we fail is none
            if peer.name == OURS:
                raise
            works[peer.name] = f"fails: {type(error).__name__}: {str(error)[:120]}"
    return works


def timed(works: dict[str, Work], rounds: int, slice_seconds: float) -> dict[str, list[float]]:
    """Seconds a call, one number a round, the candidates taking turns."""
    counts = {}
    for name, work in works.items():
        start = time.perf_counter()
        for _ in range(3):
            work()
        counts[name] = max(1, round(slice_seconds * 3 / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for done in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                work()
            seconds[name].append((time.perf_counter() - start) / counts[name])
        print(f"\r  round {done + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seconds


def interval(ratios: list[float]) -> list[float]:
    """95 % bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    return [float(q) for q in np.quantile(medians, (0.025, 0.975))]


def run_case(key: str, quick: bool) -> list[dict[str, Any]]:
    case = CASES[key]
    print(f"{key}: {case.title}", file=sys.stderr)
    works = prepared(case)
    runnable = {name: work for name, work in works.items() if not isinstance(work, str)}
    seconds = timed(runnable, 3 if quick else 25, 0.01 if quick else 0.03)
    if case.errors == "50 digits":
        truth = exact(*example(case), LAM)
        weight, gradient = truth.weight, truth.to_features if case.wanted == "features" else truth.to_labels
    elif case.errors:
        weight, gradient = (t.detach() for t in runnable[OURS]())
    first = seconds[OURS]
    records = []
    for peer in case.peers:
        record: dict[str, Any] = {"case": key, "candidate": peer.name, "note": peer.note}
        if isinstance(works[peer.name], str):
            records.append(record | {"reason": works[peer.name]})
            continue
        ratios = [t / own for t, own in zip(seconds[peer.name], first, strict=True)]
        record |= {
            "seconds_median": float(np.median(seconds[peer.name])),
            "seconds_min": min(seconds[peer.name]),
            "times_ours": float(np.median(ratios)),
            "times_ours_interval": interval(ratios),
            "peak_mb": peak(key, peer.name),
        }
        if case.errors and (peer.name != OURS or case.errors != "ours"):
            W, grad = runnable[peer.name]()
            record["error_weight"] = relative(W.detach(), weight)
            record["error_gradient"] = None if grad is None else relative(grad, gradient)
        records.append(record)
    return records


def peak(key: str, name: str) -> float | None:
    """Growth of the peak resident size, in MB, of a process that does the work once."""
    command = [sys.executable, str(Path(__file__)), "--measure-memory", key, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return round(float(done.stdout.split()[-1]), 1) if done.returncode == 0 else None


def measure_memory(key: str, name: str) -> None:
    case = CASES[key]
    peer = next(p for p in case.peers if p.name == name)
    X, Y = example(case)
    for module in ("cvxpylayers.torch", "qpth.qp", "sklearn.linear_model", "himalaya.ridge"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # forget the peak of the imports (Linux)
    start = resident("VmRSS")
    peer.make(X, Y, LAM, case.wanted)()
    print((resident("VmHWM") - start) / 1024)


def resident(field: str) -> float:
    """A figure of /proc/self/status, in kB."""
    return next(float(line.split()[1]) for line in _lines("/proc/self/status") if line.startswith(field))


def run_precision() -> list[dict[str, Any]]:
    """Errors over conditions 1e2 … 1e12 of weight and gradients: within 10·eps·κ of the dtype, or an error."""
    records = []
    generator = torch.Generator().manual_seed(0)
    for power in range(2, 13, 2):
        U = torch.linalg.qr(torch.randn(40, 10, dtype=torch.float64, generator=generator)).Q
        V = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64, generator=generator)).Q
        X = U * torch.logspace(0, -power, 10, dtype=torch.float64) @ V.mT
        Y = X @ torch.randn(10, 3, dtype=torch.float64, generator=generator)
        lam = 10.0 ** (-2 * power)
        kinds = [("torch", torch.float64), ("torch", torch.float32), ("cvxpylayers", torch.float64)]
        for backend, dtype in kinds if power <= 4 else kinds[:2]:
            x, y = X.to(dtype).requires_grad_(), Y.to(dtype).requires_grad_()
            eye = lam**0.5 * torch.eye(10, dtype=torch.float64)
            kappa = float(torch.linalg.cond(torch.cat([x.detach().double(), eye])))
            record: dict[str, Any] = {"case": "precision", "backend": backend, "dtype": str(dtype)[6:]}
            record |= {"condition": kappa, "budget": 10 * torch.finfo(dtype).eps * kappa}
            try:
                fit = ridge(x, y, lam, backend=backend)
                G = torch.cos(torch.arange(30, dtype=dtype)).reshape(10, 3)
                to_features, to_labels = torch.autograd.grad(fit.weight, (x, y), G)
            except SolveError as error:
                records.append(record | {"error": None, "raised": type(error).__name__})
                continue
            truth = exact(x.detach(), y.detach(), lam, G)
            record |= {
                "method": fit.info.method,
                "error": relative(fit.weight.detach(), truth.weight),
                "error_to_labels": relative(to_labels, truth.to_labels),
                "error_to_features": relative(to_features, truth.to_features),
            }
            records.append(record)
    return records


def machine() -> dict[str, Any]:
    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    packages = ("torch", "numpy", "scipy", "cvxpy", "cvxpylayers", "diffcp", "moreau", "qpth", "himalaya")
    return {
        "case": "machine",
        "cpu": cpu or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: of(name) for name in (*packages, "scikit-learn")},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text("utf-8").splitlines() if Path(path).exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(*CASES, "precision"), help="one case")
    parser.add_argument("--quick", action="store_true", help="few rounds; records are printed, not kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the records go, as JSON lines")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default 1")
    parser.add_argument("--table", action="store_true", help="only write the table from the records")
    parser.add_argument("--measure-memory", nargs=2, metavar=("CASE", "CANDIDATE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure_memory:
        measure_memory(*options.measure_memory)
        return
    if not options.table:
        cases = [options.only] if options.only else [*CASES, "precision"]
        kept = [json.loads(line) for line in _lines(str(options.out))]
        kept = [record for record in kept if record["case"] not in (*cases, "machine")]
        records = [machine(), *kept]
        for key in cases:
            records += run_precision() if key == "precision" else run_case(key, options.quick)
            if not options.quick or options.out != RESULTS:  # what is done stays, whatever becomes of the rest
                options.out.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    else:
        records = [json.loads(line) for line in _lines(str(options.out))]
    from layer_table import table

    text = table(records, CASES)
    print(text)
    if options.out == RESULTS and not options.quick:
        TABLE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
