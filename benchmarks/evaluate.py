"""Many trainings at once: 20 LeNets on 100 MNIST base examples, side by side and one by one.

    python benchmarks/evaluate.py                    # MNIST, 60 steps, on the CPU
    python benchmarks/evaluate.py --device cuda
    python benchmarks/evaluate.py --steps 20         # on a busy machine
    python benchmarks/evaluate.py --target digits    # needs no download

Goals: three times as fast on two CPU cores, ten times on a CUDA device, with equal results. The two ways take
turns, round by round, in the same process; the ratio is that of the best rounds, in seconds on the clock and, on
the CPU, in seconds of CPU as well, which a busy machine distorts less. One by one, a part of the networks is
trained (--alone) and its time scaled: each takes as long as the others. “Equal” compares the weights of these: the
distance between the two ways over the distance that training has moved them; with hundreds of steps rounding grows
to a tenth of it, under either way.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from _speed import Record, machine, write
from torch import nn
from torch.nn.functional import one_hot

import convexdistill as cd
from convexdistill.distilled import fresh_network
from convexdistill.training import Recipe, train_together

GOALS = {"cpu": 3.0, "cuda": 10.0}
SIZE, NETWORKS = 100, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="where data sets lie; default $CONVEXDISTILL_DATA or ./data")
    parser.add_argument("--target", default="mnist")
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--alone", type=int, default=5, help="networks that are really trained one by one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    target = cd.data.load(options.target, root=options.data_root)
    base = cd.select.choose(target, SIZE)
    images = cd.data.Preprocessing.fit(target)(base.images).to(device)
    wanted = (one_hot(base.labels, target.num_classes).float() - 1 / target.num_classes).to(device)
    recipe = Recipe("mse", label_scale=8.0, steps=options.steps, optimizer=options.optimizer)

    def fresh() -> list[nn.Module]:
        shape, classes = target.shape, target.num_classes
        return [fresh_network(options.network, shape, classes, seed) for seed in range(NETWORKS)]

    def train(networks: list[nn.Module], seeds: list[int]) -> None:
        labels = (wanted * recipe.label_scale).expand(len(networks), -1, -1)
        train_together(networks, images, labels, [recipe] * len(networks), seeds, steps=options.steps)

    def timed(networks: list[nn.Module], groups: list[list[int]]) -> tuple[float, float]:
        clock, cpu = time.perf_counter(), time.process_time()
        for group in groups:
            train([networks[k] for k in group], group)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - clock, time.process_time() - cpu

    together, alone = [list(range(NETWORKS))], [[k] for k in range(options.alone)]
    train(fresh(), together[0])  # warm up
    seconds: dict[str, list[tuple[float, float]]] = {"together": [], "alone": []}
    for _ in range(options.rounds):
        joint, single = fresh(), fresh()
        seconds["together"].append(timed(joint, together))
        seconds["alone"].append(timed(single, alone))
    scale = NETWORKS / options.alone
    best = {name: [min(column) for column in zip(*rounds, strict=True)] for name, rounds in seconds.items()}
    record: Record = {
        **{
            name: getattr(options, name) for name in ("target", "network", "optimizer", "steps", "alone", "device")
        },
        "networks": NETWORKS,
        "threads": torch.get_num_threads(),
        "seconds_together": best["together"][0],
        "seconds_one_by_one": best["alone"][0] * scale,
        "ratio": best["alone"][0] * scale / best["together"][0],
        "ratio_cpu_time": None if device.type != "cpu" else best["alone"][1] * scale / best["together"][1],
        "largest_difference": max(difference(joint[k], single[k], fresh()[k]) for k in range(options.alone)),
        "goal": GOALS.get(device.type),
        "machine": machine(),
    }
    cpu = record["ratio_cpu_time"]
    print(
        f"{NETWORKS} × {options.network}, {options.steps} steps on {SIZE} of {options.target}, {device}, "
        f"{record['threads']} threads: together {record['seconds_together']:.2f} s, one by one "
        f"{record['seconds_one_by_one']:.2f} s: {record['ratio']:.2f} times as fast (goal {record['goal']})"
        + ("" if cpu is None else f", {cpu:.2f} in CPU time")
        + f"; weights differ by {record['largest_difference']:.1e} of how far they moved"
    )
    write(f"evaluate-{device.type}", record)


def difference(one: nn.Module, other: nn.Module, start: nn.Module) -> float:
    """Distance between two ends over the distance of the second from the start."""

    def weights(network: nn.Module) -> Any:
        return nn.utils.parameters_to_vector(network.parameters()).detach()

    return float((weights(one) - weights(other)).norm() / (weights(other) - weights(start)).norm())


if __name__ == "__main__":
    main()
