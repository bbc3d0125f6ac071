from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from convexdistill.data import Preprocessing, load
from convexdistill.errors import (
    FileFormatError,
    MissingDataError,
    ParameterRangeError,
    ShapeError,
    UnknownNameError,
)
from convexdistill.features import (
    NETWORKS,
    ExtractorSpec,
    FrozenExtractor,
    ModuleSpec,
    extract,
    pool,
    spec_from_dict,
)
from convexdistill.features.fingerprint import weights_fingerprint

DIGITS = load("digits")


@pytest.mark.parametrize("network", NETWORKS)
class TestEveryExtractor:
    """Frozen means frozen, whatever is done with it."""

    def test_it_never_changes(self, network):
        extractor = ExtractorSpec(network, seed=0).build(DIGITS.shape)
        before = weights_fingerprint(extractor)
        extractor.train()
        assert not any(module.training for module in extractor.modules())
        features = extractor(torch.randn(8, *DIGITS.shape, requires_grad=True))
        features.square().sum().backward()
        extract(extractor, DIGITS.images[:5], Preprocessing.fit(DIGITS))
        assert weights_fingerprint(extractor) == before

    def test_gradients_reach_the_images_and_nothing_else(self, network):
        extractor = ExtractorSpec(network, seed=0).build(DIGITS.shape)
        images = torch.randn(4, *DIGITS.shape, requires_grad=True)
        extractor(images).square().sum().backward()
        assert images.grad.abs().max() > 0
        assert [name for name, p in extractor.named_parameters() if p.requires_grad or p.grad is not None] == []

    def test_an_images_features_do_not_depend_on_the_others(self, network):
        extractor = ExtractorSpec(network, seed=0).build(DIGITS.shape)
        images = torch.randn(6, *DIGITS.shape)
        together, alone = extractor(images), torch.cat([extractor(image[None]) for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_it_is_built_again_from_its_record(self, network):
        spec = ExtractorSpec(network, seed=3)
        again = spec_from_dict(spec.to_dict())
        assert again == spec
        prints = {weights_fingerprint(s.build(DIGITS.shape)) for s in (spec, again)}
        assert len(prints) == 1


def test_the_fingerprint_sees_every_weight_statistic_and_name():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    seen = {weights_fingerprint(net)}
    for change in (net[0].bias, net[1].running_mean, net[1].num_batches_tracked):
        change.data += 1
        seen.add(weights_fingerprint(net))
    seen.add(weights_fingerprint(nn.Sequential(net)))
    assert len(seen) == 5


def test_extract_is_the_same_by_batches_and_at_once():
    extractor = ExtractorSpec("convnet", seed=0, options={"width": 4}).build(DIGITS.shape)
    prepare = Preprocessing.fit(DIGITS)
    features = extract(extractor, DIGITS.images[:150], prepare)
    assert features.dtype == torch.float64
    assert not features.requires_grad
    torch.testing.assert_close(features.float(), extractor(prepare(DIGITS.images[:150])), rtol=1e-4, atol=1e-5)


def test_a_pool_is_different_extractors_and_a_seed_gives_it_again():
    first, again, other = pool(count=3, seed=1), pool(count=3, seed=1), pool(count=3, seed=2)
    assert first == again
    assert len({spec.seed for spec in [*first, *other]}) == 6
    assert pool(count=5, seed=1)[:3] == first  # a larger pool extends a smaller one
    assert first[0].options == {"width": 32, "norm": "none"}
    assert pool("convnet", count=1, width=8)[0].options["width"] == 8
    assert pool("lenet", count=1)[0].options == {}


def test_pools_that_cannot_be():
    with pytest.raises(ParameterRangeError, match="at least 1 extractor, found 0"):
        pool(count=0)
    with pytest.raises(UnknownNameError, match=r"'vgg'; known are lenet, .*torchvision/NAME"):
        pool("vgg")


class Odd(nn.Module):
    """A user's module with a forward of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.norm = nn.BatchNorm2d(4)
        self.out = nn.Linear(4 * 36, 5)

    def forward(self, x):
        return self.out(self.norm(self.stem(x)).flatten(1))


@pytest.mark.parametrize(("layer", "expected"), [(None, (3, 5)), ("norm", (3, 144)), ("stem.0", (3, 144))])
def test_a_users_module_by_layer(layer, expected):
    module = Odd()
    extractor = ModuleSpec(module, layer).build((1, 8, 8))
    images = torch.randn(3, 1, 8, 8)
    features = extractor(images)
    assert features.shape == expected
    parts = {None: module, "norm": nn.Sequential(module.stem, module.norm), "stem.0": module.stem[0]}
    torch.testing.assert_close(features, parts[layer].eval()(images).flatten(1))
    assert isinstance(extractor, FrozenExtractor)


def test_a_layer_that_is_not_there_lists_the_last_ones():
    with pytest.raises(UnknownNameError, match=r"no layer 'body'; its last ones are .*norm.*out"):
        ModuleSpec(Odd(), "body").build((1, 8, 8))


def test_a_users_module_is_known_by_its_weights_but_not_rebuilt():
    module = Odd()
    record = ModuleSpec(module, "norm").to_dict()
    assert record["network"] == "module/Odd"
    assert record == ModuleSpec(module, "norm").to_dict() != ModuleSpec(Odd(), "norm").to_dict()
    with pytest.raises((FileFormatError, UnknownNameError)):
        spec_from_dict(record)


@pytest.mark.parametrize("record", [{}, {"network": "lenet"}, {"network": "lenet", "seed": "x", "options": {}}])
def test_damaged_records_are_refused(record):
    with pytest.raises(FileFormatError, match="cannot be rebuilt from its record"):
        spec_from_dict(record)


def test_torchvisions_resnet18_takes_grey_images_and_gives_what_its_classifier_reads():
    extractor = ExtractorSpec("torchvision/resnet18", seed=0).build((1, 32, 32))
    images = torch.randn(2, 1, 32, 32)
    features = extractor(images)
    assert features.shape == (2, 512)
    torch.testing.assert_close(features, extractor(images.expand(-1, 3, -1, -1)))
    again = ExtractorSpec("torchvision/resnet18", seed=0).build((1, 32, 32))
    assert torch.equal(features, again(images))
    early = ExtractorSpec("torchvision/resnet18", seed=0, options={"layer": "layer1"}).build((3, 32, 32))
    assert early(torch.randn(2, 3, 32, 32)).shape == (2, 64 * 8 * 8)


def test_torchvision_names_that_are_not_there():
    with pytest.raises(UnknownNameError, match="no model 'resnet19'"):
        ExtractorSpec("torchvision/resnet19", seed=0).build((3, 32, 32))
    with pytest.raises(UnknownNameError, match="with weights 'BEST'"):
        ExtractorSpec("torchvision/resnet18", seed=0, options={"weights": "BEST"}).build((3, 32, 32))
    with pytest.raises(ParameterRangeError, match="1 or 3 channels, found 2"):
        ExtractorSpec("torchvision/resnet18", seed=0).build((2, 32, 32))


@pytest.mark.parametrize("error", [URLError("no route"), ConnectionResetError("reset"), TimeoutError("slow")])
def test_weights_that_cannot_be_downloaded_say_where_to_put_them(monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    spec = ExtractorSpec("torchvision/resnet18", seed=0, options={"weights": "DEFAULT"})
    with pytest.raises(MissingDataError, match=r"'DEFAULT' of torchvision's 'resnet18'.*checkpoints"):
        spec.build((3, 32, 32))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ExtractorSpec("convnet", 0, {"size": 3}), "'size'"),
        (ExtractorSpec("torchvision/resnet18", 0, {"width": 3}), "width"),
    ],
)
def test_options_that_do_not_exist_are_refused(spec, words):
    with pytest.raises(ParameterRangeError, match=words):
        spec.build((1, 16, 16))


def test_images_that_a_built_in_network_cannot_take():
    with pytest.raises(ShapeError, match="8×8 up"):
        ExtractorSpec("lenet", 0).build((1, 2, 2))
