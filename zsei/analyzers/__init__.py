"""The shelf of analyzers: measured numbers in, findings out. One file an analysis."""

import inspect

from zsei.analyzers.computational_bottleneck import ComputationalBottleneck
from zsei.analyzers.context import Analysis, Analyzer
from zsei.analyzers.context_bottleneck import ContextBottleneck
from zsei.analyzers.critical_path_effect import CriticalPathEffect
from zsei.analyzers.critical_path_information import CriticalPathInformation
from zsei.analyzers.critical_path_latency import CriticalPathLatency
from zsei.analyzers.criticality import Criticality
from zsei.analyzers.dead_units import DeadUnits
from zsei.analyzers.dynamic_bottleneck import DynamicBottleneck
from zsei.analyzers.gradient_flow import GradientFlow
from zsei.analyzers.horizon_bottleneck import HorizonBottleneck
from zsei.analyzers.information_bottleneck import InformationBottleneck
from zsei.analyzers.interaction_bottleneck import InteractionBottleneck
from zsei.analyzers.low_effect import LowEffect
from zsei.analyzers.memory_bottleneck import MemoryBottleneck
from zsei.analyzers.parallelisation_bottleneck import ParallelisationBottleneck
from zsei.analyzers.redundant_heads import RedundantHeads
from zsei.analyzers.redundant_layers import RedundantLayers
from zsei.analyzers.redundant_neurons import RedundantNeurons
from zsei.analyzers.redundant_paths import RedundantPaths
from zsei.analyzers.resolution_bottleneck import ResolutionBottleneck
from zsei.analyzers.roofline import Roofline
from zsei.analyzers.run import run_analyzers
from zsei.analyzers.saturated_units import SaturatedUnits
from zsei.analyzers.semantic_redundancy import SemanticRedundancy
from zsei.analyzers.shared_module import SharedModule
from zsei.analyzers.time_bottleneck import TimeBottleneck
from zsei.analyzers.undefined_values import UndefinedValues
from zsei.analyzers.unread_parameters import UnreadParameters
from zsei.analyzers.useless_skip import UselessSkip
from zsei.analyzers.vocabulary_bottleneck import VocabularyBottleneck
from zsei.errors import UsageError

__all__ = ["ANALYZERS", "Analysis", "Analyzer", "explain", "run_analyzers"]

ANALYZERS: tuple[Analyzer, ...] = (
    UndefinedValues(),
    DeadUnits(),
    SaturatedUnits(),
    LowEffect(),
    RedundantHeads(),
    RedundantNeurons(),
    RedundantLayers(),
    RedundantPaths(),
    SemanticRedundancy(),
    InteractionBottleneck(),
    UselessSkip(),
    InformationBottleneck(),
    GradientFlow(),
    ComputationalBottleneck(),
    MemoryBottleneck(),
    ParallelisationBottleneck(),
    DynamicBottleneck(),
    SharedModule(),
    UnreadParameters(),
    ContextBottleneck(),
    VocabularyBottleneck(),
    ResolutionBottleneck(),
    HorizonBottleneck(),
    Criticality(),
    CriticalPathInformation(),
    CriticalPathEffect(),
    TimeBottleneck(),
    Roofline(),
    CriticalPathLatency(),
)
"""Every analyzer, in the order in which findings are listed."""


def explain(code: str) -> str:
    """The documentation of a finding code: what it measures, how, and when it misleads.

    Raises:
        UsageError: There is no such code.
    """
    for analyzer in ANALYZERS:
        if analyzer.code == code:
            return inspect.getdoc(type(analyzer)) or ""
    known = ", ".join(sorted(analyzer.code for analyzer in ANALYZERS))
    raise UsageError(f"A finding code is one of {known}, but got {code!r}.")
