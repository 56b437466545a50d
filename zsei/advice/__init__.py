"""Interpretations and proposals, by a language model or by rules, every number checked."""

from zsei.advice.advise import Advice, interpret, propose

__all__ = ["Advice", "interpret", "propose"]
