"""Makes a subject: model, data and objective, checked against each other, and the program."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsei.errors import ExportError, ModelError, NumericalError, ObjectiveError
from zsei.settings import Settings
from zsei.subject.anatomy import read_anatomy
from zsei.subject.choose import Head, choose_objective
from zsei.subject.data import Samples, load_data
from zsei.subject.encode import accepts
from zsei.subject.labels import causal_labels, mask_tokens
from zsei.subject.load import LoadedModel, load_model
from zsei.subject.modules_anatomy import read_modules
from zsei.subject.program import (
    OUTPUT_FIELDS,
    MainOutput,
    Program,
    export,
    frozen_twin,
    model_hash,
    pick_output,
)
from zsei.subject.screen import finite_samples, regrouped, taken, whole
from zsei.subject.streamed import fitted, release_behind
from zsei.subject.types import Anatomy, Batch, Subject

TOLERANCE = 1e-5
"""Largest difference between program and model, relative to the largest output."""


def prepare(
    model: str | Path | nn.Module | LoadedModel | None = None,
    data: Any = None,
    objective: str = "auto",
    settings: Settings | None = None,
) -> Subject:
    """Load a model with data, choose the objective, export the program and read its anatomy.

    The model given is never run nor changed: everything happens on a twin in eval mode that shares
    its weights as constants (`frozen_twin`), and `Subject.model` is that twin. The random state is
    the caller's again afterwards.

    Args:
        model: See `zsei.subject.load.load_model`; or what that gave.
        data: See `zsei.subject.data.load_data`; None takes what a factory returned, else the
            default text.
        objective: `auto` or a name in `zsei.subject.objective.OBJECTIVES`.
        settings: None reads them from the environment and `zsei.toml`.

    Raises:
        ModelError: Nothing loadable, or a forward that fails on the data.
        NumericalError: NaN or infinity in weights or outputs.
        DataError: Data that is missing, too small or does not fit.
        ObjectiveError: The objective asked for does not fit.
    """
    settings = settings or Settings()
    loaded = model if isinstance(model, LoadedModel) else load_model(model, settings)
    settings, smaller = fitted(settings, loaded.model)
    identity = model_hash(loaded.model)
    with _undisturbed(settings.seed):
        samples = load_data(loaded.data if data is None else data, loaded, settings)
        twin = _twin(loaded.model)
        batches = (*samples.calibration, *samples.held_out)
        output, field, finite = _first_output(twin, samples.input_names, batches)
        samples, left_out = _screened(samples, finite)
        head = _head(loaded, samples, output, field, twin)
        chosen = choose_objective(objective, head)
        samples = _with_labels(samples, chosen.name, loaded, settings.seed)
        program, anatomy, notes = _program(twin, samples, loaded.family)
    return Subject(
        source=loaded.source,
        model=twin,
        model_hash=identity,
        program=program,
        input_names=samples.input_names,
        objective=chosen,
        calibration=samples.calibration,
        held_out=samples.held_out,
        anatomy=anatomy,
        tokenizer=loaded.tokenizer,
        notes=(*loaded.notes, *smaller, *samples.notes, *notes),
        left_out=left_out,
    )


@contextmanager
def _undisturbed(seed: int) -> Iterator[None]:
    """Without gradients, under a seed, and without the fast path that export cannot take."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)


def _twin(model: nn.Module) -> nn.Module:
    try:
        twin = frozen_twin(model)
        release_behind(twin)
        return twin
    except Exception as error:
        raise ModelError(
            f"A model must be copyable, because the original is never touched; "
            f"{type(model).__name__} stopped with {type(error).__name__}: {error}. Remove what "
            f"copy.deepcopy cannot copy."
        ) from error


def _run(model: nn.Module, names: Sequence[str], inputs: Sequence[Tensor]) -> Any:
    """The model's raw output for named inputs."""
    call = MainOutput(model, names)
    try:
        if call.by_position:
            return model(*inputs, **call.extra)
        return model(**dict(zip(names, inputs, strict=True)), **call.extra)
    except Exception as error:
        given = ", ".join(
            f"{n} {list(t.shape)} {str(t.dtype).removeprefix('torch.')}"
            for n, t in zip(names, inputs, strict=True)
        )
        reason = next(iter(str(error).strip().splitlines()), "")[:400]
        raise ModelError(
            f"The model's forward must run on the data; {type(model).__name__} stopped with "
            f"{type(error).__name__}: {reason} (given: {given}). Check shapes, types and names of "
            f"the inputs."
        ) from error


def _field(raw: Any) -> str:
    """Name of the field `pick_output` takes; "" for a bare tensor or tuple."""
    if isinstance(raw, Tensor) or not hasattr(raw, "keys"):
        return ""
    known = next((name for name in OUTPUT_FIELDS if isinstance(raw.get(name), Tensor)), None)
    return known or next((str(n) for n, v in raw.items() if isinstance(v, Tensor)), "")


def _first_output(
    model: nn.Module, names: Sequence[str], batches: Sequence[Batch]
) -> tuple[Tensor, str, Tensor]:  # fmt: skip
    """Main output for the first batch, its field, and which samples have a finite output [n]."""
    first: tuple[Tensor, str] | None = None
    finite, bad = [], 0
    for batch in batches:
        raw = _run(model, names, batch.inputs)
        output = pick_output(raw)
        if output.ndim == 0 or output.shape[0] != batch.size:
            raise ModelError(
                f"Axis 0 of the output must be the sample; {type(model).__name__} gives "
                f"{list(output.shape)} for {batch.size} samples. Return one output per sample."
            )
        finite.append(finite_samples(output, batch.size))
        if first is None and not bool(finite[0].all()):
            bad = int(output.isfinite().logical_not().sum())
        first = first or (output, _field(raw))
    assert first is not None
    whole = torch.cat(finite)
    if not bool(whole.any()):
        raise NumericalError(
            f"Outputs must be finite; {type(model).__name__} gives NaN or infinity on all samples, "
            f"in {bad} of {first[0].numel()} values of the first batch. Check the inputs' scale "
            f"and the weights."
        )
    return *first, whole


def _screened(samples: Samples, finite: Tensor) -> tuple[Samples, tuple[Batch, ...]]:
    """The samples without those whose output is undefined, and those, as batches of one size."""
    if bool(finite.all()):
        return samples, ()
    step = 2 if samples.labels == "score" else 1
    border = sum(batch.size for batch in samples.calibration)
    kept = whole(finite, step)
    sides = kept[:border], kept[border:]
    smaller = min(int(side.sum()) for side in sides)
    if smaller < 2 * step:
        raise NumericalError(
            f"Outputs must be finite on at least {2 * step} samples for measuring and as many for "
            f"judging; they are on {int(sides[0].sum())} and {int(sides[1].sum())} of "
            f"{len(sides[0])} and {len(sides[1])}. Check the inputs' scale and the weights."
        )
    most = samples.calibration[0].size
    size = smaller // (-(-smaller // most)) // step * step
    bad = (~kept).nonzero().flatten()
    # Filled up with good samples, because a program runs batches of one size.
    order = torch.cat([bad, kept.nonzero().flatten().repeat(size)])[: -(-len(bad) // size) * size]
    both = (*samples.calibration, *samples.held_out)
    note = (
        f"{len(bad)} of {len(finite)} samples were left out of everything: the model's output is "
        f"NaN or infinite there."
    )
    return replace(
        samples,
        calibration=regrouped(samples.calibration, sides[0], size),
        held_out=regrouped(samples.held_out, sides[1], size),
        notes=(*samples.notes, note),
    ), tuple(taken(both, part) for part in order.split(size))


def _head(
    loaded: LoadedModel, samples: Samples, output: Tensor, field: str, twin: nn.Module
) -> Head:
    model = accepts(loaded)
    config = getattr(loaded.model, "config", None)
    labels = [b.labels for b in (*samples.calibration, *samples.held_out) if b.labels is not None]
    numbers = samples.labels in ("class", "tokens")
    problem = getattr(config, "problem_type", None)
    single = getattr(config, "num_labels", None) == 1 and field == "logits"
    score_tokens = model.tokens and output.ndim == 3 and field in ("", "logits")
    return Head(
        name=type(loaded.model).__name__,
        field=field,
        shape=tuple(output.shape),
        labels=samples.labels,
        label_shape=tuple(labels[0].shape) if labels else (),
        largest_label=max(int(found.max()) for found in labels) if labels and numbers else 0,
        vocabulary=model.vocabulary,
        tokens=model.tokens,
        causal=score_tokens and _is_causal(twin, samples, output),
        encoder_decoder=model.encoder_decoder,
        regression=problem == "regression" or (single and output.shape[-1:] == (1,)),
        can_mask=getattr(loaded.tokenizer, "mask_token_id", None) is not None,
        pooling=loaded.pooling,
    )


def _is_causal(model: nn.Module, samples: Samples, output: Tensor) -> bool:
    """Whether another last token leaves all earlier positions as they were (a measurement)."""
    names, batch = samples.input_names, samples.calibration[0]
    tokens = "decoder_input_ids" if "decoder_input_ids" in names else names[0]
    place = names.index(tokens)
    ids = batch.inputs[place]
    if ids.ndim != 2 or ids.shape[1] < 2 or output.shape[1] != ids.shape[1]:
        return False
    changed = ids.clone()
    changed[:, -1] = torch.where(ids[:, -1] == ids[:, 0], ids[:, 1], ids[:, 0])
    inputs = [*batch.inputs[:place], changed, *batch.inputs[place + 1 :]]
    # Padding is unmasked: a masked token would change nothing in any model.
    for i, name in enumerate(names):
        if name == "attention_mask":
            inputs[i] = torch.ones_like(inputs[i])
    plain = [*inputs[:place], ids, *inputs[place + 1 :]]
    before = pick_output(_run(model, names, plain))[:, :-1]
    after = pick_output(_run(model, names, inputs))[:, :-1]
    return bool(torch.allclose(before, after, rtol=1e-4, atol=1e-5))


def _with_labels(samples: Samples, name: str, loaded: LoadedModel, seed: int) -> Samples:
    """The samples with the labels a language objective makes from the tokens themselves."""
    if name == "similarity" and samples.labels != "score":
        raise ObjectiveError("Similarity needs pairs with gold scores. Use fidelity instead.")
    if samples.labels == "tokens" or name not in ("causal-lm", "masked-lm"):
        return samples
    if name == "causal-lm":
        make = causal_labels(samples.input_names)
    else:
        make = mask_tokens(samples.input_names, loaded.tokenizer, seed)
    return replace(
        samples,
        calibration=tuple(make(batch) for batch in samples.calibration),
        held_out=tuple(make(batch) for batch in samples.held_out),
        labels="tokens",
    )


def _program(
    twin: nn.Module, samples: Samples, family: str
) -> tuple[Program | None, Anatomy, tuple[str, ...]]:
    """The exported program with its anatomy, or the modules' anatomy and why."""
    names, inputs = samples.input_names, samples.calibration[0].inputs
    try:
        program = export(twin, names, inputs)
        plain = pick_output(_run(twin, names, inputs))
        difference = float((program(*inputs) - plain).abs().max())
        scale = float(plain.abs().max()) or 1.0
        if difference > TOLERANCE * scale:
            again = pick_output(_run(twin, names, inputs))
            if not torch.equal(again, plain):
                raise ModelError(
                    f"A model in eval mode must give the same output twice; "
                    f"{type(twin).__name__} does not. Switch off what draws random numbers."
                )
            raise ExportError(f"its outputs differ from the model's by {difference:.1e}")
        anatomy = read_anatomy(program, family)
    except ExportError as error:
        reason = str(error)
        note = f"The model is analysed through its modules, coarser than as one program: {reason}"
        return None, read_modules(twin, names, inputs, family), (note,)
    note = (f"Program against model: largest difference {difference:.1e}.",) if difference else ()
    return program, anatomy, note
