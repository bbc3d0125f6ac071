import pytest
import torch

from convexdistill.errors import ParameterRangeError, ShapeError, UnknownNameError
from convexdistill.features import NETWORKS, build_network
from convexdistill.features.convnet import default_depth

SHAPES = [(1, 8, 8), (1, 16, 16), (1, 28, 28), (3, 32, 32)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("network", "shape", "parameters", "features"),
    [
        ("lenet", (1, 28, 28), 61_706, 84),
        ("alexnet", (3, 32, 32), 1_756_426, 192),
        ("resnet", (3, 32, 32), 175_258, 64),
    ],
)
def test_the_papers_networks_have_the_papers_sizes(network, shape, parameters, features):
    net = build_network(network, shape, 10, seed=0)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.head.in_features == features


def test_lenet_at_32_by_32_is_the_papers_as_well():
    # Not padded at 32×32: 400 inputs to the first dense layer, as at 28×28.
    colour, grey = (build_network("lenet", shape, 10, seed=0) for shape in [(3, 32, 32), (1, 28, 28)])
    sizes = [sum(p.numel() for p in net.parameters()) for net in (colour, grey)]
    assert sizes[0] - sizes[1] == 2 * 6 * 25  # two more input channels of the first convolution


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
class TestEveryNetwork:
    """The contract; a new network is tested by being listed."""

    def test_logits_and_features_have_their_shapes(self, network, shape):
        net = build_network(network, shape, 7, seed=0)
        images = torch.randn(3, *shape)
        features = net.body(images)
        assert features.shape == (3, net.head.in_features)
        assert net(images).shape == (3, 7)

    def test_different_images_give_different_features(self, network, shape):
        body = build_network(network, shape, 2, seed=0).body.eval()
        features = body(torch.randn(4, *shape))
        assert torch.pdist(features).min() > 1e-4

    def test_every_parameter_gets_a_gradient(self, network, shape):
        net = build_network(network, shape, 3, seed=0)
        net(torch.randn(8, *shape)).square().sum().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    def test_weights_follow_from_the_seed_alone(self, network, shape):
        torch.manual_seed(1)
        first = build_network(network, shape, 3, seed=0)
        state = torch.get_rng_state()
        torch.manual_seed(2)
        assert same(first, build_network(network, shape, 3, seed=0))
        other = build_network(network, shape, 3, seed=1)
        assert not torch.equal(first.head.weight, other.head.weight)
        assert not torch.equal(next(first.body.parameters()), next(other.body.parameters()))
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)  # building drew nothing from the global stream


@pytest.mark.parametrize(("width", "depth"), [(4, 1), (8, 2), (16, 3)])
def test_convnet_has_the_width_and_depth_that_were_asked_for(width, depth):
    net = build_network("convnet", (3, 16, 16), 5, seed=0, width=width, depth=depth)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [width] * depth
    assert net.head.in_features == width * (16 // 2**depth) ** 2


def test_convnet_depth_follows_the_image_size():
    sides = (8, 16, 28, 32, 64, 128)
    assert [default_depth((1, side, side)) for side in sides] == [2, 2, 3, 3, 4, 5]


def test_convnet_none_is_the_convnet_without_normalisation():
    plain, named = (
        build_network(name, (1, 8, 8), 5, seed=0, width=4, **options)
        for name, options in (("convnet", {"norm": "none"}), ("convnet-none", {}))
    )
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(plain(x), named(x))
    assert not torch.equal(build_network("convnet", (1, 8, 8), 5, seed=0, width=4)(x), named(x))


@pytest.mark.parametrize(("norm", "count"), [("instance", 2), ("none", 0)])
def test_convnet_norm(norm, count):
    net = build_network("convnet", (1, 8, 8), 5, seed=0, width=4, norm=norm)
    assert sum(isinstance(m, torch.nn.InstanceNorm2d) for m in net.modules()) == count


def test_resnet_starts_as_the_papers_code():
    net = build_network("resnet", (3, 32, 32), 10, seed=0)
    for convolution in (m for m in net.modules() if isinstance(m, torch.nn.Conv2d)):
        k, outputs = convolution.kernel_size[0], convolution.out_channels
        expected = (2 / (k * k * outputs)) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.15)
        assert convolution.bias is None


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="'vgg'; known are lenet, alexnet, resnet, convnet"):
        build_network("vgg", (1, 8, 8), 2, seed=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width must be at least 1, found 0"),
        ({"depth": 0}, r"depth must lie in 1\.\.3 for images of 8×8, found 0"),
        ({"depth": 4}, r"depth must lie in 1\.\.3 for images of 8×8, found 4"),
        ({"norm": "batch"}, "norm must be 'instance' or 'none', found 'batch'"),
        ({"colour": "red"}, "network 'convnet': .*'colour'"),
    ],
)
def test_options_that_convnet_cannot_take(options, words):
    with pytest.raises(ParameterRangeError, match=words):
        build_network("convnet", (1, 8, 8), 2, seed=0, **options)


def test_an_option_that_the_network_does_not_have():
    with pytest.raises(ParameterRangeError, match=r"network 'lenet': .*'width'"):
        build_network("lenet", (1, 8, 8), 2, seed=0, width=3)


@pytest.mark.parametrize("network", NETWORKS)
def test_images_too_small_for_a_network_are_refused_or_work(network):
    # 8×8 is promised; below, a network works or says what it needs, and never fails otherwise.
    for side in (1, 2, 3, 4, 5):
        try:
            net = build_network(network, (1, side, side), 2, seed=0)
        except (ShapeError, ParameterRangeError):
            continue
        assert net.eval()(torch.zeros(2, 1, side, side)).shape == (2, 2)
