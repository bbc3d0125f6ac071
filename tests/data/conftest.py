"""Small made files in the layouts of the real data sets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def write_idx() -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        path.write_bytes(header + array.astype(np.uint8).tobytes())

    return write


@pytest.fixture
def made_mnist(tmp_path: Path, write_idx: Callable[[Path, np.ndarray], None]) -> Path:
    """A root with a complete, tiny MNIST: 50 + 20 images; the first pixel is the index."""
    raw = tmp_path / "MNIST" / "raw"
    for part, count in (("train", 50), ("t10k", 20)):
        images = np.zeros((count, 28, 28))
        images[:, 0, 0] = np.arange(count)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "made.npz", **arrays: object) -> Path:
        path = tmp_path / name
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to open a connection fails the test that made it, at once."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
