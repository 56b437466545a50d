"""Small seeded models with one planted defect each, and their healthy twins.

Every function takes `planted` and returns (model, data, code, component): with `planted=True` the
analyzer `code` must find `component`; without it there must be nothing to find, neither this nor
any other defect. Nothing is trained; what a model computes is meaningless, but where it wastes is
known.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

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
    data: Any
    code: str
    component: str
    objective: str = "fidelity"
    samples: int = SAMPLES
    """Samples used in all, half of them to calibrate."""


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

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            part(x).view(n, t, HEADS, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
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

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), seen)
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


class Listener(nn.Module):
    """Attentions alone, no MLPs, over a real-valued sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention() for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 6)

    def forward(self, sequence: Tensor) -> Tensor:
        for block, norm in zip(self.blocks, self.norms, strict=True):
            sequence = sequence + block(norm(sequence))
        return self.head(sequence.mean(1))


class WrittenOut(nn.Module):
    """One attention whose scores are held, between a linear in and a linear out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 6)
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, sequence: Tensor) -> Tensor:
        sequence = self.stem(sequence)
        n, t, _ = sequence.shape
        q, k, v = (
            part(sequence).view(n, t, HEADS, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-1, -2) / 3).softmax(-1)
        sequence = sequence + self.output((weights @ v).transpose(1, 2).reshape(n, t, WIDTH))
        return self.head(sequence.mean(1))


class Residual(nn.Module):
    """Residual MLPs over points; the branch of block 1 is passed on by a gate on channel 0."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, WIDTH), nn.Linear(WIDTH, 6)
        self.blocks = nn.ModuleList(Chain(WIDTH, WIDTH, WIDTH, activation=torch.tanh)
                                    for _ in range(3))  # fmt: skip
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        gate = 2 * (self.gain * x[:, :1]).sigmoid()
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = x + (gate * block(x) if number == 1 else block(x))
        return self.head(x)


class Scaled(nn.Module):
    """A block whose branch is scaled by what the caller says."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp()

    def forward(self, sequence: Tensor, scale: float) -> Tensor:
        return sequence + scale * self.mlp(sequence)


class Twice(nn.Module):
    """One block called twice, the second time at a scale of its own."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Scaled()])
        self.head, self.scale = nn.Linear(WIDTH, 6), scale

    def forward(self, sequence: Tensor) -> Tensor:
        for scale in (1.0, self.scale):
            sequence = self.blocks[0](sequence, scale)
        return self.head(sequence.mean(1))


class Loop(nn.Module):
    """A recurrence written out step by step, or the same products without waiting."""

    def __init__(self, waits: bool) -> None:
        super().__init__()
        self.enter, self.again = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head, self.waits = nn.Linear(WIDTH, 6), waits

    def forward(self, sequence: Tensor) -> Tensor:
        steps = [sequence[:, t] for t in range(sequence.shape[1])]
        state = self.enter(steps[0]).tanh()
        states = [state]
        for before, step in pairwise(steps):
            state = (self.enter(step) + self.again(state if self.waits else before)).tanh()
            states.append(state)
        return self.head(torch.stack(states, 1).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer over a sequence, or a linear one in its place."""

    def __init__(self, loops: bool) -> None:
        super().__init__()
        self.mix = nn.GRU(WIDTH, WIDTH, batch_first=True) if loops else nn.Linear(WIDTH, WIDTH)
        self.head, self.loops = nn.Linear(WIDTH, 6), loops

    def forward(self, sequence: Tensor) -> Tensor:
        mixed = self.mix(sequence)
        return self.head((mixed[0] if self.loops else mixed.tanh()).mean(1))


class Convolutions(nn.Module):
    """A stem and three residual blocks of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(ConvolutionBlock() for _ in range(3))
        self.head = nn.Linear(16 * 36, 6)

    def forward(self, image: Tensor) -> Tensor:
        image = self.stem(image)
        for block in self.blocks:
            image = block(image)
        return self.head(image.flatten(1))


class ConvolutionBlock(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

    def forward(self, image: Tensor) -> Tensor:
        return image + self.second(F.relu(self.first(image)))


class PlainConvolutions(nn.Module):
    """A chain of convolutions without skips."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(inner, 16, size, padding=size // 2)
            for inner, size in ((3, 3), (16, 1), (16, 3))
        )
        self.head = nn.Linear(16, 6)

    def forward(self, image: Tensor) -> Tensor:
        for layer in self.layers:
            image = layer(image).tanh()
        return self.head(image.mean((2, 3)))


class Forgetful(nn.Module):
    """A second head that is computed, and used or not."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(16, 32), nn.Linear(32, 6), nn.Linear(32, 6)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).tanh()
        other = self.other(x)
        return self.head(x) + other if self.used else self.head(x)


class Chain(nn.Module):
    """Linears with an activation between each two."""

    def __init__(self, *widths: int, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in pairwise(widths))
        self.activation = activation

    def linear(self, number: int) -> nn.Linear:
        layer = self.layers[number]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


SEQUENCES = _random(SAMPLES, LENGTH, WIDTH)
POINTS = _random(8 * SAMPLES, 16)
IMAGES = _random(SAMPLES, 3, 6, 6)


def _transformer(*hidden: int) -> Transformer:
    model = _seeded(lambda: Transformer(*hidden))
    assert isinstance(model, Transformer)
    return model


def _block(model: "Transformer | Decoder", number: int) -> Block:
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
    """What head 2 of the first attention writes is a fiftieth of what the others write."""
    model = _seeded(Listener)
    assert isinstance(model, Listener)
    attention = model.blocks[0]
    assert isinstance(attention, Attention)
    if planted:
        size = WIDTH // HEADS
        attention.output.weight[:, 2 * size : 3 * size] *= 0.02
    return Planted(model, SEQUENCES, "low-effect", "blocks.0/head.2")


@torch.no_grad()
def loud_head(planted: bool = True) -> Planted:
    """What head 2 of block 1 writes is eight times what the others write."""
    model = _transformer()
    if planted:
        size = WIDTH // HEADS
        _block(model, 1).attention.output.weight[:, 2 * size : 3 * size] *= 8
    return Planted(model, SEQUENCES, "criticality", "blocks.1/head.2")


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
    model = _seeded(lambda: Chain(16, 32, width, 32, 32, 8, activation=torch.tanh))
    return Planted(model, POINTS, "information-bottleneck", "layers.1")


@torch.no_grad()
def low_rank_weight(planted: bool = True) -> Planted:
    """A 32 x 32 weight that is the product of two thin ones: nothing in its shape shows it."""
    model = _seeded(lambda: Chain(16, 32, 32, 32, 8, activation=torch.tanh))
    assert isinstance(model, Chain)
    if planted:
        model.linear(1).weight.copy_(_random(32, 3, seed=2) @ _random(3, 32, seed=3) / 8)
    return Planted(model, POINTS, "information-bottleneck", "layers.1")


@torch.no_grad()
def _scaled_chain(gain: float) -> nn.Module:
    model = _seeded(lambda: Chain(*[32] * 10, 8, activation=torch.tanh))
    assert isinstance(model, Chain)
    for layer in map(model.linear, range(len(model.layers))):
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
    """Blocks that write enough to be worth what they cost."""
    model = _transformer(*hidden)
    for number in range(len(hidden)):
        _block(model, number).mlp.down.weight *= 2.5
        _block(model, number).attention.output.weight *= 2
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


@torch.no_grad()
def useless_width(planted: bool = True) -> Planted:
    """Three quarters of the neurons of block 1 write nothing."""
    model = _transformer()
    if planted:
        _block(model, 1).mlp.down.weight[:, 16:] = 0
    return Planted(model, SEQUENCES, "dead-units", "blocks.1/mlp")


@torch.no_grad()
def attention_hog(planted: bool = True) -> Planted:
    """Attention whose scores are held, over a sequence of 96."""
    length = 96 if planted else 4
    model = _seeded(WrittenOut)
    assert isinstance(model, WrittenOut)
    model.output.weight *= 8
    sequences = _random(SAMPLES, length, WIDTH)
    return Planted(model, sequences, "memory-bottleneck", "attention")


@torch.no_grad()
def _pinched(width: int, mixes: bool) -> Planted:
    """A chain with labels; its last layer is the best there is for what the others leave.

    Args:
        width: Of the narrow place.
        mixes: Whether the labels need all sixteen inputs, or the two that get through.
    """
    model = _seeded(lambda: Chain(16, 32, width, 32, 32, 8, activation=nn.Identity()))
    assert isinstance(model, Chain)
    for layer in map(model.linear, range(4)):
        nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(5))
    # The first two inputs are what a width of two lets through.
    first, narrow = model.linear(0), model.linear(1)
    if width == 2:
        narrow.weight.copy_(first.weight[:, :2].T)
    wanted = POINTS[:, : 16 if mixes else 2]
    labels = wanted @ _random(wanted.shape[1], 8, seed=6) + _random(len(POINTS), 8, seed=7) / 10
    left = POINTS
    for layer in model.layers[:-1]:
        left = layer(left)
    last = model.linear(4)
    design = torch.cat([left, torch.ones(len(left), 1)], 1)
    found = torch.linalg.lstsq(design, labels, driver="gelsd").solution
    last.weight.copy_(found[:-1].T)
    last.bias.copy_(found[-1])
    return Planted(
        model, (POINTS, labels), "information-bottleneck", "layers.1", "regression", 8 * SAMPLES
    )


def artificial_pinch(planted: bool = True) -> Planted:
    """Two dimensions get through, and the labels hang on sixteen."""
    return _pinched(2 if planted else 32, mixes=True)


def necessary_pinch(planted: bool = True) -> Planted:
    """Two dimensions get through, and the labels hang on those two."""
    return _pinched(2 if planted else 32, mixes=False)


@torch.no_grad()
def specialist(planted: bool = True) -> Planted:
    """Block 1 is passed on for one of the two data groups only."""
    model = _seeded(lambda: Residual(8.0 if planted else 0.0))
    assert isinstance(model, Residual)
    for block in model.blocks:
        assert isinstance(block, Chain)
        block.linear(1).weight *= 2
    points = POINTS[:SAMPLES].clone()
    points[:, 0] = 1.5
    groups = {"left": points, "right": points * torch.tensor([-1.0] + [1.0] * 15) + 1e-3}
    return Planted(model, groups, "dynamic-bottleneck", "blocks.1.layers.1", samples=2 * SAMPLES)


@torch.no_grad()
def idle_second_call(planted: bool = True) -> Planted:
    """The second call of a shared MLP is scaled to a hundredth."""
    model = _seeded(lambda: Twice(0.01 if planted else 1.0))
    assert isinstance(model, Twice)
    block = model.blocks[0]
    assert isinstance(block, Scaled)
    # So loud that the second call is given something else than the first.
    block.mlp.down.weight *= 8
    return Planted(model, SEQUENCES, "shared-module", "blocks.0#2")


@torch.no_grad()
def unrolled_loop(planted: bool = True) -> Planted:
    """Nine steps written out, each on what the last one gave; the twin waits for none."""
    model = _seeded(lambda: Loop(planted))
    assert isinstance(model, Loop)
    # So small that tanh stays in its linear range.
    model.enter.weight *= 0.3
    model.again.weight *= 0.3
    return Planted(model, SEQUENCES, "parallelisation-bottleneck", "again#2")


def recurrent_loop(planted: bool = True) -> Planted:
    """A recurrent layer over ten positions; the twin maps each by itself."""
    model = _seeded(lambda: Recurrent(planted))
    return Planted(model, SEQUENCES, "parallelisation-bottleneck", "mix")


@torch.no_grad()
def low_rank_convolution(planted: bool = True) -> Planted:
    """A 1 x 1 convolution of sixteen channels whose weight has rank two."""
    model = _seeded(PlainConvolutions)
    assert isinstance(model, PlainConvolutions)
    weight = model.layers[1].weight
    assert isinstance(weight, Tensor)
    if planted:
        product = _random(16, 2, seed=2) @ _random(2, 16, seed=3) / 4
        weight.copy_(product[:, :, None, None])
    return Planted(model, IMAGES, "information-bottleneck", "layers.1")


@torch.no_grad()
def _convolutions() -> Convolutions:
    """Blocks that write enough to be worth what they cost, and no channel that is always off."""
    model = _seeded(Convolutions)
    assert isinstance(model, Convolutions)
    for number in range(3):
        _convolution(model, number).second.weight *= 3
    return model


def _convolution(model: Convolutions, number: int) -> ConvolutionBlock:
    block = model.blocks[number]
    assert isinstance(block, ConvolutionBlock)
    return block


@torch.no_grad()
def dead_channels(planted: bool = True) -> Planted:
    """Four rectified channels of block 1 whose bias never lets them fire."""
    model = _convolutions()
    if planted:
        bias = _convolution(model, 1).first.bias
        assert bias is not None
        bias[3:7] = -100
    return Planted(model, IMAGES, "dead-units", "blocks.1.first")


@torch.no_grad()
def identity_convolutions(planted: bool = True) -> Planted:
    """The convolutions of block 1 add nothing to what goes past them."""
    model = _convolutions()
    if planted:
        second = _convolution(model, 1).second
        assert second.bias is not None
        second.weight.zero_()
        second.bias.zero_()
    return Planted(model, IMAGES, "redundant-layers", "blocks.1")


def unread_branch(planted: bool = True) -> Planted:
    """A second head is computed and thrown away."""
    return Planted(_seeded(lambda: Forgetful(not planted)), POINTS, "unread-parameters", "output")


READ = 24
"""Channels of the stream of `Branches` that anything reads."""


class Branches(nn.Module):
    """Many residual MLPs without a norm; the last channels of the stream are read by nobody."""

    def __init__(self, blocks: int = 24) -> None:
        super().__init__()
        self.first = nn.Linear(16, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(READ, 16), nn.Tanh(), nn.Linear(16, WIDTH))
            for _ in range(blocks)
        )
        self.head = nn.Linear(READ, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x[:, :READ])
        return self.head(x[:, :READ])


@torch.no_grad()
def _branches(loud: slice | None) -> Branches:
    """Faint branches; block 11 of them is loud in some channels, or the faintest of all."""
    model = _seeded(Branches)
    assert isinstance(model, Branches)
    for number, block in enumerate(model.blocks):
        assert isinstance(block, nn.Sequential)
        down = block[2]
        assert isinstance(down, nn.Linear)
        down.weight *= 0.6
        down.bias.zero_()
        if number == 11:
            down.weight *= 0.01 if loud is None else 0
            if loud is not None:
                down.weight[loud] = _random(WIDTH, 16, seed=5)[loud] * 8
    return model


def one_true_path(planted: bool = True) -> Planted:
    """Block 11 writes far more than all others together, and everything behind reads it."""
    model = _branches(slice(0, READ) if planted else None)
    return Planted(model, POINTS, "critical-path-effect", "blocks.11.2")


def loud_unread_route(planted: bool = True) -> Planted:
    """Block 11 writes far more than all others together, where nobody reads it."""
    model = _branches(slice(READ, WIDTH) if planted else None)
    return Planted(model, POINTS, "critical-path-information", "blocks.11.2")


@torch.no_grad()
def _copy_head(source: Attention, target: Attention, original: int, copy: int) -> None:
    """Head `copy` of `target` reads and writes as head `original` of `source`."""
    size = WIDTH // HEADS
    here, there = (slice(h * size, (h + 1) * size) for h in (original, copy))
    for name in ("query", "key", "value"):
        old, new = getattr(source, name), getattr(target, name)
        new.weight[there], new.bias[there] = old.weight[here], old.bias[here]
    target.output.weight[:, there] = source.output.weight[:, here]


@torch.no_grad()
def copied_head_of_another_layer(planted: bool = True) -> Planted:
    """Head 1 of block 1 is a copy of head 1 of block 0, in a stream that hardly changes between."""
    model = _transformer()
    if planted:
        for number in range(3):
            block = _block(model, number)
            block.attention.output.weight *= 0.3
            block.mlp.down.weight *= 0.3
        _copy_head(_block(model, 0).attention, _block(model, 1).attention, 1, 1)
    return Planted(model, SEQUENCES, "redundant-heads", "blocks.1/head.1")


@torch.no_grad()
def harmless_copies(planted: bool = True) -> Planted:
    """Heads 1 and 3 of block 1 are copies of each other that write next to nothing."""
    model = _transformer()
    attention, size = _block(model, 1).attention, WIDTH // HEADS
    if planted:
        _copy_head(attention, attention, 1, 3)
        for head in (1, 3):
            attention.output.weight[:, head * size : (head + 1) * size] *= 0.01
    return Planted(model, SEQUENCES, "redundant-heads", "blocks.1/head.3")


@torch.no_grad()
def semantic_twins(planted: bool = True) -> Planted:
    """Heads 1 and 3 of block 2 write far apart, but into what the read-out cannot tell apart."""
    model = _transformer()
    block, size = _block(model, 2), WIDTH // HEADS
    if planted:
        # Only the read-out is to see what the attention of the last block writes.
        block.mlp.down.weight *= 0.01
        seen = torch.linalg.pinv(model.head.weight) @ model.head.weight
        attention = block.attention
        _copy_head(attention, attention, 1, 3)
        for head in (1, 3):
            mine = slice(head * size, (head + 1) * size)
            unseen = (torch.eye(WIDTH) - seen) @ _random(WIDTH, size, seed=10 + head) * 0.3
            attention.output.weight[:, mine] = 3 * seen @ attention.output.weight[:, mine] + unseen
    return Planted(model, SEQUENCES, "semantic-redundancy", "blocks.2/head.3")


@torch.no_grad()
def conflicting_heads(planted: bool = True) -> Planted:
    """Head 3 of block 1 writes minus nine tenths of what head 1 writes."""
    model = _transformer()
    attention, size = _block(model, 1).attention, WIDTH // HEADS
    if planted:
        attention.output.weight[:, size : 2 * size] *= 2
        _copy_head(attention, attention, 1, 3)
        attention.output.weight[:, 3 * size :] *= -0.9
    return Planted(model, SEQUENCES, "interaction-bottleneck", "blocks.1/head.3")


@torch.no_grad()
def relay_of_heads(planted: bool = True) -> Planted:
    """Head 1 of block 0 writes into eight channels that head 2 of block 1 alone reads."""
    model, size = _transformer(), WIDTH // HEADS
    private, data = slice(0, size), SEQUENCES.clone()
    if planted:
        data[..., private] = 0
        for number in range(3):
            block = _block(model, number)
            for reader in (block.attention.query, block.attention.key, block.attention.value,
                           block.mlp.up):  # fmt: skip
                reader.weight[:, private] = 0
            for writer in (block.attention.output, block.mlp.down):
                writer.weight[private], writer.bias[private] = 0, 0
        model.head.weight[:, private] = 0
        first, second = (_block(model, number).attention for number in (0, 1))
        first.output.weight[:, size : 2 * size] = 0
        first.output.weight[private, size : 2 * size] = 3 * torch.eye(size)
        second.value.weight[2 * size : 3 * size] = 0
        second.value.weight[2 * size : 3 * size, private] = 3 * torch.eye(size)
    return Planted(model, data, "interaction-bottleneck", "blocks.1/head.2")


@torch.no_grad()
def idle_skip(planted: bool = True) -> Planted:
    """The MLP of the last block is far louder than the stream that it is added to."""
    model = _transformer()
    if planted:
        _block(model, 2).mlp.down.weight *= 100
    return Planted(model, SEQUENCES, "useless-skip", "blocks.2/residual.2")


class Towers(nn.Module):
    """Two towers from one stem, added up and read by one linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.read = nn.Linear(16, 24), nn.Linear(24, 6)
        self.left = nn.ModuleList([nn.Linear(24, 24), nn.Linear(24, 24)])
        self.right = nn.ModuleList([nn.Linear(24, 24), nn.Linear(24, 24)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = (tower[1](tower[0](x).tanh()) for tower in (self.left, self.right))
        return self.read((left + right).tanh())


@torch.no_grad()
def twin_towers(planted: bool = True) -> Planted:
    """The right tower is a copy of the left one."""
    model = _seeded(Towers)
    assert isinstance(model, Towers)
    # So small that tanh stays in its linear range, where the towers do not meddle with each other.
    for weight in (model.stem.weight, *model.left.parameters(), *model.right.parameters()):
        weight *= 0.4
    if planted:
        model.right.load_state_dict(model.left.state_dict())
    return Planted(model, POINTS, "redundant-paths", "right.1", samples=4 * SAMPLES)


LONG = 32
TOKENS = 96


class Decoder(nn.Module):
    """Blocks over tokens that look back `window` positions at most, and a head on the stream."""

    def __init__(self, window: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.ModuleList(Block(24) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS)
        distance = torch.arange(LONG)[:, None] - torch.arange(LONG)[None]
        self.register_buffer("seen", (distance >= 0) & (distance < window))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        assert isinstance(self.seen, Tensor)
        for block in self.blocks:
            x = block(x, self.seen[None, None, : tokens.shape[1], : tokens.shape[1]])
        return self.head(self.norm(x))


def _tokens() -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randint(2, TOKENS, (SAMPLES, LONG), generator=generator)


@torch.no_grad()
def _narrow_stream(model: Decoder, directions: int) -> None:
    """Let all that writes the stream write into a few directions."""
    basis = torch.linalg.qr(_random(WIDTH, directions, seed=7)).Q
    onto = basis @ basis.T
    block = _block(model, 0)
    model.embed.weight.copy_(model.embed.weight @ onto)
    for writer in (block.attention.output, block.mlp.down):
        writer.weight.copy_(onto @ writer.weight)
        writer.bias.copy_(onto @ writer.bias)


@torch.no_grad()
def short_sighted(planted: bool = True) -> Planted:
    """A decoder of one block that sees four tokens, its own included."""
    model = _seeded(lambda: Decoder(4 if planted else LONG, 1))
    assert isinstance(model, Decoder)
    attention = _block(model, 0).attention
    # Sharp attention and loud values: a far token, once seen, counts as much as a near one.
    attention.query.weight *= 6
    attention.output.weight *= 6
    _block(model, 0).mlp.down.weight *= 4
    _narrow_stream(model, 10)
    return Planted(model, _tokens(), "context-bottleneck", "embed")


@torch.no_grad()
def crowded_head(planted: bool = True) -> Planted:
    """32 directions, all in use, for 96 tokens; the twin's stream has ten directions."""
    model = _seeded(lambda: Decoder(LONG, 1))
    assert isinstance(model, Decoder)
    _block(model, 0).attention.output.weight *= 2
    if not planted:
        _narrow_stream(model, 10)
    return Planted(model, _tokens(), "vocabulary-bottleneck", "head")


class Pictures(nn.Module):
    """Two convolutions over images of 16 x 16, with a pool before or behind the first."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.early = early
        self.pool = nn.AvgPool2d(4)
        self.first, self.second = nn.Conv2d(3, 12, 3, 1, 1), nn.Conv2d(12, 24, 3, 2, 1)
        self.head = nn.Linear(24, 6)

    def forward(self, images: Tensor) -> Tensor:
        if self.early:
            images = self.pool(images)
        x = F.relu(self.second(F.relu(self.first(images))))
        return self.head(x.square().mean((2, 3)))


@torch.no_grad()
def early_pool(planted: bool = True) -> Planted:
    """Images are averaged over 4 x 4 pixels before anything is read from them."""
    model = _seeded(lambda: Pictures(planted))
    assert isinstance(model, Pictures)
    # So loud that the square behind hands on as much gradient as it is given.
    model.first.weight *= 3
    model.second.weight *= 3
    return Planted(model, _random(SAMPLES, 3, 16, 16, seed=8), "resolution-bottleneck", "pool")


class Forecaster(nn.Module):
    """A linear forecast of eight steps from the last `used` of 32, the same for each series."""

    def __init__(self, used: int) -> None:
        super().__init__()
        self.used = used
        self.read, self.write = nn.Linear(used, 16), nn.Linear(16, 8)

    def forward(self, series: Tensor) -> Tensor:
        past = series[:, -self.used :].transpose(1, 2)
        return self.write(torch.tanh(self.read(past))).transpose(1, 2)


def forgetful_forecaster(planted: bool = True) -> Planted:
    """A forecaster that reads the last eight of 32 steps."""
    model = _seeded(lambda: Forecaster(8 if planted else 32))
    series = 3 * _random(SAMPLES, 32, 2, seed=9)
    return Planted(model, series, "horizon-bottleneck", "input.series")


@torch.no_grad()
def saturated_units(planted: bool = True) -> Planted:
    """Eight of the first layer's units get a bias that holds tanh at its ends."""
    model = _seeded(lambda: Chain(16, 24, 24, 6, activation=torch.tanh))
    assert isinstance(model, Chain)
    if planted:
        first = model.layers[0]
        assert isinstance(first, nn.Linear)
        first.bias[3:7] = 12.0
        first.bias[7:11] = -12.0
    return Planted(model, POINTS, "saturated-units", "layers.0")


class Rooted(nn.Module):
    """A root in front of the middle layer: of its input as it is, or of what is positive of it."""

    def __init__(self, clamped: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.read, self.clamped = nn.Linear(16, 6), clamped

    def forward(self, x: Tensor) -> Tensor:
        size = x[:, :1].clamp_min(0.1) if self.clamped else x[:, :1]
        x = torch.tanh(self.layers[0](x)) * size.sqrt()
        return self.read(torch.tanh(self.layers[1](x)))


def undefined_root(planted: bool = True) -> Planted:
    """The root of a number that is negative on every fourth sample."""
    model = _seeded(lambda: Rooted(not planted))
    data = POINTS.clone()
    data[:, 0] = data[:, 0].abs() + 0.1
    data[::4, 0] *= -1
    return Planted(model, data, "undefined-values", "layers.1")


ZOO = (
    duplicated_head, idle_head, faint_head, dead_neurons, constant_neurons, duplicate_neurons,
    identity_layer, rank_pinch, low_rank_weight, vanishing_gradient, exploding_gradient, busy_idler,
    slow_idler, memory_hog, loud_head,
    one_true_path, loud_unread_route, useless_width, attention_hog, artificial_pinch,
    necessary_pinch, specialist, idle_second_call, unrolled_loop, recurrent_loop,
    low_rank_convolution, dead_channels, identity_convolutions, unread_branch,
    copied_head_of_another_layer, harmless_copies, semantic_twins, conflicting_heads,
    relay_of_heads, idle_skip, twin_towers,
    short_sighted, crowded_head, early_pool, forgetful_forecaster,
    saturated_units, undefined_root,
)  # fmt: skip
