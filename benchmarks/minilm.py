"""The subject of the speed benchmarks: MiniLM, 32 sentences of 64 tokens, one batch."""

from collections.abc import Callable

import torch

from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.program import MainOutput
from zsei.subject.types import Subject


def subject() -> Subject:
    """MiniLM with one calibration batch of 32 x 64."""
    return prepare("demo:minilm", settings=Settings(samples=64, batch_size=32, length=64))


def bare_forward(subject: Subject) -> Callable[[], object]:
    """The model's own forward without gradients on the calibration batch."""
    call = MainOutput(subject.model, subject.input_names).eval()
    inputs = subject.calibration[0].inputs

    def run() -> object:
        with torch.no_grad():
            return call(*inputs)

    return run
