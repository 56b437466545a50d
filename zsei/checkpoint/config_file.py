"""A configuration in a YAML or TOML file, by the names of the Elesh design."""

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from zsei.checkpoint.config import CheckpointConfig
from zsei.errors import UsageError

LARGEST = 1024**2
"""Bytes; a configuration is a page."""


def read_config(path: Path | None) -> CheckpointConfig:
    """The configuration in a file; None gives the defaults.

    Raises:
        UsageError: There is no such file, it is neither YAML nor TOML, or a key or value in it is
            none of the configuration.
    """
    if path is None:
        return CheckpointConfig()
    try:
        return CheckpointConfig.model_validate(_content(path))
    except ValidationError as error:
        raise UsageError(f"{_said(error)} Mend it in {path}.") from None


def _content(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(
                f"A configuration is a small file, and {path} has more than {LARGEST} bytes. Name "
                "another file."
            )
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        # Only events, before any is built: an alias can stand for millions of values.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UsageError(f"A configuration repeats nothing by aliases, and {path} does.")
        found = yaml.safe_load(text)
        return {} if found is None else found
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"A configuration is a file, and {path} cannot be read ({why}).") from None
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"A configuration is YAML, or TOML in a file that ends in .toml; {path} is neither "
            f"({first})."
        ) from None


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        given = f", but it is {first['input']!r:.100}" if place else ""
        return f"`{place or 'the whole file'}` does not fit: {first['msg']}{given}."
    name = str(first["loc"][-1])
    near = [key for key in _keys(CheckpointConfig) if key.rpartition(".")[2] == name]
    near += difflib.get_close_matches(place, list(_keys(CheckpointConfig)), n=1)
    meant = f"; did you mean `{near[0]}`?" if near else "."
    return f"The configuration has no key `{place}`{meant}"


def _keys(section: type[BaseModel], before: str = "") -> Iterator[str]:
    """All keys of a section and of those in it."""
    for name, field in section.model_fields.items():
        yield before + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{before}{name}.")
