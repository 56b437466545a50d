"""Train a small GPT and a small CNN with ZSEI beside them, and the same without it.

    python examples/11_beside_training.py               both, 150 epochs, three seeds: some minutes
    python examples/11_beside_training.py gpt 30 1      one of them, fewer epochs, one seed

The run is observed, then cut in steps: channels and neurons first, then heads, then layers, never
more than the phase of the schedule allows and only what the gate accepts on a copy. Weights and the
optimizer's state are cut together and training goes on. Each run waits for the answers it is due
(`lockstep`), so that this file gives the same numbers twice; without that, training never waits.
"""

# %% What is trained: bytes of Python's own source, and scikit-learn's handwritten digits.
import inspect
import shutil
import statistics
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from zsei.report.curves_svg import Chart, Curve
from zsei.report.run_page import curves_page
from zsei.settings import Settings
from zsei.training.beside import Beside

torch.set_num_threads(1)
STEPS = 8
"""Steps of an epoch."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A model to train, and what to train it on."""

    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, list[Tensor]], Tensor]
    train: list[Tensor]
    validation: list[Tensor]
    batch: int
    shown: dict[str, Tensor]
    """What ZSEI measures and judges on: neither trained on nor part of the validation."""


def gpt() -> Lesson:
    """A decoder of 4 layers that learns to write Python, byte by byte, from little text."""
    source = "\n".join(inspect.getsource(module) for module in (textwrap, shutil, statistics))
    ids = torch.tensor(list(source.encode())).clamp(max=127)
    windows = ids[: len(ids) // 64 * 64].view(-1, 64)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    sizes = {"vocab_size": 128, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 64}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(**sizes, **off, bos_token_id=0, eos_token_id=0)

    def loss(model: nn.Module, rows: list[Tensor]) -> Tensor:
        logits = model(input_ids=rows[0]).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), rows[0][:, 1:].flatten())

    return Lesson(
        make=lambda: GPT2LMHeadModel(config), loss=loss, train=[windows[256:704]],
        validation=[windows[:256]], batch=16, shown={"input_ids": windows[704:960]},
    )  # fmt: skip


def cnn() -> Lesson:
    """Three convolutions that learn to read digits under noise from few examples."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    images += 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))

    def block(width_in: int, width_out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(width_out), nn.ReLU()]

    def make() -> nn.Module:
        pools = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
        return nn.Sequential(*block(1, 32), *block(32, 48), nn.MaxPool2d(2), *block(48, 64), *pools)

    return Lesson(
        make=make, loss=lambda model, rows: F.cross_entropy(model(rows[0]), rows[1]),
        train=[images[:500], labels[:500]], validation=[images[1300:], labels[1300:]], batch=32,
        shown={"input": images[500:1300], "labels": labels[500:1300]},
    )  # fmt: skip


# %% One run, with or without ZSEI beside it. Nothing else differs.
@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of a training run."""

    losses: list[float]
    """Validation loss after each epoch."""
    parameters: list[int]
    done: list[str]
    """What was cut or put back, in words."""


def train(lesson: Lesson, *, epochs: int, seed: int, home: Path | None) -> Run:
    """Train once; with a folder, ZSEI stands beside it."""
    torch.manual_seed(seed)
    model = lesson.make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=epochs * STEPS, pct_start=0.1
    )
    chosen = torch.Generator().manual_seed(seed)
    beside = home and Beside(
        model, optimizer, lesson.shown, run=f"{home.name}-{seed}", folder=home / str(seed),
        config=schedule(epochs), lockstep=True,
        settings=Settings(home=home / "memory", samples=800, rounds=4),
    )  # fmt: skip
    losses, parameters, done = [], [], []
    for epoch in range(1, epochs + 1):
        model.train()
        for _ in range(STEPS):
            rows = torch.randint(len(lesson.train[0]), (lesson.batch,), generator=chosen)
            optimizer.zero_grad()
            lesson.loss(model, [part[rows] for part in lesson.train]).backward()
            optimizer.step()
            rate.step()
        model.eval()
        with torch.no_grad():
            losses.append(float(lesson.loss(model, lesson.validation)))
        if beside:
            event = beside.checkpoint(epoch, loss=losses[-1])
            if event.outcome not in ("observed", "skipped"):
                done.append(f"epoch {epoch}: {event.what}")
        parameters.append(sum(parameter.numel() for parameter in model.parameters()))
    if beside:
        beside.close()
    return Run(losses=losses, parameters=parameters, done=done)


def schedule(epochs: int) -> dict[str, object]:
    """A fifth of the epochs for each phase, as 30 of 150; up to 20 % may go, less a margin."""
    names = ("validation", "conservative", "moderate", "aggressive")
    phases = {f"{name}_epochs": epochs // 5 for name in names}
    return {
        "elesh": {"structured_pruning": {"safety_schedule": phases}},
        "run": {"mode": "remove", "shape": "linear", "target_sparsity": 0.2, "every": 5},
    }


# %% Both, side by side, for every seed.
def compare(name: str, lesson: Lesson, *, epochs: int, seeds: int, out: Path) -> None:
    """Train without and with ZSEI, print the figures and draw the curves."""
    print(f"{name}: seed, parameters left; validation loss without, with; the best of either")
    curves, ends = [], []
    for seed in range(seeds):
        plain = train(lesson, epochs=epochs, seed=seed, home=None)
        cut = train(lesson, epochs=epochs, seed=seed, home=out / name)
        end = (
            cut.parameters[-1] / plain.parameters[-1], plain.losses[-1], cut.losses[-1],
            min(plain.losses), min(cut.losses),
        )  # fmt: skip
        ends.append(end)
        print(row(str(seed), end))
        print(*(f"        {line}" for line in cut.done), sep="\n")
        for like, (what, run) in enumerate((("without", plain), ("with ZSEI", cut))):
            points = tuple(enumerate(run.losses, 1))
            curves.append(Curve(name=f"{what}, seed {seed}", points=points, like=like))
    print(row("mean", [statistics.mean(column) for column in zip(*ends, strict=True)]))
    chart = Chart(title="Validation loss", curves=tuple(curves), unit="nats")
    page = out / f"{name}.html"
    page.write_text(curves_page(f"{name} with and without ZSEI", [chart]), encoding="utf-8")
    print(f"curves: {page}\n")


def row(name: str, end: Sequence[float]) -> str:
    """One line of the table."""
    return f"{name:>4} {end[0]:8.1%}" + "".join(f"{loss:10.4f}" for loss in end[1:])


if __name__ == "__main__":
    wanted, epochs, seeds = [*sys.argv[1:], *("all", "150", "3")[len(sys.argv) - 1 :]]
    out = Path(tempfile.mkdtemp())
    for name, make in (("gpt", gpt), ("cnn", cnn)):
        if wanted in ("all", name):
            compare(name, make(), epochs=int(epochs), seeds=int(seeds), out=out)
