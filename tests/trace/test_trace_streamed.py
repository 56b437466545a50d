"""A streamed program gives the numbers of one that is held, with a tape over one layer."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.factories import tiny_bert, tiny_llama, tiny_mixtral, tiny_t5
from zsei.records import Measurement
from zsei.settings import Settings
from zsei.subject import streamed as streamed_subject
from zsei.subject.prepare import prepare
from zsei.subject.types import Batch, Replacement, Subject
from zsei.trace.attention_evidence import _samples_at_once
from zsei.trace.engine import engine_for
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.run import trace
from zsei.trace.streamed import StreamedEngine, clock_repeats, rows_within
from zsei.trace.stretches import Stretch, stretches
from zsei.trace.summary import Trace
from zsei.trace.taps import find_taps

MAKERS = {"bert": tiny_bert, "llama": tiny_llama, "mixtral": tiny_mixtral, "t5": tiny_t5}


def streamed(folder: Path, maker: Any, dtype: torch.dtype = torch.float32) -> Subject:
    """A model saved to a folder and streamed from it."""
    model, data = maker()
    model.to(dtype).save_pretrained(folder / "model")
    settings = Settings(stream="always", home=folder / "home", batch_size=4)
    return prepare(folder / "model", data, settings=settings)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """Streamed models by family, each made once."""
    known: dict[str, Subject] = {}

    def subject(name: str) -> Subject:
        if name not in known:
            known[name] = streamed(tmp_path_factory.mktemp(name), MAKERS[name])
        return known[name]

    return subject


def engines(subject: Subject) -> tuple[ProgramEngine, StreamedEngine]:
    """One that holds all weights at once, and the one a streamed model gets."""
    mapped = engine_for(subject)
    assert subject.program is not None
    assert isinstance(mapped, StreamedEngine)
    return ProgramEngine(subject.program), mapped


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_streamed_trace_says_what_a_whole_one_says(
    subjects: Callable[[str], Subject], name: str
) -> None:
    subject = subjects(name)
    held, mapped = engines(subject)
    assert len(mapped.spans) > 2
    for batch in subject.held_out:
        assert torch.equal(held.run(batch), mapped.run(batch))
    _same(*(trace(subject, Settings(), engine=engine) for engine in (held, mapped)))


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_weights_of_half_precision_give_the_numbers_of_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    mapped = streamed(tmp_path, tiny_llama, dtype)
    _, data = tiny_llama()
    settings = Settings(stream="never", home=tmp_path / "home", batch_size=4)
    held = prepare(tmp_path / "model", data, settings=settings)
    assert type(engine_for(held)) is ProgramEngine
    batch = held.calibration[0]
    assert torch.equal(engine_for(held).run(batch), engine_for(mapped).run(batch))
    _same(*(trace(subject, Settings()) for subject in (held, mapped)))


def _same(held: Trace, mapped: Trace) -> None:
    """Equal but for the order in which gradients are added (1e-5 of the value) and the clock."""
    assert list(held.measurements) == list(mapped.measurements)
    for component, named in held.measurements.items():
        assert list(named) == list(mapped.measurements[component]), component
        for name, first in named.items():
            _close(first, mapped.measurements[component][name])
    assert mapped.attributions == pytest.approx(held.attributions, rel=1e-4, abs=1e-9)
    assert mapped.shares == pytest.approx(held.shares, rel=1e-5)
    assert mapped.output_difference == held.output_difference == 0.0


def _close(first: Measurement, second: Measurement) -> None:
    assert (first.unit, first.n, first.state) == (second.unit, second.n, second.state)
    # A spread that is rounding only is compared with the value it spreads around.
    rounding = max(1e-9, 1e-6 * abs(first.value or 0.0))
    for a, b, relative, least in (
        (first.value, second.value, 1e-5, 1e-9), (first.std, second.std, 1e-4, rounding),
    ):  # fmt: skip
        assert (a is None) == (b is None)
        if a is not None:
            assert b == pytest.approx(a, rel=relative, abs=least), first.name


def test_ablations_run_beside_each_other_are_those_run_alone(
    subjects: Callable[[str], Subject],
) -> None:
    subject = subjects("llama")
    held, mapped = engines(subject)
    batch = subject.calibration[0]
    means: dict[str, Tensor] = {}
    watch = {site.node: _mean(site.node, means) for site in subject.anatomy.sites}
    held.run(batch, watch)
    replacements = [
        Replacement(site=site, units=(0,), value=None if site.kind == "layer" else means[site.node])
        for site in subject.anatomy.sites
    ]
    alone = dict(held.sweep(batch, replacements))
    beside = dict(mapped.sweep(batch, replacements))
    assert set(alone) == set(beside) == set(range(len(replacements)))
    assert all(torch.equal(alone[i], beside[i]) for i in alone)
    some = [r for r in replacements if r.site.kind in ("head", "layer")]
    assert torch.equal(held.together(batch, some), mapped.together(batch, some))


def _mean(node: str, means: dict[str, Tensor]) -> Any:
    def see(value: Tensor) -> None:
        means[node] = value.mean(0, keepdim=True)

    return see


def test_gradients_of_every_value_are_those_of_one_tape(
    subjects: Callable[[str], Subject],
) -> None:
    subject = subjects("t5")
    held, mapped = engines(subject)
    batch = subject.calibration[0]
    wanted = list(find_taps(subject, held).values)
    whole = _gradients(held, batch, wanted)
    parts = _gradients(mapped, batch, wanted)
    assert set(whole) == set(parts)
    for key, gradient in whole.items():
        rounding = 1e-5 * float(gradient.abs().max())
        assert torch.allclose(gradient, parts[key], rtol=1e-4, atol=rounding), key


def _gradients(engine: ProgramEngine, batch: Batch, wanted: list[str]) -> dict[Any, Tensor]:
    def scalars(output: Tensor) -> list[Tensor]:
        return [output.square().mean(), output.sin().sum()]

    found = {}
    made: list[str] = []
    for stretch in stretches(engine, batch, wanted, (), scalars):
        made += stretch.made
        for number, gradients in enumerate(stretch.gradients):
            found |= {(number, name): g for name, g in gradients.items()}
    assert len(made) == len(set(made))
    return found


class _Kept:
    """What autograd saves for the way back, while it is saved."""

    def __init__(self) -> None:
        self.bytes = self.most = 0

    def pack(self, value: Tensor) -> "_Box":
        box = _Box(value)
        if value.requires_grad or value.grad_fn is not None:
            size = value.numel() * value.element_size()
            self.bytes += size
            self.most = max(self.most, self.bytes)
            weakref.finalize(box, self._less, size)
        return box

    def _less(self, size: int) -> None:
        self.bytes -= size


class _Box:
    def __init__(self, value: Tensor) -> None:
        self.value = value


def test_the_tape_holds_one_layer_however_many_there_are(tmp_path: Path):
    most: dict[tuple[str, int], int] = {}
    for layers in (2, 5):
        folder = tmp_path / str(layers)
        subject = streamed(folder, lambda n=layers: tiny_llama(num_hidden_layers=n))
        for name, engine in zip(("held", "mapped"), engines(subject), strict=True):
            kept = _Kept()
            wanted = list(find_taps(subject, engine).values)
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda box: box.value):
                for stretch in stretches(
                    engine, subject.calibration[0], wanted, (), lambda out: [out.square().sum()]
                ):
                    _drain(stretch)
            most[name, layers] = kept.most
    assert most["held", 5] > 2 * most["held", 2]
    assert most["mapped", 5] < 1.1 * most["mapped", 2]


def _drain(stretch: Stretch) -> None:
    for _ in stretch.gradients:
        pass


def test_rows_are_halved_until_they_fit(subjects: Callable[[str], Subject]) -> None:
    subject = subjects("llama")
    held, mapped = engines(subject)
    taps = find_taps(subject, mapped)
    small = engine_for(subject)
    assert isinstance(small, StreamedEngine)
    small.mapped = replace(mapped.mapped, memory=0.2)
    assert rows_within(taps, held, 10**9) == (10**9, ())
    assert rows_within(taps, small, 512) == (512, ())
    rows, notes = rows_within(taps, small, 10**9)
    assert 32 <= rows < 10**9
    assert f"{rows} rows of every value were kept instead of" in notes[0]


def test_a_run_of_a_streamed_model_is_timed_once(subjects: Callable[[str], Subject]) -> None:
    subject = subjects("llama")
    held, mapped = engines(subject)
    assert (clock_repeats(held), clock_repeats(mapped)) == (3, 1)
    batch = subject.calibration[0]
    assert set(held.seconds(batch, 1)) == set(mapped.seconds(batch, 1))


@pytest.mark.long
def test_a_streamed_analysis_goes_to_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from zsei.pipeline import analyze

    model, data = tiny_llama()
    whole: Any = model.to(torch.bfloat16)
    whole.save_pretrained(tmp_path / "model")

    def record(stream: Literal["always", "never"]) -> Any:
        settings = Settings(
            stream=stream, home=tmp_path / stream, samples=24, batch_size=4, ablation_sample=4,
            truth_samples=4, max_proposals=1, rounds=1,
        )  # fmt: skip
        return analyze(str(tmp_path / "model"), data, settings=settings)

    held, mapped = record("never"), record("always")
    assert mapped.verdicts
    assert [v.outcome for v in mapped.verdicts] == [v.outcome for v in held.verdicts]
    assert mapped.provenance.model_hash == held.provenance.model_hash
    assert [f.code for f in mapped.findings] == [f.code for f in held.findings]
    assert any("streamed from a mapped file" in note for note in mapped.validation.notes)
    assert not any("streamed" in note for note in held.validation.notes)
    monkeypatch.setattr(streamed_subject, "COPIES", 10**9)
    large = record("always")
    assert {v.outcome for v in large.verdicts} == {"inconclusive"}
    assert "available memory does not hold" in large.verdicts[0].reason


def test_long_inputs_hold_the_attention_of_fewer_samples_at_a_time() -> None:
    def held(length: int) -> int:
        value = torch.empty(8, 12, length, 64, device="meta")
        return _samples_at_once(value, value)

    assert [held(length) for length in (64, 1024, 2048, 8192)] == [4, 4, 1, 1]
