"""The importance criteria: each gives one non-negative score per unit, or None where it cannot.

A criterion is a function `(trace, units) -> scores [len(units)] | None`. To add one, write the
function and add it to `CRITERIA`; the ranking validates it against exact ablation by itself.
"""

from collections.abc import Callable, Sequence

import numpy as np

from zsei.importance.candidates import Unit
from zsei.trace.summary import Trace, UnitScores

Criterion = Callable[[Trace, Sequence[Unit]], np.ndarray | None]


def _collect(
    trace: Trace, units: Sequence[Unit], read: Callable[[UnitScores], np.ndarray | None]
) -> np.ndarray | None:
    values = []
    for unit in units:
        found = read(trace.units[unit.site.component, unit.site.kind])
        if found is None:
            return None
        values.append(float(found[unit.index]))
    return np.array(values)


def output_sensitivity(trace: Trace, units: Sequence[Unit]) -> np.ndarray | None:
    """Gauss-Newton size of removing a unit: E_n E_v (vᵀ J dz)², turned into a divergence.

    Measures: the second-order divergence of the output when the unit's value becomes its mean.
    Formula: ½ E (Σ_t g_t · (a_t - m))², g the gradient of a random probe of the output.
    Needs no labels and is never flat at the unmodified model.
    Misleads when: a removal is so large that the model leaves its neighbourhood, or two units back
    each other up (each alone looks harmless).
    References: Martens and Grosse, 2015, for the curvature; Hutchinson, 1990, for the probes.
    """
    return _collect(trace, units, lambda s: s.sensitivity)


def taylor(trace: Trace, units: Sequence[Unit]) -> np.ndarray | None:
    """First-order change of the loss: E_n |Σ_t a · g|.

    Needs labels: under fidelity the objective has no slope at the unmodified model, every score
    would be zero, and None is returned instead.
    Misleads when: positive and negative parts cancel within a sample, or softmax is saturated.
    References: Molchanov et al., 2017; Michel et al., 2019.
    """
    return _collect(trace, units, lambda s: s.taylor)


def magnitude(trace: Trace, units: Sequence[Unit]) -> np.ndarray | None:
    """RMS of what the unit emits over the calibration rows.

    Misleads when: a large value is constant, or is not read by anything.
    References: the activation form of magnitude pruning, as in Muralidharan et al., 2024.
    """
    return _collect(trace, units, lambda s: s.rms)


def activation_frequency(trace: Trace, units: Sequence[Unit]) -> np.ndarray | None:
    """Share of rows in which the unit is above 0.001 of the site's RMS.

    Misleads when: every unit is always on (GELU), which makes all scores alike.
    References: Hu et al., "Network trimming", 2016.
    """
    return _collect(trace, units, lambda s: s.activation_frequency)


CRITERIA: dict[str, Criterion] = {
    "output sensitivity": output_sensitivity,
    "taylor": taylor,
    "magnitude": magnitude,
    "activation frequency": activation_frequency,
}
