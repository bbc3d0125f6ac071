"""The matrix: its axes, its cache, its workers and the baselines that train on everything."""

import dataclasses
import functools
import json
import warnings

import pytest
import torch
from torch import nn

from convexdistill import progress
from convexdistill.data import load
from convexdistill.distill import closed_form
from convexdistill.errors import FileFormatError, InvalidInputError, ParameterRangeError, UnknownNameError
from convexdistill.evaluate import cells, matrix, protocol, workers
from convexdistill.evaluate.baselines import candidates, random_subset, subset_size
from convexdistill.evaluate.label_loss import LabelLoss, centred, probabilities
from convexdistill.evaluate.whole_target import full_steps
from convexdistill.features import pool
from convexdistill.moments import accumulate
from convexdistill.select import choose

DIGITS, VALIDATION, TEST = (load("digits", split) for split in ("train", "validation", "test"))
MOMENTS = accumulate(pool("convnet", count=1, width=4), DIGITS)
ONE = closed_form(MOMENTS, choose(DIGITS, 20))


def small(shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def run(**options):
    known = {"repeats": 2, "steps": (6, 12), "baselines": ("one-hot", "teacher"), "device": "cpu"}
    splits = {"target": DIGITS, "validation": VALIDATION, "test": TEST}
    return matrix(ONE, options.pop("networks", (small,)), **{**known, **splits, **options})


def numbers(table):
    return [dataclasses.asdict(dataclasses.replace(row, seconds=0)) for row in table]


def test_every_combination_has_its_rows():
    table = run(
        optimizers=("adam", "SGD-momentum"),
        learning_rates=("auto", "x2", 0.5),
        losses=("own", "kl:2"),
        orders=("shuffled", "by-class"),
        baselines=(),
    )
    found = {(r.optimizer, r.learning_rate, r.loss, r.temperature, r.order, *r.steps) for r in table}
    assert found == {
        (name, rate, loss, t, order, steps)
        for name, rates in (("adam", (1e-3, 2e-3, 0.5)), ("sgd-momentum", (1e-2, 2e-2, 0.5)))
        for rate in rates
        for loss, t in (("mse", None), ("kl", 2.0))
        for order in ("shuffled", "by-class")
        for steps in (6, 12)
    }
    assert len(table) == len(found)
    assert {r.steps_by for r in table} == {"given"}


def test_a_given_number_of_steps_is_what_it_is_alone():
    both, alone = run(), run(steps=(6,))
    shorter = [row for row in both if row.steps == (6,)]
    for row, other in zip(shorter, alone, strict=True):
        assert (row.runs, row.labels) == (other.runs, other.labels)
    assert {row.steps_by for row in run(steps=("auto",), baselines=())} == {"validation"}


def test_under_a_loss_of_its_own_choosing_all_labels_have_it():
    found = candidates(ONE, ONE.recipe, None, loss=LabelLoss.parse("soft-cross-entropy"))
    assert [c.name for c in found] == ["distilled", "one-hot", "smoothed", "teacher"]
    assert {(c.recipe.loss, c.recipe.label_scale) for c in found} == {("soft-cross-entropy", 1.0)}
    for one in found:
        torch.testing.assert_close(one.labels.sum(1), torch.ones(20))
        assert one.labels.min() >= 0
    squared = candidates(ONE, ONE.recipe, None, loss=LabelLoss.parse("mse"))
    assert {(c.recipe.loss, c.recipe.label_scale) for c in squared} == {("mse", 8.0)}
    torch.testing.assert_close(squared[1].labels, found[1].labels - 0.1)
    assert squared[0].labels is ONE.labels


def test_label_spaces_go_into_each_other():
    logits = torch.randn(5, 4)
    torch.testing.assert_close(probabilities(logits, "logit"), logits.softmax(1))
    torch.testing.assert_close(probabilities(logits, "centred"), (4 * logits).softmax(1))
    torch.testing.assert_close(centred(logits.softmax(1), "probability").sum(1), torch.zeros(5))


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path, monkeypatch):
    file, whole = tmp_path / "cells.jsonl", run(learning_rates=(0.01, 0.1, 1.0))
    real, begun = cells.compute, []

    def killed(task, cell):
        begun.append(cell.rate)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(task, cell)

    monkeypatch.setattr(workers, "compute", killed)
    with pytest.raises(KeyboardInterrupt):
        run(learning_rates=(0.01, 0.1, 1.0), cache=file)
    with file.open("a") as stream:
        stream.write('{"cell": {"network')  # what a kill in the middle of a line leaves
    resumed = run(learning_rates=(0.01, 0.1, 1.0), cache=file)
    assert begun == [0.01, 0.1, 0.1, 1.0]
    assert numbers(resumed) == numbers(whole)
    longer = run(learning_rates=(1.0, 0.01, 2.0), cache=file)
    assert begun[4:] == [2.0]
    assert [row.learning_rate for row in longer if row.labels == "distilled"] == [1.0, 1.0, 0.01, 0.01, 2.0, 2.0]


def test_a_cache_of_another_evaluation_is_refused_with_the_difference(tmp_path, monkeypatch):
    file = tmp_path / "cells.jsonl"
    run(cache=file, steps=(2,), baselines=())
    before = file.read_bytes()
    with pytest.raises(InvalidInputError, match=r"repeats: 2 there, 3 now; .*steps: \[2\] there, \[4\] now"):
        run(cache=file, steps=(4,), repeats=3, baselines=())
    with pytest.raises(InvalidInputError, match="distilled sets"):
        matrix(dataclasses.replace(ONE, labels=ONE.labels * 2), cache=file, validation=VALIDATION, test=TEST)
    assert file.read_bytes() == before
    half = DIGITS.subset(range(0, len(DIGITS), 2))
    run(cache=file, steps=(2,), baselines=(), target=half)  # none of these rows depends on the target
    subset = {"cache": tmp_path / "subset", "steps": (2,), "baselines": ("random-subset",), "repeats": 1}
    run(**subset)
    with pytest.raises(InvalidInputError, match=r"target: .* there, .* now"):
        run(**subset, target=half)
    monkeypatch.setattr(protocol, "versions", lambda: {"convexdistill": "0.0.1", "torch": "2"})
    with pytest.raises(InvalidInputError, match=r"versions\..* there, .* now"):
        run(cache=file, steps=(2,), baselines=())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"results": []}) + "\n")
    with pytest.raises(FileFormatError, match="no cache of cells"):
        run(cache=other)
    assert "results" in other.read_text()


def test_several_processes_give_the_same_table():
    options = {"networks": ("lenet",), "steps": (2,), "learning_rates": (1e-3, 1e-2), "baselines": ()}
    assert numbers(run(workers=2, **options)) == numbers(run(**options))


def test_a_network_that_cannot_be_sent_to_a_worker_is_refused():
    with pytest.raises(InvalidInputError, match="cannot be sent to another process"):
        run(networks=(lambda *_: small((1, 8, 8), 10),), learning_rates=(1, 2), workers=2)


def wide(shape, num_classes, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))


def test_networks_are_told_apart_by_their_names(tmp_path, monkeypatch):
    options = {"steps": (2,), "baselines": (), "repeats": 1}
    partial = [functools.partial(wide, width=width) for width in (2, 40)]
    table = run(networks=partial, cache=tmp_path / "cells", **options)
    assert [row.network for row in table] == ["wide(width=2)", "wide(width=40)"]
    alone = run(networks=partial[1:], **options)
    assert table.rows[1].runs == alone.rows[0].runs != table.rows[0].runs
    monkeypatch.setattr(cells, "courses", lambda *args, **more: pytest.fail("trained in vain"))
    nameless = [lambda *_: partial[0](*_), lambda *_: partial[1](*_)]
    with pytest.raises(InvalidInputError, match="2 networks are called '<lambda>'"):
        run(networks=nameless, **options)
    with pytest.raises(InvalidInputError, match="a lambda has none; define the network with def"):
        run(networks=nameless[:1], cache=tmp_path / "other", **options)


def test_the_bar_counts_every_cell_once():
    seen = []

    class Reporter:
        def task(self, description, total):
            self.total, self.description = total, description
            return progress.SilentReporter().task(description, total) if seen else self._task()

        def _task(self):
            from contextlib import nullcontext

            return nullcontext(seen.append)

    reporter = Reporter()
    with progress.reporting(reporter):
        run(learning_rates=(0.1, 1.0), baselines=("random-subset",), steps=(3,))
    assert (reporter.description, reporter.total) == ("evaluate", sum(seen))
    assert len(seen) > 4


def test_the_random_subset_takes_no_more_bytes():
    size = subset_size(ONE)
    assert size == (20 * 64 + 20 * 40) // 65
    subset = random_subset(ONE, DIGITS, 0)
    assert len(subset) == size
    assert size * 65 <= ONE.bytes["total"] < (size + 1) * 65
    assert subset.indices.tolist() != random_subset(ONE, DIGITS, 1).indices.tolist()
    row = run(baselines=("random-subset",), steps=("auto",)).row("random-subset")
    assert (row.loss, row.label_scale) == ("soft-cross-entropy", 1.0)


def test_everything_and_a_teacher_that_was_trained_on_it(tmp_path):
    file = tmp_path / "cells.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = run(baselines=("full-data", "trained-teacher"), steps=("auto",), cache=file)
    ours, full, teacher = (table.row(name) for name in ("distilled", "full-data", "trained-teacher"))
    assert full.accuracy_mean > 90 > ours.accuracy_mean
    assert full.steps[0] in full_steps(len(DIGITS))
    assert ours.differences["full-data"]["over"] == "unpaired trainings"
    assert ours.differences["full-data"]["mean"] == pytest.approx(ours.accuracy_mean - full.accuracy_mean)
    assert (teacher.loss, teacher.label_scale) == ("mse", 8.0)
    assert ours.differences["trained-teacher"]["over"] == "trainings"
    again = run(baselines=("full-data", "trained-teacher"), steps=("auto",), cache=file)
    assert numbers(again) == numbers(table)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"optimizers": ("lion",)},
            UnknownNameError,
            "unknown optimizer 'lion'; known are adam, .*lbfgs",
        ),
        ({"networks": ("vgg",)}, UnknownNameError, "unknown network 'vgg'; known are lenet"),
        ({"losses": ("hinge",)}, UnknownNameError, "unknown loss 'hinge'; known are own, soft-cross-entropy"),
        ({"losses": ("kl:hot",)}, ParameterRangeError, "found 'hot'"),
        ({"augmentations": ("mixup",)}, UnknownNameError, "known are own, none, mirror"),
        ({"orders": ("sorted",)}, UnknownNameError, "known are shuffled, fixed"),
        ({"baselines": ("magic",)}, UnknownNameError, "unknown baseline 'magic'; known are one-hot"),
        ({"learning_rates": ("fast",)}, ParameterRangeError, "positive number, 'auto', or a factor"),
        ({"learning_rates": (-1.0,)}, ParameterRangeError, "found -1.0"),
        ({"learning_rates": ("x0",)}, ParameterRangeError, "found 'x0'"),
        ({"steps": (0,)}, ParameterRangeError, "steps must be a whole number of at least 1"),
        ({"steps": ("many",)}, ParameterRangeError, "found 'many'"),
        ({"steps": ()}, ParameterRangeError, "one value for the steps, found none; name some"),
        ({"learning_rates": ()}, ParameterRangeError, "one value for the learning rates, found none; name some"),
        ({"repeats": 0}, ParameterRangeError, "repeats must be at least 1, found 0; name how many"),
        ({"workers": 0}, ParameterRangeError, "workers must be at least 1"),
        ({"optimizers": ("muon",)}, InvalidInputError, "'muon' cannot train this network"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options, error, words, monkeypatch, tmp_path):
    if options != {"optimizers": ("muon",)}:  # which only the network can tell
        monkeypatch.setattr(cells, "courses", lambda *args, **more: pytest.fail("trained in vain"))
    with pytest.raises(error, match=words):
        run(**{"networks": ("lenet",), **options})


def test_a_learning_rate_that_diverges_is_reported():
    table = run(optimizers=("sgd",), learning_rates=(1e30,), baselines=("one-hot",))
    row = table.row("distilled")
    assert (row.diverged, row.accuracy_mean, row.runs) == (2, None, ())
    json.dumps(table.to_dicts(), allow_nan=False)
