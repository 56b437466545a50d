"""Keep the keys and values of earlier tokens while new ones are generated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from zsei.errors import SpeedUpRefused
from zsei.speedups.probe import mask_name
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Params
from zsei.speedups.workload import Workload
from zsei.subject.program import frozen_twin, pick_output

PROMPT = 64
"""Most tokens of a prompt."""


@final
@dataclass(frozen=True, kw_only=True)
class KvCache:
    """Gives a decoder's keys and values of earlier tokens back to it for each new token.

    Without it producing N tokens after p runs Σ (p + i) positions; with it p + N. A single forward
    has nothing to reuse, so this is no variant of an ordinary workload: `generation` makes the two
    ways to produce tokens, to be timed against each other.

    Exact: the same greedy tokens; logits agree up to the order of sums (1e-4 of the largest), so
    that two tokens with equal logits could change places. Costs memory: 2 x layers x key width
    numbers per token.
    Misleads when: few tokens are produced after a long prompt, which is run once either way.

    References: Pope et al., Efficiently scaling transformer inference, MLSys 2023.
    """

    name: ClassVar[str] = "kv-cache"
    title: ClassVar[str] = "Cache of keys and values"
    order: ClassVar[int] = 12
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = Params

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """None: says for which models tokens can be generated instead."""
        _check(workload)
        raise SpeedUpRefused(
            f"A cache of keys and values pays when tokens are produced one after another; this "
            f"workload runs {type(workload.model).__name__} once over whole sequences. Time "
            f"zsei.speedups.kv_cache.generation instead."
        )

    def apply(self, runnable: Runnable, params: Params, workload: Workload) -> Runnable:
        """A twin whose `generate` uses its cache; a single forward stays as it is."""
        del params
        _check(workload)
        twin: Any = frozen_twin(runnable.module)
        twin.config.use_cache = True
        if getattr(twin, "generation_config", None) is not None:
            twin.generation_config.use_cache = True
        return runnable.with_module(twin)


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """Tokens that a model produced, and what it chose them by."""

    tokens: Tensor
    """[n, N]: without the prompt."""
    logits: Tensor
    """[n, N, v]: at each step, before its token was chosen."""


def generation(
    workload: Workload, tokens: int
) -> tuple[Callable[[], Generated], Callable[[], Generated]]:
    """Two ways to produce the same greedy tokens: without and with a cache.

    The prompts are the columns of the first held-out batch that are real in all samples, at most
    `PROMPT` of them.

    Args:
        workload: A decoder with its batches.
        tokens: How many tokens follow each prompt.

    Raises:
        SpeedUpRefused: The model does not generate, or has no room for that many tokens.
    """
    _check(workload)
    model, prompt = workload.model, prompts(workload)
    room = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if tokens < 1 or (isinstance(room, int) and prompt.shape[1] + tokens > room):
        raise SpeedUpRefused(
            f"Prompt and tokens must fit in the model's {room} positions, with one token at least; "
            f"{prompt.shape[1]} + {tokens} were asked for. Ask for fewer."
        )

    @torch.no_grad()
    def without() -> Generated:
        sequence, chosen = prompt, []
        for _ in range(tokens):
            logits = pick_output(model(input_ids=sequence, use_cache=False))[:, -1]
            chosen.append(logits)
            sequence = torch.cat([sequence, logits.argmax(-1, keepdim=True)], 1)
        return Generated(tokens=sequence[:, prompt.shape[1] :], logits=torch.stack(chosen, 1))

    @torch.no_grad()
    def cached() -> Generated:
        step, past, chosen = prompt, None, []
        for _ in range(tokens):
            output = model(input_ids=step, past_key_values=past, use_cache=True)
            past = output.past_key_values
            chosen.append(pick_output(output)[:, -1])
            step = chosen[-1].argmax(-1, keepdim=True)
        logits = torch.stack(chosen, 1)
        return Generated(tokens=logits.argmax(-1), logits=logits)

    return without, cached


def prompts(workload: Workload) -> Tensor:
    """Token ids [n, p] of the columns that are real in every sample of the first held-out batch."""
    batch = workload.held_out[0]
    ids = batch.inputs[workload.input_names.index("input_ids")]
    mask = mask_name(workload)
    if mask is not None:
        real = batch.inputs[workload.input_names.index(mask)] != 0
        ids = ids[:, real.all(0)]
    if not ids.shape[1]:
        raise SpeedUpRefused(
            "A prompt needs a position that is real in every sample of a batch; there is none. "
            "Use smaller batches or samples of like length."
        )
    return ids[:, :PROMPT]


@torch.no_grad()
def _check(workload: Workload) -> None:
    """Raises `SpeedUpRefused` where a model produces no tokens or keeps no cache."""
    model: nn.Module = workload.model
    config: Any = getattr(model, "config", None)
    reason = ""
    if "input_ids" not in workload.input_names or config is None:
        reason = "takes no tokens"
    elif getattr(config, "is_encoder_decoder", False):
        reason = "has an encoder too, whose tokens are not produced"
    else:
        ids = prompts(workload)[:1, :2]
        output = model(input_ids=ids, use_cache=True)
        logits = pick_output(output)
        if getattr(output, "past_key_values", None) is None:
            reason = "gives no past_key_values"
        elif logits.ndim != 3 or logits.shape[-1] != getattr(config, "vocab_size", None):
            reason = "gives no logits over its vocabulary"
    if reason:
        raise SpeedUpRefused(
            f"A cache of keys and values is for decoders that produce tokens one after another; "
            f"{type(model).__name__} {reason}. Leave it out."
        )
