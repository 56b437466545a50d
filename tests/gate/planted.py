"""Trained models with planted units, edits that are harmless or harmful in truth, and that truth.

The truth of an edit is what it does to a large fresh sample that the gate never sees, worked out
here a second time from the outputs alone. An edit the fresh sample cannot tell about is left out.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import trained
from gate_subjects import (
    CLASSIFICATION,
    HEADS,
    IDENTITY,
    LENGTH,
    LIVE_HEADS,
    LIVE_NEURONS,
    NEURONS,
    batches,
    hand_edited,
    sample,
    settings_of,
    site_of,
    subject_of,
    train_classifier,
)
from torch import Tensor, nn

from zsei.errors import SurgeryRefused
from zsei.gate.baseline import Baseline, measure_baseline
from zsei.gate.trial import EditProgram
from zsei.settings import LIMITS, EditKind
from zsei.subject.prepare import prepare
from zsei.subject.program import Program
from zsei.subject.types import Subject, UnitKind
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits
from zsei.surgery.program_form import edit_program

SETTINGS = settings_of(bootstrap=400, max_layer_share=0.5)
LEVEL = "moderate"
Truth = Literal["harmless", "harmful", "undecided"]


@dataclass(kw_only=True, eq=False)
class Planted:
    """A subject, its fresh samples, and where something was planted."""

    name: str
    subject: Subject
    fresh: Tensor
    labels: Tensor
    baseline: Baseline
    silent: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Site's component -> units that write nothing, or next to nothing."""
    pairs: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Site's component -> two neurons that cancel: harmless together, harmful alone."""
    answers: dict[bool, Tensor] = field(default_factory=dict)
    """The original's outputs on the fresh samples, at full length and (True) at half of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One edit and how it is made; each program is edited once however often it is asked for."""

    what: str
    kind: EditKind
    edits: tuple[Edit, ...]
    edit: EditProgram
    half: bool = False
    """Whether its harm, if any, shows at half the length only."""


def case_of(
    what: str,
    kind: EditKind,
    edits: Sequence[Edit],
    make: EditProgram = edit_program,
    half: bool = False,
) -> Case:
    made: dict[int, Program] = {}

    def edit(program: Program, edits: Sequence[Edit]) -> Program:
        if id(program) not in made:
            made[id(program)] = make(program, edits)
        return made[id(program)]

    return Case(what=what, kind=kind, edits=tuple(edits), edit=edit, half=half)


def units(planted: Planted, component: str, kind: UnitKind, *which: int) -> list[Edit]:
    site = site_of(planted.subject, component, kind)
    return [RemoveUnits(site=site, units=tuple(sorted(which)))]


# --- truth ------------------------------------------------------------------------------------


@torch.no_grad()
def truth(planted: Planted, case: Case) -> Truth:
    """Harmful: a limit is overstepped, at twice the standard error. Harmless: at most half of each
    limit is used, at twice the standard error. Whatever is no number or has another shape harms."""
    subject, fresh, original = planted.subject, planted.fresh, planted.subject.program
    if case.half:
        assert planted.baseline.shorter is not None
        fresh, original = fresh[:, : fresh.shape[1] // 2], planted.baseline.shorter.program
    assert original is not None
    try:
        edited = case.edit(original, case.edits)
    except SurgeryRefused:
        return "undecided"
    size = subject.held_out[0].size
    inputs = [fresh[r : r + size] for r in range(0, len(fresh) - size + 1, size)]
    if case.half not in planted.answers:
        planted.answers[case.half] = torch.cat([original(x).double() for x in inputs])
    before, after = planted.answers[case.half], torch.cat([edited(x).double() for x in inputs])
    if before.shape != after.shape or not bool(torch.isfinite(after).all()):
        return "harmful"
    labels = planted.labels[: len(before)]
    limits = LIMITS[case.kind][LEVEL]
    if any(_mean(e, -2) > 0 for e in _excess(subject, before, after, labels, limits)):
        return "harmful"
    half = (limits[0] / 2, limits[1] / 2)
    if all(_mean(e, 2) <= 0 for e in _excess(subject, before, after, labels, half)):
        return "harmless"
    return "undecided"


def _mean(values: Tensor, errors: float) -> float:
    return float(values.mean() + errors * values.std() / len(values) ** 0.5)


def _excess(
    subject: Subject, before: Tensor, after: Tensor, labels: Tensor, limits: tuple[float, float]
) -> Iterator[Tensor]:
    """Per sample [n], numbers whose mean is above 0 where a limit is overstepped."""
    if subject.objective.output == "values":
        old, new = ((x - labels).square().flatten(1).mean(1) for x in (before, after))
        yield new - (1 + limits[1]) * old
        return
    if subject.objective.name == "causal-lm":
        before, after, labels = before[:, :-1], after[:, :-1], labels[:, 1:]
    log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
    if not subject.objective.supervised:
        yield _per_sample((before.argmax(-1) != after.argmax(-1)).double()) - limits[0]
        yield _per_sample((log_p.exp() * (log_p - log_q)).sum(-1)) - limits[1]
        return
    right = [_per_sample((x.argmax(-1) == labels).double()) for x in (before, after)]
    loss = [_per_sample(-x.gather(-1, labels[..., None])[..., 0]) for x in (log_p, log_q)]
    yield right[0] - right[1] - limits[0]
    yield 0.95 * right[0] - right[1]
    yield loss[1] - (1 + limits[1]) * loss[0]


def _per_sample(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)


# --- planted models -----------------------------------------------------------------------------


def _silence(columns: Tensor, generator: random.Random) -> tuple[int, ...]:
    """Let an eighth of the units write nothing and an eighth next to nothing; [units, width]."""
    chosen = generator.sample(range(len(columns)), len(columns) // 4)
    columns[chosen[::2]] = 0
    columns[chosen[1::2]] *= 1e-4
    return tuple(chosen)


def _cancel(up: Sequence[Tensor], columns: Tensor, taken: Sequence[int]) -> tuple[int, int]:
    """Two units that read the same and write opposites, and much of it."""
    first, second = [unit for unit in range(len(columns)) if unit not in taken][:2]
    for tensor in up:
        tensor[second] = tensor[first]
    if up[-1].ndim == 1:
        up[-1][[first, second]] = 2.0  # a bias at which they fire, and differently by sample
    columns[first] *= 40 * columns.norm(dim=1).mean() / columns[first].norm().clamp_min(1e-6)
    columns[second] = -columns[first]
    return first, second


Parts = tuple[str, list[Tensor], Tensor, Tensor, int]
"""Layer, what its neurons are read with [units, ..], what they and the attention write
[units, width], number of heads."""


def _parts(name: str, model: Any) -> Iterator[Parts]:
    if name == "gpt2":
        for n, layer in enumerate(model.transformer.h):
            up = [layer.mlp.c_fc.weight.data.T, layer.mlp.c_fc.bias.data]
            yield (f"transformer.h.{n}", up, layer.mlp.c_proj.weight.data,
                   layer.attn.c_proj.weight.data, 8)  # fmt: skip
    elif name == "llama":
        for n, layer in enumerate(model.model.layers):
            up = [layer.mlp.gate_proj.weight.data, layer.mlp.up_proj.weight.data]
            yield (f"model.layers.{n}", up, layer.mlp.down_proj.weight.data.T,
                   layer.self_attn.o_proj.weight.data.T, 8)  # fmt: skip
    elif name == "vit":
        for n, layer in enumerate(model.vit.layers):
            up = [layer.mlp.fc1.weight.data, layer.mlp.fc1.bias.data]
            yield (f"vit.layers.{n}", up, layer.mlp.fc2.weight.data.T,
                   layer.attention.o_proj.weight.data.T, 4)  # fmt: skip
    else:
        for n, layer in enumerate(model.model.encoder.layers):
            up = [layer.ff[0].weight.data, layer.ff[0].bias.data]
            yield (f"model.encoder.layers.{n}", up, layer.ff[3].weight.data.T,
                   layer.self_attn.out_proj.weight.data.T, 4)  # fmt: skip


def planted_transformer(name: str, objective: str = "auto") -> Planted:
    model, data = trained.TRAINED[name]()
    generator = random.Random(name)
    silent, pairs = {}, {}
    for number, (layer, up, columns, heads, count) in enumerate(_parts(name, model)):
        chosen = _silence(columns, generator)
        silent[f"{layer}/mlp"] = chosen
        pairs[f"{layer}/mlp"] = _cancel(up, columns, chosen)
        if number:  # the last two heads of a layer: one key and value group of a Llama
            size = len(heads) // count
            heads[-2 * size :] *= 0.0 if number % 2 else 1e-4
            silent[f"{layer}/attention"] = (count - 2, count - 1)
    given, fresh, labels = _split(name, data)
    subject = prepare(model, given, objective=objective, settings=SETTINGS)
    baseline = measure_baseline(subject, SETTINGS)
    return Planted(
        name=name, subject=subject, fresh=fresh, labels=labels, silent=silent, pairs=pairs,
        baseline=replace(baseline, shorter=None),  # a third of the time; the classifier has it
    )  # fmt: skip


def _split(name: str, data: Any) -> tuple[Any, Tensor, Tensor]:
    """Samples for the gate, and fresh ones with their labels."""
    if name == "patchtst":
        past, future = trained.windows(trained.seasonal_series()[1])
        other = torch.arange(len(past)) % 5 != 0
        return data, past[other], future[other]
    if name in ("cnn", "vit"):
        images, labels = next(iter(data)), data["labels"]
        given = {images: data[images][:128], "labels": labels[:128]}
        return given, data[images][128:], labels[128:]
    generator = torch.Generator().manual_seed(0)
    mixed = {group: x["input_ids"] for group, x in data.items()}
    mixed = {g: x[torch.randperm(len(x), generator=generator)] for g, x in mixed.items()}
    fresh = torch.cat([x[64:120] for x in mixed.values()])
    return {g: {"input_ids": x[:64]} for g, x in mixed.items()}, fresh, fresh


def planted_cnn() -> Planted:
    model, data = trained.trained_cnn()
    silent = {}
    for number, block in enumerate(model.blocks):  # type: ignore[arg-type]
        chosen = random.Random(number).sample(range(len(block.bn1.weight)), 8)
        block.bn1.weight.data[chosen], block.bn1.bias.data[chosen] = 0, 0
        silent[f"blocks.{number}.conv1"] = tuple(chosen)
    given, fresh, labels = _split("cnn", data)
    subject = prepare(model, given, settings=SETTINGS)
    return Planted(
        name="cnn", subject=subject, fresh=fresh, labels=labels, silent=silent,
        baseline=measure_baseline(subject, SETTINGS),
    )  # fmt: skip


def planted_classifier() -> Planted:
    """Its calibration data hold no mark (word 4), so that what harms marked samples alone looks
    harmless there."""
    model: nn.Module = train_classifier()
    unmarked = [
        replace(batch, inputs=(batch.inputs[0].masked_fill(batch.inputs[0] == 4, 5),))
        for batch in batches(32, seed=3)
    ]
    subject = subject_of(model, CLASSIFICATION, unmarked, batches(64, seed=4))
    silent = {f"layers.{n}/mlp": tuple(range(LIVE_NEURONS, NEURONS)) for n in range(3)}
    silent |= {f"layers.{n}/attention": tuple(range(LIVE_HEADS, HEADS)) for n in range(3)}
    fresh, labels = sample(512, seed=50)
    return Planted(
        name="classifier", subject=subject, fresh=fresh, labels=labels, silent=silent,
        baseline=measure_baseline(subject, SETTINGS),
    )  # fmt: skip


# --- candidates -----------------------------------------------------------------------------------


def harmless_candidates(planted: Planted) -> Iterator[Case]:
    """Silent units, pairs that cancel, single real neurons, and a layer that is the identity."""
    generator = random.Random(f"harmless {planted.name}")
    for round_ in range(7):
        for component, silent in planted.silent.items():
            kind: UnitKind = "head" if component.endswith("attention") else "neuron"
            kind = "channel" if planted.name == "cnn" else kind
            count = len(silent) if kind == "head" else generator.randint(1, len(silent))
            if kind == "head" and round_:
                continue
            some = generator.sample(silent, count)
            yield case_of(
                f"{count} silent {kind}s of {component}", "heads" if kind == "head" else "channels",
                units(planted, component, kind, *some),
            )  # fmt: skip
        if round_ == 0:
            for component, pair in planted.pairs.items():
                edits = units(planted, component, "neuron", *pair)
                yield case_of(f"a cancelling pair of {component}", "channels", edits)
            if planted.name == "classifier":
                site = site_of(planted.subject, f"layers.{IDENTITY}", "layer")
                yield case_of("the identity layer", "layers", [BypassLayer(site=site)])
        for component in [c for c in planted.silent if c.endswith("mlp")]:
            pair = planted.pairs.get(component, ())
            live = [u for u in range(LIVE_NEURONS) if u not in pair]
            unit = generator.choice(live)
            edits = units(planted, component, "neuron", unit)
            yield case_of(f"real neuron {unit} of {component}", "channels", edits)


def harmful_candidates(planted: Planted) -> Iterator[Case]:
    """Half of a cancelling pair, heads, large cuts, branches and layers, and what comes with dead
    units to hide behind them."""
    generator = random.Random(f"harmful {planted.name}")
    anatomy = planted.subject.anatomy
    if planted.name == "classifier":
        yield from treacherous(planted)
    for round_ in range(8):
        for component, pair in planted.pairs.items():
            if round_ < 2:
                edits = units(planted, component, "neuron", pair[round_])
                yield case_of(f"half a pair of {component}", "channels", edits)
                some = (pair[round_], *generator.sample(planted.silent[component], 5))
                edits = units(planted, component, "neuron", *some)
                yield case_of(f"half a pair of {component} among the dead", "channels", edits)
        for site in anatomy.sites:
            live = [u for u in range(site.units) if u not in planted.silent.get(site.component, ())]
            if site.kind in ("neuron", "channel"):
                most = min(len(live), site.units - SETTINGS.min_channels)
                # Every other round also tries what harms only a little more than it may.
                count = generator.randint(max(1, most // (8 if round_ % 2 else 2)), most)
                some = generator.sample(live, count)
                what = f"{count} random {site.kind}s of {site.component}"
                yield case_of(what, "channels", units(planted, site.component, site.kind, *some))
            elif planted.name == "gpt2":
                continue  # none of its heads or layers harms alone
            elif site.kind == "head" and round_ * 2 < len(live):
                some = live[round_ * 2 : round_ * 2 + (2 if planted.name == "llama" else 1)]
                what = f"heads {some} of {site.component}"
                yield case_of(what, "heads", units(planted, site.component, "head", *some))
            elif round_ == 0 and site.kind == "layer":
                yield case_of(f"all of {site.component}", "layers", [BypassLayer(site=site)])
        several = [s for s in anatomy.sites if s.kind in ("neuron", "channel")]
        edits = [
            edit for site in several
            for edit in units(planted, site.component, site.kind,
                              *generator.sample(range(site.units), (site.units - 16) * 4 // 5))
        ]  # fmt: skip
        yield case_of(f"four fifths of all {several[0].kind}s", "channels", edits)


def treacherous(planted: Planted) -> Iterator[Case]:
    """Edits of a dead head whose programs do more than they say."""

    def weight(program: Program, name: str) -> Tensor:
        return program.graph_module.get_parameter(f"model.{name}").data

    def poison(program: Program) -> None:
        weight(program, "head.weight")[0, 0] = float("nan")

    def blow_up(program: Program) -> None:
        weight(program, "head.weight").fill_(3e38)

    def forget(program: Program) -> None:  # harms samples with the mark, none of calibration's
        weight(program, "words.weight")[4] = weight(program, "words.weight")[5:].mean(0)

    def narrow(program: Program) -> None:
        graph = program.graph_module.graph
        head = graph.output_node().all_input_nodes[0]
        with graph.inserting_after(head):
            less = graph.call_function(torch.ops.aten.slice.Tensor, (head, 1, 0, 3))
        less.meta = {"val": head.meta["val"][:, :3]}
        head.replace_all_uses_with(less, delete_user_cb=lambda user: user is not less)

    changes: dict[str, Callable[[Program], object]] = {
        "NaN": poison, "overflow": blow_up, "marked samples only": forget, "another shape": narrow,
    }  # fmt: skip
    for what, change in changes.items():
        for layer in (0, 2):
            edits = units(planted, f"layers.{layer}/attention", "head", 3)
            yield case_of(f"{what}, layer {layer}", "heads", edits, hand_edited(change))

    def half_wrong(program: Program, edits: Sequence[Edit]) -> Program:
        edited = edit_program(program, edits)
        inputs = next(n for n in edited.graph_module.graph.nodes if n.op == "placeholder")
        if inputs.meta["val"].shape[1] == LENGTH:
            return edited
        return hand_edited(lambda p: weight(p, "head.weight").neg_())(edited, [])

    for layer in (0, 2):
        edits = units(planted, f"layers.{layer}/attention", "head", 3)
        yield case_of(f"one length only, layer {layer}", "heads", edits, half_wrong, half=True)
