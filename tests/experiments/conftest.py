"""Experiments are scripts, not a package: their folder goes onto the path, as when one is run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "experiments"))

import pytest

import convexdistill as cd
from convexdistill.distill import forms
from convexdistill.evaluate import cells
from convexdistill.training import training_steps, trials


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    """Trainings of a quarter of their steps: what records and pages hold does not depend on how long they were."""
    for module in (trials, forms, cells):
        monkeypatch.setattr(module, "training_steps", lambda size: [step // 4 for step in training_steps(size)])


@pytest.fixture
def shown(monkeypatch):
    """A function of an experiment's module: the list that its solves and trainings put their preprocessing on."""

    def listen(module):
        seen = []
        trains, solves = module.run_trials, cd.distill.cross_entropy

        def run_trials(candidates, images, preprocessing, *others, **options):
            seen.append(preprocessing)
            return trains(candidates, images, preprocessing, *others, **options)

        def cross_entropy(features, *others, **options):
            seen.append(features.preprocessing)
            return solves(features, *others, **options)

        monkeypatch.setattr(module, "run_trials", run_trials)
        monkeypatch.setattr(cd.distill, "cross_entropy", cross_entropy)
        return seen

    return listen
