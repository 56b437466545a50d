"""The subject of a past analysis, once more: same model, same shapes, without its data."""

import torch
from torch import Tensor, nn

from zsei.errors import ModelError
from zsei.records import AnalysisRecord
from zsei.settings import Settings
from zsei.subject.anatomy import read_anatomy
from zsei.subject.load import load_model
from zsei.subject.objective import Objective
from zsei.subject.program import export, frozen_twin, model_hash
from zsei.subject.types import Batch, Subject


def subject_again(
    record: AnalysisRecord, model: str | nn.Module | None, settings: Settings
) -> Subject:
    """A subject good for surgery: the record's model with made-up inputs of the record's shapes.

    Args:
        record: The analysis.
        model: The model; None loads it by the name in the record.
        settings: How models may be loaded.

    Raises:
        ModelError: When it is not the model that was analysed (its hash differs).
    """
    if model is None and record.provenance.model == record.provenance.model_class:
        raise ModelError(
            f"The model of {record.id} was a Python object ({record.provenance.model_class}); "
            f"pass it: zsei.apply(record, model)."
        )
    loaded = load_model(record.provenance.model if model is None else model, settings)
    found = model_hash(loaded.model)
    if found != record.provenance.model_hash:
        raise ModelError(
            f"Proposals hold for the very model that was analysed; {record.id} saw "
            f"{record.provenance.model_hash[:12]} and this one is {found[:12]}. Analyse this model "
            f"first, or pass the one of the record."
        )
    twin = frozen_twin(loaded.model)
    shapes = record.conditions.input_shape
    inputs = tuple(
        _made_up(shape, record.conditions.input_dtype.get(name, "float32"), settings.seed)
        for name, shape in shapes.items()
    )
    program = export(twin, tuple(shapes), inputs)
    return Subject(
        source=loaded.source,
        model=twin,
        model_hash=found,
        program=program,
        input_names=tuple(shapes),
        objective=Objective(name="fidelity", output="values", reason="surgery judges nothing"),
        calibration=(Batch(inputs=inputs),),
        held_out=(),
        anatomy=read_anatomy(program, loaded.family),
        tokenizer=loaded.tokenizer,
    )


def _made_up(shape: tuple[int, ...], dtype: str, seed: int) -> Tensor:
    """Ones for whole numbers (a valid token, a mask that hides nothing), else normal noise."""
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return torch.ones(shape, dtype=kind)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(kind)


def means_of(record: AnalysisRecord, subject: Subject) -> dict[tuple[str, str], Tensor]:
    """The record's mean values, broadcastable to the sites of the subject."""
    assert subject.program is not None
    nodes = {node.name: node for node in subject.program.graph_module.graph.nodes}
    found = {}
    for site in subject.anatomy.sites:
        values = record.means.get(f"{site.component}|{site.kind}")
        if values is None or site.axis is None:
            continue
        sizes = [1] * nodes[site.node].meta["val"].ndim
        sizes[site.axis] = site.units * site.unit_size
        if site.kind == "head":
            sizes[-1] = len(values) // sizes[site.axis]
        found[site.component, site.kind] = torch.tensor(values).reshape(sizes)
    return found
