"""Every sample run alone, without padding; groups and rows found by trying them all."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn

from zsei.subject.program import pick_output


@torch.no_grad()
def one_by_one(model: nn.Module, ids: Tensor, mask: Tensor, told: bool = True) -> Tensor:
    """The model's output for each sample's real tokens alone, at their place, zero elsewhere.

    Args:
        model: Takes `input_ids` and, where `told`, `position_ids`.
        ids: Token ids [n, t].
        mask: 1 where a token is real, [n, t].
        told: Whether the model is told at which columns the tokens stood.
    """
    placed: list[Tensor] = []
    for row in range(ids.shape[0]):
        columns = [c for c in range(ids.shape[1]) if int(mask[row, c])]
        named = {"input_ids": torch.tensor([[int(ids[row, c]) for c in columns]])}
        if told:
            named["position_ids"] = torch.tensor([columns])
        output = pick_output(model(**named))[0]
        place = torch.zeros(ids.shape[1], *output.shape[1:])
        for number, column in enumerate(columns):
            place[column] = output[number]
        placed.append(place)
    return torch.stack(placed)


def fewest_positions(lengths: Sequence[int], groups: int) -> int:
    """Fewest positions run when samples in order of length are cut into at most so many groups."""
    ordered = sorted(lengths)
    least = len(ordered) * ordered[-1]
    for cuts in range(1, min(groups, len(ordered))):
        for chosen in combinations(range(1, len(ordered)), cuts):
            edges = [0, *chosen, len(ordered)]
            total = 0
            for begin, end in pairwise(edges):
                total += (end - begin) * max(ordered[begin:end])
            least = min(least, total)
    return least


def greedy_tokens(model: nn.Module, prompt: Tensor, tokens: int) -> list[list[int]]:
    """What a decoder says after each prompt [n, p], token by token, each sample alone."""
    said: list[list[int]] = []
    for row in prompt.tolist():
        known = list(row)
        for _ in range(tokens):
            with torch.no_grad():
                logits = pick_output(model(input_ids=torch.tensor([known]), use_cache=False))
            known.append(int(logits[0, -1].argmax()))
        said.append(known[len(row) :])
    return said
