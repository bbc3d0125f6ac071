"""K networks of one architecture as one network: grouped convolutions instead of K small calls.

A small network spends its time in call overhead, not in arithmetic. Member k's channels are channels
``k·c … (k+1)·c − 1`` of every activation, so convolution and normalisation become the grouped layers that
torch already has, and element-wise layers, pooling and flattening need no change at all. Every tensor of
the joint network is the members' tensors one after the other under the members' own name, so a member's
state is a slice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Layers without weights that treat every channel alike.
_CHANNELWISE = (
    nn.Identity,
    nn.Flatten,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)


# Bytes that the largest map of a cohort may take; `benchmarks/cohorts.py` measures what more and less cost.
CACHE = 8 << 20


class NotJoinableError(Exception):
    """Internal: these networks must be trained one by one."""


class GroupedLinear(nn.Module):
    """K linear layers on ``(B, K·inputs)``, by one batched product; to ``(B, K·outputs)``."""

    def __init__(self, members: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.count = len(members)
        self.weight = nn.Parameter(torch.empty(0))  # set by _join, like every other weight
        self.bias = None if members[0].bias is None else nn.Parameter(torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, K·inputs)`` to ``(B, K·outputs)``."""
        weight = self.weight.view(self.count, -1, self.weight.shape[1]).transpose(1, 2)
        inputs = x.view(len(x), self.count, -1).transpose(0, 1)
        if self.bias is None:
            outputs = inputs @ weight
        else:
            outputs = torch.baddbmm(self.bias.view(self.count, 1, -1), inputs, weight)
        return outputs.transpose(0, 1).reshape(len(x), -1)


class GroupedLocalResponseNorm(nn.Module):
    """Local response normalisation that does not look across members."""

    def __init__(self, count: int, member: nn.LocalResponseNorm) -> None:
        super().__init__()
        self.count, self.norm = count, member

    def forward(self, x: Tensor) -> Tensor:
        """``(B, K·c, h, w)`` to the same shape."""
        batch, _, height, width = x.shape
        normalised: Tensor = self.norm(x.reshape(batch * self.count, -1, height, width))
        return normalised.view(batch, -1, height, width)


def _conv(members: Sequence[nn.Conv2d]) -> nn.Module:
    first, count = members[0], len(members)
    if first.padding_mode != "zeros":
        raise NotJoinableError
    return nn.Conv2d(
        count * first.in_channels,
        count * first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        dilation=first.dilation,  # type: ignore[arg-type]
        groups=count * first.groups,
        bias=first.bias is not None,
    )


def _batch_norm(members: Sequence[nn.BatchNorm2d | nn.InstanceNorm2d]) -> nn.Module:
    first = members[0]
    return type(first)(
        len(members) * first.num_features,
        eps=first.eps,
        momentum=first.momentum,  # type: ignore[arg-type]
        affine=first.affine,
        track_running_stats=first.track_running_stats,
    )


def _group_norm(members: Sequence[nn.GroupNorm]) -> nn.Module:
    first, count = members[0], len(members)
    return nn.GroupNorm(count * first.num_groups, count * first.num_channels, first.eps, first.affine)


# How to join layers that have weights or look across channels.
_JOIN: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Conv2d: _conv,
    nn.Linear: GroupedLinear,
    nn.BatchNorm2d: _batch_norm,
    nn.InstanceNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LocalResponseNorm: lambda members: GroupedLocalResponseNorm(len(members), members[0]),
}


def _join(members: Sequence[nn.Module]) -> nn.Module:
    first = members[0]
    if type(first) in _JOIN:
        joint = _JOIN[type(first)](members)
        for name, _ in (*first.named_parameters(), *first.named_buffers()):
            values = [
                member.get_parameter(name) if name in dict(member.named_parameters()) else member.get_buffer(name)
                for member in members
            ]
            if values[0].ndim:  # a scalar, such as a count of batches, is the same for all
                getattr(joint, name).data = torch.cat([value.data for value in values])
        return joint
    if type(first) in _CHANNELWISE:
        return copy.deepcopy(first)
    own_state = [*first.parameters(recurse=False), *first.buffers(recurse=False)]
    if own_state or not list(first.children()):
        raise NotJoinableError
    joint = copy.copy(first)
    joint._modules = {
        name: _join([member.get_submodule(name) for member in members]) for name, _ in first.named_children()
    }
    return joint


class SideBySide(nn.Module):
    """K networks of one architecture that see their own images and are trained together.

    Args:
        networks: the members; copied, not changed.
        shape: channels, height, width of their images.

    Raises:
        NotJoinableError: the architecture holds layers that are not known to be joinable, or the joint
            network does not reproduce its members.
    """

    def __init__(self, networks: Sequence[nn.Module], shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.count = len(networks)
        self.joint = copy.deepcopy(networks[0]) if self.count == 1 else _join(networks)
        if self.count > 1:
            self._check(networks, shape)
        self.to(memory_format=torch.channels_last)  # images are, too: the layout that convolutions want

    def _check(self, networks: Sequence[nn.Module], shape: tuple[int, int, int]) -> None:
        # A custom forward() may do what its layers do not show: believe the numbers only.
        probe = torch.rand(2, self.count, *shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                self.eval()
                outputs = self(probe)
                for k, network in enumerate(networks):
                    was_training = network.training
                    expected = network.eval()(probe[:, k])
                    network.train(was_training)
                    torch.testing.assert_close(outputs[k], expected, rtol=1e-3, atol=1e-4)
        except (RuntimeError, AssertionError) as error:
            raise NotJoinableError from error
        self.train(networks[0].training)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(K, B, C)`` of ``(B, K, c, h, w)``: each member has its own images."""
        batch = len(images)
        joint = images.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.joint(joint)
        return logits.view(batch, self.count, -1).transpose(0, 1)

    @torch.no_grad()
    def predict(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Logits ``(K, N, C)`` of ``(N, c, h, w)``: all members see the same images, in eval mode."""
        was_training = self.training
        self.eval()
        parts = images.split(max(1, batch_size // self.count))
        logits = [self(part.unsqueeze(1).expand(-1, self.count, -1, -1, -1)) for part in parts]
        self.train(was_training)
        return torch.cat(logits, 1)

    def member_state(self, k: int) -> dict[str, Tensor]:
        """A copy of member k's ``state_dict``."""

        def part(value: Tensor) -> Tensor:
            return (value.chunk(self.count)[k] if value.ndim else value).detach().clone()

        return {name: part(value) for name, value in self.joint.state_dict().items()}


def joinable(networks: Sequence[nn.Module], shape: tuple[int, int, int]) -> bool:
    """Whether there is more than one, of an architecture that can be joined."""
    if len(networks) < 2:
        return False
    try:
        SideBySide(networks[:2], shape)
    except NotJoinableError:
        return False
    return True


def cohorts(
    networks: Sequence[nn.Module], shape: tuple[int, int, int], *, batch_size: int | None = None, parts: int = 1
) -> list[tuple[list[int], SideBySide]]:
    """Who runs with whom, by position: each alone where the architecture cannot be joined.

    Args:
        networks: one or more.
        shape: channels, height, width of their images.
        batch_size: of their trainings on a CPU: as many are joined as leave the largest map in its cache.
            ``None``: all in one.
        parts: at least so many cohorts, where there are as many networks.
    """
    if not joinable(networks, shape):
        return [([k], SideBySide([network], shape)) for k, network in enumerate(networks)]
    size = len(networks)
    if batch_size is not None:
        size = min(size, max(1, CACHE // (4 * batch_size * largest_map(networks[0], shape))))
    rounds = -(-len(networks) // (size * parts))  # of as many cohorts as there are parts, so that none waits
    count = min(rounds * parts, len(networks))
    shares = [list(range(i, len(networks), count)) for i in range(count)]
    return [(share, SideBySide([networks[k] for k in share], shape)) for share in shares]


@torch.no_grad()
def draws(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether it takes random numbers from the CPU's global generator in training, as dropout does."""
    probe = copy.deepcopy(network).train()
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        probe(_blank(network, shape))
        return not torch.equal(before, torch.get_rng_state())


def _blank(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """Two images for the network, where it is."""
    return torch.zeros(2, *shape, device=next((p.device for p in network.parameters()), None))


@torch.no_grad()
def largest_map(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """The most numbers that a layer gives for one image."""
    sizes = [1]

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output[0].numel())

    probe = copy.deepcopy(network).eval()
    for layer in probe.modules():
        layer.register_forward_hook(note)
    probe(_blank(network, shape))
    return max(sizes)
