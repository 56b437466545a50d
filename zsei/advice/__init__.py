"""Interpretations, proposals and objections, by a language model or by rules, grounded."""
