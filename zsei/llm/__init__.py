"""The seam to language models: a one-method protocol, litellm as transport, a scripted fake."""

from zsei.llm.connect import connect
from zsei.llm.line import Line, open_line
from zsei.llm.scripted import ScriptedLLM
from zsei.llm.typed import ask_typed
from zsei.llm.types import LLM, CallRecord, LLMRequest, RawAnswer

__all__ = [
    "LLM",
    "CallRecord",
    "LLMRequest",
    "Line",
    "RawAnswer",
    "ScriptedLLM",
    "ask_typed",
    "connect",
    "open_line",
]
