"""ZSEI: what inside a PyTorch model matters, what is waste, and what can safely go.

The public names, resolved when first used so that `import zsei` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsei.errors import ZseiError
    from zsei.pipeline import analyze, apply, ask, load
    from zsei.records import AnalysisRecord, Answer, Finding, Proposal, Verdict
    from zsei.settings import Settings
    from zsei.surgery.export_model import export_model as export

__version__ = "0.1.0"

_HOME = {
    "AnalysisRecord": "zsei.records",
    "Answer": "zsei.records",
    "Finding": "zsei.records",
    "Proposal": "zsei.records",
    "Settings": "zsei.settings",
    "Verdict": "zsei.records",
    "ZseiError": "zsei.errors",
    "analyze": "zsei.pipeline",
    "apply": "zsei.pipeline",
    "ask": "zsei.pipeline",
    "export": "zsei.surgery.export_model:export_model",
    "load": "zsei.pipeline",
}

__all__ = [
    "AnalysisRecord",
    "Answer",
    "Finding",
    "Proposal",
    "Settings",
    "Verdict",
    "ZseiError",
    "__version__",
    "analyze",
    "apply",
    "ask",
    "export",
    "load",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'zsei' has no attribute {name!r}")
    module, _, own = _HOME[name].partition(":")
    return getattr(import_module(module), own or name)
