"""Loads a `.pt2` file without running anything that came with it.

`torch.export.load` by itself would: it unpickles weights that are no plain tensors, custom objects
and, when the safe way fails, sample inputs; it evaluates symbolic sizes as Python text; it resolves
operators and tree types by name, importing what is named; a program also carries guards as Python
text. So the archive is read as data first, and refused when it holds anything of the kind.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsei.errors import ModelError, UnsafeModelError

NAMESPACES = ("aten", "prims", "quantized", "quantized_decomposed", "torchvision", "transformers")
"""Operator libraries a program may call; an operator must also be registered in this process."""
REFUSED_OPERATORS = ("torch.ops.aten.from_file",)
HIGHER_ORDER = (
    "cond", "while_loop", "scan", "map_impl", "wrap_with_set_grad_enabled", "wrap_with_autocast",
)  # fmt: skip
PYTHON_OPERATORS = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|le|lt|ge|gt|and_|or_"
    r"|not_)|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(int|float|not|max|min|sum|ite|sqrt)"
)
SIZE_NAMES = {
    "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt",
    "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv",
    "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt",
    "RoundDecimal", "ToFloat", "Identity", "Max", "Min", "Eq", "Ne", "Le", "Lt", "Ge", "Gt",
    "And", "Or", "Not", "True", "False", "Symbol", "Integer", "Float", "Rational", "Add", "Mul",
    "Pow", "positive", "nonnegative", "integer", "real", "precision", "evaluate", "StrictLessThan",
    "StrictGreaterThan", "LessThan", "GreaterThan", "Equality", "Unequality",
}  # fmt: skip
"""Functions that may stand in a symbolic size beside symbols such as s0 and u1."""

_PLAIN = re.compile(r"[\w.\-+:@ ]*")
_SYMBOL = re.compile(r"(s|u|f|zf|zuf|z)\d+")
_QUOTED = re.compile(r"'((?:s|u|f|zf|zuf|z)\d+|\d+(?:\.\d+)?)'")
_SIZE = re.compile(r"[\w\s()+\-*/%,<>=!&|~.]*")
_FREE_TEXT = {"as_string", "metadata", "guards_code", "custom", "doc_string"}
"""Keys whose text is never looked up or evaluated here (guards are dropped)."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What a `.pt2` file held."""

    model: nn.Module
    shapes: Mapping[str, tuple[int | None, ...]]
    """Name of each tensor input, in order -> its sizes; None where any size goes."""


def load_archive(path: Path) -> Archive:
    """Load the exported program in a file.

    Raises:
        ModelError: No such file, or none that `torch.export.save` of this torch wrote.
        UnsafeModelError: It holds what could only be loaded by running it.
    """
    if not path.is_file():
        raise ModelError(f"A .pt2 model must be a file; there is none at {path}. Check the path.")
    try:
        with zipfile.ZipFile(path) as archive:
            for reason in _dangers(archive):
                raise UnsafeModelError(
                    f"Loading a model must run no code that came with it; {path.name} holds "
                    f"{reason}. Export the model again from its source with torch.export.save."
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            program._guards_code = []
            model = torch.export.unflatten(program)
    except UnsafeModelError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(
            f"A .pt2 model must be a file that torch.export.save of this torch "
            f"({torch.__version__}) can read; {path.name} stopped with {type(error).__name__}: "
            f"{reason[:300]}. Export it again."
        ) from error
    shapes = _shapes(program)
    model.module_call_graph = _Shared(model.module_call_graph)
    model.meta = {}
    model.__class__ = _ByPosition
    vars(model)["keyword_names"] = _keywords(program)
    for module in model.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            # Shapes with symbols in them cannot be copied, and nothing needs them any more.
            node.meta.pop("val", None)
    return Archive(model=model, shapes=shapes)


class _ByPosition(torch.export.UnflattenedModule):
    """An exported model that also takes by position what it was exported to take by keyword."""

    keyword_names: tuple[str, ...]

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """The model's output."""
        first = len(inputs) - len(self.keyword_names) + len(named)
        later = dict(zip(self.keyword_names, inputs[first:], strict=False))
        return super().forward(*inputs[:first], **later, **named)


def _keywords(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """Names of the inputs a program was exported to take by keyword, in order."""
    signature = program.module_call_graph[0].signature
    spec = None if signature is None else signature.in_spec
    return () if spec is None else tuple(spec.child(1).context)


class _Shared(list[Any]):
    """A list that copies of a module share: its tree descriptions warn when they are copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        del memo
        return self


def _shapes(program: torch.export.ExportedProgram) -> dict[str, tuple[int | None, ...]]:
    wanted = set(program.graph_signature.user_inputs)
    found: dict[str, tuple[int | None, ...]] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in wanted and isinstance(value, torch.Tensor):
            sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
            found[str(node.name)] = sizes
    return found


def _dangers(archive: zipfile.ZipFile) -> Iterator[str]:
    """What in an archive could only be loaded by running it, as readable reasons."""
    for name in archive.namelist():
        inside = name.partition("/")[2]
        folder, base = inside.rpartition("/")[0], inside.rpartition("/")[2]
        if folder.startswith("data/aotinductor"):
            yield "a compiled library"
        elif base.startswith(("custom_obj", "opaque_obj")):
            yield f"a pickled object ({base})"
        elif base.endswith(("weights_config.json", "constants_config.json")):
            yield from _payload_dangers(json.loads(archive.read(name)))
        elif folder == "models":
            yield from _program_dangers(json.loads(archive.read(name)))
        elif base.endswith(".pt"):
            yield from _pickle_dangers(archive.read(name), base)
    if any("/" not in name for name in archive.namelist()):
        # Files at the root are the format of torch 2.7 and before, which is pickle throughout.
        yield "the pickles of an old torch's format"


def _payload_dangers(config: dict[str, Any]) -> Iterator[str]:
    for name, payload in config.get("config", {}).items():
        if payload.get("use_pickle"):
            yield f"a pickled tensor ({name})"
        if not _PLAIN.fullmatch(str(payload.get("path_name", ""))):
            yield f"an odd file name for {name}"


def _pickle_dangers(content: bytes, name: str) -> Iterator[str]:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        # torch.export.load would fall back to unpickling it in full.
        yield f"a pickle of more than tensors ({name})"


def _program_dangers(value: Any, key: str = "") -> Iterator[str]:
    """Walk a program's JSON; every text must be of a kind that is known to be harmless."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "as_custom_obj":
                yield "a custom object"
            if not _PLAIN.fullmatch(str(name)):
                yield f"an odd name ({str(name)[:40]!r})"
            if name not in _FREE_TEXT:
                yield from _program_dangers(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _program_dangers(inner, key)
    elif isinstance(value, str) and not _harmless(value, key):
        yield f"{value[:60]!r} as {key or 'text'}, which would be evaluated"


def _harmless(text: str, key: str) -> bool:
    """Whether a text under a key is of the kind that torch writes there."""
    if key in ("target", "as_operator"):
        return _known_operator(text)
    if key == "expr_str":
        return _known_size(text)
    if key in ("in_spec", "out_spec"):
        # Both words make torch import the module that stands beside them.
        return "__enum__" not in text and "default_factory" not in text
    return bool(_PLAIN.fullmatch(text))


def _known_size(text: str) -> bool:
    """Whether a symbolic size is arithmetic over symbols and the functions torch writes."""
    text = _QUOTED.sub(r"\1", text)
    names = re.findall(r"[A-Za-z_]\w*", text)
    plain = bool(_SIZE.fullmatch(text)) and not re.search(r"\.\s*[A-Za-z_]", text)
    return plain and all(name in SIZE_NAMES or _SYMBOL.fullmatch(name) for name in names)


def _known_operator(name: str) -> bool:
    """Whether an operator is registered, or one of the few Python ones that programs use."""
    if PYTHON_OPERATORS.fullmatch(name):
        return True
    parts = name.split(".")
    if parts[:2] != ["torch", "ops"] or any(part.startswith("__glob") for part in parts):
        return False
    if parts[2:3] == ["higher_order"]:
        return len(parts) == 4 and parts[3] in HIGHER_ORDER
    if len(parts) != 5 or parts[2] not in NAMESPACES or ".".join(parts[:4]) in REFUSED_OPERATORS:
        return False
    packet = getattr(getattr(torch.ops, parts[2]), parts[3], None)
    return isinstance(getattr(packet, parts[4], None), torch._ops.OpOverload)
