"""The shelf of speed-ups: other ways to run the same model, one per file."""

from collections.abc import Sequence

from zsei.speedups.attention_backend import AttentionBackend
from zsei.speedups.batching import Batching
from zsei.speedups.channels_last import ChannelsLast
from zsei.speedups.compiled import Compiled
from zsei.speedups.inference_mode import InferenceMode
from zsei.speedups.int8 import Int8
from zsei.speedups.kv_cache import KvCache
from zsei.speedups.lower_precision import LowerPrecision
from zsei.speedups.onnx_runtime import OnnxRuntime
from zsei.speedups.padding import Padding
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.shelf import find
from zsei.speedups.speedup import SpeedUp, Step, params_of
from zsei.speedups.threads import Threads
from zsei.speedups.workload import Workload

SPEED_UPS: tuple[SpeedUp, ...] = (
    AttentionBackend(),
    KvCache(),
    ChannelsLast(),
    LowerPrecision(),
    Int8(),
    OnnxRuntime(),
    Compiled(),
    Batching(),
    Padding(),
    Threads(),
    InferenceMode(),
)


def find_speed_up(name: str, shelf: Sequence[SpeedUp] = SPEED_UPS) -> SpeedUp:
    """The speed-up of this name on a shelf.

    Raises:
        UsageError: There is none; the message lists those there are.
    """
    return find(shelf, name)


def carry_out(
    steps: Sequence[Step], workload: Workload, shelf: Sequence[SpeedUp] = SPEED_UPS
) -> Runnable:
    """The workload's model with all steps carried out, each in its place (`SpeedUp.order`).

    Raises:
        UsageError: A step names no speed-up, or its parameters do not fit.
        SpeedUpRefused: One of them cannot be carried out on this model, or after the others.
    """
    found = [(find_speed_up(step.speedup, shelf), step) for step in steps]
    runnable = bare(workload.model, workload.input_names)
    for speedup, step in sorted(found, key=lambda pair: pair[0].order):
        runnable = speedup.apply(runnable, params_of(speedup, step), workload)
    return runnable
