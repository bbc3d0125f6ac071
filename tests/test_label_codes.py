"""Labels in few bytes: the error bound, the layout, and files that are smaller and come back as they were."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convexdistill import load as load_distilled
from convexdistill.data import load
from convexdistill.distill import closed_form
from convexdistill.errors import FileFormatError, ParameterRangeError
from convexdistill.features import pool
from convexdistill.files import read_tensors, write_tensors
from convexdistill.label_codes import check_code, decode, encode, row_bytes
from convexdistill.moments import accumulate
from convexdistill.select import choose

DIGITS = load("digits")
SET = closed_form(accumulate(pool(count=1, width=8), DIGITS), choose(DIGITS, 40), gamma=0.1)
CODES = [(4, None), (None, 3), (2, 2), (8, 9), (16, None), (1, 1)]

labels_of_any_size = st.tuples(st.integers(1, 5), st.integers(2, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-(2.0**40), 2.0**40, width=32))
)


@settings(deadline=None, max_examples=150)
@given(labels_of_any_size, st.integers(1, 16))
def test_quantised_labels_are_never_off_by_more_than_half_a_step(values, bits):
    labels = torch.from_numpy(values)
    back = decode(encode(labels, bits, None), bits, None, labels.shape[1])
    values, back = values.astype(np.float64), back.numpy().astype(np.float64)
    span = values.max(axis=1) - values.min(axis=1)
    rounding = 2.0**-23 * np.abs(values).max(axis=1) + 2.0 ** (
        bits - 148
    )  # float32: of the answer, and of the step
    bound = span / (2**bits - 1) / 2 + rounding
    assert (np.abs(back - values).max(axis=1) <= bound).all()


@settings(deadline=None, max_examples=100)
@given(labels_of_any_size, st.data())
def test_kept_values_are_exact_and_rows_keep_their_sum(values, draw):
    classes = values.shape[1]
    top_k = draw.draw(st.integers(1, classes - 1))
    labels = torch.from_numpy(values)
    codes = encode(labels, None, top_k)
    assert codes.shape == (len(values), row_bytes(None, top_k, classes))
    once = decode(codes, None, top_k, classes)
    kept = (once == labels).sum(dim=1)
    assert (kept >= top_k).all()
    largest = labels.abs().max()
    assert torch.allclose(once.sum(1), labels.sum(1), atol=float(1e-5 * classes * largest))


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, (3, 6), elements=st.floats(-8, 8, width=16)), st.integers(1, 5))
def test_what_is_kept_is_what_costs_least(values, top_k):
    back = decode(encode(torch.from_numpy(values), None, top_k), None, top_k, 6).numpy()
    for row, read in zip(values.astype(np.float64), back, strict=True):
        best = min(
            float(np.square(row[list(rest)] - row[list(rest)].mean()).sum())
            for rest in itertools.combinations(range(6), 6 - top_k)
        )
        assert np.square(row - read).sum() <= best + 1e-6 * (1 + np.square(row).sum())


@pytest.mark.parametrize(("bits", "top_k", "classes"), [*((b, k, 10) for b, k in CODES), (1, 1, 2), (4, 20, 257)])
def test_probabilities_stay_probabilities(bits, top_k, classes):
    labels = torch.rand(20, classes, generator=torch.Generator().manual_seed(0)) ** 4
    labels /= labels.sum(1, keepdim=True)
    back = decode(encode(labels, bits, top_k), bits, top_k, classes, probabilities=True)
    assert back.min() >= 0
    torch.testing.assert_close(back.sum(1), torch.ones(20))
    assert (back - labels).abs().max() < (0.6 if bits == 1 else 0.35 if top_k else 0.1)


@pytest.mark.parametrize(("bits", "top_k"), CODES)
def test_a_compressed_file_is_smaller_and_comes_back_bit_for_bit(bits, top_k, tmp_path):
    small = SET.compress(bits, top_k)
    SET.save(tmp_path / "plain")
    small.save(tmp_path / "small")
    saved = (tmp_path / "plain").stat().st_size - (tmp_path / "small").stat().st_size
    assert SET.bytes["labels"] == 40 * 10 * 4
    assert small.bytes["labels"] == 40 * row_bytes(bits, top_k, 10)
    # What the manifest has to say about it takes some of what is won.
    assert saved >= SET.bytes["labels"] - small.bytes["labels"] - 150
    assert (saved > 0) == (SET.bytes["labels"] - small.bytes["labels"] > 150)
    loaded = load_distilled(tmp_path / "small")
    assert torch.equal(loaded.labels, small.labels)
    assert torch.equal(loaded.codes, small.codes)
    assert loaded.manifest["bytes"] == small.bytes
    assert loaded.manifest["label_code"]["bits"] == bits
    assert loaded.manifest["label_code"]["largest_error"] == float((small.labels - SET.labels).abs().max())
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "small").read_bytes()


def test_more_bits_and_more_values_are_nearer():
    errors = [SET.compress(bits).manifest["label_code"]["rms_error"] for bits in (1, 2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    errors = [SET.compress(top_k=k).manifest["label_code"]["rms_error"] for k in (1, 3, 6, 9)]
    assert errors == sorted(errors, reverse=True)


def test_compressed_labels_are_trained_on():
    small = SET.compress(bits=6)
    _, wanted = small.to_torch_dataset()[:]
    torch.testing.assert_close(wanted, small.labels * SET.recipe.label_scale)
    model = small.train("lenet", device="cpu")
    assert float((model(DIGITS.images).argmax(1) == DIGITS.labels).float().mean()) > 0.6


def test_only_compressed_files_need_the_newer_program(tmp_path):
    for name, one, version in (("plain", SET, 1), ("small", SET.compress(4), 2)):
        one.save(tmp_path / name)
        _, manifest = read_tensors(tmp_path / name, kind="distilled-set", version=2)
        assert manifest["format_version"] == version
    with pytest.raises(FileFormatError, match="upgrade convexdistill"):
        read_tensors(tmp_path / "small", kind="distilled-set", version=1)


DAMAGE = {
    "no code": lambda tensors, manifest: manifest.pop("label_code"),
    "code is a word": lambda tensors, manifest: manifest.update(label_code="4 bits"),
    "no bits": lambda tensors, manifest: manifest["label_code"].pop("bits"),
    "impossible bits": lambda tensors, manifest: manifest["label_code"].update(bits=17),
    "other bits": lambda tensors, manifest: manifest["label_code"].update(bits=8),
    "other top_k": lambda tensors, manifest: manifest["label_code"].update(top_k=5),
    "as many kept as there are": lambda tensors, manifest: manifest["label_code"].update(top_k=10),
    "float labels": lambda tensors, manifest: tensors.update(labels=SET.labels),
    "too few rows": lambda tensors, manifest: tensors.update(labels=tensors["labels"][:-1]),
    "cut rows": lambda tensors, manifest: tensors.update(labels=tensors["labels"][:, :-1]),
    "nan step": lambda tensors, manifest: tensors["labels"][0, 4:8].fill_(255),
    "a class twice": lambda tensors, manifest: tensors["labels"][0, 12:14].fill_(0),
    "a class too many": lambda tensors, manifest: tensors["labels"][0, 12:14].fill_(255),
    "code in a plain file": lambda tensors, manifest: tensors.update(labels=SET.labels[:, :3]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_codes_are_refused_and_named(damage, tmp_path):
    SET.compress(4, 3).save(path := tmp_path / "set.safetensors")
    tensors, manifest = read_tensors(path, kind="distilled-set", version=2)
    DAMAGE[damage](tensors, manifest)
    write_tensors(path, tensors, manifest)
    with pytest.raises(FileFormatError, match=r"set\.safetensors"):
        load_distilled(path)


def test_labels_that_are_not_those_of_the_codes_are_refused():
    from dataclasses import replace

    small = SET.compress(4)
    with pytest.raises(FileFormatError, match="change labels first, then compress"):
        replace(small, labels=SET.labels)
    with pytest.raises(FileFormatError, match="belong together"):
        replace(small, codes=None)
    assert small.compress(2, 5).manifest["label_code"]["top_k"] == 5


@pytest.mark.parametrize(
    "wrong", [(0, None), (17, None), (4.0, None), (True, None), (None, 0), (4, 10), (None, None)]
)
def test_impossible_codes_are_refused(wrong):
    with pytest.raises(ParameterRangeError):
        check_code(*wrong, classes=10)
    with pytest.raises(ParameterRangeError):
        SET.compress(*wrong)


def test_a_row_too_wide_for_its_bits_is_refused():
    wide = torch.tensor([[-3e38, 3e38]])
    with pytest.raises(ParameterRangeError, match="take more"):
        encode(wide, 1, None)
    assert decode(encode(wide, 8, None), 8, None, 2)[0].tolist() == pytest.approx([-3e38, 3e38])
