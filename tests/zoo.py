"""Small seeded models with one planted defect each, and their healthy twins.

Every function takes `planted` and returns (model, data, code, component): with `planted=True` the
analyzer `code` must find `component`, without it must not. Nothing is trained; what a model
computes is meaningless, but where it wastes is known.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 32
HEADS = 4
LENGTH = 10
SAMPLES = 32


class Planted(NamedTuple):
    """A model, data for it, and what an analyzer must find in it."""

    model: nn.Module
    data: Tensor
    code: str
    component: str


def _random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


class Attention(nn.Module):
    """Plain multi-head attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            part(x).view(n, t, HEADS, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.output(mixed.transpose(1, 2).reshape(n, t, WIDTH))


class Mlp(nn.Module):
    """Two linears around a rectifier."""

    def __init__(self, hidden: int = 2 * WIDTH) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, hidden: int = 2 * WIDTH) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.mlp = nn.LayerNorm(WIDTH), Mlp(hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Blocks over a real-valued sequence, and a linear read-out of its mean."""

    def __init__(self, *hidden: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(size) for size in hidden or (64, 64, 64))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 6)

    def forward(self, sequence: Tensor) -> Tensor:
        for block in self.blocks:
            sequence = block(sequence)
        return self.head(self.norm(sequence).mean(1))


class Chain(nn.Module):
    """Linears with an activation between each two."""

    def __init__(self, *widths: int, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in pairwise(widths))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


SEQUENCES = _random(SAMPLES, LENGTH, WIDTH)
POINTS = _random(4 * SAMPLES, 16)


def _transformer(*hidden: int) -> Transformer:
    model = _seeded(lambda: Transformer(*hidden))
    assert isinstance(model, Transformer)
    return model


def _block(model: Transformer, number: int) -> Block:
    block = model.blocks[number]
    assert isinstance(block, Block)
    return block


@torch.no_grad()
def duplicated_head(planted: bool = True) -> Planted:
    """Head 3 of block 1 is a copy of head 1, reading and writing alike."""
    model = _transformer()
    attention = _block(model, 1).attention
    size = WIDTH // HEADS
    copy, original = slice(3 * size, 4 * size), slice(size, 2 * size)
    if planted:
        for part in (attention.query, attention.key, attention.value):
            part.weight[copy] = part.weight[original]
            part.bias[copy] = part.bias[original]
        attention.output.weight[:, copy] = attention.output.weight[:, original]
    return Planted(model, SEQUENCES, "redundant-heads", "blocks.1/head.3")


@torch.no_grad()
def idle_head(planted: bool = True) -> Planted:
    """What head 2 of block 0 computes is multiplied by zero."""
    model = _transformer()
    if planted:
        size = WIDTH // HEADS
        _block(model, 0).attention.output.weight[:, 2 * size : 3 * size] = 0
    return Planted(model, SEQUENCES, "dead-units", "blocks.0/head.2")


@torch.no_grad()
def faint_head(planted: bool = True) -> Planted:
    """What head 2 of block 0 writes is a fiftieth of what the others write."""
    model = _transformer()
    if planted:
        size = WIDTH // HEADS
        _block(model, 0).attention.output.weight[:, 2 * size : 3 * size] *= 0.02
    return Planted(model, SEQUENCES, "low-effect", "blocks.0/head.2")


@torch.no_grad()
def dead_neurons(planted: bool = True) -> Planted:
    """Twelve rectified neurons of block 1 whose bias never lets them fire."""
    model = _transformer()
    if planted:
        _block(model, 1).mlp.up.bias[5:17] = -100
    return Planted(model, SEQUENCES, "dead-units", "blocks.1/mlp")


@torch.no_grad()
def constant_neurons(planted: bool = True) -> Planted:
    """Six neurons of block 2 that are always 1.5."""
    model = _transformer()
    if planted:
        up = _block(model, 2).mlp.up
        up.weight[:6], up.bias[:6] = 0, 1.5
    return Planted(model, SEQUENCES, "dead-units", "blocks.2/mlp")


@torch.no_grad()
def duplicate_neurons(planted: bool = True) -> Planted:
    """Neurons 10 to 13 of block 0 are copies of neuron 3."""
    model = _transformer()
    if planted:
        up = _block(model, 0).mlp.up
        up.weight[10:14], up.bias[10:14] = up.weight[3], up.bias[3]
    return Planted(model, SEQUENCES, "redundant-neurons", "blocks.0/mlp")


@torch.no_grad()
def identity_layer(planted: bool = True) -> Planted:
    """Block 1 adds nothing to the stream."""
    model = _transformer()
    # Branches loud enough that a healthy block cannot be missed.
    for number in range(3):
        block = _block(model, number)
        block.attention.output.weight *= 3
        block.mlp.down.weight *= 3
    if planted:
        for linear in (_block(model, 1).attention.output, _block(model, 1).mlp.down):
            linear.weight.zero_()
            linear.bias.zero_()
    return Planted(model, SEQUENCES, "redundant-layers", "blocks.1")


def rank_pinch(planted: bool = True) -> Planted:
    """A chain of width 32 that is squeezed through two dimensions and widened again."""
    width = 2 if planted else 32
    model = _seeded(lambda: Chain(16, 32, width, 32, 32, 8))
    return Planted(model, POINTS, "information-bottleneck", "layers.1")


@torch.no_grad()
def low_rank_weight(planted: bool = True) -> Planted:
    """A 32 x 32 weight that is the product of two thin ones: nothing in its shape shows it."""
    model = _seeded(lambda: Chain(16, 32, 32, 32, 8))
    assert isinstance(model, Chain)
    if planted:
        model.layers[1].weight.copy_(_random(32, 3, seed=2) @ _random(3, 32, seed=3) / 8)
    return Planted(model, POINTS, "information-bottleneck", "layers.1")


@torch.no_grad()
def _scaled_chain(gain: float) -> nn.Module:
    model = _seeded(lambda: Chain(*[32] * 10, 8, activation=torch.tanh))
    assert isinstance(model, Chain)
    for layer in model.layers:
        nn.init.orthogonal_(layer.weight, gain, generator=torch.Generator().manual_seed(4))
        layer.bias.zero_()
    return model


def vanishing_gradient(planted: bool = True) -> Planted:
    """Ten layers that each hand on a third of the gradient."""
    model = _scaled_chain(0.33 if planted else 1.1)
    return Planted(model, _random(SAMPLES, 32) / 8, "gradient-flow", "layers.0")


def exploding_gradient(planted: bool = True) -> Planted:
    """Ten layers that each make the gradient three times as large."""
    model = _scaled_chain(3.0 if planted else 1.1)
    # So small that tanh stays in its linear range.
    return Planted(model, _random(SAMPLES, 32) * 1e-7, "gradient-flow", "layers.0")


@torch.no_grad()
def _loud_mlps(*hidden: int) -> Transformer:
    """Blocks whose MLPs write enough to be worth what they cost."""
    model = _transformer(*hidden)
    for number in range(len(hidden)):
        _block(model, number).mlp.down.weight *= 2.5
    return model


@torch.no_grad()
def busy_idler(planted: bool = True) -> Planted:
    """The MLP of block 1 is sixteen times as wide as the others and writes next to nothing."""
    model = _loud_mlps(64, 1024 if planted else 64, 64)
    if planted:
        down = _block(model, 1).mlp.down
        down.weight *= 1e-3
        down.bias.zero_()
    return Planted(model, SEQUENCES, "computational-bottleneck", "blocks.1/mlp")


def slow_idler(planted: bool = True) -> Planted:
    """The same model, looked at with a clock."""
    return busy_idler(planted)._replace(code="time-bottleneck")


def memory_hog(planted: bool = True) -> Planted:
    """The MLP of block 1 holds ten times the activations of the others."""
    model = _loud_mlps(64, 640 if planted else 64, 64)
    return Planted(model, SEQUENCES, "memory-bottleneck", "blocks.1/mlp")


ZOO = (
    duplicated_head, idle_head, faint_head, dead_neurons, constant_neurons, duplicate_neurons,
    identity_layer, rank_pinch, low_rank_weight, vanishing_gradient, exploding_gradient, busy_idler,
    slow_idler, memory_hog,
)  # fmt: skip
