"""The importance criteria: each gives one non-negative score per unit, or None where it cannot.

A criterion is a function `(trace, units) -> scores [U] | None`, higher is more important. Scores
are compared as ranks or as shares of their total (`shares`), never with absolute limits, which
depend on batch and scale. To add one, write the function and add it to `CRITERIA`; the ranking
checks it against exact ablation by itself. Letters: n sample, t position, a value, g gradient.
"""

from collections.abc import Callable, Mapping

import numpy as np

from zsei.importance.candidates import Units
from zsei.trace.summary import Trace, UnitScores

Criterion = Callable[[Trace, Units], np.ndarray | None]


def shares(scores: np.ndarray) -> np.ndarray:
    """Scores as shares of their total, [U]; equal ones where all are zero."""
    total = float(np.nansum(scores))
    return scores / total if total > 0 else np.full(len(scores), 1 / max(len(scores), 1))


def _collect(
    trace: Trace, units: Units, read: Callable[[UnitScores], np.ndarray | None]
) -> np.ndarray | None:
    found = [read(trace.units[site.component, site.kind]) for site in units.sites]
    known = [values for values in found if values is not None]
    return units.columns(known) if known and len(known) == len(found) else None


def _measured(trace: Trace, units: Units, name: str) -> np.ndarray | None:
    """A measurement of units that are components, [U]; None where any lacks it."""
    per_site = []
    for site in units.sites:
        found = [trace.measurements.get(unit, {}).get(name) for unit in site.unit_ids]
        values = [m.value for m in found if m is not None and m.value is not None]
        if len(values) < site.units:
            return None
        per_site.append(np.array(values))
    return units.columns(per_site) if per_site else None


def output_sensitivity(trace: Trace, units: Units) -> np.ndarray | None:
    """Gauss-Newton size of removing a unit: E_n E_v (vᵀ J dz)², turned into a divergence.

    Measures: the second-order divergence of the output when the unit's value becomes its mean.
    Formula: ½ E (Σ_t g_t · (a_t - m))², g the gradient of a random probe of the output.
    Needs no labels and is never flat at the unmodified model.
    Misleads when: a removal is so large that the model leaves its neighbourhood, or two units back
    each other up (each alone looks harmless).
    References: Martens and Grosse, 2015, for the curvature; Hutchinson, 1990, for the probes.
    """
    return _collect(trace, units, lambda s: s.sensitivity)


def taylor(trace: Trace, units: Units) -> np.ndarray | None:
    """First-order change of the loss: E_n |Σ_t a · g|.

    Needs labels: under fidelity the objective has no slope at the unmodified model, every score
    would be zero, and None is returned instead.
    Misleads when: positive and negative parts cancel within a sample, or softmax is saturated.
    References: Molchanov et al., 2017; Michel et al., 2019.
    """
    return _collect(trace, units, lambda s: s.taylor)


def fisher(trace: Trace, units: Units) -> np.ndarray | None:
    """Fisher information of scaling a unit: E_n (Σ_t a · g)².

    With g of labels drawn from the model's own distribution where the outputs are logits (the true
    Fisher, without labels), else of the loss against the labels (the empirical Fisher); None where
    the outputs are no logits and there are no labels.
    Misleads when: the model is so sure that only a few samples have any slope at all, or (empirical
    form) the model is far from its optimum, where it is no curvature.
    References: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018;
    Kunstner et al., "Limitations of the empirical Fisher approximation", 2019.
    """
    return _collect(trace, units, lambda s: s.fisher)


def magnitude(trace: Trace, units: Units) -> np.ndarray | None:
    """RMS of what the unit emits over the calibration rows: the norm baseline.

    Misleads when: a large value is constant, or is not read by anything.
    References: the activation form of magnitude pruning, as in Muralidharan et al., 2024.
    """
    return _collect(trace, units, lambda s: s.rms)


def activation_frequency(trace: Trace, units: Units) -> np.ndarray | None:
    """Share of rows in which the unit is above 0.001 of the site's RMS.

    Misleads when: every unit is always on (GELU), which makes all scores alike.
    References: Hu et al., "Network trimming", 2016.
    """
    return _collect(trace, units, lambda s: s.activation_frequency)


def attention_focus(trace: Trace, units: Units) -> np.ndarray | None:
    """1 - normalised entropy of a head's attention: a head that looks everywhere scores 0.

    Formula: 1 - E_n mean_i H(w_i) / log(number of keys seen). Heads only.
    Misleads when: a head rests on the first token, which is focused and does nothing.
    References: Voita et al., "Analyzing multi-head self-attention: specialized heads do the heavy
    lifting, the rest can be pruned", 2019, for confident heads.
    """
    if any(site.kind != "head" for site in units.sites):
        return None
    entropy = _measured(trace, units, "attention_entropy")
    return None if entropy is None else np.clip(1 - entropy, 0, 1)


def diversity(trace: Trace, units: Units) -> np.ndarray | None:
    """1 - highest similarity to another unit of the same place: what nobody else writes.

    Formula: heads 1 - max |cos(z_h W_O, z_k W_O)|, centred over rows; neurons and channels
    1 - max |r| over rows; a layer 1 - cos(what enters, what leaves), its block influence.
    Misleads when: a unit writes something of its own that nothing reads.
    References: Men et al., "ShortGPT: layers in large language models are more redundant than you
    expect", 2024, for layers; He et al., "Filter pruning via geometric median", 2019, for channels.
    """
    if units.sites and units.sites[0].kind == "layer":
        return _measured(trace, units, "block_influence")
    per_site = []
    for site in units.sites:
        if site.kind == "head":
            similarity = trace.head_similarity.get(site.component)
            alike = None if similarity is None else _highest(similarity)
        else:
            alike = trace.units[site.component, site.kind].likeness
        if alike is None:
            return None
        per_site.append(np.clip(1 - alike, 0, 1))
    return units.columns(per_site) if per_site else None


def _highest(similarity: np.ndarray) -> np.ndarray:
    """Highest |similarity| to another, per row."""
    others = np.abs(similarity)
    others[np.diag_indices(len(others))] = 0
    return others.max(0)


CRITERIA: dict[str, Criterion] = {
    "output sensitivity": output_sensitivity,
    "taylor": taylor,
    "fisher": fisher,
    "magnitude": magnitude,
    "activation frequency": activation_frequency,
    "attention focus": attention_focus,
    "diversity": diversity,
}

WEIGHTED: dict[str, Mapping[str, float]] = {
    "channel": {"taylor": 0.5, "magnitude": 0.3, "activation frequency": 0.2},
    "head": {"attention focus": 0.3, "diversity": 0.3, "output sensitivity": 0.4},
}
"""Kind -> weights of the fixed mixtures used while a model trains; see `weighted`."""


def weighted(trace: Trace, units: Units, weights: Mapping[str, float]) -> np.ndarray | None:
    """A fixed mixture of criteria: Σ w · share of its total, over those that can be told.

    Misleads when: the weights do not suit the model, which nobody checked beforehand: it is one
    more score to be compared with exact ablation, and decides nothing by itself.
    """
    found = {name: CRITERIA[name](trace, units) for name in weights}
    known = {name: scores for name, scores in found.items() if scores is not None}
    if not known:
        return None
    total = sum(weights[name] for name in known)
    parts = [weights[name] / total * shares(scores) for name, scores in known.items()]
    return np.sum(parts, axis=0)
