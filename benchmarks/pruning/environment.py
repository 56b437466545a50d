"""Peers in an environment of their own, one process a method, what they found kept on disk."""

import hashlib
import json
import os
import resource
import signal
import site
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.pruning.parts import Part

REQUIREMENT = "torch-pruning==1.6.1"
FOLDER = Path(".bench")
SOURCES = ("losses.py", "parts.py", "peer.py", "quality.py", "recipes.py")
LIMITS = {"minilm": 600}
"""CPU seconds a method may take on a part; what loops for ever is killed, a busy machine is not."""
USUAL_LIMIT = 240
HANG_LIMIT = 60
"""For the model as transformers builds it, which is known to hang."""
OUR_LIMIT = 1200


def interpreter() -> Path:
    """Python of the peers' environment, made when first needed.

    It sees the packages this interpreter has behind its own, so that torch is there once.

    Raises:
        SystemExit: The peer cannot be installed.
    """
    folder = FOLDER / "peers"
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    if (packages / "torch_pruning").is_dir():
        return python
    made = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    for command in (made, [*pip, "install", "--quiet", "--no-deps", REQUIREMENT]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"The peers need an environment with {REQUIREMENT}; {' '.join(command)} stopped "
                f"with:\n{done.stderr.strip()[-500:]}"
            )
    (packages / "project.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python


def peers(part: Part, methods: Iterable[str], *, fresh: bool = False) -> list[dict[str, Any]]:
    """Lines of all methods on one part, each with its method's name; errors are lines too.

    Args:
        part: What is cut.
        methods: Names in `benchmarks.pruning.peer.METHODS`, perhaps with a word before.
        fresh: Run again what was kept.
    """
    found = []
    for method in methods:
        lines = _kept(part, "peer", method, fresh)
        found += [{"method": method, **line} for line in lines]
    return found


def uniform(part: Part, method: str, *, fresh: bool = False) -> list[dict[str, Any]]:
    """Lines of `benchmarks.pruning.uniform`; latencies are those of the run that was kept."""
    return _kept(part, "uniform", method, fresh)


def ours(part: str, what: str) -> list[dict[str, Any]]:
    """Lines of `benchmarks.pruning.ours`, always run anew and in this environment."""
    return _run(sys.executable, "ours", part, what, OUR_LIMIT)


def _kept(part: Part, script: str, method: str, fresh: bool) -> list[dict[str, Any]]:
    kind = "" if script == "peer" else f"{script}-"
    name = f"{part.name}-{kind}{method.replace(' ', '-')}-{fingerprint(part)}.json"
    path = FOLDER / "results" / name
    if fresh or not path.exists():
        print(f"Torch-Pruning, {part.name}: {method} ...", file=sys.stderr, flush=True)
        limit = LIMITS.get(part.name, USUAL_LIMIT)
        if method.startswith("as-built "):
            limit = HANG_LIMIT
        lines = _run(str(interpreter()), script, part.name, method, limit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(lines, indent=1))
    return json.loads(path.read_text())


def _run(python: str, script: str, part: str, what: str, limit: int) -> list[dict[str, Any]]:
    command = [python, "-W", "ignore", "-m", f"benchmarks.pruning.{script}", part, what]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit)),
    )  # fmt: skip
    lines = _lines(done.stdout)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        lines.append({"error": f"no end after {limit} s of CPU time, killed"})
    elif done.returncode:
        lines.append({"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]})
    return lines


def _lines(text: str) -> list[dict[str, Any]]:
    complete = (line for line in text.splitlines() if line.startswith("{") and line.endswith("}"))
    return [json.loads(line) for line in complete]


def fingerprint(part: Part) -> str:
    """Hash of all a peer's result depends on: weights, data, these sources, versions."""
    hasher = hashlib.sha256(f"{REQUIREMENT} {torch.__version__} {sys.version}".encode())
    here = Path(__file__).parent
    for name in SOURCES:
        hasher.update((here / name).read_bytes())
    tensors = [*part.model.state_dict().values(), *part.labels]
    tensors += [values for batch in part.calibration for values in batch.values()]
    for tensor in tensors:
        hasher.update(tensor.detach().contiguous().numpy().tobytes())
    return hasher.hexdigest()[:16]
