"""The leads: whitening is ZCA, trained extractors come from the target, and the page says what was changed."""

from dataclasses import replace

import leads
import pytest
import torch
from _whitening import Whitened

import convexdistill as cd


@pytest.mark.parametrize("regularisation", [0.01, 0.1])
def test_whitened_pixels_have_the_covariance_that_zca_gives(regularisation):
    digits = cd.data.load("digits")
    plain = cd.data.Preprocessing.fit(digits)(digits.images).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(plain.T, correction=0))
    kept = values / (values + regularisation * values.mean())
    expected = (vectors * (kept / kept.mean())) @ vectors.T
    found = Whitened.of(digits, regularisation)(digits.images).flatten(1).double()
    torch.testing.assert_close(torch.cov(found.T, correction=0), expected, atol=1e-5, rtol=1e-4)
    assert float(found.square().mean()) == pytest.approx(1, abs=1e-5)
    # ZCA turns nothing: of all whitenings it is the symmetric one.
    matrix = Whitened.of(digits, regularisation).matrix
    torch.testing.assert_close(matrix, matrix.T, atol=1e-5, rtol=1e-4)


def test_one_thing_changed_is_one_line_of_the_page(monkeypatch):
    real = cd.features.pool
    monkeypatch.setattr(
        cd.features, "pool", lambda name, count, **options: real(name, 1, **{**options, "width": 8})
    )
    monkeypatch.setattr(leads, "TEACHERS", {"count": 1, "steps": (5, 10)})
    leads.teachers.cache_clear()
    first = replace(leads.QUICK[0], size=10, repeats=1)
    settings = [first, replace(first, extractors="both"), replace(first, whitening=0.1)]
    assert [len(leads.pool_of(s, cd.data.load("digits"), None)) for s in settings] == [1, 3, 1]
    records = [{"setting": vars(s), "result": leads.measure(s, None)} for s in settings]
    leads.teachers.cache_clear()
    page = leads.table(records)
    for record, change in zip(records, ("–", "both extractors", "ZCA, 0.1"), strict=True):
        learned = record["result"]["learned"]["validation"][0]
        assert f"| lenet | {change} | {learned:.1f} |" in page
    assert records[0]["result"] != records[1]["result"]
