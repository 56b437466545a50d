"""Exports a model to one file that other programs run: `.pt2` for torch, `.onnx` for ONNX runtimes.

What is exported is the model's main output (see `pick_output`) as a function of its inputs, for any
batch size and length where the model allows it. Every file is loaded and its outputs are compared
with the model's before it gets its name.
"""

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsei.errors import ExportError, UsageError, ZseiError
from zsei.records import Record
from zsei.settings import Settings
from zsei.subject.archive import load_archive
from zsei.subject.load import load_model
from zsei.subject.program import Program, export, frozen_twin
from zsei.surgery.apply import EditedModel, ProgramModel, bare, input_sizes
from zsei.surgery.export_onnx import check_installed, onnx_runner, write_onnx
from zsei.surgery.module_form import run
from zsei.surgery.recipe import RECIPE, SavedInput, read_recipe
from zsei.surgery.save import load
from zsei.surgery.whole import new_file, refuse_existing

LIMIT = 1e-4
"""Largest difference between a file's outputs and the model's, relative to the largest output."""
Target = Literal["pt2", "onnx"]
Inputs = dict[str, Tensor]
Sizes = tuple[tuple[int | None, ...], ...]
Shapes = tuple[tuple[int, ...], ...]
Run = Callable[[Sequence[Tensor]], Tensor]


class Exported(Record):
    """A file that was written, and how far it was proven."""

    path: str
    to: Target
    bytes: int
    """Of the file and, for a large ONNX model, of the weights beside it."""
    inputs: dict[str, tuple[int | None, ...]]
    """Name of each input, in order -> its sizes, None where any goes."""
    difference: float
    """Largest difference from the model's outputs, relative to the largest output."""
    compared: tuple[Shapes, ...]
    """Shapes of the inputs for which outputs were compared."""


def export_model(
    model: EditedModel | nn.Module | Path | str,
    path: Path | str,
    *,
    to: Target | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    float32: bool = False,
) -> Exported:
    """Export a model to a `.pt2` or ONNX file.

    Args:
        model: An edited model, a folder that `save` wrote, any module, or what else names a model
            (a Hugging Face folder, `package.module:factory`). It is not changed.
        path: The new file.
        to: pt2 or onnx; None goes by the ending of `path`.
        inputs: Name -> example tensor, axis 0 the sample. None takes what the model was edited
            with, made-up inputs of the saved folder's shapes, or a text model's own dummies.
        float32: Export in full precision whatever the model's.

    Raises:
        UsageError: No such format, or nothing says what the inputs are.
        ExportError: The model cannot be exported, a package is missing, or the file's outputs
            differ from the model's by more than 1e-4. No file is left.
        OutputError: `path` exists or cannot be written.
        ModelError: The model cannot be loaded or run on the inputs.
    """
    path = Path(path)
    refuse_existing(path)
    to = _target(path, to)
    if to == "onnx":
        check_installed()
    found, given = _with_inputs(model, inputs)
    twin = frozen_twin(found)
    if float32:
        twin = copy.deepcopy(twin).float()
        given = {n: t.float() if t.is_floating_point() else t for n, t in given.items()}
    _check_precision(twin, to)
    names, tensors = tuple(given), tuple(given.values())
    wanted = run(twin, names, tensors)
    if to == "onnx":
        _plain_experts(twin)
    with new_file(path) as draft:
        call = Call(model=twin, names=names, tensors=tensors, wanted=wanted)
        try:
            sizes, shapes, difference = _written(call, draft, to, dynamic=True)
        except ExportError:
            # What fails with sizes left open may do with those of the example.
            for left in draft.parent.iterdir():
                left.unlink()
            sizes, shapes, difference = _written(call, draft, to, dynamic=False)
        written = sum(file.stat().st_size for file in draft.parent.iterdir())
    return Exported(
        path=str(path),
        to=to,
        bytes=written,
        inputs=dict(zip(names, sizes, strict=True)),
        difference=difference,
        compared=shapes,
    )


@dataclass(frozen=True, kw_only=True)
class Call:
    """A model, inputs it runs on, and the output that a file must give for them."""

    model: nn.Module
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    wanted: Tensor


def _written(
    call: Call, draft: Path, to: Target, *, dynamic: bool
) -> tuple[Sizes, tuple[Shapes, ...], float]:
    """Write a file and compare it: its inputs' sizes, shapes compared, largest difference.

    Raises:
        ExportError: It cannot be written, or its outputs differ.
    """
    try:
        program = _program(call, dynamic=dynamic)
        sizes = input_sizes(program)
        exported = _exported(program, call, sizes)
        if to == "onnx":
            write_onnx(exported, draft, call.names)
            again = onnx_runner(draft, call.names)
        else:
            again = _write_pt2(exported, draft)
        compared = [(call.tensors, call.wanted), *_other_sizes(call, sizes)]
        difference = max(_difference(again(own), output) for own, output in compared)
    except (ZseiError, OSError):
        raise
    except Exception as error:
        raise ExportError(
            f"The model must be expressible as {to}; the export stopped with {_reason(error)}. "
            f"Keep the saved folder, which zsei.load loads"
            f"{', or export to pt2' if to == 'onnx' else ''}."
        ) from error
    if not difference <= LIMIT:
        raise ExportError(
            f"An exported file must give the model's outputs within {LIMIT:g} of the largest; "
            f"this {to} differs by {difference:.1e}. No file was left; keep the saved folder, "
            f"which zsei.load loads."
        )
    shapes = tuple(tuple(tuple(tensor.shape) for tensor in own) for own, _ in compared)
    return sizes, shapes, difference


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {re.sub(chr(27) + r'[[][0-9;]*m', '', line)[:300]}"


def _target(path: Path, to: Target | None) -> Target:
    found = to or path.suffix.removeprefix(".").lower()
    if found not in ("pt2", "onnx"):
        raise UsageError(
            f"A model is exported to pt2 or onnx; {path.name!r} ends in neither. Name the file "
            f"model.pt2 or model.onnx, or say which (--to, to=)."
        )
    return found


def _with_inputs(
    model: EditedModel | nn.Module | Path | str, inputs: Mapping[str, Tensor] | None
) -> tuple[nn.Module, Inputs]:
    """The model, and inputs it runs on."""
    if isinstance(model, EditedModel):
        return model.model, dict(inputs or zip(model.input_names, model.inputs, strict=True))
    if isinstance(model, nn.Module):
        found: nn.Module = model
    elif (Path(model) / RECIPE).is_file():
        recipe = read_recipe(Path(model))
        return load(model), dict(inputs or {own.name: _made_up(own) for own in recipe.inputs})
    else:
        found = load_model(model, Settings()).model
    inputs = inputs or _dummies(found)
    if not inputs:
        raise UsageError(
            f"An export needs example inputs, and {type(found).__name__} does not say its own. "
            f"Give them in Python, zsei.export(model, path, inputs={{'x': tensor}}), or export "
            f"the folder that zsei saved, which knows them."
        )
    return found, dict(inputs)


def _dummies(model: nn.Module) -> Inputs:
    """The dummy tokens of a transformers text model, with a mask where it takes one."""
    given: Any = getattr(model, "dummy_inputs", None)
    if getattr(model, "main_input_name", "") != "input_ids" or not given:
        return {}
    found = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    if "attention_mask" in inspect.signature(model.forward).parameters:
        found["attention_mask"] = torch.ones_like(found["input_ids"])
    return found


def _made_up(given: SavedInput) -> Tensor:
    """An input of a saved shape: noise, or whole numbers no larger than those it was proven on."""
    kind = getattr(torch, given.dtype)
    generator = torch.Generator().manual_seed(0)
    if kind.is_floating_point:
        return torch.randn(given.shape, generator=generator).to(kind)
    if given.largest is None or given.largest <= 1:
        return torch.ones(given.shape, dtype=kind)  # a mask that hides nothing
    return torch.randint(1, given.largest + 1, given.shape, generator=generator).to(kind)


def _check_precision(model: nn.Module, to: Target) -> None:
    """Refuse ONNX in half precision: on a CPU nothing could say whether it is right."""
    halves = sorted({str(t.dtype)[6:] for t in model.parameters() if t.dtype.itemsize < 4})
    if to == "onnx" and halves:
        raise ExportError(
            f"An ONNX file is compared with the model on the CPU, which needs full precision; "
            f"this model holds {', '.join(halves)}. Export it in float32 (--float32, "
            f"float32=True), or to pt2 as it is."
        )


def _plain_experts(model: nn.Module) -> None:
    """Have a mixture of experts call what ONNX has; `model` is a copy of our own."""
    if getattr(getattr(model, "config", None), "_experts_implementation", None):
        model.set_experts_implementation("batched_mm")  # type: ignore[operator]


def _program(call: Call, *, dynamic: bool) -> Program:
    """The model as one program, of any sizes where it allows that."""
    if isinstance(call.model, ProgramModel):
        inner, names = call.model.program, call.model.input_names
        return export(inner, names, call.tensors, dynamic=dynamic)
    return export(call.model, call.names, call.tensors, dynamic=dynamic)


def _exported(program: Program, call: Call, sizes: Sizes) -> torch.export.ExportedProgram:
    """The program as torch exports it, its inputs under the model's names."""
    module = bare(program)
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, name in zip(places, call.names, strict=True):
        node.target = node.name = name
    module.recompile()
    auto = torch.export.Dim.AUTO
    shapes = tuple({a: auto for a, size in enumerate(own) if size is None} for own in sizes)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(module, call.tensors, dynamic_shapes=shapes, strict=False)


def _write_pt2(exported: torch.export.ExportedProgram, draft: Path) -> Run:
    # Registers the operators that programs of transformers models call.
    import transformers.integrations.moe  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported, draft)
    loaded = load_archive(draft).model

    def again(inputs: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return loaded(*inputs)

    return again


def _other_sizes(call: Call, sizes: Sizes) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Inputs of one sample more, and shorter ones, with the model's outputs, where any size goes.

    Whether the model itself takes shorter inputs is tried.
    """
    if all(own and own[0] is None for own in sizes):
        more = tuple(torch.cat([tensor, tensor[:1]]) for tensor in call.tensors)
        yield more, run(call.model, call.names, more)
    pairs = [(tensor, own[1:2] == (None,)) for tensor, own in zip(call.tensors, sizes, strict=True)]
    lengths = {tensor.shape[1] for tensor, is_open in pairs if is_open}
    if len(lengths) != 1 or (half := lengths.pop() // 2) < 2:
        return
    shorter = tuple(tensor[:, :half] if is_open else tensor for tensor, is_open in pairs)
    try:
        output = run(call.model, call.names, shorter)
    except Exception:  # then no file need do it either
        return
    yield shorter, output


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest entry; infinite for another shape or other infinities."""
    finite = wanted.isfinite()
    if found.shape != wanted.shape or not torch.equal(found.isfinite(), finite):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    found, wanted = found[finite].double(), wanted[finite].double()
    return float((found - wanted).abs().max()) / (float(wanted.abs().max()) or 1.0)
