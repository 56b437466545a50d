"""Edges the slow way: module hooks on the user's own model, float64, one edge at a time.

For every model a `Wiring` says by hand what writes, what reads, and which norms lie in between. An
edge's contribution is nudged in one reader's input by adding what the reading linear makes of it to
that linear's output; the score is the central difference of the loss.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Captured = dict[nn.Module, tuple[Tensor, Tensor]]
"""Module -> (first input, output) of the clean run."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A norm module; what it does to a summand once its statistics are frozen."""

    module: Any
    centred: bool

    def carry(self, part: Tensor, captured: Captured) -> Tensor:
        """gamma · (part - mean part) / sigma, sigma from the clean input."""
        entered = captured[self.module][0]
        if self.centred:
            sigma = (entered.var(-1, correction=0, keepdim=True) + self.module.eps).sqrt()
            part = part - part.mean(-1, keepdim=True)
        else:
            eps = self.module.variance_epsilon
            sigma = (entered.square().mean(-1, keepdim=True) + eps).sqrt()
        return self.module.weight * part / sigma


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading: linears that take the value in, and the outputs of each that belong to it."""

    linears: tuple[tuple[Any, slice], ...]
    order: int
    """How many writes happened before."""
    last: Norm | None = None
    """In pre-norm models the norm between the stream and the reader."""


@dataclass
class Wiring:
    """A model written out by hand."""

    model: Any
    writers: dict[str, tuple[int, Callable[[Captured], Tensor]]] = field(default_factory=dict)
    """Name -> (its place in the order of writes, what it adds [n, t, d])."""
    readers: dict[tuple[str, str], Reading] = field(default_factory=dict)
    norms: list[tuple[int, Norm]] = field(default_factory=list)
    """Post-norm: (how many writes it has behind it, norm), each carries all that came before."""


def capture(model: nn.Module, inputs: Mapping[str, Tensor]) -> Captured:
    """First input and output of every module."""
    found: Captured = {}

    def keep(module: nn.Module, args: Any, out: Any) -> None:
        entered = args[0] if args else torch.empty(0)
        found[module] = (entered, out[0] if isinstance(out, tuple) else out)

    handles = [module.register_forward_hook(keep) for module in model.modules()]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found


def part_in(
    wiring: Wiring, captured: Captured, value: Tensor, place: int, reader: Reading
) -> Tensor:
    """A written value as it arrives in a reader's input."""
    for after, norm in wiring.norms:
        if place < after <= reader.order:
            value = norm.carry(value, captured)
    return reader.last.carry(value, captured) if reader.last is not None else value


def edge_scores(
    wiring: Wiring, inputs: Mapping[str, Tensor], loss: Callable[[Tensor], Tensor],
    size: float = 1e-4,
) -> Iterator[tuple[tuple[str, str, str], Tensor]]:  # fmt: skip
    """((writer, reader, port), score per sample) of every edge; loss maps the output to [n]."""
    captured = capture(wiring.model, inputs)
    for writer, (place, written) in wiring.writers.items():
        value = written(captured)
        mean = value.flatten(0, 1).mean(0)
        for (name, port), reader in wiring.readers.items():
            if place >= reader.order:
                continue
            change = part_in(wiring, captured, mean - value, place, reader)
            up, down = (
                loss(_nudged(wiring.model, inputs, reader, step * change)) for step in (size, -size)
            )
            yield (writer, name, port), (up - down) / (2 * size)


def exact_effect(
    wiring: Wiring, inputs: Mapping[str, Tensor], edge: tuple[str, str, str]
) -> Tensor:
    """The output when one edge's contribution is that of the writer's mean."""
    captured = capture(wiring.model, inputs)
    place, written = wiring.writers[edge[0]]
    reader = wiring.readers[edge[1], edge[2]]
    value = written(captured)
    change = part_in(wiring, captured, value.flatten(0, 1).mean(0) - value, place, reader)
    return _nudged(wiring.model, inputs, reader, change)


def _nudged(model: Any, inputs: Mapping[str, Tensor], reader: Reading, change: Tensor) -> Tensor:
    with _adding(reader, change), torch.no_grad():
        out = model(**inputs)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


@contextmanager
def _adding(reader: Reading, change: Tensor) -> Iterator[None]:
    def hook(module: Any, columns: slice):
        def add(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
            if isinstance(module, nn.LayerNorm):  # the output: what was read is what it wrote
                return out + change
            weight = (
                module.weight if module.weight.shape[1] == change.shape[-1] else module.weight.T
            )
            if not isinstance(module, nn.Linear):  # transformers' Conv1D keeps [in, out]
                weight = module.weight.T
            extra = torch.zeros_like(out)
            extra[..., columns] = (change @ weight.T)[..., columns]
            return out + extra

        return add

    handles = [m.register_forward_hook(hook(m, columns)) for m, columns in reader.linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gpt2_wiring(model: Any) -> Wiring:
    """GPT-2, pre-norm, q, k and v side by side in one projection."""
    wiring, stem = Wiring(model=model), model.transformer
    heads = model.config.n_head
    width = model.config.n_embd // heads
    wiring.writers["transformer.wte"] = (0, lambda c: c[stem.wte][1])
    size = stem.wte.weight.shape[1]
    wiring.writers["transformer.wpe"] = (
        0, lambda c: c[stem.wpe][1].reshape(1, -1, size).expand_as(c[stem.wte][1]),
    )  # fmt: skip
    order = 1
    for number, block in enumerate(stem.h):
        base = f"transformer.h.{number}"
        last = Norm(module=block.ln_1, centred=True)
        for head in range(heads):
            for index, port in enumerate("qkv"):
                start = index * heads * width + head * width
                wiring.readers[f"{base}/head.{head}", port] = Reading(
                    linears=((block.attn.c_attn, slice(start, start + width)),), order=order,
                    last=last,
                )  # fmt: skip
            rows = slice(head * width, (head + 1) * width)
            wiring.writers[f"{base}/head.{head}"] = (order, _head(block.attn.c_proj, rows))
        order += 1
        wiring.readers[f"{base}/mlp", "in"] = Reading(
            linears=((block.mlp.c_fc, slice(None)),), order=order,
            last=Norm(module=block.ln_2, centred=True),
        )  # fmt: skip
        wiring.writers[f"{base}/mlp"] = (order, lambda c, m=block.mlp: c[m][1])
        order += 1
    wiring.readers["lm_head", "in"] = Reading(
        linears=((model.lm_head, slice(None)),), order=order,
        last=Norm(module=stem.ln_f, centred=True),
    )  # fmt: skip
    return wiring


def llama_wiring(model: Any) -> Wiring:
    """Llama, pre-norm with RMSNorm; key and value heads go by their first query head."""
    wiring, stem = Wiring(model=model), model.model
    heads, shared = model.config.num_attention_heads, model.config.num_key_value_heads
    width = model.config.hidden_size // heads
    wiring.writers["model.embed_tokens"] = (0, lambda c: c[stem.embed_tokens][1])
    order = 1
    for number, block in enumerate(stem.layers):
        base, attention = f"model.layers.{number}", block.self_attn
        last = Norm(module=block.input_layernorm, centred=False)
        for head in range(heads):
            rows = slice(head * width, (head + 1) * width)
            wiring.readers[f"{base}/head.{head}", "q"] = Reading(
                linears=((attention.q_proj, rows),), order=order, last=last
            )
            wiring.writers[f"{base}/head.{head}"] = (order, _head(attention.o_proj, rows))
        for head in range(shared):
            rows = slice(head * width, (head + 1) * width)
            first = head * (heads // shared)
            for port, linear in (("k", attention.k_proj), ("v", attention.v_proj)):
                wiring.readers[f"{base}/head.{first}", port] = Reading(
                    linears=((linear, rows),), order=order, last=last
                )
        order += 1
        both = ((block.mlp.gate_proj, slice(None)), (block.mlp.up_proj, slice(None)))
        wiring.readers[f"{base}/mlp", "in"] = Reading(
            linears=both, order=order,
            last=Norm(module=block.post_attention_layernorm, centred=False),
        )  # fmt: skip
        wiring.writers[f"{base}/mlp"] = (order, lambda c, m=block.mlp: c[m][1])
        order += 1
    wiring.readers["lm_head", "in"] = Reading(
        linears=((model.lm_head, slice(None)),), order=order,
        last=Norm(module=stem.norm, centred=False),
    )  # fmt: skip
    return wiring


def bert_wiring(model: Any) -> Wiring:
    """BERT, post-norm: every norm carries all that was written before it."""
    wiring, embeddings = Wiring(model=model), model.embeddings
    heads, words = model.config.num_attention_heads, embeddings.word_embeddings
    width = model.config.hidden_size // heads
    for name in ("word", "position", "token_type"):
        module = getattr(embeddings, f"{name}_embeddings")
        wiring.writers[f"embeddings.{name}_embeddings"] = (
            0, lambda c, m=module: c[m][1].expand_as(c[words][1]),
        )  # fmt: skip
    order = 1
    wiring.norms.append((order, Norm(module=embeddings.LayerNorm, centred=True)))
    for number, block in enumerate(model.encoder.layer):
        base, attention = f"encoder.layer.{number}", block.attention
        for head in range(heads):
            rows = slice(head * width, (head + 1) * width)
            for port, linear in (
                ("q", attention.self.query), ("k", attention.self.key), ("v", attention.self.value),
            ):  # fmt: skip
                wiring.readers[f"{base}/head.{head}", port] = Reading(
                    linears=((linear, rows),), order=order
                )
            wiring.writers[f"{base}/head.{head}"] = (order, _head(attention.output.dense, rows))
        order += 1
        wiring.norms.append((order, Norm(module=attention.output.LayerNorm, centred=True)))
        wiring.readers[f"{base}/mlp", "in"] = Reading(
            linears=((block.intermediate.dense, slice(None)),), order=order
        )
        wiring.writers[f"{base}/mlp"] = (order, lambda c, m=block.output.dense: c[m][1])
        order += 1
        wiring.norms.append((order, Norm(module=block.output.LayerNorm, centred=True)))
    last = model.encoder.layer[-1].output.LayerNorm
    wiring.readers["output", "in"] = Reading(linears=((last, slice(None)),), order=order)
    return wiring


def _head(projection: Any, rows: slice) -> Callable[[Captured], Tensor]:
    """What one head writes: its part of the projection's input times its rows of the weight."""
    linear = isinstance(projection, nn.Linear)
    weight = projection.weight[:, rows].T if linear else projection.weight[rows]
    return lambda captured: captured[projection][0][..., rows] @ weight


def proximity(total: Tensor, parts: list[Tensor]) -> list[float]:
    """L1 proximity shares row by row, in plain loops: total [r, d], each part [r, d]."""
    sums = [0.0] * len(parts)
    for row in range(len(total)):
        near = [
            max(0.0, float(total[row].abs().sum() - (total[row] - part[row]).abs().sum()))
            for part in parts
        ]
        for i, value in enumerate(near):
            sums[i] += value / sum(near) / len(total)
    return sums
