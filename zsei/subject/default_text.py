"""Text that every Python installation carries: documentation and code of its standard library."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from zsei.errors import DataError
from zsei.subject.rows import Rows

MODULES = (
    "argparse", "bisect", "calendar", "collections", "contextlib", "copy", "csv",
    "decimal", "difflib", "fractions", "functools", "getopt", "gettext", "heapq",
    "numbers", "optparse", "pprint", "queue", "random", "sched", "shlex", "shutil", "socket",
    "statistics", "string", "tempfile", "textwrap", "threading", "timeit", "weakref",
)  # fmt: skip
"""Modules written in Python, long settled, and the same on every platform."""
PROSE_CHARACTERS = (60, 600)
CODE_LINES = 8


def standard_library_text() -> dict[str, tuple[str, ...]]:
    """Groups `prose` (paragraphs of docstrings) and `code` (stretches of 8 source lines).

    Deterministic for one Python version; nothing is imported or run.
    """
    prose: dict[str, None] = {}
    code: dict[str, None] = {}
    for _, tree, source in _sources():
        lines = source.splitlines()
        for node in ast.walk(tree):
            prose |= dict.fromkeys(_prose(node))
            code |= dict.fromkeys(_code(node, lines))
    if not prose or not code:
        raise DataError(
            "The default text is the source of Python's standard library, which this installation "
            "does not carry as files. Give text with --data."
        )
    return {"prose": tuple(prose), "code": tuple(code)}


def sibling_passages(samples: int) -> dict[str, Rows]:
    """The default data: about `samples` passages in pairs, two of one docstring or one function.

    Among unrelated passages the nearest neighbour is a matter of chance; with its sibling beside
    it, a passage has one that means something, as in retrieval. Siblings stay on one side of the
    split. Pairs are spread evenly over the library.
    """
    families: dict[str, dict[str, tuple[str, str]]] = {"prose": {}, "code": {}}
    for name, tree, source in _sources():
        lines = source.splitlines()
        for node in ast.walk(tree):
            for group, passages in (("prose", _prose(node)), ("code", _code(node, lines))):
                if len(passages) >= 2:
                    label = f"{name}:{getattr(node, 'name', '')}:{len(families[group])}"
                    families[group][label] = (passages[0], passages[1])
    wanted = max(2, samples // 4)
    return {group: _evenly(found, wanted) for group, found in families.items()}


def _evenly(families: dict[str, tuple[str, str]], wanted: int) -> Rows:
    """Rows of `wanted` families, evenly spread, siblings beside each other."""
    names = list(families)
    step = max(1.0, len(names) / wanted)
    chosen = [names[int(i * step)] for i in range(min(wanted, len(names)))]
    return Rows(
        texts=tuple(text for name in chosen for text in families[name]),
        families=tuple(name for name in chosen for _ in range(2)),
    )


def _sources() -> Iterator[tuple[str, ast.Module, str]]:
    """(name, syntax tree, source) of each module that is there as a file."""
    for name in MODULES:
        spec = find_spec(name)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            source = Path(spec.origin).read_text(encoding="utf-8")
            yield name, ast.parse(source), source


def _prose(node: ast.AST) -> list[str]:
    """Paragraphs of a docstring that read as prose."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstring = ast.get_docstring(node) if isinstance(node, documented) else None
    found = []
    for paragraph in (docstring or "").split("\n\n"):
        text = " ".join(paragraph.split())
        wordy = sum(c.isalpha() or c.isspace() for c in text) >= 0.9 * len(text)
        if wordy and PROSE_CHARACTERS[0] <= len(text) <= PROSE_CHARACTERS[1]:
            found.append(text)
    return found


def _code(node: ast.AST, lines: list[str]) -> list[str]:
    """Pieces of a function, without docstring, comments and blank lines."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return []
    inside = lines[body[0].lineno - 1 : body[-1].end_lineno]
    kept = [line for line in inside if line.strip() and not line.strip().startswith("#")]
    starts = range(0, len(kept) - CODE_LINES + 1, CODE_LINES)
    return ["\n".join(kept[start : start + CODE_LINES]) for start in starts]
