"""How many workers, how long and how much memory: against an oracle, by hand, and as measured."""

import math
from fractions import Fraction
from pathlib import Path

import factories
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as draw
from safetensors.torch import save_model
from torch import nn

from zsei.checkpoint.config import CheckpointConfig, EleshConfig, RunConfig
from zsei.checkpoint.contracts import LEVELS
from zsei.checkpoint.estimate import Estimate, estimate, memory_of, workers_needed
from zsei.checkpoint.job import Job
from zsei.checkpoint.probe import Probe, probe, probe_job
from zsei.checkpoint.tasks import MeasureTask, Snapshot
from zsei.checkpoint.worker import OpenWorker
from zsei.engines.engine import Limits
from zsei.engines.local import LocalEngine
from zsei.errors import UsageError
from zsei.settings import Settings
from zsei.subject.types import Batch

SMALL = Probe(
    parameters=6_000_000,
    parameter_bytes=24_000_000,
    activation_bytes=100_000_000,
    forward_seconds=1.0,
    backward_seconds=2.0,
    batches=5,
)


def fewest_by_counting(parameters: int, rate: Fraction, seconds: Fraction, levels: int) -> int:
    """Add workers until together they get through all parameters in time."""
    workers = 1
    while workers * rate * seconds * levels < parameters:
        workers += 1
    return workers


@given(
    draw.integers(1, 300),
    draw.fractions(Fraction(1), Fraction(100), max_denominator=4),
    draw.fractions(Fraction(1), Fraction(50), max_denominator=4),
    draw.integers(1, 4),
)
def test_workers_are_the_fewest_that_suffice(
    parameters: int, rate: Fraction, seconds: Fraction, levels: int
) -> None:
    """Quarters are exact as floats, so the two agree to the last parameter."""
    found = workers_needed(
        parameters=parameters, rate=float(rate), seconds=float(seconds), levels=levels
    )
    assert found == fewest_by_counting(parameters, rate, seconds, levels)


def test_workers_by_hand() -> None:
    """GPT-2 small, 124 million parameters, 3 levels, 300 s: at 100 000 a second and level one
    worker gets through 90 million, so two are needed; at 150 000 one does.
    """
    asked = {"parameters": 124_000_000, "seconds": 300.0, "levels": 3}
    assert workers_needed(rate=100_000.0, **asked) == 2
    assert workers_needed(rate=150_000.0, **asked) == 1
    assert workers_needed(rate=124_000_000 / 900, **asked) == 1  # exactly in time
    assert workers_needed(rate=1_000.0, **asked) == 138  # 137.8


@pytest.mark.parametrize("name", ["parameters", "rate", "seconds", "levels"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_what_is_not_above_zero_is_refused(name: str, value: float) -> None:
    given = {"parameters": 10, "rate": 1.0, "seconds": 1.0, "levels": 1}
    with pytest.raises(UsageError, match=rf"above 0; got {name} {value}"):
        workers_needed(**given | {name: value})  # type: ignore[arg-type]


def planned(config: CheckpointConfig | None = None, **changed: object) -> Estimate:
    asked = {"batches": 5, "backwards": 4, "groups": 2, "cores": 8}
    return estimate(SMALL, config or CheckpointConfig(), **asked | changed)  # type: ignore[arg-type]


def test_time_by_hand() -> None:
    """5 batches of 1 + 4 · 2 = 9 s are 45 s; twice that for what is read off; two groups: 180 s.
    6 million parameters on 3 levels in 180 s are 11 111 a second and level.
    """
    found = planned()
    assert found.rate == pytest.approx(6_000_000 / 540)
    assert (found.needed, found.workers) == (1, 1)
    assert found.seconds == pytest.approx(180)
    half = planned(CheckpointConfig(run=RunConfig(checkpoint_window=90)))
    assert (half.needed, half.workers) == (2, 2)
    assert half.seconds == pytest.approx(90)
    assert planned(rate=100.0).needed == math.ceil(6_000_000 / (100 * 300 * 3))


def test_workers_are_capped_and_threads_shared() -> None:
    hurry = RunConfig(checkpoint_window=18)  # ten workers would be needed

    def at(elesh: EleshConfig | None = None, **changed: object) -> tuple[int, int, int]:
        config = CheckpointConfig(elesh=elesh or EleshConfig(), run=hurry)
        found = planned(config, **changed)
        return found.needed, found.workers, found.threads

    assert at() == (10, 4, 2)  # four to a GPU, or to a machine without one
    assert at(gpus=2) == (10, 8, 1)
    assert at(cores=3) == (10, 3, 1)
    assert at(cores=64, gpus=4) == (10, 10, 1)  # 16 threads for ten
    assert at(cores=64) == (10, 4, 4)
    assert at(EleshConfig(analysis_workers_per_gpu=1), cores=64) == (10, 1, 16)
    assert at(room_bytes=3 * memory_of(SMALL)) == (10, 3, 2)
    assert at(room_bytes=10) == (10, 1, 8)


def test_memory_by_hand() -> None:
    """600 MB, three times 24 MB of parameters, twice 100 MB of activations."""
    assert memory_of(SMALL) == 872_000_000


def test_the_sentence_says_what_is_to_come() -> None:
    assert planned().text() == (
        "1 worker of 8 threads: 6.0 million parameters on 3 levels, about 11.1 thousand a second "
        "and level each, so about 3.0 min of the 5.0 min a checkpoint may take; about 0.9 GB of "
        "memory each."
    )
    tight = CheckpointConfig(run=RunConfig(checkpoint_window=18, memory_gigabytes=0.5))
    found = planned(tight, cores=2, room_bytes=600_000_000)
    assert [warning.split(":")[0][:38] for warning in found.warnings] == [
        "10 workers would be needed to hold the",
        "that is more than the 0.5 GB a worker ",
        "this machine has 0.6 GB free. Lower th",
    ]
    assert found.text().count("Warning: ") == 3
    assert "channels only" in found.text()


def test_a_probe_counts_what_autograd_keeps() -> None:
    """Two products without bias: what the first weight's gradient needs is the input, what its
    output needs is nothing but the second weight, which is not counted; and the output itself.
    """
    model = nn.Sequential(nn.Linear(10, 30, bias=False), nn.Linear(30, 5, bias=False))
    inputs = torch.randn(7, 10)
    found = probe(model, ("input",), Batch(inputs=(inputs,)), batches=3)
    assert found.parameters == 10 * 30 + 30 * 5
    assert found.parameter_bytes == 4 * found.parameters
    assert found.activation_bytes == 4 * (7 * 10 + 7 * 5)
    assert found.batches == 3
    assert min(found.forward_seconds, found.backward_seconds) >= 0


def test_a_probe_changes_nothing_of_the_model() -> None:
    model, data = factories.tiny_resnet()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = probe(model, ("pixel_values",), Batch(inputs=(data["pixel_values"],)))
    assert found.activation_bytes > 0
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_job_is_probed_with_its_own_data(home: Path) -> None:
    model, data = factories.tiny_gpt2()
    settings = Settings(batch_size=4)
    found = probe_job(Job(run="a run", model=model, data=data, settings=settings))
    whole = probe_job(Job(run="a run", model=model, data=data, settings=Settings(batch_size=16)))
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.batches > whole.batches
    assert found.activation_bytes < whole.activation_bytes


@pytest.mark.long
def test_memory_is_about_what_a_worker_takes(tmp_path: Path) -> None:
    """Within a factor of two either way, of a worker that measures all layers of a small GPT."""
    model, _ = factories.tiny_gpt2(vocab_size=4000, n_embd=256, n_layer=4, n_positions=64)
    ids = torch.randint(1, 4000, (48, 64), generator=torch.Generator().manual_seed(0))
    save_model(model, str(tmp_path / "weights.safetensors"))
    job = Job(run="a run", model=model, data={"input_ids": ids})
    found = estimate(probe_job(job), job.config, batches=2, backwards=4, groups=1, cores=2)
    task = MeasureTask(
        id="all",
        snapshot=Snapshot(epoch=1, path=tmp_path / "weights.safetensors"),
        layers=(*range(4), None),
        levels=LEVELS,
    )
    with LocalEngine(OpenWorker(job=job), workers=1, priority="normal") as engine:
        done = engine.run([task], Limits(seconds=300))[0]
    assert done.status == "done", done.why
    assert found.memory_bytes / 2 < done.peak_memory_bytes < found.memory_bytes * 2
