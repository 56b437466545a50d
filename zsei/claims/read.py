"""Reads a file of claims; whatever is wrong with it is named with its line or its claim.

The YAML is loaded with `yaml.safe_load` alone, so that nothing in it can run.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from zsei.claims.claim import Claim, ClaimsFile
from zsei.errors import UsageError
from zsei.speedups.known import check_step
from zsei.speedups.speedup import Step, Use

LARGEST = 1_000_000
"""Bytes of a file that anybody wrote by hand."""
MOST_VALUES = 50_000
"""Values in it, what aliases repeat counted again: a few lines can stand for billions."""


def read_claims(path: Path | str) -> ClaimsFile:
    """The claims in a file.

    Args:
        path: A YAML file of the shape of `ClaimsFile`.

    Raises:
        UsageError: It does not exist, is no YAML, or says something that no claim can say; the
            message names the line or the claim, what arrived and what is allowed.
    """
    path = Path(path)
    text = _text(path)
    root, value = _loaded(path, text)
    if not isinstance(value, dict):
        raise UsageError(
            f"A file of claims is a mapping with model and claims; {path.name} holds "
            f"{_short(value)}. Begin with the line `model: ...`."
        )
    try:
        found = ClaimsFile.model_validate(value)
    except ValidationError as error:
        raise UsageError(_said(path, root, value, error)) from error
    _check_ids(path, found.claims)
    _check_steps(path, found)
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(
                f"A file of claims has at most {LARGEST:,} bytes; {path.name} has "
                f"{path.stat().st_size:,}. Check that it is the right file."
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"A file of claims must be there; {str(path)!r} does not exist. Check the path."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        told = f"{str(path)!r} must be a text file that can be read: {reason}."
        raise UsageError(told) from error


def _loaded(path: Path, text: str) -> tuple[yaml.Node | None, Any]:
    """The file as nodes, which know their lines, and as values.

    Raises:
        UsageError: It is no YAML, a key stands twice, or it unfolds without end.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_nodes(path, root)
        return root, yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(
            f"A file of claims must be YAML; {path.name}{where}: {problem}. Check the indentation "
            f"and the quotes there."
        ) from error


def _check_nodes(path: Path, root: yaml.Node | None) -> None:
    for number, node in enumerate(_nodes(root)):
        if number > MOST_VALUES:
            raise UsageError(
                f"A file of claims holds at most {MOST_VALUES:,} values; {path.name} unfolds to "
                f"more. Write out what its aliases (*name) stand for."
            )
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for key, times in Counter(str(key) for key in keys).items():
            if times > 1:
                raise UsageError(
                    f"A key stands once; {path.name}, line {node.start_mark.line + 1}: {key!r} "
                    f"stands {times} times in one mapping. Remove all but one."
                )


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    waiting = [] if root is None else [root]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _said(
    path: Path, root: yaml.Node | None, value: dict[str, Any], error: ValidationError
) -> str:  # fmt: skip
    """The first thing that does not fit, with its line, its claim and what is allowed."""
    first = error.errors()[0]
    place = tuple(part for part in first["loc"] if part != "[key]")
    line = _line(root, place)
    told = str(first["msg"]).removeprefix("Value error, ")
    told = told[:1].lower() + told[1:]
    if first["type"] == "extra_forbidden":
        told = f"there is no such key; allowed are {', '.join(_allowed(place))}"
    elif first["type"] == "missing":
        told = "it is missing"
    elif first["type"] != "value_error":
        told += f", and this is {_short(first['input'])}"
    what = ".".join(str(part) for part in place if not isinstance(part, int)) or "the file"
    claim = _claim(value, place)
    more = len(error.errors()) - 1
    rest = f" ({more} more after this one.)" if more else ""
    return f"{path.name}, line {line}{claim}: {what}: {told}.{rest}"


def _allowed(place: Sequence[str | int]) -> Sequence[str]:
    """Keys of the type in which an unknown one stands."""
    known: Any = ClaimsFile
    names = [part for part in place[:-1] if isinstance(part, str)]
    for name in names:
        if known is ClaimsFile and name == "claims":
            known = Claim
        elif name in ("steps", "alternatives", "baseline"):
            known = Step
        else:
            known = known.model_fields[name].annotation
    return sorted(getattr(known, "model_fields", {"at_least": 0, "at_most": 0}))


def _line(root: yaml.Node | None, place: Sequence[str | int]) -> int:
    """Line of a value; of the nearest that is there, where it is missing."""
    node = root
    line = 1 if node is None else node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                continue
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                continue
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _claim(value: dict[str, Any], place: Sequence[str | int]) -> str:
    """Which claim it is about, if it is about one."""
    if len(place) < 2 or place[0] != "claims" or not isinstance(place[1], int):
        return ""
    given = value["claims"][place[1]]
    name = given.get("id") if isinstance(given, dict) else None
    return f", claim {str(name)[:80]!r}" if name else f", claim number {place[1] + 1}"


def _short(value: object) -> str:
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _check_ids(path: Path, claims: Sequence[Claim]) -> None:
    twice = [name for name, times in Counter(claim.id for claim in claims).items() if times > 1]
    if twice:
        raise UsageError(
            f"Every claim has an id of its own; in {path.name} {', '.join(twice)} stands more than "
            f"once. Rename all but one."
        )


def _check_steps(path: Path, file: ClaimsFile) -> None:
    """Every step is one there is, with parameters that it takes.

    Raises:
        UsageError: One is not; the message names the claim.
    """
    named: list[tuple[str, Use, Sequence[Step]]] = []
    named.append(("the baseline", file.workload.use, file.baseline))
    for claim in file.claims:
        named.extend((f"claim {claim.id!r}", file.use_of(claim), way) for way in claim.ways)
    for where, use, steps in named:
        for step in steps:
            try:
                check_step(step, use)
            except UsageError as error:
                raise UsageError(f"{path.name}, {where}: {error}") from error
