"""Reads a configuration of the analysis of checkpoints: YAML or TOML, checked to the last key."""

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from zsei.checkpoint.config import CheckpointConfig
from zsei.errors import UsageError

SUFFIXES = (".yaml", ".yml", ".toml")
_LARGEST = 1 << 20
"""Bytes; a configuration is written by hand."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, where each key stands once and nothing is repeated by reference."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases: a few lines of them can stand for gigabytes."""
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()
            raise ComposerError(
                None, None, "a reference (*name) stands where a value should", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping; a key that stands twice is refused, where YAML would drop the first."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConstructorError(
                    None, None, f"a key is a word, and {key!r} is none", key_node.start_mark
                )
            if key in seen:
                raise ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_config(path: Path | None) -> CheckpointConfig:
    """The configuration in a file; what it does not say has its default, and None says nothing.

    Raises:
        UsageError: There is no such file, it is neither YAML nor TOML, a key is unknown or stands
            twice, or a value is of the wrong kind or outside of its range. The message names the
            key with its path, what arrived, and the nearest key there is.
    """
    return CheckpointConfig() if path is None else config_of(_content(path), path.name)


def config_of(content: Any, name: str) -> CheckpointConfig:
    """The configuration in what was read from a file called `name`.

    Raises:
        UsageError: As `read_config`.
    """
    if content is None:
        return CheckpointConfig()
    if not isinstance(content, dict):
        raise UsageError(
            f"A configuration holds the sections `elesh` and `run`; {name} holds "
            f"{_kind(content)}. Begin it with `elesh:`."
        )
    _check_sections(content, name)
    try:
        return CheckpointConfig.model_validate(content)
    except ValidationError as error:
        raise UsageError(_said(error, content, name)) from error


def _content(path: Path) -> Any:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"A configuration is a file ending in {', '.join(SUFFIXES)}; {path.name!r} does not. "
            "Rename it."
        )
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(
                f"A configuration has at most {_LARGEST:,} bytes; {path.name} has "
                f"{path.stat().st_size:,}. Name the right file."
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"A configuration must be a file that can be read; {str(path)!r} cannot "
            f"({error.strerror or error}). Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"A configuration is UTF-8 text; {path.name} is not. Save it so."
        ) from error
    try:
        return _parsed(text, path.suffix.lower())
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path.name} must be {'TOML' if path.suffix.lower() == '.toml' else 'YAML'}, but "
            f"{_where(error)}. Mend it there."
        ) from error


def _parsed(text: str, suffix: str) -> Any:
    return tomllib.loads(text) if suffix == ".toml" else yaml.load(text, Loader=_Loader)


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    line = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{' '.join(str(problem).split())}{line}"


def _check_sections(content: dict[str, Any], name: str) -> None:
    """Say what is meant where somebody leaves the section out."""
    for key in content:
        if key in CheckpointConfig.model_fields:
            continue
        for section in CheckpointConfig.model_fields:
            model = _model_at((section,))
            if model is not None and key in model.model_fields:
                raise UsageError(
                    f"A configuration holds the sections `elesh` and `run`; {name} has the key "
                    f"{key!r} outside of them. Put it under `{section}`."
                )


def _said(error: ValidationError, content: Any, name: str) -> str:
    first = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in first["loc"])
    place = ".".join(path)
    if first["type"] == "extra_forbidden":
        near = _nearest(path)
        fix = f"Did you mean {near!r}?" if near else f"There are {_list(_fields(path[:-1]))}."
        return f"A configuration has no keys but its own; {name} has {place!r}. {fix}"
    arrived = content
    for part in path:
        arrived = arrived.get(part) if isinstance(arrived, dict) else arrived
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "model_type":
        message = "Input should be a section with keys of its own"
    rest = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return (
        f"{place!r} in {name} does not fit: {message[:1].lower()}{message[1:]}, and it is "
        f"{arrived!r:.80}{rest}. Mend it, or leave it out for its default."
    )


def _nearest(path: tuple[str, ...]) -> str:
    """The key there is that comes nearest to one there is not, with its path; empty for none."""
    wrong = path[-1]
    here = [".".join((*path[:-1], name)) for name in _fields(path[:-1])]
    by_name = {key.rpartition(".")[2]: key for key in (*_everywhere(), *here)}
    close = difflib.get_close_matches(wrong, list(by_name), n=1, cutoff=0.6)
    among_these = difflib.get_close_matches(wrong, list(_fields(path[:-1])), n=1, cutoff=0.6)
    if wrong not in by_name and among_these:
        return ".".join((*path[:-1], among_these[0]))
    return by_name[close[0]] if close else ""


def _everywhere(path: tuple[str, ...] = ()) -> Iterator[str]:
    for name in _fields(path):
        yield ".".join((*path, name))
        yield from _everywhere((*path, name))


def _fields(path: tuple[str, ...]) -> tuple[str, ...]:
    model = _model_at(path)
    return () if model is None else tuple(model.model_fields)


def _model_at(path: tuple[str, ...]) -> type[BaseModel] | None:
    """The section at a path; None where there is none."""
    model: type[BaseModel] = CheckpointConfig
    for part in path:
        field = model.model_fields.get(part)
        if field is None:
            return None
        kinds = (field.annotation, *get_args(field.annotation))
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not inner:
            return None
        model = inner[0]
    return model


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


def _kind(value: Any) -> str:
    known = {list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return known.get(type(value), "nothing" if isinstance(value, NoneType) else "something else")
