"""With a language model: it explains and proposes, and nothing it says counts until measured.

Name a model with ZSEI_LLM (any litellm name, such as `ollama/llama3.2` or `gpt-5-mini`). Without
one, scripted answers stand in, one of which contains a number of its own.
"""

# %% A small network whose second block does nothing.
import json
import os
import tempfile
from pathlib import Path

import torch
from torch import nn

import zsei

torch.manual_seed(0)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, scale: float):
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        nn.init.normal_(self.down.weight, std=scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Network(nn.Module):
    """Six residual blocks and a read-out."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(1e-6 if i == 1 else 0.2) for i in range(6))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


# %% The language model, or its script: five agents explain, one proposes and one objects. Where a
# number belongs, a text has a slot such as {model:parameters}; a number that the model writes
# itself is struck out.
texts = {
    "architecture": "The model has {model:parameters} parameters in {model:layers} layers.",
    "flow": (
        "The block `blocks.1` hands on what it is given: its block influence is "
        "{blocks.1:block_influence}. At `blocks.0` the block influence is 0.987654."
    ),
    "gradients": "Every block has a skip that carries the gradient past it.",
    "integration": "Every block adds to the stream that the next one reads.",
    "redundancy": "Little in the stream changes at `blocks.1`, so that it may go.",
}
readings = [{"text": text, "finding_ids": []} for text in texts.values()]
plan = {
    "text": "The idle block first, then some neurons of its neighbour.",
    "choices": [],
    "variants": [
        {
            "strategy": "remove-layer",
            "components": ["blocks.1"],
            "size": "half",
            "rationale": "It changes nothing that the output reads.",
        },
        {
            "strategy": "prune-neurons",
            "components": ["blocks.0/mlp"],
            "size": "half",
            "rationale": "Some of them may be spare.",
        },
    ],
}
doubts = {"text": "Nothing that was said is contradicted by a check.", "objections": []}
# The second plan has nothing new, so that the turns end.
answers = [*readings, plan, doubts, plan]
script = Path(tempfile.mkdtemp()) / "answers.json"
script.write_text(json.dumps(answers), encoding="utf-8")
llm = os.environ.get("ZSEI_LLM") or f"scripted:{script}"

# %% The analysis. The gate's limits are settings; no answer can reach them.
settings = zsei.Settings(llm=llm, samples=256, batch_size=32)
record = zsei.analyze(Network(), torch.randn(512, 16), settings=settings)
for said in record.interpretations:
    print(f"[{said.agent}, {said.voice}; struck out: {said.struck}]\n{said.text}\n")
for proposal, verdict in zip(record.proposals, record.verdicts, strict=True):
    print(f"{proposal.source}: {proposal.strategy} at {', '.join(proposal.components)}")
    print(f"  {proposal.rationale}\n  {verdict.reason}")
for turn in record.rounds:
    print(f"round {turn.number}, {turn.voice}: {turn.outcomes}, gain {turn.gain}")
for failure in record.failures:
    print(f"failed: {failure.what} ({failure.why})")
