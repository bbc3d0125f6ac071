"""The same pass as a Dask task graph, for a cluster that is there already: the extra ``dask``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convexdistill.data import ImageData, ImageStream, Preprocessing, stream
from convexdistill.errors import BackendUnavailableError, ParameterRangeError
from convexdistill.moments.one_pass import accumulate
from convexdistill.moments.record import Moments, Spec


def accumulate_tasks(
    pool: Sequence[Spec],
    target: ImageData | ImageStream | Any,
    *,
    shards: int,
    preprocessing: Preprocessing | None = None,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Any:
    """A ``dask.delayed`` value of the moments: one task a shard, and a tree of merges.

    Nothing runs before ``.compute()``; what runs it (threads, processes, a cluster), repeats tasks that fail and
    moves what they need is Dask's. A worker sends its sums only: 8 Σ_k (d_k+1)(d_k+1+C) bytes a task.

    Args:
        pool: as for :func:`convexdistill.accumulate`.
        target: as for ``accumulate``. It travels to the workers: give a stream of files that every worker
            can read, not images in memory, where there are many.
        shards: the number of tasks; a few for each worker even out their speeds.
        preprocessing: as for ``accumulate``; fitted here, once, where it is not given.
        checkpoint: as for ``accumulate``; every task has a file of its own, this name and ``.I-of-M``, where all
            workers can read and write it. They stay; delete them when the moments are saved.
        options: the other options of ``accumulate``.

    Raises:
        BackendUnavailableError: Dask is not installed.
        ParameterRangeError: ``shards`` below 1.

    Example:
        >>> import convexdistill as cd
        >>> graph = accumulate_tasks(cd.features.pool(count=1), cd.data.load("digits"), shards=4)  # doctest: +SKIP
        >>> graph.compute(scheduler="processes").images  # doctest: +SKIP
        1258
    """
    try:
        from dask.delayed import delayed
    except ImportError as error:
        raise BackendUnavailableError(
            "task graphs need Dask; install it with pip install 'convexdistill[dask]'"
        ) from error
    if shards < 1:
        raise ParameterRangeError(f"shards must be at least 1, found {shards}")
    source = target if isinstance(target, ImageStream) else stream(target)
    ready = preprocessing or Preprocessing.fit(source)
    # One node of the graph holds pool and target, so that they travel once a worker, not once a task.
    one = functools.partial(accumulate, tuple(pool), source, preprocessing=ready, **options)
    job = delayed(one, name=f"accumulate-{source.fingerprint[-12:]}-{id(one)}", traverse=False, pure=False)
    parts = [job(shard=(i, shards), **_own(checkpoint, i, shards)) for i in range(shards)]
    merge = delayed(Moments.merge, traverse=False)
    while len(parts) > 1:
        pairs = [merge(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


def _own(checkpoint: str | Path | None, index: int, count: int) -> dict[str, str]:
    """The checkpoint of a task, where one was asked for."""
    return {} if checkpoint is None else {"checkpoint": f"{checkpoint}.{index}-of-{count}"}
