"""ZSEI: what inside a PyTorch model matters, what is waste, and what can safely go.

The public names, resolved when first used so that `import zsei` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsei.errors import ZseiError
    from zsei.measuring import check_claims, profile, speed_up
    from zsei.pipeline import analyze, apply, ask, load
    from zsei.pruning.prune import prune
    from zsei.pruning.records import Budget
    from zsei.records import AnalysisRecord, Answer, Finding, Proposal, Verdict
    from zsei.report.pruning_files import save_pruned
    from zsei.settings import Settings
    from zsei.surgery.export_model import export_model as export
    from zsei.surgery.modification_log import ModificationLog
    from zsei.training.beside import Beside

__version__ = "0.1.0"

_HOME = {
    "AnalysisRecord": "zsei.records",
    "Answer": "zsei.records",
    "Beside": "zsei.training.beside",
    "Budget": "zsei.pruning.records",
    "Finding": "zsei.records",
    "ModificationLog": "zsei.surgery.modification_log",
    "Proposal": "zsei.records",
    "Settings": "zsei.settings",
    "Verdict": "zsei.records",
    "ZseiError": "zsei.errors",
    "analyze": "zsei.pipeline",
    "apply": "zsei.pipeline",
    "ask": "zsei.pipeline",
    "check_claims": "zsei.measuring",
    "export": "zsei.surgery.export_model:export_model",
    "load": "zsei.pipeline",
    "profile": "zsei.measuring",
    "prune": "zsei.pruning.prune",
    "save_pruned": "zsei.report.pruning_files",
    "speed_up": "zsei.measuring",
}

__all__ = [
    "AnalysisRecord",
    "Answer",
    "Beside",
    "Budget",
    "Finding",
    "ModificationLog",
    "Proposal",
    "Settings",
    "Verdict",
    "ZseiError",
    "__version__",
    "analyze",
    "apply",
    "ask",
    "check_claims",
    "export",
    "load",
    "profile",
    "prune",
    "save_pruned",
    "speed_up",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'zsei' has no attribute {name!r}")
    module, _, own = _HOME[name].partition(":")
    return getattr(import_module(module), own or name)
