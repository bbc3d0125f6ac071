"""The experiments on learned labels, on digits: measured for real, with one training of each row."""

import _learned_labels
import pytest
import within_dataset
from _learned_labels import Setting, measure, sections

import convexdistill as cd

NAMES = [
    "cross-entropy, centred",
    "cross-entropy, paper",
    "squared, centred",
    "squared, paper",
    "one-hot, paper",
    "smoothed 0.1, paper",
    "one-hot, centred",
    "teacher, centred",
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    real = cd.features.pool
    monkeypatch.setattr(cd.features, "pool", lambda name, count: real(name, 1, width=8))
    _learned_labels.prepared.cache_clear()
    yield
    _learned_labels.prepared.cache_clear()


def test_a_base_set_within_a_data_set_gives_every_row_and_a_page():
    setting = Setting("digits", 10, "lenet", 0, repeats=1)
    result = measure(setting, None)
    assert [row["labels"] for row in result["rows"]] == NAMES
    assert all(len(row["test"]) == len(row["validation"]) == 1 for row in result["rows"])
    assert result["duality_gap"] < 1e-9
    assert (result["test_images"], result["classes"]) == (len(cd.data.load("digits", "test")), 10)
    record = {"setting": vars(setting), "result": result}
    other = {"setting": {**vars(setting), "seed": 1}, "result": result}
    page = within_dataset.table([record, other])
    assert "## digits, 10 base examples, lenet" in page
    assert "2 base sets × 1 trainings" in page
    best = max(result["rows"][:4], key=lambda row: row["validation"][0])  # of the learned labels, by validation
    assert f"prefers **{best['labels']}: {best['test'][0]:.1f} %**" in page
    goal = best["test"][0] + 1
    missed = sections([record, other], {(None, "digits", 10, "lenet"): goal})
    assert any(f"Goal {goal:g}: missed." in line for line in missed)


def test_across_data_sets_the_classes_of_base_images_mean_nothing(tmp_path):
    import numpy as np

    digits = cd.data.load("digits")
    letters = tmp_path / "negatives.npz"
    np.savez(letters, images=255 - digits.images[:200, 0].numpy(), labels=digits.labels[:200].numpy() % 3)
    result = measure(Setting("digits", 10, "lenet", 0, repeats=1, source=str(letters)), None)
    assert [row["labels"] for row in result["rows"]] == [
        *NAMES[:4],
        "transferred, centred",
        "teacher, centred",
    ]
    assert 5 < result["constant"] < 20
