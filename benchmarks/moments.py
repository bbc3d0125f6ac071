"""How fast moments accumulate, beside the bare networks and the machine's matrix product, on one core.

    python benchmarks/moments.py

For the default pool on images of some sizes: images a second of the stock extractors, of the fused ones, and of
the whole accumulation (preprocessing, features, float64 sums), and the share of the GEMM peak that their
multiplications make. GEMM is 1024×1024 in float32, in the same rounds. One thread; CPU time, see
`_speed.in_turns`.
"""

from __future__ import annotations

import argparse

import torch
from _speed import Record, in_turns, machine, write
from torch import nn

from convexdistill.data import Preprocessing
from convexdistill.features import ExtractorSpec, pool
from convexdistill.features.network import output_features
from convexdistill.moments.forward import PoolForward
from convexdistill.moments.sums import Sums

SHAPES = ((1, 28, 28), (3, 32, 32), (3, 64, 64))
BATCH = 64
GEMM = 1024
GOALS = {"accumulate_share_of_forward": 0.8, "forward_share_of_gemm": 0.6}


def flops(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """Floating-point operations of the convolutions and linear layers for one image: 2 for a multiply-add."""
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += 2 * output[0].numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in module.modules()]
    with torch.no_grad():
        module(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return total


@torch.no_grad()
def measure(shape: tuple[int, int, int], rounds: int) -> Record:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, *shape), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 10, (BATCH,), generator=draw)
    prepare = Preprocessing((0.5,) * shape[0], (0.25,) * shape[0])
    specs = [spec for spec in pool() if isinstance(spec, ExtractorSpec)]
    extractors = [spec.build(shape) for spec in specs]
    ready = prepare(images)
    sizes = [output_features(extractor, shape) for extractor in extractors]
    work = sum(flops(extractor, shape) for extractor in extractors)
    forward = PoolForward(extractors, prepare, shape, BATCH, torch.device("cpu"))
    sums = Sums(sizes, 10, torch.device("cpu"))
    A = torch.rand(GEMM, GEMM, generator=draw)
    times = in_turns(
        {
            "gemm": lambda: A @ A,
            "stock": lambda: [extractor(ready) for extractor in extractors],
            "forward": lambda: forward(images),
            "accumulate": lambda: sums.add(forward(images), labels),
        },
        rounds,
    )
    peak, peak_median = (2 * GEMM**3 / times["gemm"][kind] for kind in ("best", "median"))
    record: Record = {
        "shape": shape,
        "extractors": len(specs),
        "features": sizes,
        "flops_an_image": work,
        "flops_of_sums_an_image": sum((d + 1) * (d + 2) for d in sizes),
        "gemm_gflops": peak / 1e9,
        "cpu_seconds": times,
        "images_a_second": {name: BATCH / times[name]["best"] for name in ("stock", "forward", "accumulate")},
        "share_of_gemm": {name: work * BATCH / times[name]["best"] / peak for name in ("stock", "forward")},
        "share_of_gemm_median": work * BATCH / times["forward"]["median"] / peak_median,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    described = machine()
    cases = [measure(shape, rounds) for shape in SHAPES]
    write(
        "moments",
        {"machine": described, "threads": 1, "batch": BATCH, "goals": GOALS, "cases": cases, "cuda": None},
    )


if __name__ == "__main__":
    main()
