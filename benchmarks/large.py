"""Large decoders: what an analysis costs as layers and tokens grow, and one of 1.5 billion weights.

`python -m benchmarks.large` measures siblings of growing depth and length, streamed, and fits lines
through time and peak memory. `--full` writes a decoder of 1.5 billion random weights in bfloat16,
analyses it as a process of its own and prints wall time and peak resident memory. Weights are drawn
and written one tensor at a time. `--folder` keeps them.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

FULL = {
    "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}  # fmt: skip
SMALL = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}  # fmt: skip
SHARD = 500_000_000
"""Bytes a shard holds at most, unless one tensor is larger."""
FINISHED = (0, 3)
"""Exit codes of a finished analysis; 3 says that no change was accepted, as with random weights."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One analysis as a process of its own."""

    seconds: float
    resident: float
    """Peak resident memory in GB."""
    anonymous: float
    """Most memory that is no mapped file, in GB, as seen by looking every quarter second."""
    exit_code: int
    output: str


def write_model(folder: Path, *, dtype: torch.dtype = torch.bfloat16, **sizes: Any) -> int:
    """Write a Qwen2 decoder with random weights, one shard at a time; returns its parameters."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**sizes)
    config.architectures = ["Qwen2ForCausalLM"]
    config.dtype = str(dtype).removeprefix("torch.")
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    width = torch.finfo(dtype).bits // 8
    files: dict[str, str] = {}
    for number, names in enumerate(_shards(shapes, width)):
        generator = torch.Generator().manual_seed(number)
        file = f"model-{number + 1:05d}.safetensors"
        save_file({n: _random(n, shapes[n], dtype, generator) for n in names}, folder / file,
                  metadata={"format": "pt"})  # fmt: skip
        files |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return sum(p.numel() for p in model.parameters())


def _shards(shapes: dict[str, tuple[int, ...]], width: int) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = width * torch.Size(shape).numel()
        if names and held + size > SHARD:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names


def _random(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    if "norm" in name:
        return torch.ones(shape, dtype=dtype)
    # 1/√(inputs) keeps the scale of what flows through, as training would.
    scale = 0.02 if "embed" in name or len(shape) < 2 else shape[-1] ** -0.5
    return torch.empty(shape, dtype=dtype).normal_(0, scale, generator=generator)


def write_data(file: Path, *, samples: int, length: int, vocabulary: int) -> Path:
    """Random token ids as an .npz file."""
    import numpy as np

    ids = np.random.default_rng(0).integers(0, vocabulary, (samples, length))
    np.savez(file, input_ids=ids)
    return file


def analyse(folder: Path, data: Path, out: Path, settings: dict[str, str]) -> Run:
    """`zsei analyze` of a folder on two threads, with its peak memory."""
    command = [sys.executable, "-m", "zsei", "analyze", str(folder), "--data", str(data),
               "--llm", "none", "--out", str(out)]  # fmt: skip
    known = {"ZSEI_THREADS": "2", "OMP_NUM_THREADS": "2", "ZSEI_HOME": str(out / "home")}
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.txt"
    begin = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **known, **settings}
        )
        resident = anonymous = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            except OSError:
                break
            found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if "VmHWM" in found:
                resident = max(resident, int(found["VmHWM"].split()[0]))
                anonymous = max(anonymous, int(found["RssAnon"].split()[0]))
            time.sleep(0.25)
        code = process.wait()
    seconds = time.monotonic() - begin
    resident = resident or resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Run(
        seconds=seconds, resident=resident * 1024 / 1e9, anonymous=anonymous * 1024 / 1e9,
        exit_code=code, output=log.read_text(encoding="utf-8", errors="replace"),
    )  # fmt: skip


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Least-squares line y = intercept + slope · x, and R², the share of variance it explains."""
    a, b = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    ca, cb = a - a.mean(), b - b.mean()
    slope = float((ca * cb).sum() / ca.square().sum())
    rest = cb - slope * ca
    spread = float(cb.square().sum())
    fit = 1 - float(rest.square().sum()) / spread if spread else 1.0
    return slope, float(b.mean()) - slope * float(a.mean()), fit


def growth(place: Path) -> None:
    """Siblings of growing depth, then of growing length, each analysed by itself."""
    base = {"ZSEI_STREAM": "always", "ZSEI_SAMPLES": "16", "ZSEI_MAX_PROPOSALS": "0"}
    layers = (2, 4, 8, 12)
    found = []
    for count in layers:
        folder = place / f"layers-{count}"
        write_model(folder, **{**SMALL, "num_hidden_layers": count})
        data = write_data(place / "short.npz", samples=32, length=64, vocabulary=512)
        found.append(analyse(folder, data, place / f"out-layers-{count}", base))
        print(_told(f"{count:3d} layers, 64 tokens", found[-1]), flush=True)
    _print_lines("layer", layers, found)
    lengths = (64, 128, 256, 512)
    found = []
    folder = place / "layers-4"
    for length in lengths:
        data = write_data(place / f"{length}.npz", samples=32, length=length, vocabulary=512)
        settings = base | {"ZSEI_LENGTH": str(length)}
        found.append(analyse(folder, data, place / f"out-length-{length}", settings))
        print(_told(f"  4 layers, {length} tokens", found[-1]), flush=True)
    _print_lines("token", lengths, found)


def _told(what: str, run: Run) -> str:
    done = run.exit_code in FINISHED
    failed = "" if done else f"  exit code {run.exit_code}: {run.output[-400:]}"
    return (
        f"{what}: {run.seconds:7.1f} s, {run.resident:.2f} GB resident, "
        f"{run.anonymous:.2f} GB of it not mapped{failed}"
    )


def _print_lines(unit: str, x: Sequence[float], runs: Sequence[Run]) -> None:
    for name, y in (
        ("seconds", [run.seconds for run in runs]),
        ("GB resident", [run.resident for run in runs]),
    ):
        slope, start, fit = line(x, y)
        print(f"{name} = {start:.3g} + {slope:.3g} x {unit}s, R2 = {fit:.3f}", flush=True)


def full(place: Path, memory: float, samples: int, length: int) -> Run:
    """1.5 billion weights in bfloat16, analysed inside `memory` GB."""
    folder = place / "full"
    begin = time.monotonic()
    if not (folder / "model.safetensors.index.json").is_file():
        count = write_model(folder, **FULL)
        print(f"{count / 1e9:.2f} billion weights written in {time.monotonic() - begin:.0f} s")
    data = write_data(place / "full.npz", samples=2 * samples, length=length,
                      vocabulary=FULL["vocab_size"])  # fmt: skip
    settings = {"ZSEI_MEMORY": str(memory), "ZSEI_LENGTH": str(length),
                "ZSEI_SAMPLES": str(samples)}  # fmt: skip
    run = analyse(folder, data, place / "full-out", settings)
    print(_told(f"{samples} samples of {length} tokens", run), flush=True)
    return run


def main() -> int:
    """Measure and print; 1 where an analysis failed or took more memory than allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the 1.5 billion weights")
    parser.add_argument("--folder", type=Path, help="where to write, kept; else a temporary one")
    parser.add_argument("--memory", type=float, default=12.0, help="GB allowed")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    chosen = parser.parse_args()
    place = chosen.folder or Path(tempfile.mkdtemp(prefix="zsei-large-"))
    try:
        if not chosen.full:
            growth(place)
            return 0
        run = full(place, chosen.memory, chosen.samples, chosen.length)
        print(run.output[-3000:])
        return int(run.exit_code not in FINISHED or run.resident > chosen.memory)
    finally:
        if chosen.folder is None:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
