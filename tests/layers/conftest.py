from __future__ import annotations

import pytest
import torch

from convexdistill.layers import backends

BACKENDS = [name for name, report in backends().items() if report.available]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


@pytest.fixture(params=["moreau", "diffcp"])
def conic(request) -> dict[str, str]:
    """Both solvers behind cvxpylayers."""
    pytest.importorskip("cvxpylayers")
    if request.param == "moreau":
        pytest.importorskip("moreau")
    return {"backend": "cvxpylayers", "method": request.param}
