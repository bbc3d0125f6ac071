"""Which device the networks run on. Sums and solves are float64: on CUDA there, else on the CPU."""

from __future__ import annotations

import torch

from convexdistill.errors import DeviceError, UnknownNameError


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """``"auto"`` takes CUDA, then Apple's MPS, then the CPU; any other name is taken at its word.

    Raises:
        UnknownNameError: not a device name.
        DeviceError: the device is not there.

    Example:
        >>> resolve_device("cpu").type
        'cpu'
    """
    if isinstance(name, torch.device):
        return name
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    kind = name.partition(":")[0]
    if kind not in present:
        raise UnknownNameError(f"unknown device {name!r}; known are auto, cpu, cuda, cuda:N and mps")
    if not present[kind]:
        raise DeviceError(f"device {name!r} is not available here; use --device auto or cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnknownNameError(f"unknown device {name!r}: {str(error).splitlines()[0]}") from error
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if device.index is not None and device.index >= count:
        raise DeviceError(f"device {name!r} is not available here: there are {count} of that kind, from 0")
    return device
