"""Weights that nothing on the way to the output reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch.func import functional_call

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import listed, percent
from zsei.records import Check, Finding, Measurement
from zsei.subject.program import MainOutput, strip_prefix

FEW = 4
"""Samples of the run with these parameters at zero."""


@final
@dataclass(frozen=True, kw_only=True)
class UnreadParameters:
    """Parameters of modules whose results never reach the output that is analysed.

    Measures: which parameters the exported program does not read. Export keeps only what the output
    is computed from, so that a branch that is computed and never used is gone from it.

    Formula: unread_parameters = Σ numel of the parameters that no call of the program reads (a
    tied weight counts as read when one of its names is); unread_share = of all the model's.
    Severity: unread_share.

    Reading it: a forgotten head, a pooler that another task used, a branch computed and never used:
    its memory, and its time where the model still computes it, buy nothing here.

    Misleads when: the model has several outputs and another one is the one that matters (the first
    floating point output is analysed), or the weights are used in training only.

    References: Cytron, Ferrante, Rosen, Wegman and Zadeck, "Efficiently computing static single
    assignment form and the control dependence graph", ACM TOPLAS 13(4), 1991 (dead code).
    """

    code: ClassVar[str] = "unread-parameters"
    clock: ClassVar[bool] = False

    min_share: float = 0.001
    """Share of the model's parameters from which it is worth telling."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding at most, at the output they do not reach."""
        program = analysis.subject.program
        if program is None:
            return
        read = {
            strip_prefix(str(node.target))
            for node in program.graph_module.graph.nodes
            if node.op == "get_attr"
        }
        held = list(analysis.subject.model.named_parameters(remove_duplicate=False))
        places = {p.data_ptr() for name, p in held if name in read}
        unread: dict[int, tuple[str, int]] = {}
        for name, parameter in held:
            if name not in read and parameter.data_ptr() not in places:
                unread.setdefault(parameter.data_ptr(), (name, parameter.numel()))
        total = sum({p.data_ptr(): p.numel() for _, p in held}.values())
        count = sum(size for _, size in unread.values())
        if not total or count < self.min_share * total:
            return
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in unread.values()))
        finding = Finding.make(
            code=self.code,
            components=("output",),
            severity=count / total,
            evidence=(
                Measurement(name="unread_parameters", value=count, unit="count",
                            note=" ".join(modules[:8])),
                Measurement(name="unread_share", value=count / total, unit="share"),
            ),
            message=f"{count} parameters, {percent(count / total)} of the model's, are read by "
            f"nothing on the way to the output: those of {listed(modules)}.",
        )  # fmt: skip
        yield finding.model_copy(update={"checks": (_check(analysis, set(unread)),)})


def _check(analysis: Analysis, unread: set[int]) -> Check:
    """Run a copy of the model with these parameters zeroed: the output must not move."""
    batch, subject = analysis.subject.calibration[0], analysis.subject
    held = dict(subject.model.named_parameters(remove_duplicate=False))
    zeroed = {
        name: torch.zeros_like(p) for name, p in held.items() if p.data_ptr() in unread
    }  # fmt: skip
    call = MainOutput(subject.model, subject.input_names).eval()
    zeroed = {f"model.{name}": value for name, value in zeroed.items()}
    # A few samples tell as much as all; an exported file takes its own batch size only.
    few = None if subject.source.kind == "pt2" else FEW
    inputs = tuple(tensor[:few] for tensor in batch.inputs)
    with torch.no_grad():
        plain = call(*inputs)
        edited = functional_call(call, zeroed, inputs)
    moved = float((edited - plain).abs().max())
    return Check(
        name="zeroed",
        outcome="agrees" if moved == 0 else "disagrees",
        evidence=(
            Measurement(name="output_difference", value=moved, unit="", n=inputs[0].shape[0]),
        ),
        message=f"With these parameters at zero the model's output moves by {moved:.3g} at most.",
    )
