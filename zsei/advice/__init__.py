"""Interpretations, proposals and objections, by a language model or by rules, grounded."""

from zsei.advice.advise import Advice, criticise, interpret, propose

__all__ = ["Advice", "criticise", "interpret", "propose"]
