"""How fast moments accumulate, beside the bare networks and the machine's matrix product, on one core.

    python benchmarks/moments.py
    python benchmarks/moments.py --device cuda

For the default pool on images of some sizes: images a second of the stock extractors, of the fused ones, and of
the whole accumulation (preprocessing, features, float64 sums), and the share of the GEMM peak that their
multiplications make. GEMM is 1024×1024 in float32, in the same rounds. One thread; CPU time, see
`_speed.in_turns`. Then what the choices of the pass are worth: all extractors as one grouped network, the other
memory layout, bfloat16, torch.compile, and pieces of other sizes; and the pass on one core and on all.
"""

from __future__ import annotations

import argparse
import copy
import math
import time

import torch
from _speed import Record, in_turns, machine, write
from torch import nn

from convexdistill.data import ImageData, Preprocessing, stream
from convexdistill.features import CPU_PIECE, ExtractorSpec, FrozenExtractor, default_batch_size, pool
from convexdistill.features.fused import fused
from convexdistill.features.network import output_features
from convexdistill.moments.forward import PoolForward
from convexdistill.moments.sums import Sums
from convexdistill.training.side_by_side import SideBySide

SHAPES = ((1, 28, 28), (3, 32, 32), (3, 64, 64))
PIECES = (8, 16, 32, 64, 256)
GEMM = 1024
CPU = torch.device("cpu")
GOALS = {"accumulate_share_of_forward": 0.8, "forward_share_of_gemm": 0.6}


def flops(module: nn.Module, shape: tuple[int, int, int], device: str) -> int:
    """Floating-point operations of the convolutions and linear layers for one image: 2 for a multiply-add."""
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += 2 * output[0].numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in module.modules()]
    with torch.no_grad():
        module(torch.zeros(1, *shape, device=device))
    for hook in hooks:
        hook.remove()
    return total


def batch(shape: tuple[int, int, int], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, *shape), generator=draw, dtype=torch.uint8)
    return images, torch.randint(0, 10, (size,), generator=draw)


def extractors_of(shape: tuple[int, int, int], device: str) -> list[FrozenExtractor]:
    return [spec.build(shape).to(device) for spec in pool() if isinstance(spec, ExtractorSpec)]


@torch.no_grad()
def measure(shape: tuple[int, int, int], rounds: int, device: str) -> Record:
    size = default_batch_size(torch.device(device))
    images, labels = batch(shape, size)
    prepare = Preprocessing((0.5,) * shape[0], (0.25,) * shape[0])
    extractors = extractors_of(shape, device)
    ready = prepare(images.to(device))
    sizes = [output_features(extractor, shape) for extractor in extractors]
    work = sum(flops(extractor, shape, device) for extractor in extractors)
    forward = PoolForward(extractors, prepare, shape, size, torch.device(device))
    sums = Sums(sizes, 10, torch.device(device))
    A = torch.rand(GEMM, GEMM, device=device)
    times = in_turns(
        {
            "gemm": lambda: A @ A,
            "stock": lambda: [extractor(ready) for extractor in extractors],
            "forward": lambda: forward(images),
            "accumulate": lambda: sums.add(forward(images), labels),
        },
        rounds,
        device,
    )
    peak, peak_median = (2 * GEMM**3 / times["gemm"][kind] for kind in ("best", "median"))
    record: Record = {
        "shape": shape,
        "extractors": len(extractors),
        "features": sizes,
        "flops_an_image": work,
        "flops_of_sums_an_image": sum((d + 1) * (d + 2) for d in sizes),
        "gemm_gflops": peak / 1e9,
        "seconds": times,
        "images_a_second": {name: size / times[name]["best"] for name in ("stock", "forward", "accumulate")},
        "share_of_gemm": {name: work * size / times[name]["best"] / peak for name in ("stock", "forward")},
        "share_of_gemm_median": work * size / times["forward"]["median"] / peak_median,
        "accumulate_share_of_forward": times["forward"]["best"] / times["accumulate"]["best"],
        "accumulate_share_of_forward_median": times["forward"]["median"] / times["accumulate"]["median"],
    }
    print(
        f"{shape}: stock {record['images_a_second']['stock']:.0f}, forward "
        f"{record['images_a_second']['forward']:.0f}, accumulate {record['images_a_second']['accumulate']:.0f} "
        f"images/s; forward at {100 * record['share_of_gemm']['forward']:.0f} % of GEMM, accumulation at "
        f"{100 * record['accumulate_share_of_forward']:.0f} % of forward"
    )
    return record


@torch.no_grad()
def choices(shape: tuple[int, int, int], rounds: int) -> Record:
    """Images a second of the features alone, on the CPU, for each way to compute them."""
    size = max(PIECES)
    images, _ = batch(shape, size)
    ready = Preprocessing((0.5,) * shape[0], (0.25,) * shape[0])(images)
    last = ready.contiguous(memory_format=torch.channels_last)
    stock = extractors_of(shape, "cpu")
    first = [copy.deepcopy(one.module).to(memory_format=torch.contiguous_format) for one in stock]
    quick = [fused(one, shape, batch_size=8) for one in stock]
    grouped = SideBySide(stock, shape)

    compiled = [torch.compile(one, dynamic=False) for one in stock]

    def half() -> None:
        with torch.autocast("cpu"):
            for piece in last.split(CPU_PIECE):
                [one(piece) for one in stock]

    ways = {
        "stock, channels first": lambda: [one(piece) for piece in ready.split(CPU_PIECE) for one in first],
        "stock, channels last": lambda: [one(piece) for piece in last.split(CPU_PIECE) for one in stock],
        "all in one grouped network": lambda: grouped.predict(ready, batch_size=CPU_PIECE * len(stock)),
        "stock, bfloat16": half,
        "stock, compiled": lambda: [one(piece) for piece in last.split(CPU_PIECE) for one in compiled],
        **{
            f"fused, pieces of {n}": lambda n=n: [one(piece) for piece in last.split(n) for one in quick]
            for n in PIECES
        },
    }
    times = in_turns(ways, rounds)
    rates = {name: size / seconds["best"] for name, seconds in times.items()}
    print(f"{shape}: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()) + " images/s")
    return {"shape": shape, "images_a_second": rates}


def cores(shape: tuple[int, int, int], images: int) -> Record:
    """Images a second of the pass, on the clock: on one core, and on all of them."""
    data = ImageData(*batch(shape, images), tuple("0123456789"), name="random", split="train")
    prepare = Preprocessing((0.5,) * shape[0], (0.25,) * shape[0])
    every = torch.get_num_threads()
    extractors = [spec.build(shape) for spec in pool()]
    rates: dict[str, float] = {}
    for threads, compiled in ((1, False), (every, False), (every, True)):
        torch.set_num_threads(threads)
        with torch.no_grad():
            forward = PoolForward(extractors, prepare, shape, default_batch_size(CPU), CPU, compiled=compiled)
        sums = Sums([output_features(extractor, shape) for extractor in extractors], 10, CPU)
        best = math.inf
        for _ in range(3):
            start = time.perf_counter()
            for part, labels in stream(data).batches(default_batch_size(CPU), (0, 1), skip=0):
                with torch.no_grad():
                    sums.add(forward(part), labels)
            best = min(best, time.perf_counter() - start)
        rates[f"{threads} compiled" if compiled else str(threads)] = images / best
    print(f"{shape}: by cores, " + ", ".join(f"{n}: {rate:.0f} images/s" for n, rate in rates.items()))
    return {"shape": shape, "images": images, "images_a_second": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    device = options.device
    passes = [cores(shape, 4096) for shape in SHAPES[:2]] if device == "cpu" else []
    torch.set_num_threads(1)
    described = machine() | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})
    record: Record = {
        "machine": described,
        "threads": 1,
        "batch": default_batch_size(torch.device(device)),
        "goals": GOALS,
        "cases": [measure(shape, options.rounds, device) for shape in SHAPES],
    }
    if device == "cpu":
        record["cores"] = passes
        record["choices"] = [choices(shape, max(1, options.rounds // 10)) for shape in SHAPES[:2]]
    write("moments" if device == "cpu" else f"moments-{device}", record)


if __name__ == "__main__":
    main()
