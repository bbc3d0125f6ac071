"""What distilling costs; energy against a pretended Zeus, which this machine may not have."""

import dataclasses
import math
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from convexdistill.data import load
from convexdistill.distill import closed_form
from convexdistill.evaluate import DISTIL_SECONDS, Spent, cost, energy, matrix, spending
from convexdistill.evaluate.whole_target import full_steps
from convexdistill.features import pool
from convexdistill.moments import accumulate
from convexdistill.select import choose

DIGITS, VALIDATION, TEST = (load("digits", split) for split in ("train", "validation", "test"))
ONE = closed_form(accumulate(pool("convnet", count=1, width=4), DIGITS), choose(DIGITS, 20))
CPU = torch.device("cpu")


def small(shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


@pytest.fixture(autouse=True)
def asked_anew():
    energy._monitor.cache_clear()
    yield
    energy._monitor.cache_clear()


def pretend_zeus(monkeypatch, **measured):
    """Zeus with counters that say the same at the end of every window."""

    class ZeusMonitor:
        def begin_window(self, key, sync_execution):
            self.key = key

        def end_window(self, key, sync_execution):
            assert key == self.key
            return SimpleNamespace(**{"gpu_energy": {}, "cpu_energy": None, "dram_energy": None, **measured})

    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    module = ModuleType("zeus.monitor")
    module.ZeusMonitor = ZeusMonitor
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)


def test_counters_are_summed_to_kilowatt_hours(monkeypatch):
    pretend_zeus(monkeypatch, gpu_energy={0: 1.8e6}, cpu_energy={0: 0.9e6, 1: 0.9e6})
    with spending() as spent:
        pass
    assert (spent.kwh, spent.of) == (1.0, "gpu + cpu")
    assert energy.why_no_energy() is None


@pytest.mark.parametrize("missing", ["zeus", "counters", "drivers"])
def test_a_machine_that_cannot_tell_says_why(missing, monkeypatch):
    if missing == "zeus":
        monkeypatch.setitem(sys.modules, "zeus.monitor", None)
        reason = r"pip install 'convexdistill\[energy\]'"
    elif missing == "counters":
        pretend_zeus(monkeypatch)
        reason = "energy counter"
    else:
        pretend_zeus(monkeypatch)
        monkeypatch.setattr(sys.modules["zeus.monitor"], "ZeusMonitor", lambda: 1 / 0)
        reason = "division by zero"
    with spending() as spent:
        pass
    assert spent.kwh is None
    assert spent.seconds > 0
    assert re.search(reason, energy.why_no_energy())
    found = cost(ONE, DIGITS, small, distil=Spent(1.0), device=CPU)
    assert found["energy_kwh"] is None
    assert found["energy_why_not"] == energy.why_no_energy()


def test_costs_are_scaled_to_whole_trainings_and_the_break_even_follows(monkeypatch):
    pretend_zeus(monkeypatch, cpu_energy={0: 3.6e6})
    found = cost(ONE, DIGITS, small, distil=Spent(100.0, 5.0, "cpu"), device=CPU)
    few, many = found["train_distilled_seconds"], found["train_full_seconds"]
    assert 0 < few < many
    assert found["pays_off_after"] == math.ceil(100 / (many - few))
    assert (found["train_full_is"], found["train_full_steps"]) == (
        "extrapolated",
        full_steps(len(DIGITS))[-1] // 2,
    )
    assert found["energy_kwh"] == {
        "distil": 5.0,
        "train_distilled": ONE.recipe.steps / 40,  # one kWh for the 40 steps that were timed
        "train_full": found["train_full_steps"] / 40,
    }


def test_steps_that_the_validation_split_chose_are_those_of_the_cost():
    splits = {"target": DIGITS, "validation": VALIDATION, "test": TEST}
    table = matrix(ONE, (small,), steps=(2,), repeats=2, baselines=("full-data",), device="cpu", **splits)
    found = cost(ONE, DIGITS, small, table=table, device=CPU)
    assert (found["train_full_is"], found["train_full_steps"]) == ("measured", table.row("full-data").steps[0])
    assert (found["distil_seconds"], found["pays_off_after"]) == (None, None)


def test_a_file_knows_what_it_took():
    told = dataclasses.replace(ONE, manifest={**ONE.manifest, DISTIL_SECONDS: 12.5})
    found = cost(told, DIGITS, small, device=CPU)
    assert found["distil_seconds"] == 12.5
    assert found["pays_off_after"] >= 1
