"""What a model reads, told from shapes and values: texts, images or series; and a few samples of
it for trials.

The exported program runs one batch size only. A trial on a few samples, or on shorter ones, runs
the frozen twin instead, which costs in proportion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor

from zsei.records import Measurement
from zsei.subject.program import MainOutput
from zsei.subject.reading import shape
from zsei.subject.types import Batch, Subject

SMALLEST_IMAGE = 4
"""Pixels along a side below which a 4-d input is no image."""
ALIKE_NEIGHBOURS = 0.3
"""Correlation of neighbouring columns from which they count as steps of a series."""


def text_input(subject: Subject) -> int | None:
    """Index of the one input of token ids [n, t] that an embedding looks up; None without."""
    if not any(c.kind == "embedding" for c in subject.anatomy.components):
        return None
    found = [
        index
        for index, values in enumerate(subject.calibration[0].inputs)
        # Masks and segment numbers are 0 or 1.
        if _whole_numbers(values) and values.ndim == 2 and int(values.max()) > 1
    ]
    return found[0] if len(found) == 1 else None


def _whole_numbers(values: Tensor) -> bool:
    return not values.is_floating_point() and values.dtype != torch.bool


def image_input(subject: Subject) -> int | None:
    """Index of the one input of images [n, c, y, x]; None without."""
    found = [
        index
        for index, values in enumerate(subject.calibration[0].inputs)
        if values.is_floating_point()
        and values.ndim == 4
        and min(values.shape[2:]) >= SMALLEST_IMAGE
    ]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Series:
    """How a forecaster's input and output are laid out."""

    index: int
    """Number of the input among the batch's."""
    lags: int
    horizon: int
    variates: int
    last_axis_is_time: bool
    """Inputs are [n, v, t] and outputs [n, v, h] rather than [n, t, v] and [n, h, v]."""

    def by_time(self, values: Tensor) -> Tensor:
        """Inputs as [n, t, v], or outputs as [n, h, v]."""
        if values.ndim == 2:
            return values[:, :, None]
        return values.transpose(1, 2) if self.last_axis_is_time else values

    def as_given(self, values: Tensor, like: Tensor) -> Tensor:
        """The way back from `by_time`."""
        if like.ndim == 2:
            return values[:, :, 0]
        return values.transpose(1, 2) if self.last_axis_is_time else values


def series_input(subject: Subject) -> Series | None:
    """The layout of a forecaster: real values over time in, the same variates further on out.

    [n, t, v] -> [n, h, v], [n, v, t] -> [n, v, h], or [n, t] -> [n, h] where neighbouring columns
    are alike, as steps in time are and columns of a table are not.
    """
    if subject.objective.output != "values":
        return None
    floats = [i for i, x in enumerate(subject.calibration[0].inputs) if x.is_floating_point()]
    if len(floats) != 1:
        return None
    given = subject.calibration[0].inputs[floats[0]]
    out = output_shape(subject)
    if given.ndim != len(out) or given.ndim not in (2, 3):
        return None
    if given.ndim == 2:
        if out[1] < 2 or given.shape[1] < 4 or _neighbours(given) < ALIKE_NEIGHBOURS:
            return None
        return Series(
            index=floats[0], lags=given.shape[1], horizon=out[1], variates=1,
            last_axis_is_time=False,
        )  # fmt: skip
    last = given.shape[2] != out[2]
    time, variate = (2, 1) if last else (1, 2)
    if given.shape[variate] != out[variate] or given.shape[time] < 4:
        return None
    return Series(
        index=floats[0], lags=given.shape[time], horizon=out[time], variates=out[variate],
        last_axis_is_time=last,
    )  # fmt: skip


def _neighbours(columns: Tensor) -> float:
    """Mean correlation over samples of each column [n, t] with the next."""
    centred = columns - columns.mean(0)
    scale = centred.norm(dim=0).clamp_min(1e-12)
    unit = centred / scale
    return float((unit[:, 1:] * unit[:, :-1]).sum(0).mean())


def output_shape(subject: Subject) -> tuple[int, ...]:
    """Shape of the main output for one calibration batch."""
    if subject.program is not None:
        nodes = subject.program.graph_module.graph.nodes
        last = next(node for node in reversed(nodes) if node.op == "output")
        return shape(last.all_input_nodes[0])
    return tuple(run_twin(subject, subject.calibration[0].inputs).shape)


def run_twin(subject: Subject, inputs: Sequence[Tensor]) -> Tensor:
    """The main output of the frozen twin, which takes any number of samples."""
    with torch.no_grad():
        return MainOutput(subject.model, subject.input_names).eval()(*inputs)


def few_samples(subject: Subject, count: int) -> Batch:
    """At most `count` calibration samples as one batch, evenly spread over all of them."""
    places = [(b, i) for b, batch in enumerate(subject.calibration) for i in range(batch.size)]
    if len(places) > count:
        steps = torch.linspace(0, len(places) - 1, count).round().long().tolist()
        places = [places[step] for step in steps]
    batches = subject.calibration

    def taken(tensors: Sequence[Tensor | None]) -> Tensor | None:
        rows = [tensors[b] for b, _ in places]
        if any(row is None for row in rows):
            return None
        return torch.stack([t[i] for t, (_, i) in zip(rows, places, strict=True) if t is not None])

    inputs = [taken([batch.inputs[k] for batch in batches]) for k in range(len(batches[0].inputs))]
    return Batch(
        inputs=tuple(x for x in inputs if x is not None),
        labels=taken([batch.labels for batch in batches]),
        mask=taken([batch.mask for batch in batches]),
        groups=tuple((batches[b].groups or ("all",) * batches[b].size)[i] for b, i in places),
    )


def answers_from_the_last(subject: Subject, index: int, few: Batch) -> bool:
    """Whether outputs are logits per position [n, t, v] that no later token changes.

    Measured: the last token of one sample is exchanged and all earlier outputs must stay.
    """
    out = output_shape(subject)
    ids = few.inputs[index]
    if subject.objective.output != "logits" or len(out) != 3 or out[1] != ids.shape[1]:
        return False
    pair = [values[:1].repeat(2, *[1] * (values.ndim - 1)) for values in few.inputs]
    other = ids[ids != ids[0, -1]]
    if not len(other):
        return False
    pair[index][1, -1] = other[0]
    output = run_twin(subject, pair)
    moved = (output[0, :-1] - output[1, :-1]).abs().max()
    return bool(moved <= 1e-5 * output.abs().max().clamp_min(1e-12))


def could_not_tell(name: str, unit: str, why: str, n: int = 0) -> Measurement:
    """A measurement that says why there is no number."""
    return Measurement(name=name, value=None, unit=unit, n=n, state="could not tell", note=why)


def spread(name: str, values: Tensor, unit: str, note: str = "") -> Measurement:
    """Mean and spread over samples, values [n]."""
    std = float(values.double().std()) if len(values) > 1 else None
    return Measurement(
        name=name, value=float(values.double().mean()), unit=unit, std=std, n=len(values), note=note
    )


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman correlation of two rows of numbers [m]: Pearson's of their average ranks."""
    ranks = [torch.from_numpy(rankdata(values.numpy())) for values in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])
