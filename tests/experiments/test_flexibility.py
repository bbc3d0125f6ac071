"""Flexibility on digits: measured for real, with one training a row and hardly any epoch."""

import flexibility
import pytest


@pytest.fixture(scope="module")
def records():
    settings = [
        flexibility.Setting("digits", 10, repeats=1, epochs=1),
        flexibility.Setting("digits", 10, rate="x5.48", repeats=1, epochs=1),
        flexibility.Setting("digits", 10, order="fixed", repeats=1, epochs=1),
    ]
    return [{"setting": vars(setting), "result": flexibility.measure(setting, None)} for setting in settings]


def test_every_way_has_its_rows(records):
    plain, fast, _ = (record["result"]["rows"] for record in records)
    assert {row["way"] for row in plain} == set(flexibility.WAYS)
    assert [row["steps"] for row in plain if row["way"] == "images" and row["steps_by"] == "given"] == [
        *flexibility.STEPS
    ]
    assert [row["learning_rate"] for row in fast] == pytest.approx([5.48e-3] * len(fast))
    assert all(len(row["test"]) + row["diverged"] == 1 for row in plain + fast)


def test_the_page_says_how_far_each_way_spreads(records):
    rates = flexibility.points(records, "learning rate")
    assert all(len(values) == 2 for values in rates.values())
    page = flexibility.table(records)
    assert "### Learning rate of Adam" in page
    assert "### Order of examples" in page
    assert "### Optimiser" not in page  # a single one is no axis
    assert f"spread over {flexibility.spread(rates['labels']):.1f} points" in page
    flexibility.plot(records)


def test_what_diverged_counts_as_nothing():
    row = {
        "way": "labels",
        "steps_by": "validation",
        "steps": 5,
        "learning_rate": 1.0,
        "test": [90.0],
        "diverged": 2,
    }
    setting = {"rate": "auto", "optimizer": "adam", "order": "shuffled"}
    found = flexibility.points([{"setting": setting, "result": {"rows": [row]}}], "optimizer")
    assert found["labels"] == {"adam": 30.0}
    assert "not smaller than" in flexibility.verdict({"labels": {1: 5.0, 2: 1.0}, "images": {1: 5.0, 2: 2.0}})
