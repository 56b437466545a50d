"""Makes a model's inputs of rows: tokens of texts, tensors under the names `forward` knows."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from zsei.errors import DataError
from zsei.subject.load import LoadedModel
from zsei.subject.objective import IGNORED
from zsei.subject.rows import INPUT_FIELDS, LABEL_FIELDS, TABLE, Rows


@dataclass(frozen=True, kw_only=True)
class Accepts:
    """What a model takes, as far as its signature and configuration say."""

    names: tuple[str, ...]
    """Names of forward's arguments, in order."""
    required: tuple[str, ...]
    """Those without a default."""
    main: str
    """The first input: `input_ids`, `pixel_values`, `past_values`, or forward's first argument."""
    tokens: bool
    """Whether the first input is token ids rather than real numbers."""
    dtype: torch.dtype = torch.float32
    """Of the model's weights; real inputs are cast to it."""
    vocabulary: int | None = None
    longest: int | None = None
    """Most positions the model has embeddings for."""
    encoder_decoder: bool = False
    joint_pairs: bool = False
    """A pair of texts is one input (sequence classification) rather than two."""
    window: tuple[int, int] | None = None
    """(context length, prediction length) of a time series model."""
    class_numbers: Mapping[str, int] = field(default_factory=dict)


def accepts(loaded: LoadedModel) -> Accepts:
    """Read off what a loaded model takes."""
    model = loaded.model
    config = getattr(model, "config", None)
    names, required = _arguments(model)
    if loaded.shapes:
        names = required = tuple(loaded.shapes)
    main = str(getattr(model, "main_input_name", "") or "")
    if main not in names:
        main = names[0] if names else "input"
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    tokens = main == "input_ids" or (config is None and bool(embeddings))
    context = int(getattr(config, "context_length", None) or 0)
    ahead = int(getattr(config, "prediction_length", None) or 0)
    return Accepts(
        names=names or (main,),
        required=required,
        main=main,
        tokens=tokens,
        dtype=dtype,
        vocabulary=_vocabulary(model, embeddings) if tokens else None,
        longest=_longest(config, model),
        encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        joint_pairs="SequenceClassification" in type(model).__name__,
        window=(context, ahead) if main == "past_values" and context else None,
        class_numbers=dict(getattr(config, "label2id", None) or {}),
    )


def _arguments(model: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of forward's arguments and of those without a default; `*inputs` has no names."""
    nameless = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(model.forward).parameters.values()
    parameters = [p for p in signature if p.kind not in nameless]
    required = tuple(p.name for p in parameters if p.default is inspect.Parameter.empty)
    return tuple(p.name for p in parameters), required


def _vocabulary(model: nn.Module, embeddings: Sequence[nn.Embedding]) -> int | None:
    """Rows of the embedding table that token ids look up, where that can be told."""
    getter = getattr(model, "get_input_embeddings", None)
    table = getter() if callable(getter) else (embeddings[0] if len(embeddings) == 1 else None)
    return getattr(table, "num_embeddings", None)


def _longest(config: Any, model: nn.Module) -> int | None:
    """Most positions of a model with learned position embeddings."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    learned = any(
        isinstance(m, nn.Embedding) and n.rpartition(".")[2] in ("position_embeddings", "wpe",
        "embed_positions") for n, m in model.named_modules()
    )  # fmt: skip
    if not isinstance(limit, int) or not learned:
        return None
    # RoBERTa counts positions from the padding index on.
    roberta = getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert")
    return limit - 2 if roberta else limit


def fit(rows: Rows, model: Accepts, where: str) -> Rows:
    """The rows with tensors under forward's names and in the model's types.

    Tables are cut into windows for time series models, or split into inputs and labels. Arrays of
    bytes (uint8) given to models of real inputs are images: they are divided by 255.

    Raises:
        DataError: A name forward does not know, a missing input, a wrong type, ids beyond the
            vocabulary, NaN or infinity.
    """
    if TABLE in rows.tensors:
        rows = _fit_table(rows, model)
    if rows.texts:
        return rows
    tensors: dict[str, Tensor] = {}
    notes = list(rows.notes)
    labels = rows.labels
    if model.window and set(rows.tensors) <= {model.main, *INPUT_FIELDS} and labels is None:
        rows, labels = _windows(rows, model)
    for name, tensor in rows.tensors.items():
        argument = _argument(name, model, where)
        if argument == "future_values" and labels is None:
            labels = tensor.to(model.dtype)
            continue
        tensors[argument] = _fit_tensor(argument, tensor, model, where)
        if tensor.dtype == torch.uint8 and tensors[argument].is_floating_point():
            notes.append(f"Bytes in {name} were divided by 255.")
    if rows.label_name in model.required and isinstance(labels, Tensor):
        # What looked like labels is an input of this model.
        tensors[rows.label_name] = _fit_tensor(rows.label_name, labels, model, where)
        labels = None
    missing = [name for name in model.required if name not in tensors]
    if missing:
        raise DataError(
            f"The model's forward needs {', '.join(model.required)}; {where} lacks "
            f"{', '.join(missing)}. Give a mapping of names to tensors, or an .npz file with "
            f"arrays so named."
        )
    ordered = {name: tensors[name] for name in model.names if name in tensors}
    return replace(rows, tensors=ordered or tensors, labels=labels, notes=tuple(notes))


def _argument(name: str, model: Accepts, where: str) -> str:
    if name in model.names and not (name in LABEL_FIELDS and name != model.main):
        return name
    if name in INPUT_FIELDS or name in ("tokens",):
        return model.main
    raise DataError(
        f"Arrays must be named like forward's arguments ({', '.join(model.names[:8])}); {where} "
        f"has {name!r}. Rename it, or name it x for the first argument."
    )


def _fit_tensor(name: str, tensor: Tensor, model: Accepts, where: str) -> Tensor:
    if name == model.main and model.tokens:
        if tensor.is_floating_point():
            raise DataError(
                f"{name} must be whole numbers, the ids of tokens; {where} holds {tensor.dtype}. "
                f"Give token ids, or text to a model with a tokenizer."
            )
        tensor = tensor.long()
        low, high = int(tensor.min()), int(tensor.max())
        if low < 0 or (model.vocabulary is not None and high >= model.vocabulary):
            raise DataError(
                f"Token ids must lie in 0 .. {(model.vocabulary or high + 1) - 1}; {where} holds "
                f"{low} .. {high}. Use the tokenizer that belongs to the model."
            )
        return tensor
    if tensor.is_complex():
        raise DataError(f"Inputs must be real; {name} in {where} is complex. Split its parts.")
    if tensor.is_floating_point():
        bad = int(tensor.isfinite().logical_not().flatten(1).any(1).sum()) if tensor.ndim > 1 else (
            int(tensor.isfinite().logical_not().sum()))  # fmt: skip
        if bad:
            raise DataError(
                f"Inputs must be finite; {name} in {where} has NaN or infinity in {bad} of "
                f"{tensor.shape[0]} samples. Leave those out or fill them."
            )
        return tensor.to(model.dtype)
    if tensor.dtype == torch.uint8 and not name.endswith(("_ids", "mask")):
        return tensor.to(model.dtype) / 255
    return tensor if tensor.dtype == torch.bool else tensor.long()


def _fit_table(rows: Rows, model: Accepts) -> Rows:
    """A numeric table: windows for a series model, else inputs and the label column."""
    table, columns = rows.tensors[TABLE], list(rows.columns)
    if model.window:
        return replace(rows, tensors={model.main: table})
    named = [i for i, name in enumerate(columns) if name.lower() in LABEL_FIELDS]
    label = named[0] if named else table.shape[1] - 1
    if table.shape[1] < 2:
        raise DataError(
            "A numeric table must have at least one column of inputs and one of labels; this has "
            "one column. Add the label as the last column."
        )
    values = table[:, label]
    whole = bool((values == values.round()).all())
    inputs = torch.cat([table[:, :label], table[:, label + 1 :]], dim=1)
    name = columns[label] if columns else "last"
    return replace(
        rows,
        tensors={model.main: inputs},
        labels=values.long() if whole else values.to(model.dtype),
        notes=(*rows.notes, f"The column {name!r} of the table is the label."),
    )


def _windows(rows: Rows, model: Accepts) -> tuple[Rows, Tensor | None]:
    """Windows [n, context, c] and what follows each [n, prediction, c], cut from a series [t, c].

    Windows do not overlap in their inputs, so that calibration and held-out share no value.
    """
    assert model.window is not None
    series = next(iter(rows.tensors.values()))
    context, ahead = model.window
    if series.ndim != 2:
        return rows, None
    starts = range(0, series.shape[0] - context - ahead + 1, context + ahead)
    if len(starts) < 2:
        raise DataError(
            f"A series must hold at least two windows of {context} + {ahead} steps; this has "
            f"{series.shape[0]} steps. Give a longer series."
        )
    inputs = torch.stack([series[s : s + context] for s in starts])
    after = torch.stack([series[s + context : s + context + ahead] for s in starts])
    note = f"The series was cut into {len(starts)} windows of {context} steps."
    fitted = Rows(tensors={model.main: inputs}, notes=(*rows.notes, note))
    return fitted, after.to(model.dtype) if ahead else None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Inputs [n, ...] by name, labels and the mask of real tokens."""

    inputs: Mapping[str, Tensor]
    labels: Tensor | None
    mask: Tensor | None


def encode(rows: Rows, model: Accepts, tokenizer: Any, length: int, decoder: Any) -> Encoded:
    """Inputs of fitted rows; a pair of texts gives rows 2i and 2i + 1 unless taken jointly.

    Args:
        rows: Fitted rows (`fit`).
        model: What the model takes.
        tokenizer: The model's tokenizer; needed for texts.
        length: Most tokens of a text; longer ones are cut, shorter ones padded to the longest.
        decoder: The model's configuration, which names the decoder's start token.
    """
    labels = rows.labels if isinstance(rows.labels, Tensor) else None
    targets: Tensor | None = None
    if rows.texts:
        tensors = _tokenize(rows, model, tokenizer, min(length, model.longest or length))
        if rows.partners and not model.joint_pairs and not model.encoder_decoder:
            labels = None if labels is None else labels.repeat_interleave(2, 0)
        targets = tensors.pop("targets", None)
    else:
        tensors = dict(rows.tensors)
    mask = tensors.get("attention_mask")
    if model.encoder_decoder and "decoder_input_ids" not in tensors and "input_ids" in tensors:
        if targets is None and labels is not None and labels.ndim == 2:
            targets = labels
        tensors, labels, mask = _add_decoder(tensors, targets, labels, mask, decoder)
    if mask is not None and (mask.ndim != 2 or bool(mask.bool().all())):
        mask = None
    ordered = {name: tensors[name] for name in model.names if name in tensors}
    return Encoded(
        inputs=ordered or tensors, labels=labels, mask=None if mask is None else mask.bool()
    )


def _tokenize(rows: Rows, model: Accepts, tokenizer: Any, length: int) -> dict[str, Tensor]:
    texts = list(rows.texts)
    settings: dict[str, Any] = {"padding": True, "truncation": True, "max_length": length,
                                "return_tensors": "pt"}  # fmt: skip
    partners = list(rows.partners)
    targets: Tensor | None = None
    if partners and model.joint_pairs:
        found = tokenizer(texts, partners, **settings)
    elif partners and model.encoder_decoder:
        found = tokenizer(texts, **settings)
        answer = tokenizer(partners, **settings)
        targets = answer["input_ids"].masked_fill(answer["attention_mask"] == 0, IGNORED)
    elif partners:
        found = tokenizer([t for p in zip(texts, partners, strict=True) for t in p], **settings)
    else:
        found = tokenizer(texts, **settings)
    tensors = {name: tensor for name, tensor in found.items() if name in model.names}
    types = tensors.get("token_type_ids")
    if types is not None and not bool(types.any()):
        del tensors["token_type_ids"]
    if targets is not None:
        tensors["targets"] = targets
    return tensors


def _add_decoder(
    tensors: dict[str, Tensor], targets: Tensor | None, labels: Tensor | None,
    mask: Tensor | None, config: Any,
) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:  # fmt: skip
    """Decoder inputs: the targets (or the input itself) one step later, after the start token.

    Labels are put where the causal objective expects them: position t predicts labels[t + 1].
    """
    start = getattr(config, "decoder_start_token_id", None)
    padding = getattr(config, "pad_token_id", None) or 0
    source = tensors["input_ids"] if targets is None else targets
    shifted = source.new_full(source.shape, padding if start is None else start)
    shifted[:, 1:] = source[:, :-1]
    unseen = shifted == IGNORED
    if targets is not None:
        mask = targets != IGNORED
        labels = shifted.clone()
        labels[unseen] = IGNORED
    return {**tensors, "decoder_input_ids": shifted.masked_fill(unseen, padding)}, labels, mask
