"""What a card does: its ceilings, and profile, speed-ups and claims of three models on it.

MiniLM, GPT-2 small and a decoder of 1.5 billion parameters; the last two with random weights, for
time and memory depend on sizes alone. What fails is told and the rest goes on. Without a card it
says so and ends with exit code 0.

    python benchmarks/gpu.py [--device cuda] [--model minilm] [--only profile] [--out FOLDER]
    python benchmarks/gpu.py --device cpu --model tiny        # whether the benchmark itself runs
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from zsei.errors import DeviceError, ZseiError
from zsei.settings import Settings
from zsei.timing.ceilings import ceilings
from zsei.timing.device import Device, find_device

HERE = Path(__file__).parent
MODELS = {
    "minilm": "demo:minilm",
    "gpt2": "gpu_models:gpt2_small",
    "decoder": "gpu_models:decoder_1b5",
    "tiny": "gpu_models:tiny_decoder",
}
DEFAULT = ("minilm", "gpt2", "decoder")
BATCH = 16
OBJECTIVE = "fidelity"
"""Random weights have no answers worth keeping, but outputs that must stay the same."""
LONG = 2048
"""Positions at which the memory of the attention is claimed."""


def settings() -> Settings:
    """One batch to calibrate and one held out."""
    return Settings(samples=2 * BATCH, batch_size=BATCH, length=128)


def ceilings_part(device: Device, folder: Path) -> dict[str, Any]:
    """Peaks per type and the bandwidth."""
    found = ceilings(device, folder=folder)
    for dtype, peak in found.peak.items():
        print(f"  {dtype:<9} {peak / 1e9:10.1f} G/s   ridge {found.ridge(dtype):7.1f} per byte")
    for dtype, why in found.could_not_tell.items():
        print(f"  {dtype:<9} could not tell: {why}")
    print(f"  bandwidth {found.bandwidth / 1e9:10.1f} GB/s")
    return found.model_dump(mode="json")


def profile_part(model: str, device: str) -> dict[str, Any]:
    """Where the time goes."""
    from zsei.profiling.profile import profile

    record = profile(model, device=device, settings=settings())
    whole = record.whole
    print(f"  whole {1e3 * whole.median:.3f} ms, parts {1e3 * record.sum_of_parts.median:.3f} ms")
    for part in record.parts[:5]:
        print(f"  {part.share:6.1%}  {part.name}  {part.bound or ''}")
    return record.model_dump(mode="json", exclude={"calls"})


def speed_part(model: str, device: str) -> dict[str, Any]:
    """Speed-ups alone and together."""
    from zsei.speed.speed_up import speed_up

    record = speed_up(model, device=device, objective=OBJECTIVE, settings=settings())
    for trial in record.alone:
        told = "did not run" if trial.speed_up is None else f"{trial.speed_up.median:5.2f}x"
        steps = " + ".join(f"{step.speedup} {step.params}" for step in trial.steps)
        print(f"  {told:<12} {trial.verdict.outcome:<13} {steps}")
    for refused in record.refused:
        print(f"  refused      {refused.what}: {refused.why}")
    if record.together is not None and record.together.trial.speed_up is not None:
        interval = record.together.trial.speed_up
        print(
            f"  together {interval.median:.2f}x [{interval.low:.2f}, {interval.high:.2f}], the "
            f"product of the parts would be {record.together.product:.2f}x"
        )
    return record.model_dump(mode="json")


def claims_of(model: str, device: str) -> dict[str, Any]:
    """A file of claims for a model: what is usually said of attention kernels and bfloat16."""

    def attention(backend: str) -> list[dict[str, Any]]:
        return [{"speedup": "attention-backend", "params": {"backend": backend}}]

    half = [{"speedup": "lower-precision", "params": {"dtype": "bfloat16"}}]
    return {
        "title": "Usual claims about speed on a card",
        "model": model,
        "objective": OBJECTIVE,
        "device": device,
        "workload": {"batch": BATCH, "samples": 2 * BATCH, "length": 128},
        "claims": [
            {"id": "flash-attention", "kind": "speed-up", "at_least": 2, "at_most": 4,
             "alternatives": [attention("sdpa-flash"), attention("sdpa")]},
            {"id": "attention-memory", "kind": "memory", "of": "attention", "at_least": 50,
             "at": {"length": LONG}, "alternatives": [attention("sdpa-flash"), attention("sdpa")]},
            {"id": "mixed-precision", "kind": "speed-up", "at_least": 1.5, "at_most": 2,
             "steps": half},
            {"id": "half-memory", "kind": "memory", "unit": "%", "at_least": 45, "steps": half},
            {"id": "under-10-ms", "kind": "latency", "at_most": 10},
            {"id": "same-answers", "kind": "accuracy", "steps": half},
            {"id": "same-outputs", "kind": "difference", "at_most": 1e-5,
             "steps": attention("sdpa")},
        ],
    }  # fmt: skip


def claims_part(model: str, device: str) -> dict[str, Any]:
    """Claims held against measurement."""
    from zsei.claims.check import check_claims

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gpu.yaml")
        path.write_text(yaml.safe_dump(claims_of(model, device)), encoding="utf-8")
        record = check_claims(path)
    for outcome in record.outcomes:
        print(f"  {outcome.verdict:<20} {outcome.id}: {outcome.reason}")
    return record.model_dump(mode="json")


PARTS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "profile": profile_part,
    "speed": speed_part,
    "claims": claims_part,
}


def tried(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Carry a part out; what stops it is told and kept."""
    begin = time.monotonic()
    try:
        found = part()
    except ZseiError as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    if "error" in found:
        print(f"  stopped: {found['error']}")
    found["took_seconds"] = time.monotonic() - begin
    return found


def main() -> None:
    """Measure, print, and keep the records where a folder is given."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--device", default="cuda")
    options.add_argument("--model", action="append", choices=MODELS, help="repeatable")
    options.add_argument("--only", action="append", choices=["ceilings", *PARTS], help="repeatable")
    options.add_argument("--out", type=Path, help="folder for the records")
    chosen = options.parse_args()
    try:
        device = find_device(chosen.device)
    except DeviceError as missing:
        print(f"skipped: {missing}")
        return
    print(f"{device.name}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    sys.path.insert(0, str(HERE))
    only = chosen.only or ["ceilings", *PARTS]
    found: dict[str, Any] = {"device": device.name, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if "ceilings" in only:
            print("ceilings")
            found["ceilings"] = tried(lambda: ceilings_part(device, folder))
        for name in chosen.model or DEFAULT:
            for part in (part for part in PARTS if part in only):
                print(f"{name}: {part}", flush=True)
                found[f"{name}/{part}"] = tried(
                    lambda part=part, name=name: PARTS[part](MODELS[name], chosen.device)
                )
                if device.is_cuda:
                    torch.cuda.empty_cache()
        if chosen.out:
            (folder / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
