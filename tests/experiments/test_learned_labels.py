"""The experiments on learned labels, on digits: measured for real, with one training of each row."""

import _learned_labels
import cross_dataset
import numpy as np
import pytest
import within_dataset
from _learned_labels import Setting, measure
from _learned_tables import Goal, gains, key_of, overview, plot, pursued, rows_of, trained
from torch import nn

import convexdistill as cd
from convexdistill.training import Recipe

LEARNED = ["cross-entropy, centred", "cross-entropy, paper", "squared, centred", "squared, paper"]
WITHIN = [*LEARNED, "teacher, centred", "one-hot, centred", "one-hot, paper", "smoothed 0.1, paper"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    real = cd.features.pool
    monkeypatch.setattr(cd.features, "pool", lambda name, count, **options: real(name, 1, width=8, **options))
    for cached in (_learned_labels.seen, _learned_labels.choice):
        cached.cache_clear()
    yield
    for cached in (_learned_labels.seen, _learned_labels.choice):
        cached.cache_clear()


def test_a_base_set_within_a_data_set_gives_every_row_and_a_page():
    setting = Setting("digits", 10, "lenet", 0, repeats=1)
    result = measure(setting, None)
    assert [row["labels"] for row in result["rows"]] == WITHIN
    assert all(len(row["test"]) == len(row["validation"]) == 1 for row in result["rows"])
    assert result["duality_gap"] < 1e-9
    assert (result["test_images"], result["classes"]) == (len(cd.data.load("digits", "test")), 10)
    # What was chosen was chosen with another base set, from several.
    for solve in ("cross-entropy", "squared"):
        assert len(result["chosen"][solve]["tried"]) > 2
        assert set(result["chosen"][solve]["scales"]) == {"centred", "paper"}
    record = {"setting": vars(setting), "result": result}
    other = {"setting": {**vars(setting), "seed": 1}, "result": result}
    page = within_dataset.table([record, other])
    assert "## digits, 10 base examples (random), lenet" in page
    assert "2 base sets × 1 trainings" in page
    best = max(result["rows"][:4], key=lambda row: row["validation"][0])  # of the learned labels, by validation
    for goal, verdict in ((best["test"][0] - 1, "yes"), (best["test"][0] + 1, "no")):
        line = overview([record, other], {key_of(record)[:5]: Goal(goal)})[-1]
        assert f"| **{best['test'][0]:.1f} ± 0.0** | {best['labels']} |" in line
        assert f"| {goal:g} | so far {verdict} (2 of 5 sets) |" in line


def test_records_with_other_rows_are_not_averaged():
    rows = [{"labels": name, "test": [1.0], "validation": [1.0], "steps": 1} for name in LEARNED]
    records = [
        {"setting": vars(Setting("digits", 1, "lenet", seed)), "result": {"rows": part}}
        for seed, part in enumerate((rows, rows[1:]))
    ]
    with pytest.raises(ValueError, match="different rows"):
        rows_of(records)


def test_two_records_of_one_base_set_are_not_counted_twice():
    rows = [{"labels": LEARNED[0], "test": [1.0], "validation": [1.0], "steps": 1}]
    record = {"setting": vars(Setting("digits", 1, "lenet", 0)), "result": {"rows": rows}}
    with pytest.raises(ValueError, match="the same base set"):
        rows_of([record, record])


def test_what_images_and_extractors_have_belongs_to_the_group_and_its_name():
    plain = vars(Setting("digits", 10, "lenet", 0))
    assert trained(plain) == "lenet"
    older = {name: value for name, value in plain.items() if name not in ("zca", "pool")}
    assert trained(older) == "lenet"
    assert trained(plain | {"zca": 0.1}) == "lenet, ZCA 0.1"
    wide = plain | {"zca": 0.1, "extractor": "convnet-128", "pool": 3}
    assert trained(wide) == "lenet, ZCA 0.1, labels by 3 convnet-128"
    mirrored = plain | {"augmentation": "mirror"}
    assert trained(mirrored) == "lenet, mirror augmentation"
    keys = {key_of({"setting": setting}) for setting in (plain, plain | {"zca": 0.1}, wide, mirrored)}
    assert len(keys) == 4


def test_a_goal_is_that_of_its_network_whatever_else_is_done():
    plain = vars(Setting("digits", 10, "lenet", 0))
    own, best = (None, "digits", 10, "lenet", "random"), (None, "digits", 10, None, "random")
    for setting in (plain, plain | {"augmentation": "mirror", "zca": 0.1}):
        key = key_of({"setting": setting})
        assert pursued({own: Goal(1), best: Goal(2)}, key) == own
        assert pursued({best: Goal(2)}, key) == best
        assert pursued({}, key) == key[:5]


@pytest.mark.parametrize("rows", ["few", "alternate"])
def test_augmented_base_images_are_those_of_all_solves_and_trainings(rows, monkeypatch):
    seen = []
    for name in ("cross_entropy", "alternate"):
        method = getattr(cd.distill, name)

        def solved(*arguments, method=method, augmentation="none", **options):
            seen.append(augmentation)
            return method(*arguments, augmentation=augmentation, **options)

        monkeypatch.setattr(cd.distill, name, solved)
        monkeypatch.setitem(cd.distill.METHODS, name, solved)
    trains = _learned_labels.run_trials

    def run_trials(candidates, *others, **options):
        seen.extend(one.recipe.augmentation for one in candidates)
        return trains(candidates, *others, **options)

    monkeypatch.setattr(_learned_labels, "run_trials", run_trials)
    monkeypatch.setitem(_learned_labels.FURTHER, "alternate", {"rounds": 1, "count": 1})
    measure(Setting("digits", 10, "lenet", 0, rows=rows, repeats=1, augmentation="mirror"), None)
    # γ and scales, the solve, what follows it, and the rows.
    assert seen == ["mirror"] * (2 + 3 if rows == "few" else 3 + 5)


def test_labels_are_solved_for_whitened_images_and_networks_see_them(shown):
    seen = shown(_learned_labels)
    measure(Setting("digits", 10, "lenet", 0, rows="few", repeats=1, zca=0.2), None)
    assert len(seen) > 2
    assert all(one.zca is not None and one.zca.regularisation == 0.2 for one in seen)


def test_few_rows_are_those_that_speak_for_chosen_base_images():
    setting = Setting("digits", 10, "convnet", 0, select="kmeans", rows="few", repeats=1)
    result = measure(setting, None)
    assert [row["labels"] for row in result["rows"]] == [LEARNED[0], "teacher, centred", "one-hot, centred"]


@pytest.mark.parametrize(
    ("more", "settings", "kept", "word"),
    [
        ("alternate", {"rounds": 1, "count": 1}, "rounds", "alternating"),
        ("unrolled", {"iterations": 2, "steps": 2, "count": 1}, "outer_losses", "unrolled"),
    ],
)
def test_what_goes_on_from_the_single_solve_stands_beside_it(more, settings, kept, word, monkeypatch):
    monkeypatch.setitem(_learned_labels.FURTHER, more, settings)
    setting = Setting("digits", 10, "lenet", 0, rows=more, repeats=1)
    result = measure(setting, None)
    expected = [f"{more}, centred", f"{more}, paper", LEARNED[0], "teacher, centred", "one-hot, centred"]
    assert [row["labels"] for row in result["rows"]] == expected
    assert len(result[kept]) == 2
    page = within_dataset.table([{"setting": vars(setting), "result": result}])
    assert f"## digits, 10 base examples (random), lenet, {word}" in page
    assert f"- digits, 10, lenet, random, {word}: " in page


def test_across_data_sets_the_classes_of_base_images_mean_nothing(tmp_path):
    digits = cd.data.load("digits")
    letters = tmp_path / "negatives.npz"
    np.savez(letters, images=255 - digits.images[:200, 0].numpy(), labels=digits.labels[:200].numpy() % 3)
    setting = Setting("digits", 10, "lenet", 0, repeats=1, source="negatives.npz")
    result = measure(setting, str(tmp_path))
    assert [row["labels"] for row in result["rows"]] == [*LEARNED, "teacher, centred", "transferred, centred"]
    assert 5 < result["constant"] < 20
    record = {"setting": vars(setting), "result": result}
    page = cross_dataset.table([record])
    assert "## negatives → digits, 10 base examples (random), lenet" in page
    record["result"] = {**result, "constant": 99.0}
    assert "best constant 99.0 against" in cross_dataset.table([record])


def made_up(seed: int, rows: str, network: str = "lenet", **accuracies: float) -> dict[str, object]:
    """A record of one base set, with these accuracies on the test split; validation ranks them the other way."""
    setting = vars(Setting("digits", 10, network, seed, rows=rows))
    kinds = [
        {"labels": f"{name.replace('_', '-')}, centred", "steps": 4, "validation": [100 - value], "test": [value]}
        for name, value in accuracies.items()
    ]
    return {"setting": setting, "result": {"rows": kinds}}


def test_the_plot_has_what_validation_prefers_and_the_best_baseline():
    records = [
        made_up(0, "few", cross_entropy=50, teacher=40, one_hot=30),
        made_up(0, "few", "convnet", cross_entropy=60, teacher=35, one_hot=45),
    ]
    records[1]["setting"] |= {"size": 20}
    (ax,) = plot(records).axes
    assert ax.get_title() == "digits, random base examples"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10", "20"]
    shown = [tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() in "ox"]
    assert shown == [(10, 50), (10, 40), (20, 60), (20, 45)]


def test_gains_are_those_on_the_same_base_sets():
    records = [
        made_up(0, "unrolled", unrolled=40.0, cross_entropy=30.0),
        made_up(1, "unrolled", unrolled=36.0, cross_entropy=34.0),
    ]
    (line,) = [line for line in gains(records) if line.startswith("- ")]
    assert line == "- digits, 10, lenet, random, unrolled: 32.0 → 38.0, +6.0 ± 4.0 (standard error), 2 base sets"


def test_one_verdict_a_cell_by_validation_on_the_base_sets_that_all_groups_have():
    records = [
        made_up(0, "all", cross_entropy=40.0, one_hot=20.0),
        made_up(1, "all", cross_entropy=20.0, one_hot=20.0),
        made_up(0, "unrolled", unrolled=30.0, cross_entropy=40.0, one_hot=20.0),
        made_up(2, "unrolled", unrolled=50.0, cross_entropy=40.0, one_hot=20.0),
    ]
    first, second = overview(records, {(None, "digits", 10, "lenet", "random"): Goal(35)})[2:]
    assert "| 35 | so far yes (2 of 5 sets) |" in second  # 40 on the test split, by 70 against 60 on validation
    assert "35" not in first


def test_a_goal_for_the_best_network_stands_beside_the_one_that_validation_prefers():
    records = [
        made_up(0, "few", cross_entropy=40.0, one_hot=20.0),
        made_up(0, "few", "convnet-8-none", cross_entropy=30.0, one_hot=20.0),
    ]
    best = (None, "digits", 10, None, "random")
    first, second = overview(records, {best: Goal(35)})[2:]
    assert "| 35 | so far no (1 of 5 sets) |" in second
    assert "35" not in first
    # A goal of its own comes first.
    first, second = overview(records, {best: Goal(35), (*best[:3], "lenet", "random"): Goal(38)})[2:]
    assert "| 38 | so far yes (1 of 5 sets) |" in first
    assert "| 35 | so far no (1 of 5 sets) |" in second


def test_a_group_with_fewer_base_sets_does_not_compete_yet():
    records = [made_up(seed, "few", cross_entropy=40.0, one_hot=20.0) for seed in range(5)]
    records.append(made_up(0, "few", "convnet-8-none", cross_entropy=30.0, one_hot=20.0))
    first, second = overview(records, {(None, "digits", 10, None, "random"): Goal(35)})[2:]
    assert "| 35 | yes |" in first
    assert "35" not in second


def test_a_networks_name_may_end_in_width_and_norm():
    assert _learned_labels.network_of("lenet") == "lenet"
    plain = _learned_labels.network_of("convnet-8-none")((1, 8, 8), 10)
    normalised = _learned_labels.network_of("convnet-8")((1, 8, 8), 10)
    widths = {module.out_channels for module in plain.modules() if isinstance(module, nn.Conv2d)}
    assert widths == {8}
    assert not any("Norm" in type(module).__name__ for module in plain.modules())
    assert any("Norm" in type(module).__name__ for module in normalised.modules())
    for unknown in ("convnet-none", "convnet-8-none-x", "transformer"):
        with pytest.raises(cd.errors.UnknownNameError, match=unknown):
            _learned_labels.network_of(unknown)


def test_labels_that_nothing_certifies_have_the_gap_of_the_solve_they_start_from(monkeypatch):
    def always(*given, **options):  # a recipe that is given leaves validation no choice between the two
        return cd.distill.unrolled(*given, **{**options, "recipe": Recipe("mse", label_scale=8.0)})

    monkeypatch.setitem(cd.distill.METHODS, "unrolled", always)
    monkeypatch.setitem(_learned_labels.FURTHER, "unrolled", {"iterations": 1, "steps": 1, "count": 1})
    result = measure(Setting("digits", 10, "lenet", 0, rows="unrolled", repeats=1), None)
    assert 0 <= result["duality_gap"] < 1e-6
