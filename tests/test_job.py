"""What a job refuses before it costs anything, and what may take part in what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import convexdistill as cd
from convexdistill import job
from convexdistill.device import resolve_device
from convexdistill.errors import DeviceError, InvalidInputError, UnknownNameError, UnsupportedError

TRAIN, VALIDATION, TEST = (cd.data.load("digits", split=split) for split in ("train", "validation", "test"))
POOL = cd.features.pool(count=1, width=8)
MOMENTS = cd.accumulate(POOL, TRAIN)


def test_the_test_split_is_refused_wherever_something_is_learned_or_chosen() -> None:
    base = cd.select.choose(TRAIN, 20)
    distilled = cd.distill.closed_form(MOMENTS, base, gamma=0.1)
    for misuse in (
        lambda: cd.select.choose(TEST, 20),
        lambda: cd.accumulate(POOL, TEST),
        lambda: cd.distill.closed_form(MOMENTS, base, TEST),
        lambda: cd.evaluate.evaluate(distilled, repeats=1, validation=TEST, test=TEST),
    ):
        with pytest.raises(InvalidInputError, match="it may only report"):
            misuse()


def test_moments_of_other_data_are_refused(tmp_path) -> None:
    other = cd.data.load((255 - TRAIN.images, TRAIN.labels), name="digits")
    cd.accumulate(POOL, replace(other, classes=TRAIN.classes)).save(tmp_path / "other.st")
    with pytest.raises(InvalidInputError, match="name the --target"):
        job.run(job.Job(moments=tmp_path / "other.st", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_moments_of_a_stream_go_on_to_a_distilled_set(tmp_path) -> None:
    def some():
        yield from zip(TRAIN.images, TRAIN.labels.tolist(), strict=True)

    passed = cd.data.stream(some, classes=TRAIN.classes, name="passing by")
    cd.accumulate(POOL, passed).save(path := tmp_path / "stream.st")
    common = {"moments": path, "base_size": 20, "gamma": 0.1, "label_scale": 8.0}
    result = job.run(job.Job(**common, repeats=1, out=tmp_path / "out"))
    distilled = result.distilled
    assert result.table is not None
    assert "one-hot" in [row.labels for row in result.table]  # classes are the same: not across data sets
    assert not distilled.is_cross
    direct = cd.distill.closed_form(
        MOMENTS, cd.select.choose(TRAIN, 20), cd.data.load("digits", "validation"), gamma=0.1, label_scale=8.0
    )
    assert distilled.manifest["target"]["name"] == "digits"  # where whoever evaluates the file finds the rest
    torch.testing.assert_close(distilled.labels, direct.labels, rtol=0, atol=1e-4)
    other = cd.data.load((TRAIN.images, TRAIN.labels % 3), name="three")
    np.savez(tmp_path / "three.npz", images=other.images.numpy(), labels=other.labels.numpy())
    with pytest.raises(InvalidInputError, match="the classes of the stream in"):
        job.run(job.Job(**common, target=str(tmp_path / "three.npz"), out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_moments_of_a_whole_folder_do_not_go_on_with_its_test_images(tmp_path) -> None:
    for k, image in enumerate(TRAIN.images[:60, 0]):
        place = tmp_path / "folder" / str(int(TRAIN.labels[k]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(place / f"{k}.png")
    folder = str(tmp_path / "folder")
    cd.accumulate(POOL, cd.data.stream(folder)).save(path := tmp_path / "whole.st")
    with pytest.raises(InvalidInputError, match="those of its test split as well"):
        job.run(job.Job(moments=path, target=folder, base_size=10, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_pool_that_contradicts_the_moments_is_refused(tmp_path) -> None:
    MOMENTS.save(path := tmp_path / "digits.st")
    common = {"moments": path, "base_size": 20, "gamma": 0.1, "label_scale": 8.0, "evaluate": False}
    with pytest.raises(InvalidInputError, match="leave --pool-size out"):
        job.run(job.Job(**common, pool_size=7, out=tmp_path / "out"))
    job.run(job.Job(**common, width=8, pool_size=1, out=tmp_path / "out"))


@pytest.mark.parametrize("method", ["closed-form", "cross-entropy"])
def test_zca_is_asked_for_once_and_goes_everywhere(method, tmp_path) -> None:
    common = {"method": method, "base_size": 20, "pool_size": 1, "width": 8, "gamma": 0.1, "evaluate": False}
    common |= {"recipe": "centred", "label_scale": 8.0}
    result = job.run(job.Job(**common, zca=0.1, out=tmp_path / "white"))
    assert result.distilled.preprocessing == cd.data.Preprocessing.fit(TRAIN, zca=0.1)
    assert "ZCA with regularisation 0.1" in (tmp_path / "white" / job.REPORT).read_text("utf-8")
    plain = job.run(job.Job(**common, out=tmp_path / "plain"))
    assert not torch.allclose(plain.distilled.labels, result.distilled.labels, atol=1e-2)


def test_moments_bring_their_own_zca(tmp_path) -> None:
    fitted = cd.data.Preprocessing.fit(TRAIN, zca=0.1)
    cd.accumulate(POOL, TRAIN, preprocessing=fitted).save(path := tmp_path / "white.st")
    common = {"moments": path, "base_size": 20, "gamma": 0.1, "label_scale": 8.0, "evaluate": False}
    with pytest.raises(InvalidInputError, match=r"with zca 0\.1, not 0\.2; leave --zca out"):
        job.run(job.Job(**common, zca=0.2, out=tmp_path / "out"))
    assert job.run(job.Job(**common, zca=0.1, out=tmp_path / "out")).distilled.preprocessing == fitted


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "foo"},
        {"prior": "foo"},
        {"lam": -1.0},
        {"networks": ("foo",)},
        {"zca": 0.0},
        {"augmentation": "foo"},
    ],
)
def test_wrong_settings_are_known_before_any_data_is_read(wrong, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(job, "load", lambda *_, **__: pytest.fail("data was read"))
    with pytest.raises(InvalidInputError):
        job.run(job.Job(out=tmp_path, **wrong))


def test_a_setting_that_a_method_does_not_have_is_refused(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="--constraint has no meaning for the method 'cross-entropy'"):
        job.run(job.Job(method="cross-entropy", constraint="simplex", out=tmp_path))


def test_cross_entropy_runs_as_a_job_and_needs_no_moments(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(job, "accumulate", lambda *_, **__: pytest.fail("moments were accumulated"))
    solve = {"method": "cross-entropy", "gamma": 0.1, "recipe": "paper", "label_scale": 4.0}
    result = job.run(job.Job(base_size=20, pool_size=1, width=8, evaluate=False, out=tmp_path, **solve))
    assert (result.distilled.manifest["method"], result.distilled.label_space) == ("cross-entropy", "probability")


def test_a_large_set_is_not_descended_through_a_conic_solver() -> None:
    base = cd.select.choose(TRAIN, 700)
    with pytest.raises(UnsupportedError, match="backend='torch'"):
        cd.distill.closed_form(MOMENTS, base, gamma=0.1, backend="cvxpylayers")


def test_constant_images_give_zero_labels_and_a_finite_certificate(tmp_path) -> None:
    images = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    data = cd.data.load((images, torch.arange(60) % 3), name="flat")
    moments = cd.accumulate(POOL, data)
    distilled = cd.distill.closed_form(moments, cd.select.choose(data, 6), gamma=0.1)
    distilled.save(tmp_path / "flat.safetensors")
    assert cd.load(tmp_path / "flat.safetensors").labels.abs().max() < 1e-6


def test_a_callers_module_is_copied_and_stays_trainable() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).train()
    moments = cd.accumulate([cd.features.ModuleSpec(module)], TRAIN)
    before = moments.extractors[0](torch.ones(2, 1, 8, 8))
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    module(torch.rand(8, 1, 8, 8))
    torch.testing.assert_close(moments.extractors[0](torch.ones(2, 1, 8, 8)), before, rtol=0, atol=0)


def test_devices_that_are_not_there_are_named() -> None:
    with pytest.raises(UnknownNameError, match="cpu:x"):
        resolve_device("cpu:x")
    with pytest.raises(DeviceError, match="cpu:9"):
        resolve_device("cpu:9")


def test_a_rule_that_looks_ahead_serves_a_job(tmp_path) -> None:
    common = {"pool_size": 1, "width": 8, "gamma": 0.1, "label_scale": 8.0, "evaluate": False}
    result = job.run(job.Job(select="solve-aware", base_size=20, out=tmp_path, **common))
    assert result.distilled.manifest["selection"] == {"method": "solve-aware", "balanced": True, "seed": 0}
    assert torch.bincount(result.distilled.base_labels).tolist() == [2] * 10


def test_a_choice_that_cannot_be_made_is_known_before_the_long_part(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(job, "accumulate", lambda *_, **__: pytest.fail("moments were accumulated"))
    with pytest.raises(InvalidInputError, match="choose a smaller size"):
        job.run(job.Job(base_size=1300, out=tmp_path))
    with pytest.raises(UnknownNameError, match="known are random"):
        job.run(job.Job(select="forgetting", out=tmp_path))


@pytest.mark.parametrize("method", ["online-ridge", "second-order", "images"])
def test_online_methods_are_jobs_as_well(tmp_path, method):
    out = tmp_path / "out"
    settings = {"method": method, "base_size": 10, "epochs": 1, "evaluate": False, "networks": ("lenet",)}
    checkpoint = tmp_path / "state.safetensors"
    result = job.run(job.Job(**settings, base_sets=2, checkpoint=checkpoint, out=out))
    assert result.distilled.manifest["method"] == method
    assert result.distilled.manifest["settings"]["epochs"] == 1
    assert sorted(file.name for file in tmp_path.glob("state*")) == ["state-1.safetensors", "state.safetensors"]
    assert (out / job.REPORT).is_file()
    again = job.run(job.Job(**settings, checkpoint=checkpoint, out=out))  # gone on from the end: nothing to do
    assert torch.equal(again.distilled.labels, result.distilled.labels)


@pytest.mark.parametrize(
    "options",
    [{"gamma": 0.1}, {"label_scale": 4.0}, {"pool_size": 2}, {"extractor": "resnet"}, {"width": 8}],
    ids=lambda options: next(iter(options)),
)
def test_settings_of_the_label_solve_have_no_meaning_online(tmp_path, options):
    with pytest.raises(InvalidInputError, match="has no meaning for the method 'second-order'"):
        job.run(job.Job(method="second-order", out=tmp_path / "out", **options))
    with pytest.raises(InvalidInputError, match="--epochs has no meaning for the method 'closed-form'"):
        job.run(job.Job(epochs=3, out=tmp_path / "out"))
