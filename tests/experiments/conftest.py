"""Experiments are scripts, not a package: their folder goes onto the path, as when one is run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "experiments"))

import pytest

import convexdistill as cd


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
