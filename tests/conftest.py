"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from convexdistill.data import ImageData, load
from convexdistill.errors import MissingDataError


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """On a busy machine small networks lose 100-fold by waiting for their own threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data_root() -> Path:
    """The folder of the real data sets; skips where there is none."""
    root = os.environ.get("CONVEXDISTILL_DATA")
    if not root:
        pytest.skip("$CONVEXDISTILL_DATA is not set")
    if not Path(root).is_dir():
        pytest.skip(f"$CONVEXDISTILL_DATA is {root}, which is not a folder")
    return Path(root)


@pytest.fixture
def load_real(data_root: Path) -> Callable[..., ImageData]:
    """``load`` of a real data set by name, or by path below the root; skips where it is not there."""

    def load_or_skip(source: str, split: str = "train") -> ImageData:
        path = data_root / source
        try:
            return load(str(path) if "/" in source else source, split, data_root, download=False)
        except MissingDataError as error:
            pytest.skip(str(error))

    return load_or_skip


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Pieces of work on two threads, for tests of what is done side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
