"""Which way the gradient takes back through a residual join: the skip, or the branch."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from zsei.records import Measurement
from zsei.trace.rows import proximity_shares
from zsei.trace.taps import Join
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class GradientPaths:
    """Share of the gradient that the skip carries back past each branch.

    Measures: for every residual join y = x + f(x), how the gradient at x is put together from what
    the skip hands back unchanged and what comes back through the branch f.

    Formula: g_x = g_y + g_f, where g_y is the gradient at the join and g_f = g_x - g_y what came
    through the branch. gradient_skip_share = share of g_y in g_x by L1 proximity, max(0, ‖g_x‖₁ -
    ‖g_x - g_y‖₁) normalised over both; gradient_branch_rms = RMS of g_f.

    Reading it: near 1 the block is passed by and learns from what is behind it only through the
    skip; near 0.5 branch and skip give alike. An RMS of zero says that nothing comes back through
    the branch.

    Misleads when: a projected shortcut stands in the skip (nothing is then claimed), or something
    else reads x too: what it hands back counts as the branch's. Under fidelity the gradient is that
    of one random probe.

    References: He, Zhang, Ren and Sun, "Identity mappings in deep residual networks", ECCV 2016;
    Veit, Wilber and Belongie, "Residual networks behave like ensembles of relatively shallow
    networks", NeurIPS 2016.
    """

    name: ClassVar[str] = "gradient-paths"

    fewest_rows: int = 2
    """Rows needed."""

    def measure(self, view: View) -> Measured:
        """Two measurements per join whose skip is the value the branch starts from."""
        found = {}
        for join in view.taps.joins:
            if self._known(view, join):
                found[join.component] = _shares(view, join)
        return Measured(measurements=found)

    def _known(self, view: View, join: Join) -> bool:
        program = view.subject.program
        if program is None or len(program.node(join.skip).users) < 2:
            return False
        entered, left = view.gradient_rows.get(join.skip), view.gradient_rows.get(join.node)
        if entered is None or left is None or len(entered) < self.fewest_rows:
            return False
        return entered.shape == left.shape


def _shares(view: View, join: Join) -> tuple[Measurement, ...]:
    entered, left = view.gradient_rows[join.skip], view.gradient_rows[join.node]
    through = entered - left
    n = len(view.row_samples[join.node].unique())
    note = f"from {len(left)} rows"
    share = proximity_shares(entered, [left, through])[0]
    rms = float(torch.sqrt(through.double().square().mean()))
    return (
        Measurement(name="gradient_skip_share", value=share, unit="share", n=n, note=note),
        Measurement(name="gradient_branch_rms", value=rms, unit="objective per activation", n=n,
                    note=note),
    )  # fmt: skip
