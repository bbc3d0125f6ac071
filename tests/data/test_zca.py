"""ZCA: the covariance that it gives, its place in files, and the networks that carry it."""

import base64
import json
from dataclasses import replace

import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convexdistill as cd
from convexdistill.data import ImageData, Preprocessing, load
from convexdistill.data.zca import Zca, cosines
from convexdistill.errors import FileFormatError, InvalidInputError, ParameterRangeError, ShapeError
from convexdistill.files import read_tensors
from convexdistill.training import ReadyNetwork

DIGITS = load("digits")
WHITE = Preprocessing.fit(DIGITS, zca=0.1)


def photographs(count=400, shape=(3, 6, 5), seed=0):
    """Smooth images with channels that go together, as bytes."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *shape, generator=generator).cumsum(-1).cumsum(-2)
    mixed = torch.einsum("cd,ndhw->nchw", torch.tensor([[1, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 1.0]]), noise)
    images = (mixed * 12 + 128).clamp(0, 255).to(torch.uint8)
    return ImageData(images, torch.arange(count) % 2, ("a", "b"), name="made", split="train")


def covariance_of_frequencies(x):
    waves = torch.from_numpy(scipy.fft.dctn(x.double().numpy(), axes=(2, 3), norm="ortho"))
    waves = waves - waves.mean(0)
    return torch.einsum("ncij,ndij->ijcd", waves, waves) / len(waves)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_cosine_transform_is_that_of_scipy_and_has_an_inverse(height, width, seed):
    x = torch.randn(3, 2, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")
    torch.testing.assert_close(cosines(x), torch.from_numpy(expected), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(cosines(cosines(x), inverse=True), x, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("regularisation", [0.01, 0.1, 1.0])
def test_each_frequency_has_the_covariance_that_zca_gives(regularisation):
    """The covariance Σ of a frequency becomes s² Σ (Σ + r·σ²·I)⁻¹."""
    data = photographs()
    before = covariance_of_frequencies(Preprocessing.fit(data)(data.images))
    white = Preprocessing.fit(data, zca=regularisation)(data.images)
    eye = torch.eye(3, dtype=torch.float64)
    variance = before.diagonal(dim1=-2, dim2=-1).mean()
    expected = before @ torch.linalg.inv(before + regularisation * variance * eye)
    expected = expected / expected.diagonal(dim1=-2, dim2=-1).mean()
    torch.testing.assert_close(covariance_of_frequencies(white), expected, atol=2e-3, rtol=5e-3)  # of float16
    assert float(white.var(0, correction=0).mean()) == pytest.approx(1, abs=2e-3)
    assert float(white.mean(0).abs().max()) < 5e-3


def test_gains_turn_no_channel_into_another_and_amplify_what_is_rare():
    _, gains = Preprocessing.fit(photographs(), zca=0.1).zca.transform
    torch.testing.assert_close(gains, gains.mT)
    smallest = torch.linalg.eigvalsh(gains.double())
    assert smallest.min() > 0
    assert (
        smallest[0, 0].max() < smallest[-1, -1].min()
    )  # the mean of an image varies most, its finest grain least


def test_images_that_are_all_the_same_stay_finite():
    same = replace(photographs(4), images=torch.full((4, 1, 3, 3), 7, dtype=torch.uint8))
    assert Preprocessing.fit(same, zca=0.1)(same.images).abs().max() < 1e-3


def test_a_stream_and_its_images_are_whitened_alike():
    assert Preprocessing.fit(cd.data.stream(DIGITS), zca=0.1) == WHITE


def test_it_survives_json():
    restored = Preprocessing.from_dict(json.loads(json.dumps(WHITE.to_dict())))
    assert restored == WHITE
    assert torch.equal(restored(DIGITS.images), WHITE(DIGITS.images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "base64"),
        ({"gains": "no base64!"}, "base64"),
        ({"shape": [1, 8]}, "zca needs"),
        ({"shape": [1, 8, 9]}, "finite numbers"),
        ({"gains": base64.b64encode(b"\x00\x7c" * 64).decode()}, "finite numbers"),  # infinity
        ({"regularisation": "a tenth"}, "zca needs"),
        ({"regularisation": 0.0}, "zca needs"),
    ],
)
def test_damaged_dictionaries_are_refused(change, message):
    values = WHITE.to_dict()
    values["zca"] = {**values["zca"], **change}
    with pytest.raises(FileFormatError, match=message):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_regularisations_are_refused(value):
    with pytest.raises(ParameterRangeError, match="must be positive"):
        Preprocessing.fit(DIGITS, zca=value)


def test_zca_without_images_is_refused():
    with pytest.raises(ParameterRangeError, match="found none"):
        Zca.fit([], 0.1)


def test_other_images_than_it_was_fitted_to_are_refused():
    with pytest.raises(ShapeError, match="1×8×8, found 1×7×8"):
        WHITE(DIGITS.images[:, :, 1:])
    with pytest.raises(ParameterRangeError, match="1 channels"):
        Preprocessing((0.0,) * 3, (1.0,) * 3, WHITE.zca)


def test_a_ready_network_whitens_what_it_is_shown():
    network = torch.nn.Flatten()
    ready = ReadyNetwork(WHITE, network)
    expected = WHITE(DIGITS.images[:5]).flatten(1)
    torch.testing.assert_close(ready(DIGITS.images[:5]), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ready(DIGITS.images[:5].float() / 255), expected, atol=1e-5, rtol=1e-5)
    other = ReadyNetwork(Preprocessing.fit(DIGITS, zca=1.0), network)
    other.load_state_dict(ready.state_dict())
    torch.testing.assert_close(other(DIGITS.images[:5]), ready(DIGITS.images[:5]))


def test_gradients_go_through_it():
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(WHITE.of_pixels, (x,))


@pytest.mark.parametrize("method", list(cd.distill.METHODS))
def test_every_method_learns_from_whitened_images_and_keeps_them_in_the_file(method, tmp_path):
    base = cd.select.choose(DIGITS, size=10, seed=0)
    pool = cd.features.pool(count=1, width=4)
    quick = {
        "closed-form": {"moments": cd.accumulate(pool, DIGITS, preprocessing=WHITE), "gamma": 0.1},
        "cross-entropy": {"pool": pool, "gamma": 0.1},
        "alternate": {"pool": pool, "rounds": 1, "count": 1, "label_scale": 8.0, "recipe": "centred"},
        "unrolled": {"pool": pool, "gamma": 0.1, "iterations": 1, "steps": 1},
    }
    options = quick.get(method, {"epochs": 1})
    if method != "closed-form":
        options |= {"target": DIGITS, "preprocessing": WHITE}
    if method == "alternate":
        options["validation"] = load("digits", split="validation")
    made = cd.distill.METHODS[method](base=base, **options)
    made.save(tmp_path / "white.safetensors")
    again = cd.load(tmp_path / "white.safetensors")
    assert again.preprocessing == WHITE
    assert again.fingerprint == made.fingerprint != replace(made, manifest=_without_zca(made.manifest)).fingerprint
    torch.testing.assert_close(again.to_torch_dataset()[3][0], WHITE(again.images)[3])
    with pytest.raises(FileFormatError, match="format version 3"):
        read_tensors(tmp_path / "white.safetensors", kind="distilled-set", version=2)


def _without_zca(manifest):
    return {**manifest, "preprocessing": replace(WHITE, zca=None).to_dict()}


def test_zca_of_other_images_is_refused_in_a_set():
    base = cd.select.choose(DIGITS, size=10, seed=0)
    made = cd.distill.cross_entropy(cd.features.pool(count=1, width=4), DIGITS, base, gamma=0.1)
    zca = Zca.fit([torch.randn(20, 1, 5, 5)], 0.1)
    preprocessing = replace(made.preprocessing, zca=zca).to_dict()
    with pytest.raises(FileFormatError, match="ZCA is of images"):
        replace(made, manifest={**made.manifest, "preprocessing": preprocessing})


def test_moments_remember_it_and_do_not_mix(tmp_path):
    pool = cd.features.pool(count=1, width=4)
    white = cd.accumulate(pool, DIGITS, preprocessing=WHITE, shard=(0, 2))
    plain = cd.accumulate(pool, DIGITS, shard=(1, 2))
    white.save(tmp_path / "m.safetensors")
    assert cd.Moments.load(tmp_path / "m.safetensors").preprocessing == WHITE
    with pytest.raises(FileFormatError, match="format version 2"):
        read_tensors(tmp_path / "m.safetensors", kind="moments", version=1)
    with pytest.raises(InvalidInputError, match=r"preprocessing\.zca") as caught:
        white.merge(plain)
    assert len(str(caught.value)) < 400
