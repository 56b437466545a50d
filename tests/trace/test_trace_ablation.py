"""Exact ablation: effects are those of a model whose weights are really edited."""

import copy

import pytest
import torch
from prepared import seeded, subject_of
from torch import Tensor
from zoo import HEADS, WIDTH, Transformer

from zsei.subject.objective import Objective
from zsei.subject.types import Site, Subject
from zsei.trace.ablation import Target, ablate, ablate_together
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect_means
from zsei.trace.hooks import ModuleEngine

CLASSES = 6


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(3)
    return Transformer(16, 16).eval()


@pytest.fixture(scope="module")
def subject(model: Transformer) -> Subject:
    objective = Objective(name="classification", output="logits", reason="")
    labels = torch.arange(8) % CLASSES
    return subject_of(model, [seeded(8, 5, WIDTH)], objective, labels=labels, batch_size=4)


def _site(subject: Subject, component: str, kind: str) -> Site:
    site = subject.anatomy.site(component, kind)
    assert site is not None
    return site


def _run(subject: Subject, targets: list[Target], **options: object) -> list[tuple[Tensor, Tensor]]:
    engine = engine_for(subject)
    means = collect_means(engine, [t.site for t in targets], subject.calibration)
    effects = ablate(
        engine, subject.objective, subject.calibration, targets, means=means, **options
    )
    return [(e.divergence, e.loss_increase) for e in effects]


def _compare(subject: Subject, edited: Transformer, found: tuple[Tensor, Tensor]) -> None:
    """KL and the rise of cross entropy per sample, by definition."""
    divergences, rises = [], []
    for batch in subject.calibration:
        with torch.no_grad():
            clean, moved = (m(batch.inputs[0]).double() for m in (subject.model, edited))
        for n in range(batch.size):
            p, q = clean[n].softmax(0), moved[n].softmax(0)
            divergences.append(sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True)))
            label = int(batch.labels[n])
            rises.append(float(p[label].log() - q[label].log()))
    assert found[0].tolist() == pytest.approx(divergences, abs=1e-6)
    assert found[1].tolist() == pytest.approx(rises, abs=1e-6)
    assert max(divergences) > 1e-4


def test_a_zeroed_head_is_a_head_whose_output_weights_are_zero(
    model: Transformer, subject: Subject
) -> None:
    site = _site(subject, "blocks.1/attention", "head")
    [found] = _run(subject, [Target(site=site, units=(2,))], replacement="zero")
    edited = copy.deepcopy(model)
    size = WIDTH // HEADS
    with torch.no_grad():
        edited.blocks[1].attention.output.weight[:, 2 * size : 3 * size] = 0
    _compare(subject, edited, found)


def test_a_neuron_at_its_mean_is_a_bias_behind_it(model: Transformer, subject: Subject) -> None:
    site = _site(subject, "blocks.0/mlp", "neuron")
    [found] = _run(subject, [Target(site=site, units=(4, 9))], replacement="mean")
    hidden: list[Tensor] = []
    hook = model.blocks[0].mlp.down.register_forward_pre_hook(
        lambda module, args: hidden.append(args[0].detach())
    )
    with torch.no_grad():
        model(torch.cat([batch.inputs[0] for batch in subject.calibration]))
    hook.remove()
    edited = copy.deepcopy(model)
    with torch.no_grad():
        mlp = edited.blocks[0].mlp
        for unit in (4, 9):
            mlp.down.bias += mlp.down.weight[:, unit] * hidden[0][..., unit].mean()
            mlp.down.weight[:, unit] = 0
    _compare(subject, edited, found)


def test_a_bypassed_layer_is_not_there(model: Transformer, subject: Subject) -> None:
    [found] = _run(subject, [Target(site=_site(subject, "blocks.0", "layer"), units=(0,))])
    edited = copy.deepcopy(model)
    edited.blocks = edited.blocks[1:]
    _compare(subject, edited, found)


def test_resampling_takes_another_samples_value(model: Transformer, subject: Subject) -> None:
    """A branch read from another sample: no sample keeps its own."""
    site = _site(subject, "blocks.0/mlp", "branch")
    [found] = _run(subject, [Target(site=site, units=(0,))], replacement="resample", seed=1)
    matches = []
    for shift in range(1, 4):
        edited = copy.deepcopy(model)
        edited.blocks[0].mlp.register_forward_hook(lambda m, a, out, s=shift: out.roll(s, 0))
        with torch.no_grad():
            batch = subject.calibration[0]
            clean, moved = (m(batch.inputs[0]) for m in (subject.model, edited))
        p, q = clean.log_softmax(-1), moved.log_softmax(-1)
        expected = (p.exp() * (p - q)).sum(-1)
        matches.append(torch.allclose(found[0][:4], expected, atol=1e-6))
    assert sum(matches) == 1


def test_effects_keep_the_order_of_targets_and_samples(subject: Subject) -> None:
    late = Target(site=_site(subject, "blocks.1/attention", "head"), units=(0,))
    early = Target(site=_site(subject, "blocks.0/attention", "head"), units=(1,))
    seen: list[float] = []
    both = _run(subject, [late, early], progress=seen.append)
    assert torch.equal(both[0][0], _run(subject, [late])[0][0])
    assert torch.equal(both[1][0], _run(subject, [early])[0][0])
    assert both[0][0].shape == (8,)
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_targets_of_several_layers_go_at_once(model: Transformer, subject: Subject) -> None:
    heads = Target(site=_site(subject, "blocks.0/attention", "head"), units=(0, 3))
    neurons = Target(site=_site(subject, "blocks.1/mlp", "neuron"), units=(2, 5, 11))
    edited = copy.deepcopy(model)
    size = WIDTH // HEADS
    with torch.no_grad():
        for head in heads.units:
            place = slice(head * size, (head + 1) * size)
            edited.blocks[0].attention.output.weight[:, place] = 0
        edited.blocks[1].mlp.down.weight[:, list(neurons.units)] = 0
    engine = engine_for(subject)
    means = collect_means(engine, [heads.site, neurons.site], subject.calibration)
    found = ablate_together(
        engine, subject.objective, subject.calibration, [heads, neurons], means=means,
        replacement="zero",
    )  # fmt: skip
    expected = []
    for batch in subject.calibration:
        with torch.no_grad():
            clean, moved = (m(batch.inputs[0]).log_softmax(-1) for m in (subject.model, edited))
        expected.append((clean.exp() * (clean - moved)).sum(-1))
    assert torch.allclose(found, torch.cat(expected), atol=1e-6)
    assert float(found.min()) > 1e-5


def test_one_target_alone_is_what_ablate_says(subject: Subject) -> None:
    target = Target(site=_site(subject, "blocks.1/attention", "head"), units=(1,))
    engine = engine_for(subject)
    means = collect_means(engine, [target.site], subject.calibration)
    for how in ("mean", "resample"):
        given = {"means": means, "replacement": how, "seed": 2}
        [alone] = ablate(engine, subject.objective, subject.calibration, [target], **given)
        together = ablate_together(
            engine, subject.objective, subject.calibration, [target], **given
        )
        assert torch.equal(together, alone.divergence)


@pytest.fixture(scope="module")
def deep() -> tuple[Transformer, Subject]:
    torch.manual_seed(4)
    model = Transformer(16, 16, 16, 16).eval()
    objective = Objective(name="fidelity", output="values", reason="")
    return model, subject_of(model, [seeded(6, 5, WIDTH)], objective, batch_size=3)


def _moved(subject: Subject, edited: Transformer) -> list[float]:
    """Relative L2 per sample, by definition."""
    found = []
    for batch in subject.calibration:
        with torch.no_grad():
            clean, moved = (m(batch.inputs[0]).double() for m in (subject.model, edited))
        found += [float((b - a).norm() / a.norm()) for a, b in zip(clean, moved, strict=True)]
    return found


@pytest.mark.parametrize("gone", [(0,), (1, 2), (0, 2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("backwards", [False, True])
def test_several_bypassed_layers_are_not_there(
    deep: tuple[Transformer, Subject], gone: tuple[int, ...], backwards: bool
) -> None:
    """Layers in a row too, where what enters one is what the bypass of the last one left."""
    model, subject = deep
    targets = [Target(site=_site(subject, f"blocks.{n}", "layer"), units=(0,)) for n in gone]
    found = ablate_together(
        engine_for(subject), subject.objective, subject.calibration,
        targets[::-1] if backwards else targets, means={},
    )  # fmt: skip
    edited = copy.deepcopy(model)
    edited.blocks = torch.nn.ModuleList(b for i, b in enumerate(edited.blocks) if i not in gone)
    assert found.tolist() == pytest.approx(_moved(subject, edited), abs=1e-6)
    assert float(found.min()) > 1e-3


def test_layers_heads_neurons_and_branches_go_together(deep: tuple[Transformer, Subject]) -> None:
    """A mixed set, with a head inside a bypassed layer, where it cannot matter any more."""
    model, subject = deep
    heads = _site(subject, "blocks.0/attention", "head")
    inside = _site(subject, "blocks.1/attention", "head")
    targets = [
        Target(site=_site(subject, "blocks.1", "layer"), units=(0,)),
        Target(site=inside, units=(0,)),
        Target(site=heads, units=(1, 2)),
        Target(site=_site(subject, "blocks.2/mlp", "neuron"), units=(3, 7)),
        Target(site=_site(subject, "blocks.3/mlp", "branch"), units=(0,)),
    ]
    engine = engine_for(subject)
    sites = [target.site for target in targets if target.site.kind != "layer"]
    means = collect_means(engine, sites, subject.calibration)
    found = ablate_together(
        engine, subject.objective, subject.calibration, targets, means=means, replacement="zero"
    )
    edited = copy.deepcopy(model)
    size = WIDTH // HEADS
    with torch.no_grad():
        edited.blocks[0].attention.output.weight[:, size : 3 * size] = 0
        edited.blocks[2].mlp.down.weight[:, [3, 7]] = 0
        edited.blocks[3].mlp.down.weight.zero_()
        edited.blocks[3].mlp.down.bias.zero_()
    edited.blocks = torch.nn.ModuleList(b for i, b in enumerate(edited.blocks) if i != 1)
    assert found.tolist() == pytest.approx(_moved(subject, edited), abs=1e-6)


def test_through_hooks_layers_go_together_alike(deep: tuple[Transformer, Subject]) -> None:
    model, subject = deep
    engine = ModuleEngine(subject.model, ["sequence"])
    targets = [
        Target(
            site=Site(
                component=path, kind="layer", node=path, axis=None, units=1, unit_ids=(path,)
            ),
            units=(0,),
        )
        for path in ("blocks.1", "blocks.2")
    ]
    found = ablate_together(engine, subject.objective, subject.calibration, targets, means={})
    edited = copy.deepcopy(model)
    edited.blocks = torch.nn.ModuleList([model.blocks[0], model.blocks[3]])
    assert found.tolist() == pytest.approx(_moved(subject, edited), abs=1e-6)
