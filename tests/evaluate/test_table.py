import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convexdistill.evaluate import EvaluationTable
from convexdistill.evaluate.judging import with_difference_to
from convexdistill.evaluate.statistics import interval
from convexdistill.evaluate.table import summarise

FACTS = {"network": "lenet", "optimizer": "adam", "loss": "mse", "label_scale": 8.0, "steps": (100, 80)}
RUNS = [[90.0, 92.0, 91.0], [80.0, 84.0, 82.0]]


def row(labels="distilled", runs=RUNS, **facts):
    return summarise(runs, [[v - 1 for v in group] for group in runs], labels=labels, **{**FACTS, **facts})


def test_one_base_sets_interval_is_that_of_its_trainings():
    runs = [80.0, 82.0, 81.0, 85.0]
    expected = stats.t.interval(0.95, 3, loc=np.mean(runs), scale=stats.sem(runs))
    assert interval([runs]) == pytest.approx(expected)


def test_several_base_sets_interval_is_that_of_their_means():
    expected = stats.ttest_1samp([91.0, 82.0, 88.0], 0).confidence_interval(0.95)
    low, high = interval([[90.0, 92.0], [82.0, 82.0], [87.0, 89.0]])
    assert (low, high) == pytest.approx((expected.low, min(100.0, expected.high)))


def test_more_trainings_on_the_same_base_sets_do_not_narrow_it():
    assert interval(RUNS) == interval([group * 10 for group in RUNS])


def test_a_single_run_has_no_interval():
    assert interval([[90.0]]) == (None, None)
    assert interval([[90.0], [80.0]]) != (None, None)


def test_equal_runs_have_an_interval_of_one_point():
    assert interval([[90.0] * 5]) == (90.0, 90.0)


@given(st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=4), min_size=1, max_size=4))
def test_an_accuracy_stays_between_0_and_100_and_holds_the_mean(runs):
    low, high = interval(runs)
    if low is not None:
        mean = np.mean([np.mean(group) for group in runs])
        assert 0 <= low <= mean + 1e-9
        assert mean - 1e-9 <= high <= 100


def test_a_row_tells_base_sets_and_trainings_apart():
    found = row()
    assert found.runs == (90.0, 92.0, 91.0, 80.0, 84.0, 82.0)
    assert found.validation_runs == (89.0, 91.0, 90.0, 79.0, 83.0, 81.0)
    assert found.accuracy_mean == pytest.approx(86.5)
    assert found.validation_mean == pytest.approx(85.5)
    assert found.accuracy_std == pytest.approx(np.std(found.runs, ddof=1))
    assert found.std_base_sets == pytest.approx(np.std([91, 82], ddof=1))
    assert found.std_training == pytest.approx(math.sqrt((1 + 4) / 2))
    assert found.base_sets == 2


@pytest.mark.parametrize(
    ("runs", "known"),
    [
        ([[90.0]], set()),
        ([[90.0, 91.0]], {"accuracy_std", "std_training"}),
        ([[90.0], [91.0]], {"accuracy_std", "std_base_sets"}),
    ],
)
def test_what_cannot_be_known_is_none(runs, known):
    found = row(runs=runs)
    names = ("accuracy_std", "std_base_sets", "std_training")
    assert {name for name in names if getattr(found, name) is not None} == known


def test_rows_are_found_by_labels_network_and_optimizer():
    table = EvaluationTable(
        (row(), row(network="convnet"), row(network="convnet", optimizer="sgd"), row("teacher")), 1.0
    )
    assert len(table) == len(list(table)) == 4
    assert table.row("distilled") is table.rows[0]
    assert table.row("distilled", "convnet") is table.rows[1]
    assert table.row("distilled", optimizer="sgd") is table.rows[2]
    with pytest.raises(KeyError):
        table.row("teacher", "convnet")


def test_the_full_data_is_set_against_base_sets_not_trainings():
    full = row("full-data", [[97.0, 97.2, 97.4]])
    found = with_difference_to(row(runs=[[80.0, 80.2], [90.0, 90.2]]), full).differences["full-data"]
    assert (found["pairs"], found["over"]) == (2, "unpaired base sets")
    assert found["high"] - found["low"] > 60  # two base sets, ten points apart


def test_records_survive_json():
    record = json.loads(json.dumps(EvaluationTable((row(), row(runs=[[90.0]])), 1.0).to_dicts()))
    assert record[0]["accuracy_mean"] == pytest.approx(86.5)
    assert record[1]["accuracy_ci95"] == [None, None]
