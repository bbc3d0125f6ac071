"""How long distilling takes: the whole command, and the label solve alone by n, d and pool size.

    python benchmarks/distil.py                     # MNIST to 100 labels, all defaults; digits; label solves
    python benchmarks/distil.py --data-root DIR
    python benchmarks/distil.py --only solves       # or sizes, or jobs
    python benchmarks/distil.py --device cuda

Runs `convexdistill distill` itself, as a user would, and records its seconds and those of the whole process,
start-up included. The same job by the paper's own code (400 epochs of 49 steps through two networks) takes
hours on two cores: it is not run here. Times are only comparable on an idle machine; the JSON says
how busy it was.

Label solves start from moments (random features of full rank) and end with labels and certificate. What depends on
the moments alone, their square roots, is computed once for any number of base sets and stands in a column of its
own. Sizes: moments and labels of MNIST, γ given and nothing trained, by images N, pool size and base examples n.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _speed import RESULTS, Record, machine, write

import convexdistill as cd
from convexdistill.distill.outer import OuterTerm
from convexdistill.distill.solve import label_system, solve_labels
from convexdistill.moments.record import square_root

# target, seconds for features + moments + choice + solve, seconds for everything with the evaluation
GOALS = {
    "cpu": (("digits", None, 60.0), ("mnist", 40.0, 180.0)),
    "cuda": (("digits", None, 60.0), ("mnist", 3.0, 180.0)),
}
# n, d, pool size, goal in seconds
SOLVES = ((100, 288, 5, None), (500, 512, 5, 0.15), (5000, 512, 5, 5.0), (500, 512, 1, None), (500, 2048, 1, None))
# N, pool size, n; every line differs from the first in one of them.
SIZES = (
    (10_000, 5, 100),
    (2_500, 5, 100),
    (40_000, 5, 100),
    (10_000, 1, 100),
    (10_000, 10, 100),
    (10_000, 5, 1000),
)
CLASSES = 10
ROUNDS = 5


def job(target: str, data_root: str | None, device: str) -> Record:
    command = [sys.executable, "-m", "convexdistill", "distill", "--target", target, "--device", device]
    described = machine() | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})
    with tempfile.TemporaryDirectory() as folder:
        command += ["--out", folder, *(["--data-root", data_root] if data_root else [])]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        process = time.perf_counter() - start
        metrics = json.loads((Path(folder) / "metrics.json").read_text("utf-8"))
    ours = next(row for row in metrics["results"] if row["labels"] == "distilled")
    return {
        "target": target,
        "base_size": metrics["base_size"],
        "accuracy": ours["accuracy_mean"],
        "seconds": {**metrics["seconds"], "process": round(process, 1)},
        "machine": described,
    }


def whole(images: int, count: int, n: int, data_root: str | None, device: str) -> Record:
    """Seconds from images to labels."""
    target = cd.data.load("mnist", root=data_root).subset(range(images))
    base = cd.select.choose(target, n, seed=0)
    start = time.perf_counter()
    moments = cd.accumulate(cd.features.pool(count=count), target, device=device)
    half = time.perf_counter()
    cd.distill.closed_form(moments, base, gamma=0.1, device=device)
    seconds = {"accumulate": half - start, "solve": time.perf_counter() - half}
    print(f"N={images}, {count} extractors, n={n}: {seconds['accumulate']:.2f} + {seconds['solve']:.2f} s")
    return {"images": images, "pool": count, "n": n, "seconds": seconds}


def solve(n: int, d: int, count: int, goal: float | None, device: str) -> Record:
    draw = torch.Generator().manual_seed(0)
    rows = 2 * d
    grams, bases = [], []
    for _ in range(count):
        target = torch.randn(rows, d + 1, generator=draw, dtype=torch.float64) / math.sqrt(d)
        wanted = torch.randn(rows, CLASSES, generator=draw, dtype=torch.float64)
        grams.append((target.T @ target / rows, target.T @ wanted / rows))
        bases.append(torch.randn(n, d + 1, generator=draw, dtype=torch.float64) / math.sqrt(d))
    best: Record = {"roots": math.inf, "solve": math.inf, "roots_cpu": math.inf, "solve_cpu": math.inf}
    for _ in range(ROUNDS):
        clock, cpu = time.perf_counter(), time.process_time()
        roots = [square_root(*pair) for pair in grams]
        terms = [OuterTerm(base, 1e-3, Q, B, 0.0) for base, (Q, B) in zip(bases, roots, strict=True)]
        half, half_cpu = time.perf_counter(), time.process_time()
        _, certificate = solve_labels(label_system(terms, torch.device(device)), 0.1)  # labels come back
        end, end_cpu = time.perf_counter(), time.process_time()
        clocks, cpus = (half - clock, end - half), (half_cpu - cpu, end_cpu - half_cpu)
        best = {name: min(old, new) for (name, old), new in zip(best.items(), (*clocks, *cpus), strict=True)}
    record = {"n": n, "d": d, "pool": count, "goal": goal, "seconds": best, "residual": certificate["residual"]}
    print(f"n={n}, d={d}, {count} extractors: {1e3 * best['solve']:.0f} ms (CPU {1e3 * best['solve_cpu']:.0f})")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="where data sets lie; default $CONVEXDISTILL_DATA or ./data")
    parser.add_argument("--only", choices=("solves", "sizes", "jobs"), help="leave the other figures as they are")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    device, root = options.device, options.data_root
    name = "distil" if device == "cpu" else f"distil-{device}"
    file = RESULTS / f"{name}.json"
    record: Record = json.loads(file.read_text("utf-8")) if file.exists() else {}
    wanted = {"solves", "sizes", "jobs"} if options.only is None else {options.only}
    if "solves" in wanted:
        record["solves"] = [solve(*sizes, device) for sizes in SOLVES]
        record["solves_machine"] = {**machine(), "threads": torch.get_num_threads()}
    if "sizes" in wanted:
        record["sizes"] = [whole(*sizes, root, device) for sizes in SIZES]
        record["sizes_machine"] = machine()
    if "jobs" in wanted:
        record["jobs"] = []
        for target, distil_goal, whole_goal in GOALS[device]:
            one = job(target, root, device) | {"goals": {"distil": distil_goal, "whole": whole_goal}}
            seconds = one["seconds"]
            print(
                f"\n{target} to {one['base_size']} labels, {one['accuracy']:.1f} %: distilled in "
                f"{seconds['accumulate'] + seconds['solve']:.1f} s"
                + (f" (goal {distil_goal:.0f})" if distil_goal else "")
                + f", with evaluation and start-up {seconds['process']:.1f} s (goal {whole_goal:.0f})\n"
            )
            record["jobs"].append(one)
    write(name, record)


if __name__ == "__main__":
    main()
