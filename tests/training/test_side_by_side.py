import copy

import pytest
import torch
from torch import nn

from convexdistill.data import Preprocessing, load
from convexdistill.features import NETWORKS, build_network
from convexdistill.training import ReadyNetwork, Recipe, SideBySide, side_by_side, train_together
from convexdistill.training.side_by_side import NotJoinableError, cohorts
from convexdistill.training.trials import predictions

SHAPE = (1, 8, 8)
IMAGES = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(0))
BYTES = load("digits").subset(range(40))
TARGETS = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(1))
OPTIONS = {"convnet": {"width": 6}}


def made(name, count=3, classes=4):
    return [build_network(name, SHAPE, classes, seed=k, **OPTIONS.get(name, {})) for k in range(count)]


def state(networks):
    return [{name: value.clone() for name, value in net.state_dict().items()} for net in networks]


def weights(network):
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def assert_state(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", NETWORKS)
class TestEveryNetwork:
    """The contract: joined networks are their members; a new network is tested by being listed."""

    @pytest.mark.parametrize("training", [False, True])
    def test_joined_networks_give_what_the_members_give(self, name, training):
        members = made(name)
        joint = SideBySide(members, SHAPE).train(training)
        images = torch.randn(5, 3, *SHAPE)
        outputs = joint(images)
        assert outputs.shape == (3, 5, 4)
        for k, member in enumerate(members):
            expected = member.train(training)(images[:, k])
            torch.testing.assert_close(outputs[k], expected, rtol=1e-4, atol=1e-5)
            assert_state(joint.member_state(k), member.state_dict(), rtol=1e-4, atol=1e-6)

    def test_a_members_gradient_is_that_of_its_own_loss(self, name):
        members = made(name)
        joint = SideBySide(members, SHAPE)
        (joint(IMAGES.unsqueeze(1).expand(-1, 3, -1, -1, -1)) * TARGETS).sum().backward()
        for k, member in enumerate(members):
            (member(IMAGES) * TARGETS[k]).sum().backward()
        mine = dict(joint.joint.named_parameters())
        for parameter, _ in members[0].named_parameters():
            for k, part in enumerate(mine[parameter].grad.chunk(3)):
                torch.testing.assert_close(part, members[k].get_parameter(parameter).grad, rtol=1e-3, atol=1e-4)

    def test_a_members_state_loads_into_a_network(self, name):
        members = made(name)
        joint = SideBySide(members, SHAPE)
        for k, member in enumerate(members):
            fresh = build_network(name, SHAPE, 4, seed=99, **OPTIONS.get(name, {}))
            fresh.load_state_dict(joint.member_state(k))
            assert torch.equal(fresh.eval()(IMAGES), member.eval()(IMAGES))

    def test_the_members_themselves_are_not_touched(self, name):
        members = made(name)
        before = state(members)
        joint = SideBySide(members, SHAPE)
        joint(IMAGES.unsqueeze(1).expand(-1, 3, -1, -1, -1)).sum().backward()
        with torch.no_grad():
            for parameter in joint.parameters():
                parameter += 1
        for member, values in zip(members, before, strict=True):
            assert_state(member.state_dict(), values, rtol=0, atol=0)
            assert member.training
            assert all(p.grad is None for p in member.parameters())

    def test_prediction_by_parts_is_prediction(self, name):
        members = made(name)
        joint = SideBySide(members, SHAPE)
        outputs = joint.predict(IMAGES, batch_size=7)
        assert joint.training
        expected = torch.stack([member.eval()(IMAGES) for member in members])
        torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)

    def test_trained_together_they_predict_as_trained_alone(self, name):
        # Predictions, not weights: Adam makes full steps of gradients that are nothing but rounding.
        together, alone = made(name), made(name)
        recipes = [Recipe("mse", batch_size=5)] * 3
        train_together(together, IMAGES, TARGETS, recipes, [7, 8, 9], steps=10)
        for k, net in enumerate(alone):
            train_together([net], IMAGES, TARGETS[k : k + 1], recipes[:1], [7 + k], steps=10)
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours.eval()(IMAGES), theirs.eval()(IMAGES), rtol=5e-2, atol=5e-3)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "sgd-momentum", "rmsprop", "adagrad", "nadam"])
def test_lenets_trained_together_end_with_the_weights_of_each_alone(optimizer):
    together, alone = made("lenet"), made("lenet")
    recipes = [Recipe("mse", batch_size=5, optimizer=optimizer)] * 3
    train_together(together, IMAGES, TARGETS, recipes, [7, 8, 9], steps=8)
    for k, net in enumerate(alone):
        start = weights(net)
        train_together([net], IMAGES, TARGETS[k : k + 1], recipes[:1], [7 + k], steps=8)
        moved, difference = weights(net) - start, weights(together[k]) - weights(net)
        assert difference.norm() < 0.01 * moved.norm()


def test_training_alone_is_the_textbook_loop():
    net, plain = made("lenet", 1)[0], made("lenet", 1)[0]
    train_together([net], IMAGES, TARGETS[:1], [Recipe("mse", batch_size=99)], [0], steps=5)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(IMAGES), TARGETS[0]).backward()
        optimizer.step()
    assert_state(net.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)


def test_losses_in_one_cohort_are_each_members_own():
    losses = ["mse", "soft-cross-entropy", "mse"]
    together, alone = made("lenet"), made("lenet")
    targets = TARGETS.softmax(-1)
    recipes = [Recipe(loss, batch_size=5) for loss in losses]
    train_together(together, IMAGES, targets, recipes, [0, 1, 2], steps=8)
    for k, net in enumerate(alone):
        train_together([net], IMAGES, targets[k : k + 1], recipes[k : k + 1], [k], steps=8)
        assert_state(together[k].state_dict(), net.state_dict(), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("cores", [1, 2])
def test_recipes_that_cannot_share_an_optimiser_are_refused(two_cores, cores):
    torch.set_num_threads(cores)
    recipes = [Recipe("mse"), Recipe("mse", optimizer="sgd")]
    with pytest.raises(ValueError, match="need one optimiser, learning rate and batch size"):
        train_together(made("lenet", 2), IMAGES, TARGETS[:2], recipes, [0, 1], steps=1)


class Mixing(nn.Module):
    """Its layers could be joined; what its forward does between them could not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.out = nn.Linear(36, 4)

    def forward(self, x):
        return self.out(self.conv(x).mean(1).flatten(1))


class Unknown(nn.Module):
    """A layer with weights of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 4) / 8)

    def forward(self, x):
        return x.flatten(1) @ self.weight


class Scaled(nn.Module):
    """A constant in the forward that differs from network to network."""

    def __init__(self):
        super().__init__()
        self.scale = float(torch.rand(()))
        self.out = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    def forward(self, x):
        return self.out(x * self.scale)


def reflecting():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(128, 4))


@pytest.mark.parametrize("kind", [Mixing, Unknown, Scaled, reflecting])
def test_what_cannot_be_joined_is_trained_one_by_one_to_the_same_end(kind):
    def networks():
        torch.manual_seed(0)
        return [kind() for _ in range(3)]

    with pytest.raises(NotJoinableError):
        SideBySide(networks(), SHAPE)
    together, alone = networks(), networks()
    recipes, visits = [Recipe("mse", batch_size=5)] * 3, []
    train_together(
        together,
        IMAGES,
        TARGETS,
        recipes,
        [0, 1, 2],
        steps=6,
        checkpoints=[2, 6],
        visit=lambda members, joint, step: visits.append((step, *members)),
    )
    assert sorted(visits) == [(step, k) for step in (2, 6) for k in range(3)]
    for k, net in enumerate(alone):
        train_together([net], IMAGES, TARGETS[k : k + 1], recipes[:1], [k], steps=6)
        assert_state(together[k].state_dict(), net.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.LocalResponseNorm(3, alpha=5.0), nn.BatchNorm2d(4)])
def test_joinable_custom_networks_are_joined(norm):
    def net():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), copy.deepcopy(norm), nn.GELU(), nn.Flatten(), nn.Linear(144, 4)
        ).eval()

    members = [net() for _ in range(3)]
    outputs = SideBySide(members, SHAPE).predict(IMAGES)
    expected = torch.stack([member(IMAGES) for member in members])
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_a_ready_network_sees_bytes_and_fractions_alike():
    digits = load("digits")
    prepare = Preprocessing.fit(digits)
    net = build_network("lenet", SHAPE, 10, seed=0).eval()
    ready = ReadyNetwork(prepare, net).eval()
    images = digits.images[:20]
    torch.testing.assert_close(ready(images), net(prepare(images)))
    torch.testing.assert_close(ready(images.float() / 255), ready(images))
    torch.testing.assert_close(ready(images.double() / 255), ready(images))


def test_a_ready_networks_normalisation_travels_with_its_state():
    net = build_network("lenet", SHAPE, 10, seed=0)
    ready = ReadyNetwork(Preprocessing((0.3,), (0.2,)), net)
    other = ReadyNetwork(Preprocessing((0.0,), (1.0,)), build_network("lenet", SHAPE, 10, seed=1))
    other.load_state_dict(ready.state_dict())
    images = load("digits").images[:5]
    assert torch.equal(other(images), ready(images))


def test_cohorts_are_as_many_as_cache_and_cores_like(monkeypatch):
    networks = made("lenet", 7)
    whole = cohorts(networks, SHAPE)
    assert [members for members, _ in whole] == [[0, 1, 2, 3, 4, 5, 6]]
    assert [members for members, _ in cohorts(networks, SHAPE, parts=2)] == [[0, 2, 4, 6], [1, 3, 5]]
    assert [members for members, _ in cohorts(networks[:1], SHAPE, parts=2)] == [[0]]
    # LeNet's largest map of an 8×8 image has 6·8·8 numbers of 4 bytes.
    monkeypatch.setattr(side_by_side, "CACHE", 3 * 10 * 6 * 8 * 8 * 4)
    sizes = [len(members) for members, _ in cohorts(networks, SHAPE, batch_size=10)]
    assert sizes == [3, 2, 2]
    assert len(cohorts(networks, SHAPE, batch_size=10, parts=2)) == 4  # two rounds of two
    assert [len(members) for members, _ in cohorts(networks, SHAPE, batch_size=1000)] == [1] * 7


class Fussy(nn.Module):
    """Draws in training, computes in float64, and wants more than one image."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4).double()

    def forward(self, x):
        assert len(x) > 1
        return nn.functional.dropout(self.linear(x.flatten(1).double()), training=self.training).float()


def test_networks_that_draw_keep_their_order_on_two_cores(two_cores):
    def train():
        torch.manual_seed(1)
        networks = [Fussy() for _ in range(3)]
        train_together(networks, IMAGES, TARGETS, [Recipe("mse", batch_size=4)] * 3, [0, 1, 2], steps=20)
        return torch.stack([weights(net) for net in networks])

    assert torch.equal(train(), train())


def test_the_networks_of_a_cohort_keep_their_places_in_predictions(two_cores):
    networks = [net.eval() for net in made("lenet", 5)]
    expected = torch.stack([net(Preprocessing((0.0,), (1.0,))(BYTES.images)) for net in networks])
    found = predictions(networks, BYTES, Preprocessing((0.0,), (1.0,)), torch.device("cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_two_cores_end_with_the_weights_of_one(two_cores):
    recipes = [Recipe("mse", batch_size=4)] * 3
    visits = []

    def train():
        networks = made("lenet")
        train_together(
            networks, IMAGES, TARGETS, recipes, [0, 1, 2], steps=6, checkpoints=[3, 6],
            visit=lambda members, joint, step: visits.extend((step, k) for k in members),
        )  # fmt: skip
        return networks

    two = train()
    torch.set_num_threads(1)
    one = train()
    assert sorted(visits) == sorted([(step, k) for step in (3, 6) for k in range(3)] * 2)
    for a, b in zip(one, two, strict=True):
        assert_state(b.state_dict(), a.state_dict(), rtol=1e-4, atol=1e-5)
