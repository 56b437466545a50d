"""What analysis beside a training run costs its steps: `python -m benchmarks.training_step`.

A small GPT is trained while another process analyses its checkpoints, without a pause. Blocks of
steps alternate between that process going on and being suspended, so that what else happens on the
machine meets both alike; each ratio is of a block with it and the mean of the two blocks around it
without. The same is done with blocks that are all without, which says what the ratio is worth. The
copy of the weights is timed apart: it is the one thing that training waits for.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
import torch
from torch import nn

from zsei.settings import Settings
from zsei.training.beside import Beside


def small_gpt(width: int, layers: int) -> nn.Module:
    """A GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=512, n_embd=width, n_layer=layers, n_head=width // 32, n_positions=128,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


class Training:
    """The loop that is timed."""

    def __init__(self, model: nn.Module, batch: int, length: int) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self.tokens = torch.randint(1, 512, (batch, length))

    def seconds(self, steps: int) -> float:
        """Wall-clock seconds of a block."""
        begin = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(input_ids=self.tokens, labels=self.tokens).loss.backward()
            self.optimizer.step()
        return time.perf_counter() - begin


class Analysis:
    """The process beside, and all that it started."""

    def __init__(self, beside: Beside) -> None:
        self.beside, self.epoch = beside, 0
        assert beside._child is not None
        assert beside._child.process_id is not None
        self.child = psutil.Process(beside._child.process_id)

    def keep_busy(self) -> None:
        """Hand over another checkpoint where the last one is answered."""
        if self.beside.wait(timeout=0):
            self.epoch += 1
            self.beside.checkpoint(self.epoch)

    def all(self) -> list[psutil.Process]:
        """Its processes."""
        return [self.child, *self.child.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """What they have used so far."""
        found = 0.0
        for process in self.all():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            found += times.user + times.system
        return found

    def let(self, go_on: bool) -> None:
        """Suspend or resume them."""
        for process in self.all():
            try:
                process.resume() if go_on else process.suspend()
            except psutil.Error:
                continue


def measure(
    training: Training, analysis: Analysis, *, blocks: int, steps: int, watched: bool
) -> dict[str, float]:
    """Ratios of the blocks in between to the blocks around them.

    Args:
        training: What is timed.
        analysis: What goes on beside.
        blocks: Number of ratios.
        steps: Steps of a block.
        watched: False leaves the analysis suspended throughout: the ratio of nothing.
    """
    analysis.let(go_on=False)
    around, ratios, used = training.seconds(steps), [], 0.0
    for _ in range(blocks):
        if watched:
            analysis.let(go_on=True)
            analysis.keep_busy()
        begin = analysis.cpu_seconds()
        between = training.seconds(steps)
        used += analysis.cpu_seconds() - begin
        analysis.let(go_on=False)
        after = training.seconds(steps)
        ratios.append(between / ((around + after) / 2))
        around = after
    ratios.sort()
    return {
        "median_ratio": median(ratios),
        "quarter": ratios[len(ratios) // 4],
        "three_quarters": ratios[(3 * len(ratios)) // 4],
        "analysis_cpu_seconds": used,
    }


def main() -> None:
    """Run it and print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument(
        "--warm", type=float, default=600.0, help="seconds the first analysis may take before"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    model = small_gpt(given.width, given.layers)
    training = Training(model, batch=8, length=64)
    data = torch.randint(1, 512, (128, 64))
    config = {
        # Suspended time counts as time: no task may run out of it here.
        "elesh": {"analysis_timeout": 36000.0},
        "run": {"keep_snapshots": 1, "checkpoint_window": 36000.0},
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home")
        beside = Beside(
            model, training.optimizer, data, run="benchmark", folder=Path(folder) / "run",
            config=config, settings=settings,
        )  # fmt: skip
        analysis = Analysis(beside)
        analysis.keep_busy()
        beside.wait(timeout=given.warm)  # exporting the program, once, is over
        found: dict[str, object] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "load": psutil.getloadavg()[0],
        }
        try:
            for threads in given.threads:
                torch.set_num_threads(threads)
                training.seconds(given.steps)
                alone = training.seconds(given.steps) / given.steps
                row = {"step_seconds": alone}
                for name, watched in (("nothing", False), ("observing", True)):
                    row |= {
                        f"{name}_{key}": value
                        for key, value in measure(
                            training, analysis, blocks=given.blocks, steps=given.steps,
                            watched=watched,
                        ).items()
                    }  # fmt: skip
                found[f"threads_{threads}"] = row
        finally:
            analysis.let(go_on=True)
            assert beside._child is not None
            beside._child.stop()
            beside.close()
        found["copies"] = len(beside.copy_seconds)
        found["copy_seconds_median"] = median(beside.copy_seconds)
        found["checkpoints_analysed"] = len(list((Path(folder) / "run" / "decisions").glob("*")))
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
