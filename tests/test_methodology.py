"""The methodology, line by line: by which name each part of it is measured, and that it is.

What cannot be found under a name of its own in a record, in `zsei explain` and in the vocabulary
does not exist for a reader.
"""

import pytest
from factories import FAMILIES
from prepared import SMALL, seeded, traced

from zsei.analyzers import ANALYZERS
from zsei.importance.criteria import CRITERIA
from zsei.measures import MEASURES
from zsei.resources import load_cards
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.trace.run import trace as measure

SUBJECTS = ("bert", "gpt2", "llama", "vit", "resnet", "patchtst")
"""Families among which every measurement must be taken at least once."""

MEASURED = {
    "size": ("parameters", "flops", "flops_share", "bytes", "bytes_share"),
    "activations": (
        "mean_abs", "rms", "zero_share", "near_zero_share", "outlier_ratio", "saturated_share",
        "effective_rank", "rank_cap", "saturation",
    ),
    "similarity of components": ("component_similarity", "layer_similarity"),
    "share of variance explained by the data group": ("group_variance_share",),
    "attention of a head": (
        "attention_entropy", "first_token_mass", "diagonal_mass", "previous_token_mass",
        "attention_distance", "tiny_weight_share", "head_kind",
    ),
    "consistency of attention across inputs": ("attention_divergence",),
    "routing of attention": ("effective_fan_in",),
    "residual stream": (
        "branch_to_stream", "branch_stream_cosine", "block_influence", "branch_share",
    ),
    "neurons": (
        "dead_units", "always_on_units", "rank_in", "rank_ratio", "top_neuron_share",
    ),
    "gradients": (
        "gradient_rms", "gradient_variation", "gradient_step", "gradient_slope",
        "gradient_signal_to_noise", "gradient_skip_share", "gradient_branch_rms",
    ),
    "learning": ("update_to_weight", "learning_efficiency"),
    "composition of heads": ("q_composition", "k_composition", "v_composition"),
    "likeness of heads": ("head_cka", "head_cosine", "head_overlap"),
    "attention to MLP": (
        "mlp_from_attention", "mlp_from_earlier", "mlp_from_embedding", "attention_to_mlp",
    ),
    "residual effectiveness": ("branch_survival", "residual_effectiveness", "skip_gradient_share"),
    "norms": ("norm_rms_ratio", "norm_outlier_ratio", "norm_rank_ratio"),
    "synergy and conflict": ("contribution_alignment",),
    "writers and readers": ("edge_attribution", "writers_sum_error"),
    "information-flow routes": ("flow_routes", "route_share"),
    "importance": ("sensitivity", "unit_sensitivity", "taylor", "activation_frequency"),
    "tokens": ("token_flow", "token_kind_flow", "answer_position_share"),
    "context": ("context_effect", "effective_context", "kv_bytes_per_token"),
    "layers' own decisions": ("lens_agreement", "lens_divergence"),
    "vocabulary": ("vocabulary", "softmax_rank_cap", "head_effective_rank", "unused_vocabulary"),
    "space": ("spatial_flow", "receptive_field", "effective_receptive_field"),
    "resolution and channels": ("resolution_effect", "channel_use", "spatial_capacity"),
    "series": ("lag_profile", "look_back_effect", "effective_look_back", "variate_mixing"),
}  # fmt: skip
"""Line of the methodology -> measurements and maps by which a record holds it."""

FOUND = {
    "hot spots of computation": "computational-bottleneck",
    "hot spots of time": "time-bottleneck",
    "compute-bound or memory-bound": "roofline",
    "memory pressure": "memory-bottleneck",
    "rank lost on the only way": "information-bottleneck",
    "vanishing and exploding gradients": "gradient-flow",
    "synergy and conflict by joint ablation": "interaction-bottleneck",
    "needs of one data group": "dynamic-bottleneck",
    "what does not parallelise": "parallelisation-bottleneck",
    "functional redundancy of heads": "redundant-heads",
    "functional redundancy of neurons": "redundant-neurons",
    "functional redundancy of layers": "redundant-layers",
    "functional redundancy of paths": "redundant-paths",
    "semantic redundancy": "semantic-redundancy",
    "skips of no use": "useless-skip",
    "dead units": "dead-units",
    "saturated units": "saturated-units",
    "undefined values": "undefined-values",
    "one joined ranking": "criticality",
    "paths of largest share": "critical-path-information",
    "paths of largest effect": "critical-path-effect",
    "the longest path in time": "critical-path-latency",
    "vocabulary": "vocabulary-bottleneck",
    "context": "context-bottleneck",
    "resolution": "resolution-bottleneck",
    "horizon": "horizon-bottleneck",
}
"""Line of the methodology -> the finding that says it."""

SCORED = (
    "output sensitivity", "taylor", "magnitude", "activation frequency", "attention focus",
    "diversity", "fisher",
)  # fmt: skip


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Everything measured on any of the subjects."""
    model, _ = FAMILIES["mlp"]()
    groups = {"one": seeded(16, 8), "other": seeded(16, 8, seed=2) + 1}
    grouped = prepare(model, groups, settings=SMALL)
    found: set[str] = set()
    for trace in (*map(traced, SUBJECTS), measure(grouped, SMALL, measures=MEASURES)):
        found |= {name for named in trace.measurements.values() for name in named}
        found |= {m.name for group in trace.groups.values() for ms in group.values() for m in ms}
        found |= {matrix.name for matrix in trace.matrices}
        if any(edge.route_share is not None for edge in trace.edges):
            found.add("route_share")
    return found


@pytest.mark.parametrize("line", MEASURED)
def test_every_line_is_measured(line: str, names: set[str]) -> None:
    assert set(MEASURED[line]) - names == set()


def test_every_measurement_is_explained() -> None:
    known = load_cards(Settings()).metrics
    wanted = {name for line in MEASURED.values() for name in line}
    assert wanted - known.keys() == set()


@pytest.mark.parametrize("line", FOUND)
def test_every_line_has_its_finding(line: str) -> None:
    assert FOUND[line] in {analyzer.code for analyzer in ANALYZERS}
    assert FOUND[line] in load_cards(Settings()).knowledge


def test_every_criterion_is_there() -> None:
    assert set(SCORED) <= set(CRITERIA)


def test_nothing_on_a_shelf_is_forgotten_here() -> None:
    """A new analysis needs its line above."""
    forgotten = {a.code for a in ANALYZERS} - set(FOUND.values())
    assert forgotten <= {"low-effect", "shared-module", "unread-parameters"}
    assert len({m.name for m in MEASURES}) == len(MEASURES)
