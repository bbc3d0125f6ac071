"""Flexibility on digits: measured for real, with one training a row and hardly any epoch."""

import flexibility
import pytest
from scipy import stats


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


def test_a_difference_of_spreads_has_the_interval_of_its_trainings():
    found = {
        "labels": {1: [90.0, 91.0, 92.0], 2: [88.0, 90.0, 91.0]},
        "images": {1: [60.0, 61.0, 59.0], 2: [50.0] * 3},
    }
    low, high = stats.ttest_rel([2.0, 1.0, 1.0], [10.0, 11.0, 9.0]).confidence_interval(0.95)
    text = flexibility.certainty(found, [])
    assert (
        f"labels minus images: -8.7 points (95 % interval {low:+.1f} to {high:+.1f}), by Student’s t over 3"
        in text
    )
    found["images"][2] = [60.0, 50.0, 59.0]
    assert "too wide to tell them apart" in flexibility.certainty(found, [])
    found["labels"][1][2] = 0.0
    assert "A training diverged" in flexibility.certainty(found, [])
    assert "nothing is known" in flexibility.certainty({way: {1: [9.0], 2: [8.0]} for way in found}, [])


def test_the_page_says_what_speaks_against_its_own_labels():
    values = {"labels": {1: 90.0, 2: 80.0}, "one-hot": {1: 78.0, 2: 75.0}, "images": {1: 60.0, 2: 40.0}}
    assert "Less than learned labels spread: one-hot labels (3.0)." in flexibility.verdict(values)
    of = {"one-hot": {"shuffled": 78.9}, "images": {"shuffled": 61.7}}
    assert "61.7 %, less than the 78.9 % of one-hot labels" in flexibility.below_one_hot(of)
    assert flexibility.below_one_hot({"one-hot": of["images"], "images": of["one-hot"]}) == ""


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
