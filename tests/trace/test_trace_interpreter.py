"""The interpreter against torch's own, and ablation from the middle against whole runs."""

import pytest
import torch
from factories import FAMILIES
from oracles.interpreter import all_values, run_with_edits
from prepared import family
from torch import Tensor

from zsei.subject.program import MainOutput
from zsei.subject.types import Replacement, Site, Subject
from zsei.trace.engine import replaced
from zsei.trace.interpreter import ProgramEngine


def engine_of(subject: Subject) -> ProgramEngine:
    assert subject.program is not None
    return ProgramEngine(subject.program)


@pytest.fixture
def slow_path() -> object:
    """Torch's fused encoder layer off: it computes the same in another order."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.usefixtures("slow_path")
def test_values_and_output_are_the_models_to_the_bit(name: str) -> None:
    subject = family(name)
    batch = subject.calibration[0]
    expected = all_values(subject.program, batch.inputs)
    seen: dict[str, Tensor] = {}

    def keeping(node: str) -> object:
        return lambda value: seen.__setitem__(node, value)

    calls = [step.name for step in engine_of(subject).steps]
    with torch.no_grad():
        output = engine_of(subject).run(batch, {node: keeping(node) for node in calls})
        plain = MainOutput(subject.model, subject.input_names).eval()(*batch.inputs)
    assert torch.equal(output, plain)
    assert set(seen) == set(calls)
    for node, value in seen.items():
        if isinstance(value, Tensor):
            # A call may leave memory it hands out uninitialised, to be written by the next one.
            written = "empty" not in node
            assert not written or torch.equal(value, expected[node]), node


def _replacements(subject: Subject, values: dict[str, Tensor]) -> list[Replacement]:
    """The last unit of every site by its mean and by zero; every layer by its input."""
    found = []
    for site in subject.anatomy.sites:
        value = values[site.node]
        if site.kind == "layer":
            found.append(Replacement(site=site, units=(0,), value=None))
            continue
        for substitute in (value.mean(0, keepdim=True), torch.zeros_like(value)):
            found.append(Replacement(site=site, units=(site.units - 1,), value=substitute))
    return found


def _edited(replacement: Replacement, value: Tensor, entered: Tensor | None) -> Tensor:
    """The value with one unit exchanged, entry by entry along the axis."""
    site, substitute = replacement.site, replacement.value
    if substitute is None:
        assert entered is not None
        return entered
    if site.axis is None:
        return substitute.expand_as(value)
    parts = []
    for place, part in enumerate(value.unbind(site.axis)):
        inside = place // site.unit_size in replacement.units
        other = substitute.expand_as(value).select(site.axis, place)
        parts.append(other if inside else part)
    return torch.stack(parts, site.axis)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_ablation_from_the_middle_equals_a_whole_edited_run(name: str) -> None:
    subject = family(name)
    batch = subject.calibration[0]
    values = all_values(subject.program, batch.inputs)
    replacements = _replacements(subject, values)
    engine = engine_of(subject)
    swept = dict(engine.sweep(batch, replacements))
    assert sorted(swept) == list(range(len(replacements)))
    for index, replacement in enumerate(replacements):
        site = replacement.site
        entered = values.get(site.source or "")
        edited = _edited(replacement, values[site.node], entered)
        naive = run_with_edits(subject.program, batch.inputs, {site.node: lambda _, e=edited: e})
        assert torch.allclose(swept[index], naive, rtol=0, atol=1e-6), site
        with torch.no_grad():
            watched = engine.run(batch, {site.node: lambda _, e=edited: e})
        assert torch.equal(swept[index], watched), site


def test_ablating_something_changes_the_output() -> None:
    """The comparison above would hold for edits that do nothing."""
    subject = family("bert")
    batch = subject.calibration[0]
    values = all_values(subject.program, batch.inputs)
    replacements = [r for r in _replacements(subject, values) if r.site.kind != "neuron"]
    clean = engine_of(subject).run(batch)
    for index, output in engine_of(subject).sweep(batch, replacements):
        assert not torch.equal(output, clean), replacements[index].site


def test_units_of_several_entries_are_replaced_whole() -> None:
    site = Site(component="c", kind="channel", node="n", axis=1, units=3, unit_size=2)
    value = torch.arange(12.0).view(2, 6)
    edit = Replacement(site=site, units=(0, 2), value=torch.full((1, 6), -1.0))
    expected = torch.tensor([[-1.0, -1, 2, 3, -1, -1], [-1, -1, 8, 9, -1, -1]])
    assert torch.equal(replaced(value, edit, None), expected)
    assert torch.equal(value, torch.arange(12.0).view(2, 6))


def test_a_layer_cannot_be_bypassed_without_its_input() -> None:
    site = Site(component="layer", kind="layer", node="n", axis=None, units=1)
    with pytest.raises(ValueError, match="layer: an identity needs"):
        replaced(torch.ones(2, 2), Replacement(site=site, units=(0,), value=None), None)


def test_values_are_dropped_when_nothing_reads_them_any_more() -> None:
    engine = engine_of(family("bert"))
    dropped = [name for step in engine.steps for name in step.drops]
    assert len(dropped) == len(set(dropped))
    everything = {*engine.inputs, *engine.constants, *(step.name for step in engine.steps)}
    read = {n.name for s in engine.steps for n in _nodes(s.args)}
    assert set(dropped) >= read & everything - {engine.output}


def _nodes(arguments: object) -> list[torch.fx.Node]:
    if isinstance(arguments, torch.fx.Node):
        return [arguments]
    if isinstance(arguments, list | tuple):
        return [node for part in arguments for node in _nodes(part)]
    return []


def test_every_call_is_timed() -> None:
    engine = engine_of(family("mlp"))
    seconds = engine.seconds(family("mlp").calibration[0], repeats=3)
    assert set(seconds) == {step.name for step in engine.steps}
    assert all(value > 0 for value in seconds.values())
