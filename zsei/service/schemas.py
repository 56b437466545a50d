"""The messages as JSON schemas (2020-12), for `zsei contracts` and for the service."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from zsei.checkpoint import contracts
from zsei.checkpoint.contracts import MESSAGES, VERSION
from zsei.errors import OutputError, UsageError
from zsei.service.example_messages import EXAMPLES

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PARTS: tuple[type[BaseModel], ...] = (
    contracts.PrunedArchitecture, contracts.CheckpointMetadata, contracts.ChannelImportanceData,
    contracts.ChannelPruningTarget, contracts.AttentionHeadTarget, contracts.LayerPruningTarget,
    contracts.PruningStatistics, contracts.SafetyValidation, contracts.PruningMasks,
)  # fmt: skip
"""Parts of messages that have a schema of their own."""
PUBLISHED: dict[str, type[BaseModel]] = {kind.__name__: kind for kind in (*MESSAGES, *PARTS)}
"""Name -> model, messages first."""


def schema_of(name: str) -> dict[str, Any]:
    """The JSON schema of a message or of a part of one.

    It refuses what the model refuses but for what a schema cannot say: that the two sides speak
    the same version is checked by `version`'s pattern, that ids fit each other by who reads them.

    Raises:
        UsageError: No such contract.
    """
    if name not in PUBLISHED:
        raise UsageError(
            f"Contracts are {', '.join(PUBLISHED)}; {name!r} is none of them. Name one of these."
        )
    return json.loads(_schema_text(name))


def schema_id(name: str) -> str:
    """The `$id` of a schema."""
    return f"urn:zsei:contract:{name}:{VERSION}"


@cache
def _schema_text(name: str) -> str:
    """A schema as text; made once, for it is read out of source files."""
    kind = PUBLISHED[name]
    body = kind.model_json_schema(mode="validation")
    definitions = body.pop("$defs", {})
    describe({**definitions, name: body}, (kind,))
    front = {
        "$schema": DIALECT,
        "$id": schema_id(name),
        "version": VERSION,
    }
    examples = [EXAMPLES[name].model_dump(mode="json")] if name in EXAMPLES else []
    return text_of(
        {
            **front,
            **body,
            **({"examples": examples} if examples else {}),
            **({"$defs": dict(sorted(definitions.items()))} if definitions else {}),
        }
    )


def definitions_of(
    kinds: Iterable[type[BaseModel]], template: str = "#/components/schemas/{model}"
) -> dict[str, Any]:
    """Name -> schema of models and of all they are made of, as one document refers to them."""
    kinds = tuple(kinds)
    pairs: list[tuple[type[BaseModel], Literal["validation"]]] = [(k, "validation") for k in kinds]
    _, whole = models_json_schema(pairs, ref_template=template)
    definitions = whole["$defs"]
    describe(definitions, kinds)
    for name, example in EXAMPLES.items():
        if name in definitions:
            definitions[name]["examples"] = [example.model_dump(mode="json")]
    return definitions


def write_schemas(folder: Path, names: Iterable[str]) -> list[Path]:
    """Write `NAME.schema.json` files into a folder.

    Raises:
        OutputError: It cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = folder / f"{name}.schema.json"
            draft = path.with_name(f".{path.name}.draft")
            draft.write_text(text_of(schema_of(name)), encoding="utf-8")
            draft.replace(path)
            written.append(path)
    except OSError as error:
        raise OutputError(
            f"Schemas are written into a folder, and {folder} cannot be written "
            f"({error.strerror or error}). Name another folder."
        ) from error
    return written


def text_of(schema: Any) -> str:
    """A schema as text: the same schema is the same text."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def describe(definitions: dict[str, Any], kinds: Iterable[type[BaseModel]]) -> None:
    """Put the docstrings of fields into schemas as descriptions, in place.

    Read from the source only when somebody asks for a schema: reading it when the classes are made
    would cost every process that imports them.
    """
    for kind in _reached(kinds):
        properties = definitions.get(kind.__name__, {}).get("properties", {})
        for name, text in _field_docstrings(kind).items():
            if name in properties:
                properties[name]["description"] = text


def _reached(kinds: Iterable[type[BaseModel]]) -> list[type[BaseModel]]:
    """The models and all models in their fields."""
    found: dict[type[BaseModel], None] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind in found:
            continue
        found[kind] = None
        for field in kind.model_fields.values():
            waiting += _models_in(field.annotation)
    return list(found)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]


@cache
def _field_docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """Field -> the string that stands below it, base classes first."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not (issubclass(base, BaseModel) and base is not BaseModel):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[field.target.id] = " ".join(inspect.cleandoc(below.value.value).split())
    return found
