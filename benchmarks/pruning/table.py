"""Rows of figures, and whether what is aimed at was reached."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.pruning.methods import PEERS, Line, best
from benchmarks.pruning.parts import Part, Target, parameters

COLUMNS = (
    "cosine", "cosine_p5", "cosine_least", "spearman", "loss", "rise", "divergence", "accuracy",
    "removed", "seconds", "peak_mb", "flops", "latency",
)  # fmt: skip
COSINE, COSINE_P5, SPEARMAN_FALL = 0.93, 0.80, 0.003
"""What the prescribed cut of MiniLM is to reach."""
TIMED = "taylor contrastive"
"""The peers' scoring whose time counts."""
REALISED = 0.8
"""Share of the operations removed that is to show as time."""
TIMES, MODELS = 3.0, 2.5
"""CPU time for scoring and cutting against Torch-Pruning's by Taylor; memory, the model included,
against the model's own."""


def figures(line: Mapping[str, Any]) -> str:
    """Names and values on one line."""
    return ", ".join(f"{name} {value:.3f}" for name, value in line.items())


def show(
    title: str, part: Part, original: Mapping[str, float], rows: Sequence[tuple[str, Line]]
) -> None:
    """Print a table; columns nobody has are left out."""
    filled = [(label, _with_rise(part, original, line)) for label, line in rows]
    columns = [name for name in COLUMNS if any(name in line for _, line in filled)]
    print(f"\n{title:64}" + "".join(f"{name:>13}" for name in columns))
    for label, line in filled:
        cells = "".join(f"{_cell(line.get(name)):>13}" for name in columns)
        print(f"  {label:62}{cells}{_after(line)}")


def verdict(
    part: Part, target: Target, original: Mapping[str, float], lines: Iterable[Line], own: Line
) -> str:
    """What was to be reached at a target, and whether it was."""
    lines = list(lines)
    checks = []
    if target.heads is not None:
        checks += [
            (f"cosine >= {COSINE}", own["cosine"] >= COSINE),
            (f"5th percentile >= {COSINE_P5}", own["cosine_p5"] >= COSINE_P5),
        ]
        if part.full_quality and "spearman" in own:
            fall = part.full_quality(part.model)["spearman"] - own["spearman"]
            checks.append((f"Spearman falls {fall:.4f} <= {SPEARMAN_FALL}", fall <= SPEARMAN_FALL))
    for label, family, without in PEERS[:3]:
        found = best(part, target, lines, family, without)
        if found:
            theirs, mine = (harm(part, original, line) for line in (found, own))
            checks.append(
                (f"{mine:.4f} <= half of {theirs:.4f}, {label.strip()}", mine <= theirs / 2)
            )
    if "realised" in own:
        text = f"{own['realised']:.2f} of the operations removed show as time, >= {REALISED}"
        checks.append((text, own["realised"] >= REALISED))
    if target.heads is not None:
        checks += _economy(part, lines, own)
    return "\n".join(f"  {'held    ' if held else 'NOT held'}  {text}" for text, held in checks)


def _economy(part: Part, lines: Iterable[Line], own: Line) -> list[tuple[str, bool]]:
    """Time and memory of a cut; memory is the model and what the peak grew by."""
    checks = []
    theirs = [line["seconds"] for line in lines if line["method"] == TIMED and "seconds" in line]
    if theirs:
        text = f"{own['seconds']:.1f} s of CPU <= {TIMES:.0f} x {theirs[0]:.1f} s"
        checks.append((text, own["seconds"] <= TIMES * theirs[0]))
    size = 4 * parameters(part.model) / 2**20
    models = (size + own["peak_mb"] - own["resting_mb"]) / size
    return [*checks, (f"memory {models:.2f} <= {MODELS} models", models <= MODELS)]


def harm(part: Part, original: Mapping[str, float], line: Line) -> float:
    """1 - cosine, or rise in loss: what is to be at most half of the others'."""
    value = line[part.metric]
    return 1 - value if part.larger_is_better else value - original[part.metric]


def _with_rise(part: Part, original: Mapping[str, float], line: Line) -> Line:
    if part.metric != "loss" or "loss" not in line:
        return line
    return {**line, "rise": line["loss"] - original["loss"]}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 100 else f"{value:.0f}"


def _after(line: Line) -> str:
    return f"  {line['error']}" if "error" in line else ""
