import dataclasses
import os
import pickle

import pytest
import torch
from torch import nn

from convexdistill.data import Preprocessing, load
from convexdistill.distilled import LABEL_SPACES, DistilledSet
from convexdistill.distilled import load as load_distilled
from convexdistill.errors import (
    FileFormatError,
    InvalidInputError,
    NonFiniteInputError,
    OutputError,
    UnknownNameError,
)
from convexdistill.files import read_tensors, write_tensors
from convexdistill.manifest import FACTS
from convexdistill.select import choose
from convexdistill.training import Recipe

KEYS = sorted({path[0] for path, _, _ in FACTS})
DIGITS = load("digits")
BASE = choose(DIGITS, 12)
LABELS = torch.nn.functional.one_hot(BASE.labels, 10).float() - 0.1


def made(**changes):
    manifest = {
        "method": "closed-form",
        "backend": "torch",
        "selection": {"method": "random", "balanced": True, "seed": 0},
        "extractors": [{"network": "convnet", "seed": 0, "options": {}}],
        "lam": 1e-3,
        "gamma": 0.1,
        "prior": "zero",
        "certificate": {"outer_loss": 0.3, "residual": 1e-15},
        "seed": 0,
        "versions": {"torch": "2"},
        "target": {
            "name": "digits",
            "split": "train",
            "classes": list(DIGITS.classes),
            "shape": [1, 8, 8],
            "parts": [DIGITS.fingerprint],
        },
        "source": {"name": "digits", "classes": list(DIGITS.classes), "fingerprint": DIGITS.fingerprint},
        "preprocessing": Preprocessing.fit(DIGITS).to_dict(),
        "recipe": Recipe("mse", label_scale=8.0, steps=20, batch_size=6).to_dict(),
    }
    parts = {
        "images": BASE.images,
        "labels": LABELS,
        "label_space": "centred",
        "indices": BASE.indices,
        "base_labels": BASE.labels,
        "manifest": manifest,
        "baselines": {"teacher": LABELS / 2},
    }
    return DistilledSet(**{**parts, **changes})


SET = made()


@pytest.fixture
def saved(tmp_path):
    SET.save(path := tmp_path / "digits-12.safetensors")
    return path


def test_a_set_comes_back_as_it_was(saved):
    loaded = load_distilled(saved)
    for name in ("images", "labels", "indices", "base_labels"):
        ours, theirs = getattr(SET, name), getattr(loaded, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert loaded.label_space == "centred"
    assert torch.equal(loaded.baselines["teacher"], SET.baselines["teacher"])
    assert {key: loaded.manifest[key] for key in SET.manifest} == SET.manifest
    assert (loaded.recipe, loaded.preprocessing) == (SET.recipe, SET.preprocessing)
    loaded.save(again := saved.with_name("again"))
    assert again.read_bytes() == saved.read_bytes()


def test_the_file_says_what_it_is_and_how_large(saved):
    _, manifest = read_tensors(saved, kind="distilled-set", version=1)
    assert manifest["label_space"] == "centred"
    assert manifest["bytes"] == {"images": 12 * 64, "labels": 12 * 10 * 4, "total": 12 * (64 + 40)}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_file_cut_off_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match="not a whole safetensors file"):
        load_distilled(saved)


def tensor(name, change):
    return lambda tensors, manifest: tensors.update({name: change(tensors[name])})


def fact(*path, to):
    def damage(tensors, manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = to

    return damage


def flip(labels):
    labels[3, 4] = float("nan")
    return labels


DAMAGE = {
    "nan label": tensor("labels", flip),
    "infinite label": tensor("labels", lambda labels: labels / 0),
    "nan baseline": tensor("baseline.teacher", flip),
    "float64 labels": tensor("labels", lambda labels: labels.double()),
    "too few labels": tensor("labels", lambda labels: labels[:-1]),
    "labels of other classes": tensor("labels", lambda labels: labels[:, :-1]),
    "baseline of another size": tensor("baseline.teacher", lambda labels: labels[:5]),
    "float images": tensor("images", lambda images: images.float()),
    "images of another shape": tensor("images", lambda images: images[..., :7]),
    "flat images": tensor("images", lambda images: images.flatten(1)),
    "no images at all": lambda tensors, manifest: tensors.update({k: v[:0] for k, v in tensors.items()}),
    "too few indices": tensor("indices", lambda indices: indices[:-1]),
    "int32 indices": tensor("indices", lambda indices: indices.int()),
    "too few classes of images": tensor("base_labels", lambda labels: labels[:-1]),
    "classes that are not there": tensor("base_labels", lambda labels: labels + 5),
    "negative classes": tensor("base_labels", lambda labels: labels - 1),
    "no labels": lambda tensors, manifest: tensors.pop("labels"),
    "no images": lambda tensors, manifest: tensors.pop("images"),
    "no indices": lambda tensors, manifest: tensors.pop("indices"),
    "no label space": lambda tensors, manifest: manifest.pop("label_space"),
    "unknown label space": fact("label_space", to="one-hot"),
    "not probabilities": fact("label_space", to="probability"),
    "newer": fact("format_version", to=99),
    "another kind": fact("kind", to="moments"),
    "no classes": lambda tensors, manifest: manifest["target"].pop("classes"),
    "no shape": lambda tensors, manifest: manifest["target"].pop("shape"),
    "no parts": lambda tensors, manifest: manifest["target"].pop("parts"),
    "no fingerprint": lambda tensors, manifest: manifest["source"].pop("fingerprint"),
    "target is a word": fact("target", to="digits"),
    "source is a word": fact("source", to="digits"),
    "unknown loss": fact("recipe", "loss", to="hinge"),
    "no steps": lambda tensors, manifest: manifest["recipe"].pop("steps"),
    "impossible steps": fact("recipe", "steps", to=0),
    "no mean": lambda tensors, manifest: manifest["preprocessing"].pop("mean"),
    "impossible std": fact("preprocessing", "std", to=[0.0]),
    "preprocessing of colours": fact("preprocessing", to={"mean": [0.0] * 3, "std": [1.0] * 3}),
}
DAMAGE |= {f"no {key}": lambda tensors, manifest, key=key: manifest.pop(key) for key in KEYS}
DAMAGE |= {f"{'.'.join(path)} is nothing": fact(*path, to=None) for path, _, _ in FACTS}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused_and_named(saved, damage):
    tensors, manifest = read_tensors(saved, kind="distilled-set", version=1)
    DAMAGE[damage](tensors, manifest)
    write_tensors(saved, tensors, manifest)
    error = NonFiniteInputError if "nan" in damage or "infinite" in damage else FileFormatError
    with pytest.raises(error, match=r"digits-12\.safetensors"):
        load_distilled(saved)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_fact_is_named(key):
    manifest = {name: value for name, value in SET.manifest.items() if name != key}
    with pytest.raises(FileFormatError, match=f"the manifest lacks {key}"):
        made(manifest=manifest)


def test_a_nan_label_is_counted():
    labels = LABELS.clone()
    labels[0, :2] = float("nan")
    with pytest.raises(NonFiniteInputError, match="labels holds 2 NaN or infinite values of 120"):
        made(labels=labels)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "bomb.safetensors"
    for content in (pickle.dumps(Bomb()), pickle.dumps(SET.labels)):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="not a whole safetensors file"):
            load_distilled(path)
    torch.save({"labels": SET.labels}, path)
    with pytest.raises(FileFormatError, match="not a whole safetensors file"):
        load_distilled(path)
    assert not (tmp_path / "exploded").exists()


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("as before")
    with pytest.raises(OutputError, match="cannot write"):
        SET.save(tmp_path / "file" / "set.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "as before"


@pytest.mark.parametrize("space", LABEL_SPACES)
def test_probabilities_must_be_probabilities_and_other_labels_need_not(space):
    assert made(label_space=space, labels=LABELS + 0.1).label_space == space
    for wrong in (LABELS, LABELS + 0.2):
        if space == "probability":
            with pytest.raises(FileFormatError, match="rows are not probabilities"):
                made(label_space=space, labels=wrong)
        else:
            made(label_space=space, labels=wrong)


def test_cross_is_when_the_images_are_not_of_the_target():
    def with_target(**target):
        return made(manifest={**SET.manifest, "target": {**SET.manifest["target"], **target}})

    assert not SET.is_cross
    assert not with_target(parts=["sha256:other", f"{DIGITS.fingerprint}#1/3"]).is_cross
    assert with_target(parts=["sha256:other"]).is_cross


def test_a_torch_dataset_holds_what_the_loss_takes():
    dataset = SET.to_torch_dataset()
    images, wanted = dataset[:]
    assert len(dataset) == len(SET) == 12
    torch.testing.assert_close(images, SET.preprocessing(BASE.images))
    torch.testing.assert_close(wanted, 8 * LABELS)


def test_training_follows_from_the_seed():
    first, again, other = (SET.train("lenet", seed=seed, device="cpu") for seed in (0, 0, 1))
    images = DIGITS.images[:50]
    assert torch.equal(first(images), again(images))
    assert not torch.equal(first(images), other(images))
    assert not first.training


def test_training_leaves_the_set_and_the_global_random_state_alone():
    torch.manual_seed(0)
    before, labels = torch.get_rng_state(), SET.labels.clone()
    SET.train("lenet", seed=0, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(SET.labels, labels)


def test_training_fits_the_labels_times_the_scale():
    recipe = dataclasses.replace(SET.recipe, steps=400)
    model = SET.train("lenet", recipe=recipe, device="cpu")
    assert (model(SET.images) - 8 * SET.labels).square().mean() < 0.05
    assert (model(SET.images).argmax(1) == BASE.labels).all()


def test_a_network_may_be_a_function_of_shape_and_classes():
    def tiny(shape, num_classes):
        assert (shape, num_classes) == ((1, 8, 8), 10)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    first, again, other = (SET.train(tiny, seed=seed, device="cpu") for seed in (0, 0, 1))
    assert torch.equal(first(SET.images), again(SET.images))
    assert not torch.equal(first(SET.images), other(SET.images))


def test_options_go_to_a_network_by_name():
    model = SET.train("convnet", width=5, depth=1, device="cpu")
    assert model.network.head.in_features == 5 * 16
    with pytest.raises(UnknownNameError, match="'vgg'"):
        SET.train("vgg")
    with pytest.raises(InvalidInputError, match="'width'"):
        SET.train("lenet", width=5)
