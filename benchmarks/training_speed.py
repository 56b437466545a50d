"""How much faster a step of training becomes: each technique alone, then together.

    python -m benchmarks.training_speed --threads 2 --rounds 15            # on an idle machine
    python -m benchmarks.training_speed --model gpt2 --save-memory
    python -m benchmarks.training_speed --model tiny --rounds 5            # whether it runs at all

`minilm` learns the similarity of sentence pairs of STS-B (from the folder that ZSEI_EVAL_DATA
names, `../shared/data` without it), `gpt2` is a decoder of 4 layers with random weights on random
tokens, `tiny` a smaller one. The baseline is a step in float32 with eager attention and AdamW in a
Python loop. Compiling takes a minute for each trial of it: `--without compiled-training`.
"""

import argparse
import csv
import os
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from zsei.report.speed_text import summary
from zsei.settings import Settings
from zsei.speed.training_up import speed_up_training

VOCABULARY = 512


def pairs(count: int) -> list[dict[str, Any]]:
    """Sentence pairs of STS-B dev with their score, 0 to 1."""
    folder = Path(os.environ.get("ZSEI_EVAL_DATA", "../shared/data")).resolve()
    file = folder / "stsb" / "dev.csv"
    if not file.exists():
        sys.exit(f"The pairs must be at {file}; set ZSEI_EVAL_DATA, or take --model gpt2.")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.reader(lines) if len(row) == 3][:count]
    return [{"sentence1": a, "sentence2": b, "score": float(s) / 5} for a, b, s in rows]


def decoder(layers: int, width: int, length: int, samples: int) -> tuple[nn.Module, Any]:
    """A GPT-2 with random weights, and tokens for it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=width, n_layer=layers, n_head=width // 16,
        n_positions=length, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    tokens = torch.randint(1, VOCABULARY, (samples, length))
    return GPT2LMHeadModel(config).eval(), {"input_ids": tokens}


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=("minilm", "gpt2", "tiny"), default="minilm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--save-memory", action="store_true")
    parser.add_argument("--out", type=Path, help="write the record here, as JSON")
    asked = parser.parse_args()
    samples = 4 * asked.batch
    model: Any = "demo:minilm"
    data: Any = None
    if asked.model == "minilm":
        data = pairs(samples)
    elif asked.model == "gpt2":
        model, data = decoder(4, 256, 128, samples)
    else:
        model, data = decoder(2, 32, 16, samples)
    record = speed_up_training(
        model, data, settings=Settings(samples=samples, batch_size=asked.batch, length=128),
        device=asked.device, threads=asked.threads, without=asked.without,
        save_memory=asked.save_memory, rounds=asked.rounds, final_rounds=2 * asked.rounds,
        command=" ".join(["python -m benchmarks.training_speed", *sys.argv[1:]]),
    )  # fmt: skip
    summary(record, Console(width=140))
    if asked.out is not None:
        asked.out.write_text(record.model_dump_json(indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
