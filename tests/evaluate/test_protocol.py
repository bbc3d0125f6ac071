import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from convexdistill.data import ImageData, load
from convexdistill.distill import closed_form
from convexdistill.errors import InvalidInputError, ParameterRangeError, UnknownNameError
from convexdistill.evaluate import cells, evaluate, judging, metrics
from convexdistill.evaluate.baselines import candidates, transferred_labels
from convexdistill.features import pool
from convexdistill.moments import accumulate
from convexdistill.select import choose
from convexdistill.training import training_steps

DIGITS, VALIDATION, TEST = (load("digits", split) for split in ("train", "validation", "test"))
MOMENTS = accumulate(pool("convnet", count=1, width=4), DIGITS)
SETS = [closed_form(MOMENTS, choose(DIGITS, 20, seed=seed)) for seed in range(2)]
TRAINED = ["distilled", "one-hot", "smoothed", "one-hot-recipe", "teacher", "random-subset"]
UNTRAINED = ["nearest-neighbour", "nearest-mean"]
WITHIN = TRAINED + UNTRAINED


def small(shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))


def other_source():
    """Digits upside down under other names and other classes: another data set."""
    return ImageData(DIGITS.images.flip(2), DIGITS.labels % 3, ("a", "b", "c"), name="upside-down", split="train")


CROSS = closed_form(MOMENTS, choose(other_source(), 20, balanced=False))


def run(sets=SETS[0], networks=(small,), **options):
    options = {"repeats": 2, "validation": VALIDATION, "test": TEST, "device": "cpu", **options}
    return evaluate(sets, networks, **options)


def numbers(table):
    return [dataclasses.asdict(dataclasses.replace(row, seconds=0)) for row in table]


def test_within_a_data_set_every_baseline_is_beside_the_distilled_labels():
    table = run()
    assert [row.labels for row in table] == WITHIN
    recipes = {row.labels: (row.loss, row.label_scale) for row in table}
    ours, paper = ("mse", 8.0), ("soft-cross-entropy", 1.0)
    assert list(recipes.values()) == [ours, paper, paper, ours, ours, paper, *[(None, None)] * 2]
    assert {row.network for row in table} == {"small", None}


def test_across_data_sets_the_own_classes_of_the_images_are_not_used():
    names = [row.labels for row in run(CROSS, target=DIGITS)]
    assert names == ["distilled", "transferred", "teacher", "random-subset"]
    by_name = run(CROSS, target=DIGITS, validation=None, test=None)
    assert numbers(by_name) == numbers(run(CROSS))  # the target's splits, loaded by its name


def test_the_baselines_are_what_they_say():
    one = SETS[0]
    labels = {c.name: c.labels for c in candidates(one, one.recipe, None)}
    hot = nn.functional.one_hot(one.base_labels, 10).float()
    torch.testing.assert_close(labels["one-hot"], hot)
    torch.testing.assert_close(labels["smoothed"], 0.9 * hot + 0.01)
    torch.testing.assert_close(labels["one-hot-recipe"], hot - 0.1)
    torch.testing.assert_close(labels["teacher"], one.baselines["teacher"])
    assert labels["distilled"] is one.labels


def test_transferred_labels_are_the_mean_of_near_target_images():
    (labels,) = transferred_labels([SETS[0]], DIGITS)
    torch.testing.assert_close(labels.sum(1), torch.ones(20))
    assert torch.equal((labels * 10).round(), labels * 10)
    # Images of the target are their own nearest neighbours, mostly among their own kind.
    assert (labels.argmax(1) == SETS[0].base_labels).float().mean() > 0.7


def test_runs_come_base_set_by_base_set():
    both = run(SETS)
    (first, second) = (run(one) for one in SETS)
    for row in both:
        repeats = 1 if row.labels in UNTRAINED else 2
        assert (row.base_sets, len(row.runs), len(row.validation_runs)) == (2, 2 * repeats, 2 * repeats)
        assert row.runs[:repeats] == first.row(row.labels).runs
    assert all(len(row.steps) == 2 for row in both if row.network)
    assert {step for row in both for step in row.steps} <= {*training_steps(20), *training_steps(32)}
    assert both.row("distilled").runs[2:] != second.row("distilled").runs  # trained with seeds of its own


def test_every_network_and_optimizer_has_its_rows():
    table = run(networks=(small, "lenet"), optimizers=("adam", "sgd"), repeats=1)
    expected = [
        (name, network, optimizer)
        for network in ("small", "lenet")
        for optimizer in ("adam", "sgd")
        for name in TRAINED
    ]
    assert [(r.labels, r.network, r.optimizer) for r in table] == [
        *expected,
        *((name, None, None) for name in UNTRAINED),
    ]


def test_the_nearest_neighbour_is_scikit_learns():
    fit = KNeighborsClassifier(1).fit(SETS[0].images.flatten(1).numpy(), SETS[0].base_labels.numpy())
    expected = 100 * fit.score(TEST.images.flatten(1).numpy(), TEST.labels.numpy())
    assert run().row("nearest-neighbour").runs == pytest.approx([expected])


def test_the_same_seed_gives_the_same_table():
    assert numbers(run()) == numbers(run())
    assert run(seed=1).row("distilled").runs != run().row("distilled").runs


def test_the_test_split_is_shown_once_and_after_training(monkeypatch):
    log = []
    trained, tested = cells.courses, judging.predictions

    def courses(candidates, images, preprocessing, validation, *rest, **more):
        log.append("train")
        assert validation is VALIDATION
        assert TEST not in rest
        return trained(candidates, images, preprocessing, validation, *rest, **more)

    def predictions(networks, data, *rest):
        log.append(data.split)
        return tested(networks, data, *rest)

    monkeypatch.setattr(cells, "courses", courses)
    monkeypatch.setattr(judging, "predictions", predictions)
    run(SETS)
    assert log == ["train"] * 4 + ["test", "validation"] * 2


def test_nothing_that_is_chosen_depends_on_the_test_split():
    mixed = dataclasses.replace(TEST, labels=TEST.labels.flip(0))
    chosen = ("labels", "steps", "loss", "label_scale", "validation_mean", "validation_runs")
    for row, other in zip(run(), run(test=mixed), strict=True):
        assert [getattr(row, name) for name in chosen] == [getattr(other, name) for name in chosen]
        assert row.runs != other.runs


def test_the_validation_split_does_not_reach_the_weights():
    # Other validation images may choose other steps; at equal steps the networks are the same.
    half = VALIDATION.subset(range(0, len(VALIDATION), 2))
    pairs = list(zip(run(), run(validation=half), strict=True))
    equal = [(row, other) for row, other in pairs if row.steps == other.steps]
    assert equal
    assert all(row.runs == other.runs for row, other in equal)


def test_metrics_are_one_plain_record():
    table = run(SETS)
    record = metrics(SETS, table, {"accumulate": 0.12345, "total": 2})
    assert json.loads(json.dumps(record, allow_nan=False))["base_size"] == 20
    promised = {"target", "source", "base_size", "method", "backend", "seeds", "seconds", "results"}
    settings = {"selection", "lam", "gamma", "prior", "recipe", "certificate", "bytes", "versions"}
    assert promised | settings <= set(record)
    assert record["seconds"] == {"accumulate": 0.123, "total": 2}
    assert (record["target"], record["source"], record["backend"]) == ("digits", "digits", "torch")
    assert len(record["seeds"]) == 2
    assert (record["evaluation"]["seed"], record["evaluation"]["repeats"]) == (0, 2)
    assert record["evaluation"]["machine"]["device"] == "cpu"
    assert "evaluation" not in metrics(SETS, None, {})
    assert [result["labels"] for result in record["results"]] == WITHIN
    assert metrics(SETS[:1], None, {})["results"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repeats": 0}, "repeats must be at least 1, found 0; name"),
        ({"networks": ()}, "at least one network, found none; name"),
        ({"optimizers": ()}, "at least one optimizer, found none; name"),
        ({"sets": ()}, "at least one distilled set, found none; name"),
    ],
    ids=str,
)
def test_nothing_to_do_is_an_error(options, said):
    with pytest.raises(ParameterRangeError, match=said):
        run(**options)


def test_unknown_names_are_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(cells, "courses", lambda *args, **more: pytest.fail("trained in vain"))
    with pytest.raises(UnknownNameError, match="unknown network 'vgg'; known are lenet, alexnet"):
        run(networks=(small, "vgg"))
    with pytest.raises(UnknownNameError, match="unknown optimizer 'lion'; known are adam, adamw"):
        run(optimizers=("adam", "lion"))


def test_splits_and_sets_that_do_not_belong_together():
    renamed = dataclasses.replace(TEST, classes=tuple("abcdefghij"))
    wide = dataclasses.replace(VALIDATION, images=VALIDATION.images.repeat(1, 1, 2, 2))
    for options in ({"test": renamed}, {"validation": wide}):
        with pytest.raises(InvalidInputError, match=r"10 classes and images of \(1, 8, 8\), but found"):
            run(**options)
    with pytest.raises(InvalidInputError):
        run(CROSS, target=dataclasses.replace(DIGITS, classes=tuple("abcdefghij")))
    with pytest.raises(InvalidInputError, match="of one job"):
        run([SETS[0], CROSS])


def test_distilled_labels_are_worth_more_than_chance():
    table = run(networks=("lenet",), repeats=1)
    assert table.row("distilled").accuracy_mean > 60
    assert table.row("nearest-neighbour").accuracy_mean > 60


def test_every_row_carries_the_numbers_that_it_promises():
    table = run(SETS)
    for row in table:
        trained = row.network is not None
        assert (row.ece is not None) == (row.confusion is not None) == trained
        assert (row.learning_rate is not None) == trained
        if not trained:
            continue
        assert np.sum(row.confusion) == len(TEST) * len(row.runs)
        assert np.trace(row.confusion) / np.sum(row.confusion) * 100 == pytest.approx(row.accuracy_mean)
        assert sum(count for _, _, count in row.calibration) == len(TEST) * len(row.runs)
        assert row.worst_class["accuracy"] <= row.accuracy_mean
        assert [point[0] for point in row.curve] == training_steps(32 if row.labels == "random-subset" else 20)
        assert row.seconds > 0
    ours = table.row("distilled")
    assert list(ours.differences) == WITHIN[1:]
    teacher = table.row("teacher")
    assert ours.differences["teacher"]["mean"] == pytest.approx(ours.accuracy_mean - teacher.accuracy_mean)
    assert ours.differences["nearest-neighbour"]["over"] == "base sets"
    assert all(not row.differences for row in table if row.labels != "distilled")


def test_a_training_that_diverges_is_counted_and_in_no_mean():
    class Fragile(nn.Sequential):
        """Every second one gives NaN."""

        built = 0

        def __init__(self, shape, num_classes):
            Fragile.built += 1
            super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
            if Fragile.built % 2:
                self[1].weight.data.fill_(torch.nan)

    table = run(networks=(Fragile,), repeats=4)
    for row in table.rows[: len(TRAINED)]:
        assert (row.diverged, len(row.runs), len(row.validation_runs), row.trainings) == (2, 2, 2, (2,))
        assert np.mean(row.runs) == row.accuracy_mean > 15
        assert np.sum(row.confusion) == 2 * len(TEST)
    assert table.row("distilled").differences["teacher"]["pairs"] == 2
    lost = run(networks=(lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Broken()),)).row("distilled")
    assert (lost.diverged, lost.accuracy_mean, lost.validation_mean, lost.runs, lost.ece) == (
        2,
        None,
        None,
        (),
        None,
    )
    assert lost.differences == {}
    json.dumps(lost.curve, allow_nan=False)


class Broken(nn.Module):
    """Infinite logits."""

    def forward(self, x):
        return x / 0
