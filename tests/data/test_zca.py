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
from convexdistill.distill import TargetFeatures
from convexdistill.errors import (
    FileFormatError,
    InvalidInputError,
    NonFiniteInputError,
    ParameterRangeError,
    ShapeError,
)
from convexdistill.features import ModuleSpec
from convexdistill.features.network import Network
from convexdistill.files import read_tensors, write_tensors
from convexdistill.seeds import seeded
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


@pytest.mark.parametrize("count", [1, 2, 3, 7, 250])
@pytest.mark.parametrize("image", [torch.full((1, 3, 3), 7), torch.arange(9).view(1, 3, 3) * 20])
def test_images_that_are_all_the_same_keep_but_their_differences(image, count):
    same = replace(photographs(count), images=image.to(torch.uint8).expand(count, -1, -1, -1))
    fitted = Preprocessing.fit(same, zca=0.1)
    assert fitted(same.images).abs().max() < 5e-3
    shifted = same.images + 10
    expected = replace(fitted, zca=None)(shifted) - replace(fitted, zca=None)(same.images)
    torch.testing.assert_close(fitted(shifted) - fitted(same.images), expected, atol=1e-5, rtol=1e-5)


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
        ({"shape": [1, 8, 9]}, "72 numbers, found 64"),
        ({"gains": base64.b64encode(b"\x00\x7c" * 64).decode()}, "64 NaN or infinite values of 64"),
        ({"shape": [float("inf"), 8, 8]}, "zca needs"),
        ({"regularisation": "a tenth"}, "zca needs"),
        ({"regularisation": 0.0}, "zca needs"),
    ],
)
def test_damaged_dictionaries_are_refused(change, message):
    values = WHITE.to_dict()
    values["zca"] = {**values["zca"], **change}
    with pytest.raises(FileFormatError, match=message):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize("values", [None, 5, "zca", []])
def test_what_is_no_dictionary_is_refused(values):
    with pytest.raises(FileFormatError, match="preprocessing needs"):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_impossible_regularisations_are_refused(value):
    with pytest.raises(ParameterRangeError, match="must be a positive number"):
        Preprocessing.fit(DIGITS, zca=value)


def test_batches_that_nothing_can_be_fitted_to_are_refused():
    with pytest.raises(ParameterRangeError, match="found none"):
        Zca.fit([], 0.1)
    with pytest.raises(ShapeError, match=r"found \(5, 3, 4, 4\)"):
        Zca.fit([torch.zeros(5, 1, 4, 4), torch.zeros(5, 3, 4, 4)], 0.1)
    with pytest.raises(NonFiniteInputError, match="NaN"):
        Zca.fit([torch.full((5, 1, 4, 4), float("nan"))], 0.1)


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


class Whitens(torch.nn.Module):
    """The same whitening as part of a network, whose images are normalised only."""

    def forward(self, x):
        return WHITE.zca(x)


def body(white):
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU()]
    return torch.nn.Sequential(*([Whitens()] if white else []), *layers)


def network(white):
    return lambda shape, classes: Network(body(white), classes, shape)


def distilled_by(method, white, **options):
    """By whitened images, or by networks and extractors that whiten what they are shown."""
    base = cd.select.choose(DIGITS, size=10, seed=0)
    with seeded(5):
        pool = [ModuleSpec(body(not white))]
    images = {"preprocessing": WHITE} if white else {}
    quick = {
        "closed-form": {"moments": cd.accumulate(pool, DIGITS, **images), "gamma": 0.1, "recipe": "centred"},
        "cross-entropy": {"pool": pool, "gamma": 0.1, "recipe": "centred"},
        "alternate": {"pool": pool, "rounds": 1, "count": 1, "label_scale": 8.0, "recipe": "centred"},
        "unrolled": {"pool": pool, "gamma": 0.1, "iterations": 2, "steps": 3, "count": 1, "label_scale": 8.0},
        "images": {"epochs": 2, "learn_labels": True, "rate": 0.05},
    }
    options = quick.get(method, {"epochs": 2, "label_rate": 0.05}) | options
    if method != "closed-form":
        options |= {"target": DIGITS, **images}
    if method == "unrolled":
        options["recipe"] = "centred"
    if method not in ("closed-form", "cross-entropy"):  # whose choice alternation makes as well
        options["validation"] = load("digits", split="validation")
    return cd.distill.METHODS[method](base=base, network=network(not white), seed=3, **options)


CASES = [(method, {}) for method in cd.distill.METHODS] + [("alternate", {"outer": "squared"})]


@pytest.mark.parametrize(("method", "options"), CASES)
def test_every_method_learns_what_networks_that_whiten_teach(method, options):
    white, expected = (distilled_by(method, is_white, **options) for is_white in (True, False))
    plain = distilled_by("closed-form", True).labels if method == "cross-entropy" else None
    torch.testing.assert_close(white.labels, expected.labels, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(white.images.int(), expected.images.int(), atol=1, rtol=0)
    losses = [one.manifest.get("outer_losses", []) for one in (white, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    rounds = [one.manifest.get("rounds", []) for one in (white, expected)]  # validation accuracies, in percent
    assert rounds[0] == pytest.approx(rounds[1], abs=1)
    assert white.preprocessing == WHITE
    assert expected.preprocessing.zca is None
    assert plain is None or not torch.allclose(plain, white.labels, atol=2e-3)
    for name, labels in white.baselines.items():
        torch.testing.assert_close(labels, expected.baselines[name], atol=2e-3, rtol=2e-3)
    # What validation chose, and what the trained networks reach, sees whitened images as well.
    assert white.recipe == expected.recipe
    seen = [one.train(network(not w), seed=1)(DIGITS.images[:50]) for one, w in ((white, True), (expected, False))]
    torch.testing.assert_close(*seen, atol=0.1, rtol=0.02)


def test_moments_are_those_of_whitened_images():
    pool = cd.features.pool(count=1, width=4)
    moments = cd.accumulate(pool, DIGITS, preprocessing=WHITE)
    features = cd.features.extract(moments.extractors[0], DIGITS.images, WHITE)
    torch.testing.assert_close(moments.gram[0][:-1, :-1], features.T @ features, rtol=1e-5, atol=1e-3)


def test_a_file_keeps_it(tmp_path):
    made = distilled_by("closed-form", True)
    made.save(tmp_path / "white.safetensors")
    again = cd.load(tmp_path / "white.safetensors")
    assert again.preprocessing == WHITE
    assert again.fingerprint == made.fingerprint != replace(made, manifest=_without_zca(made.manifest)).fingerprint
    torch.testing.assert_close(again.to_torch_dataset()[3][0], WHITE(again.images)[3])
    assert again.bytes["zca"] == len(WHITE.zca.mean) + len(WHITE.zca.gains)
    assert again.bytes["total"] == sum(again.bytes[name] for name in ("images", "labels", "zca"))
    with pytest.raises(FileFormatError, match="format version 3"):
        read_tensors(tmp_path / "white.safetensors", kind="distilled-set", version=2)


def test_features_of_images_that_were_shown_otherwise_are_refused():
    base = cd.select.choose(DIGITS, size=10, seed=0)
    features = TargetFeatures.of(cd.features.pool(count=1, width=4), DIGITS)
    with pytest.raises(InvalidInputError, match="another preprocessing"):
        cd.distill.cross_entropy(features, DIGITS, base, gamma=0.1, preprocessing=WHITE)
    same = cd.distill.cross_entropy(features, DIGITS, base, gamma=0.1, preprocessing=features.preprocessing)
    assert same.preprocessing == features.preprocessing


def test_an_online_checkpoint_belongs_to_its_preprocessing(tmp_path):
    base = cd.select.choose(DIGITS, size=10, seed=0)
    options = {"epochs": 1, "checkpoint": tmp_path / "state"}
    cd.distill.second_order(DIGITS, base, **options)
    assert (
        "preprocessing" not in read_tensors(tmp_path / "state", kind="online-checkpoint", version=1)[1]["settings"]
    )
    cd.distill.second_order(DIGITS, base, preprocessing=Preprocessing.fit(DIGITS), **options)
    with pytest.raises(InvalidInputError, match="preprocessing: nothing there"):
        cd.distill.second_order(DIGITS, base, preprocessing=WHITE, **options)


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
    manifest = {**white._identity(), "target": dict(white.target), "images": white.images}
    other = Zca.fit([torch.randn(20, 1, 5, 5)], 0.1)
    manifest["preprocessing"] = replace(white.preprocessing, zca=other).to_dict()
    tensors, _ = read_tensors(tmp_path / "m.safetensors", kind="moments", version=2)
    write_tensors(tmp_path / "n.safetensors", tensors, {**manifest, "kind": "moments", "format_version": 2})
    with pytest.raises(FileFormatError, match="ZCA is of images"):
        cd.Moments.load(tmp_path / "n.safetensors")
    with pytest.raises(InvalidInputError, match=r"preprocessing\.zca") as caught:
        white.merge(plain)
    assert len(str(caught.value)) < 400
