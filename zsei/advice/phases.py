"""Which measurements and which findings belong to which phase of the analysis.

The phases are those of `zsei.measures`: what computes and is stored, the forward flow, the
gradients, how parts work together, what repeats, what removal does. A measurement may
belong to several.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What an agent that explains one side of a model is shown."""

    measurements: frozenset[str]
    findings: tuple[str, ...]
    """Codes, or their beginnings or ends."""
    matrices: frozenset[str] = frozenset()

    def takes(self, code: str) -> bool:
        """Whether findings of a code belong to it."""
        return any(code.startswith(part) or code.endswith(part) for part in self.findings)


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


PHASES: Mapping[str, Phase] = {
    "costs": Phase(
        measurements=_names(
            "parameters parameters_share flops flops_share bytes bytes_share bytes_moved "
            "width units arithmetic_intensity activation_bytes weight_bytes peak_bytes "
            "peak_saving depth attention_score_bytes kv_bytes_per_token kv_cache_bytes "
            "kv_cache_share memory_pressure quadratic_share quadratic_share_doubled "
            "parallelism sequential_share sequential_steps gqa_ratio head_width vocabulary "
            "unused_vocabulary unread_parameters unread_share roofline_share "
            "criticality_share"
        ),
        findings=(
            "computational-bottleneck", "memory-bottleneck", "parallelisation-bottleneck",
            "vocabulary-bottleneck", "roofline", "unread-", "shared-module",
        ),
    ),
    "forward": Phase(
        measurements=_names(
            "mean_abs rms near_zero_share zero_share outlier_ratio effective_rank rank_cap "
            "saturation rank_in rank_entering rank_leaving rank_lost rank_ratio "
            "attention_entropy attention_distance attention_divergence first_token_mass "
            "previous_token_mass delimiter_mass diagonal_mass routed_first_mass "
            "tiny_weight_share head_kind activation_frequency always_on_units "
            "always_zero_units constant_units dead_units saturated_units saturated_share "
            "block_influence branch_to_stream long_range_share effective_context "
            "effective_receptive_field receptive_field spatial_capacity group_variance_share "
            "flow_routes token_flow criticality_share effective_look_back norm_outlier_ratio "
            "norm_rank_ratio norm_rms_ratio norm_size_spread"
        ),
        findings=(
            "-bottleneck", "critical-path-", "criticality", "dead-units", "saturated-units",
            "undefined-values",
        ),
        matrices=_names("token_flow token_kind_flow flow_routes context_effect spatial_flow"),
    ),
    "gradient": Phase(
        measurements=_names(
            "gradient_rms gradient_step gradient_jump gradient_ratio gradient_slope "
            "gradient_variation gradient_signal_to_noise gradient_skip_share "
            "gradient_branch_rms skip_gradient_share update_to_weight learning_efficiency "
            "class_sensitivity"
        ),
        findings=("gradient-",),
    ),
    "integration": Phase(
        measurements=_names(
            "attribution edge_attribution route_share attention_to_mlp mlp_from_attention "
            "mlp_from_earlier mlp_from_embedding mlp_from_biases branch_share "
            "branch_effect_share branch_survival branch_stream_cosine branch_to_stream "
            "residual_effectiveness skip_gradient_share contribution_coherence "
            "concept_separation interaction joint_effect effective_fan_in "
            "other_position_share q_composition k_composition v_composition norm_rms_ratio "
            "norm_rank_ratio writers_sum_error top_neuron_share skip_effect"
        ),
        findings=("interaction-bottleneck", "useless-skip", "redundant-paths", "criticality"),
        matrices=_names(
            "edge_attribution attention_to_mlp q_composition k_composition v_composition "
            "contribution_alignment flow_routes"
        ),
    ),
    "redundancy": Phase(
        measurements=_names(
            "head_similarity head_cosine head_cka head_overlap layer_similarity "
            "component_similarity part_similarity branch_cosine concept_similarity "
            "block_influence bypass_effect joint_effect interaction ablation_effect "
            "sensitivity dead_units constant_units duplicate_groups strongest_correlation "
            "low_effect_units low_effect_share effective_rank units written_similarity "
            "decision_similarity removable_units"
        ),
        findings=(
            "redundan", "-redundancy", "low-effect", "dead-units", "saturated-units",
            "useless-skip",
        ),
        matrices=_names(
            "head_cosine head_cka head_overlap layer_similarity part_similarity branch_cosine "
            "component_similarity concept_similarity decision_similarity"
        ),
    ),
    "importance": Phase(
        measurements=_names(
            "ablation_effect sensitivity taylor magnitude unit_sensitivity bypass_effect "
            "block_influence criticality_share effect_ratio attribution joint_effect"
        ),
        findings=("criticality", "critical-path-effect", "low-effect"),
    ),
}  # fmt: skip
"""Name of a part of the evidence -> what it holds. What no phase names is in `measurements`."""
