"""The leads: whitening is ZCA, trained extractors come from the target, and the page says what was changed."""

from dataclasses import replace

import leads
import pytest
import torch
from _whole_zca import whole_zca

import convexdistill as cd


@pytest.mark.parametrize("regularisation", [0.01, 0.1])
def test_whitened_pixels_have_the_covariance_that_zca_gives(regularisation):
    digits = cd.data.load("digits")
    plain = cd.data.Preprocessing.fit(digits)(digits.images).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(plain.T, correction=0))
    kept = values / (values + regularisation * values.mean())
    expected = (vectors * (kept / kept.mean())) @ vectors.T
    whole = whole_zca(digits, cd.data.Preprocessing.fit(digits, zca=regularisation))
    found = whole(digits.images).flatten(1).double()
    torch.testing.assert_close(torch.cov(found.T, correction=0), expected, atol=1e-5, rtol=1e-4)
    assert float(found.square().mean()) == pytest.approx(1, abs=1e-5)
    # ZCA turns nothing: of all whitenings it is the symmetric one.
    torch.testing.assert_close(whole.matrix, whole.matrix.T, atol=1e-5, rtol=1e-4)


def test_what_is_changed_changes_the_measurement_and_has_a_line_of_the_page(monkeypatch):
    real = cd.features.pool
    monkeypatch.setattr(
        cd.features, "pool", lambda name, count, **options: real(name, 1, **options | {"width": 8})
    )
    monkeypatch.setattr(leads, "TEACHERS", {"count": 1, "steps": (5, 10)})
    leads.teachers.cache_clear()
    first = replace(leads.QUICK[0], size=10, repeats=1)
    changed = {
        "–": first,
        "both extractors": replace(first, extractors="both"),
        "ZCA, 0.1": replace(first, zca=0.1),
        "ZCA of the whole covariance, 0.1": replace(first, zca=0.1, whole=True),
        "learning rate 0.01": replace(first, learning_rate=0.01),
        "augmentation: mirror": replace(first, augmentation="mirror"),
        "augmentation: mirror, which the solve reckons with": replace(first, augmentation="mirror", foreseen=True),
        "500 target images": replace(first, target_images=500),
    }
    records = [{"setting": vars(s), "result": leads.measure(s, None)} for s in changed.values()]
    leads.teachers.cache_clear()
    page = leads.table(records)
    for record, change in zip(records, changed, strict=True):
        learned = record["result"]["learned"]["validation"][0]
        assert f"| lenet | {change} | {learned:.1f} |" in page
    found = [record["result"] for record in records]
    assert all(one != other for k, one in enumerate(found) for other in found[:k])


def test_solve_and_trainings_see_whitened_images(shown):
    seen = shown(leads)
    leads.measure(replace(leads.QUICK[0], size=10, repeats=1, zca=0.2), None)
    assert [one.zca.regularisation for one in seen] == [0.2, 0.2]


def test_extractors_are_trained_on_the_target(monkeypatch):
    seen = []

    def spied(images, labels, preprocessing, recipe, **options):
        seen.append((images, labels, recipe, options))
        return real(images, labels, preprocessing, recipe, **options)

    real = leads.trained_pool
    monkeypatch.setattr(leads, "trained_pool", spied)
    monkeypatch.setattr(leads, "TEACHERS", {"count": 2, "steps": (1, 3)})
    leads.teachers.cache_clear()
    setting = replace(leads.QUICK[0], extractors="trained")
    digits = cd.data.load("digits")
    pool = leads.pool_of(setting, digits, None)
    leads.teachers.cache_clear()
    assert [spec.facts["steps"] for spec in pool] == [1, 1, 3, 3]
    ((images, labels, recipe, options),) = seen
    assert torch.equal(images, digits.images)
    assert torch.equal(labels.argmax(1), digits.labels)
    assert (recipe.loss, recipe.augmentation, options["count"]) == ("soft-cross-entropy", "none", 2)
