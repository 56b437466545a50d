"""Anatomy and cost, read off programs of every family and checked against counts by hand."""

from collections.abc import Callable
from typing import Any

import factories
import pytest
import torch
from oracles import flops
from prepared import family
from torch import Tensor, nn

from zsei.records import Component
from zsei.settings import Settings
from zsei.subject.anatomy import read_anatomy
from zsei.subject.prepare import prepare
from zsei.subject.program import export
from zsei.subject.types import Anatomy

FEW = Settings(samples=8, batch_size=4)


def ids(anatomy: Anatomy, *kinds: str) -> list[str]:
    return [c.id for c in anatomy.components if c.kind in kinds]


def by_kind(anatomy: Anatomy, kind: str) -> list[Component]:
    return [c for c in anatomy.components if c.kind == kind]


def total_flops(anatomy: Anatomy) -> int:
    """Each operation once: heads and linears inside an attention, MLP or layer are part of it."""
    whole = {c.id for c in anatomy.components if c.kind in ("attention", "mlp", "experts")}
    loose = ("linear", "conv", "recurrent")
    return sum(
        c.flops
        for c in anatomy.components
        if c.id in whole or (c.kind in loose and c.parent not in whole)
    )


FLOPS: dict[str, Callable[[Any], int]] = {
    "bert": lambda c: flops.bert(c, factories.LENGTH),
    "gpt2": lambda c: flops.gpt2(c, factories.LENGTH),
    "llama": lambda c: flops.llama(c, factories.LENGTH),
    "mixtral": lambda c: flops.mixtral(c, factories.LENGTH),
    "t5": lambda c: flops.t5(c, factories.LENGTH),
    "vit": flops.vit,
    "resnet": lambda c: flops.resnet(c, 32),
    "patchtst": flops.patchtst,
    "mlp": lambda c: flops.mlp([8, 24, 24, 3]),
    "lstm": lambda c: flops.lstm(factories.LENGTH, 16, 24, 2, 3),
    "encoder": lambda c: flops.encoder(10, factories.WIDTH, 64, 2, 4),
}


@pytest.mark.parametrize("name", FLOPS)
def test_operations_equal_the_count_by_hand(name: str) -> None:
    found = family(name)
    expected = FLOPS[name](getattr(found.model, "config", None))
    assert total_flops(found.anatomy) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", factories.FAMILIES)
def test_program_equals_the_model_to_the_bit(name: str) -> None:
    found = family(name)
    assert found.program is not None
    assert found.notes == ()


@pytest.mark.parametrize("name", factories.FAMILIES)
def test_anatomy_is_consistent(name: str) -> None:
    found = family(name)
    anatomy, program = found.anatomy, found.program
    assert program is not None
    names = {node.name for node in program.graph_module.graph.nodes}
    known = [c.id for c in anatomy.components]
    assert len(known) == len(set(known)), "ids are unique"
    assert {c.parent for c in anatomy.components} <= {None, *known}, "parents exist"
    paths = dict(found.model.named_modules())
    for component in anatomy.components:
        assert set(anatomy.nodes[component.id]) <= names
        assert anatomy.outputs[component.id] in names
        assert component.path in paths, component
        assert component.width > 0
    for site in anatomy.sites:
        assert site.component in known
        assert site.node in names
        assert len(site.unit_ids) in (1, site.units)
        if site.axis is not None:
            value = program.node(site.node).meta["val"]
            assert value.shape[site.axis] == site.units * site.unit_size, site


@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "llama", "mixtral", "patchtst", "mlp", "lstm", "encoder"]
)
def test_every_parameter_that_runs_belongs_to_a_component(name: str) -> None:
    found = family(name)
    whole = {"attention", "mlp", "experts", "head", "layer"}
    leaves = [c for c in found.anatomy.components if c.kind not in whole]
    leaves += [c for c in by_kind(found.anatomy, "experts")]
    unread = {"bert": "pooler", "patchtst": "position_enc"}.get(name, "none")
    parameters = found.model.named_parameters(remove_duplicate=False)
    expected = sum(p.numel() for name, p in parameters if unread not in name)
    assert sum(c.parameters for c in leaves) == expected


def test_components_of_bert() -> None:
    anatomy = family("bert").anatomy
    layer = "encoder.layer.1"
    assert {c.id: c.parent for c in anatomy.components if c.layer == 1} == {
        layer: None,
        f"{layer}/attention": layer,
        **{f"{layer}/head.{h}": f"{layer}/attention" for h in range(4)},
        f"{layer}.attention.self.query": f"{layer}/attention",
        f"{layer}.attention.self.key": f"{layer}/attention",
        f"{layer}.attention.self.value": f"{layer}/attention",
        f"{layer}.attention.output.dense": f"{layer}/attention",
        f"{layer}/residual": layer,
        f"{layer}.attention.output.LayerNorm": layer,
        f"{layer}/mlp": layer,
        f"{layer}.intermediate.dense": f"{layer}/mlp",
        f"{layer}.output.dense": f"{layer}/mlp",
        f"{layer}/residual.2": layer,
        f"{layer}.output.LayerNorm": layer,
    }


def test_components_of_gpt2() -> None:
    anatomy = family("gpt2").anatomy
    assert ids(anatomy, "embedding") == ["transformer.wte", "transformer.wpe"]
    assert ids(anatomy, "layer") == ["transformer.h.0", "transformer.h.1"]
    assert ids(anatomy, "attention") == ["transformer.h.0/attention", "transformer.h.1/attention"]
    assert ids(anatomy, "mlp") == ["transformer.h.0/mlp", "transformer.h.1/mlp"]
    assert ids(anatomy, "head") == [f"transformer.h.{n}/head.{h}" for n in (0, 1) for h in range(4)]
    assert "lm_head" in ids(anatomy, "linear")


def test_components_of_llama_and_its_shared_keys() -> None:
    anatomy = family("llama").anatomy
    assert ids(anatomy, "layer") == ["model.layers.0", "model.layers.1"]
    assert ids(anatomy, "head") == [f"model.layers.{n}/head.{h}" for n in (0, 1) for h in range(4)]
    assert anatomy.component("model.layers.0.self_attn.k_proj").width == 16
    assert anatomy.component("model.layers.0.self_attn.q_proj").width == 32
    mlp = anatomy.component("model.layers.1/mlp")
    assert (mlp.units, mlp.parameters) == (48, 3 * 32 * 48)
    assert len(by_kind(anatomy, "norm")) == 5


def test_components_of_mixtral() -> None:
    anatomy = family("mixtral").anatomy
    assert ids(anatomy, "experts") == ["model.layers.0/experts", "model.layers.1/experts"]
    assert all(c.units == 4 for c in by_kind(anatomy, "experts"))
    assert ids(anatomy, "mlp") == []


def test_components_of_t5() -> None:
    anatomy = family("t5").anatomy
    assert ids(anatomy, "layer") == [
        "encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1",
    ]  # fmt: skip
    assert ids(anatomy, "attention") == [
        "encoder.block.0/attention",
        "encoder.block.1/attention",
        "decoder.block.0.layer.0.SelfAttention/attention",
        "decoder.block.0.layer.1.EncDecAttention/attention",
        "decoder.block.1.layer.0.SelfAttention/attention",
        "decoder.block.1.layer.1.EncDecAttention/attention",
    ]
    assert len(by_kind(anatomy, "residual")) == 2 * 2 + 2 * 3
    assert len(by_kind(anatomy, "mlp")) == 4


def test_components_of_vit() -> None:
    anatomy = family("vit").anatomy
    assert ids(anatomy, "conv") == ["vit.embeddings.patch_embeddings.projection"]
    assert ids(anatomy, "layer") == ["vit.layers.0", "vit.layers.1"]
    assert len(ids(anatomy, "head")) == 8
    assert anatomy.component("classifier").units == 5


def test_components_of_resnet() -> None:
    anatomy = family("resnet").anatomy
    stages = [f"resnet.encoder.stages.{s}.layers.{b}" for s in (0, 1) for b in (0, 1)]
    assert ids(anatomy, "layer") == stages
    assert ids(anatomy, "residual") == [f"{stage}/residual" for stage in stages]
    assert len(ids(anatomy, "conv")) == 1 + 8 + 2
    channels = [s.component for s in anatomy.sites if s.kind == "channel"]
    assert channels == [
        "resnet.embedder.embedder.convolution",
        *(f"{stage}.layer.0.convolution" for stage in stages),
    ]


def test_widths_lie_on_the_channel_axis() -> None:
    resnet, patchtst = family("resnet").anatomy, family("patchtst").anatomy
    assert resnet.component("resnet.encoder.stages.1.layers.1/residual").width == 32
    assert resnet.component("resnet.encoder.stages.1.layers.1").width == 32
    assert resnet.component("input.pixel_values").width == 3
    norm = "model.encoder.layers.0.norm_sublayer1.batchnorm"
    assert patchtst.component(norm).width == factories.WIDTH


def test_attention_written_out_has_the_same_heads() -> None:
    fused = family("bert").anatomy
    model, data = factories.tiny_bert(attn_implementation="eager")
    written = prepare(model, data, settings=FEW)
    assert written.program is not None
    calls = " ".join(str(n.target) for n in written.program.graph_module.graph.nodes)
    assert "scaled_dot_product" not in calls
    assert ids(written.anatomy, "head", "attention") == ids(fused, "head", "attention")
    flops_of = [c.flops for c in by_kind(written.anatomy, "attention")]
    assert flops_of == [c.flops for c in by_kind(fused, "attention")]


def test_attention_written_out_with_grouped_queries() -> None:
    model, data = factories.tiny_llama(attn_implementation="eager")
    written = prepare(model, data, settings=FEW).anatomy
    assert ids(written, "head") == ids(family("llama").anatomy, "head")


class Twice(nn.Module):
    """One block called twice, between two linears of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.shared(x)
        return self.last(x + self.shared(x))


def test_a_module_called_twice_is_two_calls() -> None:
    anatomy = read_anatomy(export(Twice().eval(), ["x"], [torch.randn(4, 8)]))
    assert ids(anatomy, "linear") == [
        "shared.0#1",
        "shared.2#1",
        "shared.0#2",
        "shared.2#2",
        "last",
    ]
    assert len(ids(anatomy, "residual")) == 2


class Additions(nn.Module):
    """Adds that are no residual joins: a bias, a rotation, an activation written out, positions."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.outer = nn.Linear(8, 8)
        self.shift = nn.Parameter(torch.randn(8))
        self.positions = nn.Embedding(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions(torch.arange(5))
        rotated = x * 0.5 + torch.cat([-x[..., 4:], x[..., :4]], -1) * 0.5
        y = self.inner(rotated) + self.shift
        y = 0.5 * y * (1 + torch.tanh(0.797 * (y + 0.0447 * y.pow(3))))
        return self.outer(y)


def test_other_additions_are_no_residuals() -> None:
    anatomy = read_anatomy(export(Additions().eval(), ["x"], [torch.randn(4, 5, 8)]))
    assert ids(anatomy, "residual") == []


@pytest.mark.parametrize(("name", "count"), [("gpt2", 4), ("llama", 4), ("bert", 4), ("vit", 4)])
def test_each_block_has_two_residual_joins(name: str, count: int) -> None:
    anatomy = family(name).anatomy
    assert len(by_kind(anatomy, "residual")) == count
    assert all(c.layer is not None for c in by_kind(anatomy, "residual"))


def test_minilm() -> None:
    anatomy = prepare(settings=FEW).anatomy
    assert len(by_kind(anatomy, "head")) == 72
    assert ids(anatomy, "layer") == [f"encoder.layer.{n}" for n in range(6)]
    assert len(by_kind(anatomy, "residual")) == 12
    assert anatomy.component("encoder.layer.3/head.7").index == 7
