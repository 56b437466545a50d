"""Weight redistribution: what is left takes over the work of what was cut, by least squares.

Reader by reader in program order, the weights that lost inputs are solved anew so that on the
calibration data their outputs come as near as possible to the original's, given what the edited
model, repaired so far, feeds them. Where a reader writes into a residual stream, the target can
also make up for what the stream has drifted by then. Nothing is trained: each reader is one linear
solve from sums over the data. References: He, Zhang and Sun, "Channel pruning for accelerating very
deep neural networks", 2017; Kurtic et al., "ZipLM", 2023, for encoders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from zsei.subject.program import Program
from zsei.subject.types import Batch
from zsei.surgery.edits import ReplaceLayer
from zsei.surgery.least_squares import LeastSquares
from zsei.surgery.program_form import Plan
from zsei.surgery.readers import Reader, find_maps, find_readers
from zsei.surgery.replace_layer import map_names
from zsei.surgery.resize import keep
from zsei.surgery.rows import rows_read, rows_written
from zsei.surgery.weights import Weights, put_in_program
from zsei.trace.interpreter import ProgramEngine, Values
from zsei.trace.parallel import few_at_a_time, side_by_side
from zsei.trace.rows import real_rows

RIDGE = 0.1
"""Pull towards the weights as they were, in units of the mean variance of an input."""
MAP_RIDGE = 1e-3
"""The same for a map in a layer's place, towards the identity, which it is far from."""


def compensate(
    original: Program,
    edited: Program,
    plan: Plan,
    batches: Sequence[Batch],
    *,
    ridge: float = RIDGE,
    drift: float = 1.0,
    maps: Sequence[ReplaceLayer] = (),
) -> Weights:
    """New values for the weights that lost inputs; `edited` is one of our own copies and gets them.

    Costs one forward of the original and two of the edited program over the data; between readers
    only the values alive there are kept.

    Args:
        original: The program before the edits.
        edited: The program after them.
        plan: What led from one to the other.
        batches: Calibration data.
        ridge: See `LeastSquares.solve`.
        drift: Share of the residual stream's drift that each reader makes up for, 0 to 1.
        maps: Layers of the plan that a map replaces; their values are fitted in their turn.

    Misleads when: the rows are few against the inputs (the fit then follows noise; `ridge` holds
    it), or the data is unlike what the model will see. It can make the whole worse although every
    reader got better: keep it only when held-out quality says so.
    """
    before = ProgramEngine(original)
    after = ProgramEngine(edited)
    readers, _ = find_readers(edited, plan.group.parameters)
    readers += find_maps(edited, [map_names(edit)[0] for edit in maps])
    readers.sort(key=lambda reader: after.position[reader.node])
    states = [(before.start(batch), after.start(batch)) for batch in batches]
    found: dict[str, Tensor] = {}
    done = 0, 0
    for reader in readers:
        way = _Way(
            before=before, after=after, reader=reader, node=edited.node(reader.node),
            gone=plan.group.values.get(reader.node, {}), drift=drift, done=done,
        )  # fmt: skip
        weight = after.constants[reader.weight_node]
        prior = weight.T if reader.transposed else weight.flatten(1)
        strength = ridge
        if reader.fresh:
            strength = MAP_RIDGE
            square = prior.shape[0] == prior.shape[1]
            prior = torch.eye(len(prior)) if square else torch.zeros_like(prior)
        fit = LeastSquares(prior.shape[1], prior.shape[0])
        parts = few_at_a_time(
            lambda i, way=way: way.rows(batches[i], *states[i]), range(len(batches))
        )
        for _, (x, y) in parts:
            fit.add(x, y)
        solved, bias = fit.solve(prior, ridge=strength, intercept=reader.bias is not None)
        new = {reader.weight: (solved.T if reader.transposed else solved).reshape(weight.shape)}
        if reader.bias is not None and bias is not None:
            new[reader.bias] = bias
        new = {name: value.to(weight.dtype) for name, value in new.items()}
        found |= new
        put_in_program(edited, new)
        after = ProgramEngine(edited)
        for _, own in states:
            own |= {name: value for name, value in after.constants.items() if name in own}
        side_by_side(
            lambda s, e=after, w=way: e.proceed(s[1], w.done[1], {}, w.ends[1] + 1), states
        )
        done = way.ends[0], way.ends[1] + 1
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Way:
    """The way of both programs from the last reader to this one."""

    before: ProgramEngine
    after: ProgramEngine
    reader: Reader
    node: fx.Node
    gone: Mapping[int, tuple[int, ...]]
    """What the reader's own outputs lost, by axis."""
    drift: float
    done: tuple[int, int]

    @property
    def ends(self) -> tuple[int, int]:
        """Where the original has run the reader, and the edited program is about to."""
        node = self.reader.node
        return self.before.position[node] + 1, self.after.position[node]

    def rows(self, batch: Batch, clean: Values, own: Values) -> tuple[Tensor, Tensor]:
        """What the reader gets of a batch and what it should give; `clean` is moved on to there."""
        ends = self.ends
        self.before.proceed(clean, self.done[0], {}, ends[0])
        trial = dict(own)
        self.after.proceed(trial, self.done[1], {}, ends[1])
        target = keep(clean[self.reader.node], self.gone)
        join, skip = self.reader.join, self.reader.skip
        if self.drift and join and skip in trial:
            further = dict(clean)
            self.before.proceed(further, ends[0], {}, self.before.position[join] + 1)
            whole = keep(further[join], self.gone) - trial[skip]
            target = target + self.drift * (whole - target)
        x = rows_read(self.node)(trial[self.reader.source])
        y = rows_written(target, self.node)
        return real_rows(x, batch.mask), real_rows(y, batch.mask)
