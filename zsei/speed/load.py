"""Applies a settings file: the model it was measured on, run the way that was accepted."""

from pathlib import Path

import torch
from torch import Tensor, nn

from zsei.errors import ExportError, SpeedUpRefused, UsageError
from zsei.settings import Settings
from zsei.speed.record import InputShape, SpeedSettings
from zsei.speed.settings_file import read_settings
from zsei.speed.state import undisturbed
from zsei.speed.workload_of import workload_of
from zsei.speedups import carry_out
from zsei.speedups.runnable import Accelerated, Runnable
from zsei.speedups.workload import Workload
from zsei.subject.anatomy import read_anatomy
from zsei.subject.load import DEMO, LoadedModel, from_module, load_model
from zsei.subject.modules_anatomy import read_modules
from zsei.subject.objective import Objective
from zsei.subject.program import export, frozen_twin, model_hash
from zsei.subject.types import Batch, Subject
from zsei.timing.device import find_device


def load_fast(
    file: Path | str,
    model: str | Path | nn.Module | None = None,
    *,
    any_model: bool = False,
    settings: Settings | None = None,
) -> nn.Module:
    """A model that runs the way a settings file says.

    Args:
        file: `speed.json`, as `zsei speed --out DIR` writes it. Nothing in it is run.
        model: The model; None loads the one that the file names.
        any_model: Apply it to a model whose weights are not those it was measured on: speed and
            sameness of outputs are then not known.
        settings: How models may be loaded; None reads `zsei.toml` and `ZSEI_*`.

    Returns:
        A module in eval mode that takes the model's arguments, and runs copies that share its
        weights. Where a step rearranges batches it gives the main output alone.

    Raises:
        UsageError: The file is not there, newer or names what does not exist; the model is another
            one, or was a Python object that must be passed.
        DataError: The file is damaged.
        DeviceError: The device it was measured on is not there.
        SpeedUpRefused: A step cannot be carried out here; it is named.
    """
    settings = settings or Settings()
    stored = read_settings(file)
    if stored.use == "training":
        raise UsageError(
            f"zsei.load makes a model that answers faster; {Path(file).name} holds speed-ups of "
            f"training. Use zsei.speed.training_up.training_setup for a loop of your own, or "
            f"measure without --train."
        )
    if stored.use != "inference":
        raise UsageError(
            f"Only speed-ups of inference are applied by loading; {Path(file).name} holds those of "
            f"{stored.use}. Use zsei.speed.training_up.training_setup({str(file)!r}, model, data)."
        )
    device = find_device(stored.device)
    if model is None:
        _refuse_code(stored, Path(file))
    loaded = (
        from_module(model)
        if isinstance(model, nn.Module)
        else load_model(stored.model if model is None else model, settings)
    )
    found = model_hash(loaded.model)
    if found != stored.model_hash and not any_model:
        raise UsageError(
            f"A settings file holds for the model it was measured on; {Path(file).name} saw "
            f"{stored.model_hash[:12]} and this one is {found[:12]}. Measure this model with "
            f"`zsei speed`, or pass any_model=True where that is meant."
        )
    with undisturbed(), torch.no_grad():
        workload = workload_of(_subject(loaded, found, stored, settings.seed), device)
        return Accelerated(_carried_out(stored, workload, Path(file).name)).eval()


def _refuse_code(stored: SpeedSettings, file: Path) -> None:
    """A file may name weights to load; a function to call only the user may name.

    Raises:
        UsageError: The model is a Python object or a factory.
    """
    factory = ":" in stored.model and stored.model != DEMO
    if stored.kind in ("object", "factory") or factory:
        what = "the function" if factory else "a Python object"
        given = repr(stored.model) if factory else "model"
        raise UsageError(
            f"A settings file may name a folder, a hub name or a .pt2 file to load, since loading "
            f"runs no code; {file.name} was measured on {what} {stored.model}. Name it yourself: "
            f"zsei.load({given}, speed={str(file)!r})."
        )


def _carried_out(stored: SpeedSettings, workload: Workload, file: str) -> Runnable:
    try:
        return carry_out(stored.steps, workload)
    except SpeedUpRefused as error:
        steps = " + ".join(step.text() for step in stored.steps)
        raise SpeedUpRefused(
            f"{file} asks for {steps}, and that cannot be had here: {error} Or measure again here "
            f"with `zsei speed`."
        ) from error


def _subject(loaded: LoadedModel, identity: str, stored: SpeedSettings, seed: int) -> Subject:
    """The model with made-up inputs of the recorded shapes: for carrying out, not for judging."""
    names = tuple(shape.name for shape in stored.inputs)
    batch = made_up(stored.inputs, seed)
    twin = frozen_twin(loaded.model)
    try:
        program = export(twin, names, batch.inputs)
        anatomy = read_anatomy(program, loaded.family)
    except ExportError:
        program, anatomy = None, read_modules(twin, names, batch.inputs, loaded.family)
    return Subject(
        source=loaded.source,
        model=twin,
        model_hash=identity,
        program=program,
        input_names=names,
        objective=Objective(name="fidelity", output="values", reason="nothing is judged"),
        calibration=(batch,),
        held_out=(batch,),
        anatomy=anatomy,
        tokenizer=loaded.tokenizer,
    )


def made_up(shapes: tuple[InputShape, ...], seed: int) -> Batch:
    """One batch of random inputs in the recorded ranges; masks hide nothing."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: InputShape) -> Tensor:
        kind = getattr(torch, shape.dtype)
        if shape.mask or kind == torch.bool:
            return torch.ones(shape.shape, dtype=kind)
        if kind.is_floating_point:
            return torch.randn(shape.shape, generator=generator).to(kind)
        return torch.randint(
            shape.low, shape.high + 1, shape.shape, generator=generator, dtype=kind
        )  # fmt: skip

    inputs = tuple(drawn(shape) for shape in shapes)
    mask = next((t != 0 for s, t in zip(shapes, inputs, strict=True) if s.mask), None)
    return Batch(inputs=inputs, mask=mask)
