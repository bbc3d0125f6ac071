"""The same pass by the workers of ``torchrun``: each sums its shard, one all-reduce makes the whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from convexdistill.data import ImageData, ImageStream, stream
from convexdistill.errors import InvalidInputError
from convexdistill.moments import parts
from convexdistill.moments.one_pass import accumulate
from convexdistill.moments.record import Moments, Spec


def accumulate_together(
    pool: Sequence[Spec],
    target: ImageData | ImageStream | Any,
    *,
    shard: tuple[int, int] = (0, 1),
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Moments:
    """:func:`convexdistill.accumulate` by all workers of a ``torch.distributed`` process group.

    Worker r of w sums shard r of w, then one all-reduce adds the float64 sums, and every worker has the moments
    of the whole. Nothing else is communicated: 8 Σ_k (d_k+1)(d_k+1+C) bytes, once.

    Args:
        pool: as for ``accumulate``, the same on every worker.
        target: as for ``accumulate``, the same on every worker.
        shard: the shard of the target that the workers divide among them.
        checkpoint: every worker writes to this path followed by ``.r-of-w``. When a worker dies and ``torchrun
            --max-restarts`` starts all of them again, each goes on from its own.
        options: the other options of ``accumulate``.

    Raises:
        InvalidInputError: the workers have different targets or pools.

    Example:
        >>> import torch.distributed as dist
        >>> import convexdistill as cd
        >>> dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
        >>> digits = cd.data.load("digits")
        >>> accumulate_together(cd.features.pool(count=1), digits).images
        1258
        >>> dist.destroy_process_group()
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    index, count = shard
    source = target if isinstance(target, ImageStream) else stream(target)
    if options.get("device", "auto") == "auto":
        options["device"] = _own_device()
    mine = accumulate(
        pool,
        target,
        shard=(index + count * rank, count * world),
        checkpoint=None if checkpoint is None else f"{checkpoint}.{rank}-of-{world}",
        **options,
    )
    whole = {**mine.target, "parts": [parts.named(source.fingerprint, shard)]}
    identity = [[spec.to_dict() for spec in pool], mine.preprocessing.to_dict(), whole]
    everyones: list[Any] = [None] * world
    dist.all_gather_object(everyones, identity)
    if others := [r for r, other in enumerate(everyones) if other != identity]:
        raise InvalidInputError(
            f"worker {rank} and worker {others[0]} sum different targets, pools or preprocessing; start all "
            "workers with the same arguments and data"
        )
    sums = [*mine.gram, *mine.cross, mine.counts.double()]
    flat = torch.cat([values.flatten() for values in sums])
    if dist.get_backend() == dist.Backend.NCCL:  # a group of the caller's own that knows no CPU
        flat = flat.cuda()  # the device that all_gather_object has used above
    dist.all_reduce(flat)
    flat = flat.cpu()
    totals = [
        part.view(values.shape) for part, values in zip(flat.split([v.numel() for v in sums]), sums, strict=True)
    ]
    K = len(pool)
    return replace(
        mine, gram=tuple(totals[:K]), cross=tuple(totals[K : 2 * K]), counts=totals[-1].long(), target=whole
    )


def _own_device() -> str:
    """The GPU of this worker's own, where there are any."""
    if not torch.cuda.is_available():
        return "auto"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def under_torchrun() -> bool:
    """Whether this process is one of several that ``torchrun`` has started."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def process_group() -> Iterator[bool]:
    """The process group that ``torchrun`` describes, for the time of the block; whether this is its first worker.

    Sums are on the CPU, so that gloo reduces them; NCCL is there for what else may be on GPUs.
    """
    # Not there in a torch that was built without.
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://"))
    # After a restart gloo would wait for ever for addresses of workers that are gone: names of this life only.
    life = PrefixStore(f"life-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=life, rank=rank, world_size=world)
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()
