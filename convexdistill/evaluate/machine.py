"""Which machine made a record: seconds mean little without it."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Plain facts about this machine and the device that networks run on.

    Args:
        device: where networks run.

    Example:
        >>> machine(torch.device("cpu"))["device"]
        'cpu'
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
