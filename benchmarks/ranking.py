"""Complete rankings: what they cost, and how well they order units on data they never saw.

`python -m benchmarks.ranking minilm llama resnet` (all three without arguments). The trained Llama
and ResNet are read from the folder that ZSEI_EVAL_DATA names.

MiniLM, 72 heads, 32 x 64 tokens. Truth is exact ablation of all heads on sentences the ranking did
not use. How well any ranking can do is limited by how few sentences it saw: exact ablation of all
heads on as many sentences, against the same truth, stands beside it, and so does the agreement of
two exact rankings on disjoint sentences (the noise ceiling).
"""

import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from benchmarks.minilm import bare_forward
from benchmarks.paired import ratio
from zsei.importance.adaptive import exact_ranking
from zsei.importance.agreement import kendall, spearman
from zsei.importance.candidates import Units, units_at
from zsei.importance.screen import predicted_effects
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.types import Batch, Subject
from zsei.trace.ablation import ReplacementName, Target, ablate
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect_means

BUDGETS = (13.0, 26.0)
"""Bare forwards that are spent on MiniLM."""
LLAMA_DRAWS = 6


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    kendall: float
    spearman: float
    forwards: float
    note: str = ""


def per_sample(
    model: Subject, batches: tuple[Batch, ...], units: Units, means: dict,
    replacement: ReplacementName = "mean",
) -> np.ndarray:  # fmt: skip
    """Exact effects of all units, [U, n]."""
    targets = [Target(site=unit.site, units=(unit.index,)) for unit in units]
    found = ablate(
        engine_for(model), model.objective, batches, targets, means=means, replacement=replacement
    )
    return torch.stack([effect.divergence for effect in found]).double().numpy()


def row(what: str, scores: np.ndarray, truth: np.ndarray, forwards: float, note: str = "") -> Row:
    """Agreement of scores with a truth."""
    tau, rho = kendall(scores, truth), spearman(scores, truth)
    return Row(what=what, kendall=tau or 0.0, spearman=rho or 0.0, forwards=forwards, note=note)


def minilm(used: int = 4, truth_batches: int = 6) -> list[Row]:
    """Adaptive rankings of all heads against held-out truth, and what limits them."""
    # Halves: the calibration half has `used` batches at least, the held-out one the truth's.
    settings = Settings(samples=64 * max(used, truth_batches) + 64, batch_size=32, length=64)
    model = prepare("demo:minilm", settings=settings)
    batches, held_out = model.calibration[:used], model.held_out[:truth_batches]
    engine = engine_for(model)
    units = units_at(site for site in model.anatomy.sites if site.kind == "head")
    means = collect_means(engine, units.sites, batches)
    exact = per_sample(model, held_out, units, means)
    truth, n = exact.mean(1), exact.shape[1]
    ids = [unit.id for unit in units]
    found = []
    for budget in BUDGETS:
        ranked = exact_ranking(model, engine, units, means, batches=batches, budget=budget)
        effect = dict(zip(ranked.order, ranked.effects, strict=True))
        scores = np.array([effect[unit] for unit in ids])
        note = f"{ranked.draws} probes on {ranked.screened} sentences, expects " + (
            f"tau {ranked.expected_kendall:.2f}, {len(ranked.undecided)} neighbours undecided"
        )
        found.append(row(f"adaptive, budget {budget:.0f}", scores, truth, ranked.forwards, note))
    cost = ratio(
        lambda: exact_ranking(model, engine, units, means, batches=batches, budget=BUDGETS[0]),
        bare_forward(model), 1,
    )  # fmt: skip
    found[0] = replace(found[0], note=f"{found[0].note}; CPU time {cost.median:.1f} forwards")
    own = per_sample(model, batches, units, means)
    size = batches[0].size
    for count in (1, used):
        scores, forwards = own[:, : count * size].mean(1), 39.0 * count
        note = f"what exact ablation of all heads on {count * size} sentences reaches"
        found.append(row(f"all exact, {count} batches", scores, truth, forwards, note))
    generator = np.random.default_rng(0)
    for count in (size, n // 2):
        pairs = [generator.permutation(n)[: 2 * count] for _ in range(50)]
        taus = [kendall(exact[:, p[:count]].mean(1), exact[:, p[count:]].mean(1)) for p in pairs]
        tau = float(np.mean([t for t in taus if t is not None]))
        note = f"two exact rankings on {count} disjoint sentences each, mean of 50 draws"
        found.append(Row(what="ceiling", kendall=tau, spearman=0.0, forwards=0.0, note=note))
    return found


def evaluation_models() -> tuple[ModuleType, Path]:
    """The reader of the evaluation data, and its folder.

    Raises:
        SystemExit: There is none.
    """
    folder = Path(os.environ.get("ZSEI_EVAL_DATA", "../shared/data")).resolve()
    if not (folder / "models.py").exists():
        raise SystemExit(f"{folder} holds no models.py: set ZSEI_EVAL_DATA to the evaluation data.")
    spec = importlib.util.spec_from_file_location("evaluation_models", folder / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, folder


def llama(seeds: int = 3) -> list[Row]:
    """All heads of the small trained Llama by Fisher probes, against exact mean KL of zeroing."""
    module, folder = evaluation_models()
    settings = Settings(samples=256, batch_size=32, length=128)
    model = prepare(str(folder / "stories260k"), module.stories(), "fidelity", settings=settings)
    engine = engine_for(model)
    units = units_at(site for site in model.anatomy.sites if site.kind == "head")
    means = collect_means(engine, units.sites, model.calibration)
    truth = per_sample(model, model.calibration, units, means, "zero").mean(1)
    other = per_sample(model, model.held_out, units, means, "zero").mean(1)
    samples = sum(batch.size for batch in model.calibration)

    def scores(draws: int, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        parts = [
            predicted_effects(
                engine, model.objective, batch, units, means, draws=draws, zero=True,
                generator=generator,
            )
            for batch in model.calibration
        ]  # fmt: skip
        return torch.cat(parts, 1).mean(1).numpy()

    found = []
    for draws in (4, LLAMA_DRAWS):
        cost = ratio(lambda d=draws: scores(d, 0), _forwards(model), 3).median
        guesses = [scores(draws, seed) for seed in range(seeds)]
        rows = [row("", guess, truth, cost) for guess in guesses]
        held = [row("", guess, other, cost).spearman for guess in guesses]
        found.append(
            Row(
                what=f"{len(units)} heads, {draws} probes",
                kendall=float(np.median([r.kendall for r in rows])),
                spearman=float(np.median([r.spearman for r in rows])),
                forwards=cost,
                note=f"median of {seeds} seeds, Spearman {min(r.spearman for r in rows):.3f} at "
                f"least, {samples} samples; {np.median(held):.3f} with held-out truth",
            )
        )
    found.append(row("ceiling: exact on other stories", other, truth, 0.0))
    return found


def resnet(draws: int = 4) -> list[Row]:
    """All channels of the trained ResNet, and how much of the disagreement is the truth's noise."""
    module, _ = evaluation_models()
    images, labels = module.cifar("calibration")
    settings = Settings(samples=1024, batch_size=64)
    model = prepare(module.resnet20(), (images, labels), settings=settings)
    engine = engine_for(model)
    units = units_at(site for site in model.anatomy.sites if site.kind == "channel")
    means = collect_means(engine, units.sites, model.calibration)
    exact = per_sample(model, model.calibration, units, means)
    generator = torch.Generator().manual_seed(0)
    guess = torch.cat(
        [
            predicted_effects(engine, model.objective, batch, units, means, draws=draws,
                              zero=False, generator=generator)
            for batch in model.calibration
        ], 1,
    ).numpy()  # fmt: skip
    n = exact.shape[1]
    first, second = np.arange(0, n, 2), np.arange(1, n, 2)
    truth = exact[:, second].mean(1)
    note = f"{len(units)} channels, {n} images"
    return [
        row("sensitivity, same images", guess.mean(1), exact.mean(1), 1 + 1.1 * draws, note),
        row("sensitivity, other half", guess[:, first].mean(1), truth, 1 + 1.1 * draws),
        row("exact, other half (ceiling)", exact[:, first].mean(1), truth, 0.0),
    ]


def _forwards(model: Subject):
    from zsei.subject.program import MainOutput

    call = MainOutput(model.model, model.input_names).eval()

    def run() -> None:
        with torch.no_grad():
            for batch in model.calibration:
                call(*batch.inputs)

    return run


def main() -> None:
    """Print a table per model."""
    torch.set_num_threads(1)
    known = {"minilm": minilm, "llama": llama, "resnet": resnet}
    for name in sys.argv[1:] or known:
        print(f"\n{name:34} {'Kendall':>8} {'Spearman':>9} {'forwards':>9}")
        for found in known[name]():
            numbers = f"{found.kendall:8.3f} {found.spearman:9.3f} {found.forwards:9.1f}"
            print(f"{found.what:34} {numbers}  {found.note}")


if __name__ == "__main__":
    main()
