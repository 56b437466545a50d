"""Which positions of a text carry the answer, layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.modality import (
    answers_from_the_last,
    could_not_tell,
    few_samples,
    rank_correlation,
    spread,
    text_input,
)
from zsei.records import Matrix, Measurement
from zsei.subject.objective import divergence, probes, readout
from zsei.subject.types import Batch
from zsei.trace.hooks import ModuleEngine
from zsei.trace.view import Measured, View

EIGHTHS = 8
"""Stretches that a text with one answer is divided into."""


@final
@dataclass(frozen=True, kw_only=True)
class TokenFlow:
    """Share of the answer's sensitivity that stands at each position, after each layer.

    Measures: where, in the sequence, the information that decides is at that depth.

    Formula: q_t = E_v (v · J_t (a_t - ā))², a_t [d] the stream at position t after a layer, ā its
    mean over the data, v random output directions (`zsei.subject.objective.probes`); share_t = q_t
    / Σ q. The answer is the prediction at the last real position where later tokens change nothing
    (measured), else the objective's readout. Columns: distance to the answer in doublings for the
    former, eighths of the text for the latter. A second map sums by kind: first token, delimiters
    (without letter or digit, or shared by all samples), content, last token. token_flow_agreement:
    Spearman of q_t with the exact effect of putting ā at one position after one layer.

    Reading it: a decoder's share moves to distance 0 with depth; the layer where it does is where
    the context is read for good. A large share on the first token or on delimiters is mass that
    waits there rather than words that count.

    Misleads when: effects are far from quadratic (the agreement then is low, and says so), or the
    few samples are unlike the rest. Shares say where, not whether much is at stake.

    References: Meng, Bau, Andonian and Belinkov, "Locating and editing factual associations in
    GPT", NeurIPS 2022; Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks", 2014.
    """

    name: ClassVar[str] = "token-flow"

    samples: int = 4
    """Samples that are looked at."""
    probes: int = 1
    """Random output directions."""
    trials: int = 6
    """Positions really replaced, each at one layer of one sample, in a single run."""
    fewest_trials: int = 5
    """Trials with an effect below which no agreement is claimed."""

    def measure(self, view: View) -> Measured:
        """Two matrices (positions and kinds by layers), and how far trials bear them out."""
        subject = view.subject
        index = text_input(subject)
        if index is None:
            return Measured()
        engine = ModuleEngine(subject.model, subject.input_names)
        few = few_samples(subject, self.samples)
        paths = _streams(view, engine)
        if not paths:
            return Measured()
        causal = answers_from_the_last(subject, index, few)
        generator = torch.Generator().manual_seed(view.settings.seed)
        flow = _flow(view, engine, few, paths, causal, self.probes, generator)
        if len(flow.sizes) < 2:
            return Measured()
        real = few.mask if few.mask is not None else torch.ones_like(few.inputs[index]).bool()
        where = _by_distance(real) if causal else _by_eighth(real)
        kinds = _by_kind(few.inputs[index], real, subject.tokenizer)
        n = few.size
        note = "to the last prediction" if causal else "to the whole answer"
        shares = {c: _shares(q * real) for c, q in flow.sizes.items()}
        matrices = (
            _matrix("token_flow", f"Where the answer's sensitivity stands, {note}", shares, where,
                    n),
            _matrix("token_kind_flow", "The same by kind of token", shares, kinds, n),
        )  # fmt: skip
        found: dict[str, tuple[Measurement, ...]] = {}
        if causal:
            at_answer = where["0"]
            for component, share in shares.items():
                value = (share * at_answer).sum(1)
                found[component] = (spread("answer_position_share", value, "share"),)
        first = next(iter(shares))
        agreement = self._agreement(engine, view, few, paths, flow, causal, generator)
        found[first] = (*found.get(first, ()), agreement)
        return Measured(measurements=found, matrices=matrices)

    def _agreement(
        self, engine: ModuleEngine, view: View, few: Batch, paths: Mapping[str, str],
        flow: "Flow", causal: bool, generator: torch.Generator,
    ) -> Measurement:  # fmt: skip
        """Spearman of predicted and exact effects of replacing single positions."""
        components = list(flow.sizes)
        picks: list[tuple[int, str, int]] = []
        for i in range(self.trials):
            sample = i % few.size
            layer = int(torch.randint(len(components), (1,), generator=generator))
            # Where nothing can come of it there is nothing to compare.
            columns = (flow.sizes[components[layer]][sample] > 0).nonzero().flatten()
            if not len(columns):
                continue
            place = int(torch.randint(len(columns), (1,), generator=generator))
            picks.append((sample, components[layer], int(columns[place])))
        if not picks:
            why = "no position changes the answer"
            return could_not_tell("token_flow_agreement", "Spearman", why)
        exact = exact_effects(engine, view, few, paths, flow, picks, causal)
        predicted = torch.stack([flow.sizes[c][s, t] for s, c, t in picks])
        known = int((exact > 1e-9 * exact.max().clamp_min(1e-30)).sum())
        if known < self.fewest_trials or float(predicted.std()) == 0:
            why = (
                f"{known} of {len(picks)} trials moved the answer; {self.fewest_trials} are needed"
            )
            return could_not_tell("token_flow_agreement", "Spearman", why, len(picks))
        value = rank_correlation(predicted, exact)
        note = "predicted against exact effect of replacing single positions"
        if value < 0.7:
            note += "; below 0.7: not validated"
        return Measurement(
            name="token_flow_agreement", value=value, unit="Spearman", n=len(picks), note=note
        )


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Sensitivity of positions after each layer."""

    sizes: Mapping[str, Tensor]
    """Component -> q [n, t]."""
    means: Mapping[str, Tensor]
    """Component -> mean of its stream over the data [d]."""
    answer: Tensor
    """The readout of the samples, unchanged."""


def _streams(view: View, engine: ModuleEngine) -> dict[str, str]:
    """Component -> module path of the embedding and of each layer that is called once."""
    found: dict[str, str] = {}
    for component in view.subject.anatomy.components:
        first = component.kind == "embedding" and not found
        if (first or component.kind == "layer") and component.path in engine.modules:
            found[component.id] = component.path
    paths = list(found.values())
    return {c: path for c, path in found.items() if paths.count(path) == 1}


def _answer(view: View, output: Tensor, few: Batch, causal: bool) -> Tensor:
    """The readout that counts; for a decoder the logits [n, v] at the last real position."""
    if not causal:
        return readout(view.subject.objective, output, few)
    rows = torch.arange(len(output))
    if few.mask is None:
        return output[:, -1]
    positions = torch.arange(output.shape[1])
    return output[rows, (few.mask * positions).argmax(1)]


def _flow(
    view: View, engine: ModuleEngine, few: Batch, paths: Mapping[str, str], causal: bool,
    count: int, generator: torch.Generator,
) -> Flow:  # fmt: skip
    alive: dict[str, Tensor] = {}

    def tape(component: str) -> Callable[[Tensor], Tensor]:
        def see(value: Tensor) -> Tensor:
            if not value.requires_grad:
                value = value.detach().requires_grad_()
            alive[component] = value
            return value

        return see

    with torch.enable_grad():
        output = engine.run(few, {path: tape(c) for c, path in paths.items()})
        seen = _answer(view, output, few, causal)
        names = [c for c, value in alive.items() if value.ndim == 3 and len(value) == few.size]
        scalars = [s.sum() for s in probes(view.subject.objective, seen, few, count, generator)]
        sizes: dict[str, Tensor] = {}
        means = {c: _mean(view, c, alive[c]) for c in names}
        for number, scalar in enumerate(scalars):
            gradients = torch.autograd.grad(
                scalar, [alive[c] for c in names], retain_graph=number < len(scalars) - 1,
                allow_unused=True,
            )  # fmt: skip
            for component, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    moved = alive[component].detach() - means[component]
                    size = (gradient * moved).sum(-1).square() / count
                    sizes[component] = sizes[component] + size if component in sizes else size
    return Flow(sizes=sizes, means=means, answer=seen.detach())


def _mean(view: View, component: str, value: Tensor) -> Tensor:
    """Mean of a stream over the data [d]: of the rows that were kept, else of these samples."""
    rows = view.rows.get(view.subject.anatomy.outputs[component])
    if rows is not None and rows.shape[1] == value.shape[-1]:
        return rows.mean(0)
    return value.detach().mean((0, 1))


def exact_effects(
    engine: ModuleEngine, view: View, few: Batch, paths: Mapping[str, str], flow: Flow,
    picks: Sequence[tuple[int, str, int]], causal: bool,
) -> Tensor:  # fmt: skip
    """Divergence [m] when, for each (sample, component, position), the mean stands there.

    All trials are rows of one batch; row i is clean but for its own replacement.
    """
    samples = torch.tensor([sample for sample, _, _ in picks])
    trial = Batch(
        inputs=tuple(values[samples] for values in few.inputs),
        mask=None if few.mask is None else few.mask[samples],
    )

    def replacing(component: str) -> Callable[[Tensor], Tensor]:
        def see(value: Tensor) -> Tensor:
            edited = value.clone()
            for row, (_, where, position) in enumerate(picks):
                if where == component:
                    edited[row, position] = flow.means[component]
            return edited

        return see

    with torch.no_grad():
        watch = {paths[c]: replacing(c) for c in dict.fromkeys(c for _, c, _ in picks)}
        seen = _answer(view, engine.run(trial, watch), trial, causal)
        return divergence(view.subject.objective, seen, flow.answer[samples], trial)


def _shares(sizes: Tensor) -> Tensor:
    """Each sample's sizes [n, t] over their sum."""
    return sizes / sizes.sum(1, keepdim=True).clamp_min(1e-30)


def _by_distance(real: Tensor) -> dict[str, Tensor]:
    """Name -> bool [n, t]: tokens between the answer and the one that long before it."""
    positions = torch.arange(real.shape[1])
    distance = (real * positions).argmax(1, keepdim=True) - positions
    found = {"0": (distance == 0) & real}
    low = 1
    while low < real.shape[1]:
        inside = (distance >= low) & (distance < 2 * low) & real
        found[str(low) if low == 1 else f"{low}-{2 * low - 1}"] = inside
        low *= 2
    return found


def _by_eighth(real: Tensor) -> dict[str, Tensor]:
    """Name -> bool [n, t]: eighths of each text's real tokens."""
    rank = real.long().cumsum(1) - 1
    count = real.sum(1, keepdim=True).clamp_min(1)
    eighth = (rank * EIGHTHS) // count
    return {f"{i + 1}/{EIGHTHS}": (eighth == i) & real for i in range(EIGHTHS)}


def _by_kind(ids: Tensor, real: Tensor, tokenizer: object) -> dict[str, Tensor]:
    """Name -> bool [n, t]: first, last, delimiter and content tokens; each token has one kind."""
    rank = real.long().cumsum(1)
    first = (rank == 1) & real
    last = (rank == real.sum(1, keepdim=True)) & real & ~first
    delimiter = torch.zeros_like(real)
    convert = getattr(tokenizer, "decode", None)
    if convert is not None:
        special = set(getattr(tokenizer, "all_special_ids", ()))
        for token in ids[real].unique().tolist():
            plain = any(character.isalnum() for character in convert([token]))
            if token in special or not plain:
                delimiter |= ids == token
    delimiter &= real & ~first & ~last
    return {
        "first": first,
        "delimiter": delimiter,
        "content": real & ~first & ~last & ~delimiter,
        "last": last,
    }


def _matrix(
    name: str, title: str, shares: Mapping[str, Tensor], columns: Mapping[str, Tensor], n: int
) -> Matrix:
    kept = {label: inside for label, inside in columns.items() if bool(inside.any())}
    return Matrix(
        name=name,
        title=title,
        rows=tuple(shares),
        columns=tuple(kept),
        values=tuple(
            tuple(float((share * inside).sum(1).double().mean()) for inside in kept.values())
            for share in shares.values()
        ),
        unit="share",
        n=n,
    )
