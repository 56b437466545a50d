"""Small subjects for the gate's tests: a trained classifier with planted no-ops, and its parts."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.settings import Settings
from zsei.subject.anatomy import read_anatomy
from zsei.subject.objective import Objective
from zsei.subject.program import Program, export, frozen_twin, model_hash
from zsei.subject.types import Batch, ModelSource, Site, Subject
from zsei.surgery.edits import Edit
from zsei.surgery.program_form import edit_program

WORDS, LENGTH, CLASSES, WIDTH, HEADS, NEURONS = 16, 12, 4, 24, 4, 48
LIVE_HEADS, LIVE_NEURONS = 2, 28
IDENTITY = 1
"""The layer that does nothing."""
BATCH = 16


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, NEURONS), nn.Linear(NEURONS, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.before_mlp, self.mlp = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before_attention(x))
        return x + self.mlp(self.before_mlp(x))


class Classifier(nn.Module):
    """Labels of `sample`. Heads 2 and 3, neurons 28 and up, and layer 1 do exactly nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            for layer in self.layers:
                layer.mlp.up.weight[LIVE_NEURONS:] = 0
                layer.mlp.up.bias[LIVE_NEURONS:] = -1
        self.plant()

    @torch.no_grad()
    def plant(self) -> None:
        size = WIDTH // HEADS
        for number, layer in enumerate(self.layers):
            layer.attention.output.weight[:, LIVE_HEADS * size :] = 0
            if number == IDENTITY:
                for linear in (layer.attention.output, layer.mlp.down):
                    linear.weight.zero_()
                    linear.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def sample(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens [n, t] and labels [n]: which of the words 0 to 3 they hold most often, one further
    where word 4 is among them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, WORDS, (n, LENGTH), generator=generator)
    favourite = torch.randint(0, CLASSES, (n,), generator=generator)
    marked = torch.rand((n,), generator=generator) < 0.5
    often = torch.rand((n, LENGTH), generator=generator) < 0.4
    tokens = torch.where(often, favourite[:, None], tokens)
    place = torch.randint(0, LENGTH, (n, 1), generator=generator)
    mark = (torch.arange(LENGTH) == place) & marked[:, None]
    tokens = torch.where(mark, 4, tokens)
    counts = torch.stack([(tokens == word).sum(1) for word in range(CLASSES)], dim=1)
    return tokens, (counts.argmax(1) + marked) % CLASSES


def train_classifier(steps: int = 120) -> Classifier:
    torch.manual_seed(1)
    model = Classifier()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    tokens, labels = sample(4096, seed=7)
    for step in range(steps):
        rows = slice(step * 64 % 4096, step * 64 % 4096 + 64)
        loss = F.cross_entropy(model(tokens[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.plant()
    return model.eval()


def batches(n: int, seed: int, groups: Sequence[str] = ("odd", "even")) -> tuple[Batch, ...]:
    tokens, labels = sample(n, seed)
    size = min(n, BATCH)
    return tuple(
        Batch(
            inputs=(tokens[start : start + size],),
            labels=labels[start : start + size],
            groups=tuple(groups[i % len(groups)] for i in range(size)),
        )
        for start in range(0, n, size)
    )


CLASSIFICATION = Objective(name="classification", output="logits", reason="asked for")
FIDELITY = Objective(name="fidelity", output="logits", reason="asked for")


def subject_of(
    model: nn.Module,
    objective: Objective,
    calibration: Sequence[Batch],
    held_out: Sequence[Batch],
    names: Sequence[str] = ("tokens",),
) -> Subject:
    program = export(frozen_twin(model), names, held_out[0].inputs)
    return Subject(
        source=ModelSource(name=type(model).__name__, kind="object"),
        model=model,
        model_hash=model_hash(model),
        program=program,
        input_names=tuple(names),
        objective=objective,
        calibration=tuple(calibration),
        held_out=tuple(held_out),
        anatomy=read_anatomy(program),
    )


def settings_of(**changes: object) -> Settings:
    """Settings under which a third of three layers may go."""
    chosen = {"max_layer_share": 0.34, "bootstrap": 500, **changes}
    return Settings(**chosen)  # type: ignore[arg-type]


def site_of(subject: Subject, component: str, kind: str) -> Site:
    site = subject.anatomy.site(component, kind)  # type: ignore[arg-type]
    assert site is not None, [(s.component, s.kind) for s in subject.anatomy.sites]
    return site


def hand_edited(
    change: Callable[[Program], object],
) -> Callable[[Program, Sequence[Edit]], Program]:
    """The edits as they should be, and then `change`, on a copy of graph and weights."""

    def edit(program: Program, edits: Sequence[Edit]) -> Program:
        program = edit_program(program, edits) if edits else program
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # copying a graph module uses what torch deprecates
            module = copy.deepcopy(program.graph_module)
        for old, new in zip(program.graph_module.graph.nodes, module.graph.nodes, strict=True):
            new.meta = dict(old.meta)
        edited = replace(program, graph_module=module)
        change(edited)
        module.graph.lint()
        module.recompile()
        return edited

    return edit
