"""How time and memory grow with images, and what more workers bring.

    python benchmarks/scaling.py                 # N = 1e4 … 1e7 synthetic images, and 1, 2, 4 workers
    python benchmarks/scaling.py --most 1e6

Every run is a process of its own. The images are made as they are read (8×8, a tiny extractor of 64 features), so
that the figures are those of the pass itself. Peak memory is the process's highest resident size, Python and
PyTorch included. Workers are started by torchrun with one thread each, on real convolutions; seconds are those of
the pass alone, on the clock and of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from _speed import RESULTS, Record, machine, write
from torch import Tensor, nn

CHUNK = 4096
WORKERS = (1, 2, 4)
WORKER_IMAGES = 20_000


def synthetic(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    labels = torch.arange(CHUNK) % 10
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        yield torch.full((size, 1, 8, 8), start // CHUNK % 251, dtype=torch.uint8), labels[:size]


def one_pass(count: int) -> None:
    """In a process of its own: print seconds and peak memory."""
    from convexdistill.data import Preprocessing, stream
    from convexdistill.features import ModuleSpec
    from convexdistill.moments import accumulate

    tiny = [ModuleSpec(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU()))]
    source = stream(lambda: synthetic(count), classes=10)
    start, cpu = time.perf_counter(), time.process_time()
    moments = accumulate(tiny, source, preprocessing=Preprocessing((0.5,), (0.25,)))
    assert moments.images == count
    print(
        json.dumps(
            {
                "images": count,
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - cpu,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def one_worker(folder: str) -> None:
    """Under torchrun: sum a share of the images, and leave seconds and labels in the folder."""
    from convexdistill.data import ImageData
    from convexdistill.distill import closed_form
    from convexdistill.features import pool
    from convexdistill.moments import accumulate_together
    from convexdistill.moments.workers import process_group
    from convexdistill.select import choose

    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(WORKER_IMAGES) % 10
    images = torch.randint(0, 256, (WORKER_IMAGES, 1, 28, 28), generator=draw, dtype=torch.uint8)
    images[:, 0, 2:6, 2:6] += (labels * 20)[:, None, None].to(torch.uint8)
    data = ImageData(images, labels, tuple("0123456789"), name="synthetic", split="train")
    assert data.fingerprint  # known before the clock starts, as it is for a data set that is used again
    with process_group() as first:
        torch.distributed.barrier()
        start, cpu = time.perf_counter(), time.process_time()
        moments = accumulate_together(pool(), data)
        record = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        Path(folder, f"{os.environ['RANK']}.json").write_text(json.dumps(record))
        if first:
            solved = closed_form(moments, choose(data, 50, seed=0), gamma=0.1).labels
            torch.save(solved, Path(folder) / "labels.pt")


def workers(count: int) -> tuple[Record, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        # torchrun sets this for several workers, not for one; torch.set_num_threads binds the calling thread only.
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*launcher, __file__, "--worker", folder], check=True, env=one_thread)
        records = [json.loads(file.read_text()) for file in Path(folder).glob("*.json")]
        labels: Tensor = torch.load(Path(folder) / "labels.pt")
    return {
        "workers": count,
        "images": WORKER_IMAGES,
        "seconds": max(r["seconds"] for r in records),
        "cpu_seconds": sum(r["cpu_seconds"] for r in records),
    }, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=float, default=1e7, help="largest number of images")
    parser.add_argument("--only", choices=("workers",), help="leave the passes as they are")
    parser.add_argument("--one-pass", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_pass:
        return one_pass(options.one_pass)
    if options.worker:
        return one_worker(options.worker)
    record: Record = {"machine": machine(), "passes": [], "workers": []}
    if options.only == "workers":
        record["passes"] = json.loads((RESULTS / "scaling.json").read_text("utf-8"))["passes"]
    for count in (10**k for k in range(4, 8) if 10**k <= options.most and options.only != "workers"):
        command = [sys.executable, __file__, "--one-pass", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        record["passes"].append(json.loads(done.stdout.splitlines()[-1]))
        print(record["passes"][-1], flush=True)
        write("scaling", record)
    alone: Tensor | None = None
    for count in WORKERS:
        figures, labels = workers(count)
        alone = labels if alone is None else alone
        figures["labels_differ_by"] = float((labels - alone).norm() / alone.norm())
        record["workers"].append(figures)
        print(figures, flush=True)
        write("scaling", record)
    return None


if __name__ == "__main__":
    main()
