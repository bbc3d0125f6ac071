"""The paper's experiment families, on digits: one small setting each, measured for real, and the page it makes."""

from dataclasses import replace

import _learned_labels
import architectures
import base_seeds
import image_vs_label
import pytest
import target_size
import training_steps

import convexdistill as cd


@pytest.fixture(autouse=True)
def small(monkeypatch):
    real = cd.features.pool
    monkeypatch.setattr(cd.features, "pool", lambda name, count, **options: real(name, 1, **options))
    for cached in (_learned_labels.seen, _learned_labels.choice):
        cached.cache_clear()
    yield
    for cached in (_learned_labels.seen, _learned_labels.choice):
        cached.cache_clear()


def record(measure, setting):
    return {"setting": vars(setting), "result": measure(setting, None)}


def test_target_size_has_a_line_for_each_size():
    found = [
        record(_learned_labels.measure, replace(target_size.QUICK[0], size=10, repeats=1, target_images=count))
        for count in (100, 400)
    ]
    page = target_size.table(found)
    assert "| 100 | 1 |" in page
    assert "| 400 | 1 |" in page
    assert target_size.plot(found).axes[0].get_xscale() == "log"


def test_base_seeds_tells_base_sets_from_trainings():
    found = [record(_learned_labels.measure, replace(base_seeds.QUICK[k], size=10, repeats=2)) for k in range(2)]
    page = base_seeds.table(found)
    assert "seed 0 | seed 465 |" in page
    assert "cross-entropy, centred" in page
    # Nothing but trainings differs where base sets are equal, and nothing but base sets where trainings are.
    assert base_seeds._variance([[80.0, 82.0], [80.0, 82.0]])[0] == "0.00"
    assert float(base_seeds._variance([[80.0, 80.0], [90.0, 90.1]])[2]) < 1e-3


def test_training_steps_looks_around_its_own_t():
    setting = replace(training_steps.QUICK[0], size=10, repeats=2)
    found = [record(training_steps.measure, setting)]
    for row in found[0]["result"]["rows"]:
        steps = [int(step) - row["T"] for step in row["test"]]
        assert steps == [offset for offset in training_steps.OFFSETS if row["T"] + offset > 0]
        assert all(len(runs) == 2 for runs in row["test"].values())
    assert "| range |" in training_steps.table(found)
    assert training_steps.plot(found).axes


def test_architectures_has_a_column_for_each_network():
    first = architectures.QUICK[0]
    found = [
        record(_learned_labels.measure, replace(first, size=10, repeats=1, network=network))
        for network in ("lenet", "convnet-8")
    ]
    for one in found:
        one["setting"] = {**one["setting"], "network": one["setting"]["network"].replace("-8", "-32")}
    page = architectures.table(found)
    assert "| extractors | labels | lenet | alexnet | resnet | convnet-32 |" in page
    assert "| lenet | learned |" in page


def test_labels_and_images_are_learned_from_the_same_base_examples():
    found = [
        record(image_vs_label.measure, replace(setting, epochs=1, repeats=2))
        for setting in image_vs_label.QUICK[:4]
    ]
    assert [len(one["result"]["test"]) for one in found] == [2] * 4
    assert len({str(one["result"]["bytes"]) for one in found}) == 1
    page = image_vs_label.table(found)
    assert all(f"| {way} |" in page for way in image_vs_label.WAYS)
