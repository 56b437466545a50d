"""Small workloads to train, and a shelf of planted speed-ups of training."""

from functools import cache

import torch
from prepared import seeded
from torch import Tensor, nn

from zsei.speed.workload_of import workload_of
from zsei.speedups.training.setup import TrainingSetup, bare_training, without_dropout
from zsei.speedups.workload import Workload
from zsei.subject.modules_anatomy import read_modules
from zsei.subject.objective import Objective
from zsei.subject.program import frozen_twin, model_hash
from zsei.subject.types import Batch, ModelSource, Subject
from zsei.timing.device import find_device

CPU = find_device("cpu")
REGRESSION = Objective(name="regression", output="values", reason="planted")
SIMILARITY = Objective(name="similarity", output="embedding", reason="planted", pooling="none")
FIDELITY = Objective(name="fidelity", output="values", reason="planted")


class Block(nn.Module):
    """A residual block with dropout and, if wanted, a batch norm."""

    def __init__(self, width: int, dropout: float, norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if norm else nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(torch.relu(self.up(self.norm(x)))))


class Residual(nn.Module):
    """Blocks between a linear in and a linear out."""

    def __init__(
        self, blocks: int = 3, width: int = 16, dropout: float = 0.0, norm: bool = False
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.layers = nn.ModuleList(Block(width, dropout, norm) for _ in range(blocks))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.layers:
            x = block(x)
        return self.head(x)


def workload(
    model: nn.Module, *, samples: int = 24, batch_size: int = 8, objective: Objective = REGRESSION
) -> Workload:
    """Any model from 8 numbers to 4, known by its modules, with targets that can be learnt."""
    x = seeded(samples, 8)
    labels = x[:, :4].tanh() if objective is REGRESSION else seeded(samples, seed=2).sigmoid()
    given = None if objective is FIDELITY else labels
    batches = tuple(
        Batch(
            inputs=(x[rows : rows + batch_size],),
            labels=None if given is None else given[rows : rows + batch_size],
            groups=("data",) * batch_size,
        )
        for rows in range(0, samples, batch_size)
    )
    twin = frozen_twin(model)
    subject = Subject(
        source=ModelSource(name=type(model).__name__, kind="object"), model=twin,
        model_hash=model_hash(model), program=None, input_names=("x",), objective=objective,
        calibration=batches, held_out=batches,
        anatomy=read_modules(twin, ("x",), batches[0].inputs),
    )  # fmt: skip
    return workload_of(subject, CPU, 1)


@cache
def residual(dropout: float = 0.0, norm: bool = False) -> Workload:
    """The residual model, seeded; shared, so never change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return workload(Residual(dropout=dropout, norm=norm).eval())


@cache
def large_batches() -> Workload:
    """The residual model with so many samples a batch that activations outweigh gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return workload(Residual().eval(), samples=512, batch_size=256)


@cache
def linear() -> Workload:
    """One linear layer, which the oracle trains by hand; shared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return workload(nn.Sequential(nn.Linear(8, 4)), samples=10, batch_size=5)


def fresh(used: Workload) -> TrainingSetup:
    """The baseline without dropout."""
    return without_dropout(bare_training(used))
