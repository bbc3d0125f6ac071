"""How many networks to train as one: a step of training, by the size of the cohort.

    python benchmarks/cohorts.py

A cohort is one grouped network. Small maps are worth joining, since calls cost more than arithmetic; large ones
are not, since the maps of all members no longer fit the cache. One thread; CPU time of a step of one member, by
turns, see `_speed.in_turns`. `convexdistill.training.side_by_side.CACHE` is set by this table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _speed import Record, in_turns, machine, write

from convexdistill.features import Shape, build_network
from convexdistill.training.side_by_side import CACHE, SideBySide, largest_map

CASES: tuple[tuple[str, Shape, int], ...] = (
    ("lenet", (1, 8, 8), 50),
    ("lenet", (1, 28, 28), 10),
    ("lenet", (1, 28, 28), 50),
    ("convnet", (1, 28, 28), 10),
    ("convnet", (1, 28, 28), 50),
    ("convnet", (3, 32, 32), 50),
    ("alexnet", (3, 32, 32), 50),
)
SIZES = (1, 2, 3, 6, 12)
OPTIONS = {"convnet": {"width": 32}}


def step(network: str, shape: Shape, batch: int, count: int) -> Callable[[], None]:
    """A step of Adam for a cohort of ``count``."""
    options = OPTIONS.get(network, {})
    joint = SideBySide([build_network(network, shape, 10, seed=k, **options) for k in range(count)], shape)
    optimizer = torch.optim.Adam(joint.parameters(), fused=True)
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(batch, count, *shape, generator=draw), torch.rand(count, batch, 10, generator=draw)

    def run() -> None:
        optimizer.zero_grad()
        (joint(images) - labels).square().mean((1, 2)).sum().backward()
        optimizer.step()

    return run


def measure(network: str, shape: Shape, batch: int, rounds: int) -> Record:
    times = in_turns({str(k): step(network, shape, batch, k) for k in SIZES}, rounds)
    bytes_each = (
        4 * batch * largest_map(build_network(network, shape, 10, seed=0, **OPTIONS.get(network, {})), shape)
    )
    record: Record = {
        "network": network,
        "shape": shape,
        "batch": batch,
        "largest_map_mb": bytes_each / 2**20,
        "taken": max(1, CACHE // bytes_each),
        "milliseconds_a_member": {k: 1e3 * t["best"] / int(k) for k, t in times.items()},
    }
    each = ", ".join(f"{k}: {ms:.1f}" for k, ms in record["milliseconds_a_member"].items())
    print(f"{network} {shape}, batch {batch}: ms a member and step by cohort: {each}; taken {record['taken']}")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [measure(*case, options.rounds) for case in CASES]
    write("cohorts", {"cache": CACHE, "cases": cases, "machine": machine()})


if __name__ == "__main__":
    main()
