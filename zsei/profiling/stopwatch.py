"""Moments within one run: the wall clock on a CPU, events on a card."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from zsei.timing.device import Device


class Stopwatch:
    """Moments in the order in which they were marked.

    On a card a mark is an event in the stream: it costs the host a microsecond and no waiting, and
    times are those of the card. Where calls are shorter than their launch, the gaps count with the
    call that follows.
    """

    def __init__(self, device: Device):
        self._device = device
        self._moments: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Keep this moment."""
        if self._device.is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            # The device's own stream: with several cards the present one may be another.
            event.record(torch.cuda.current_stream(self._device.torch))
            self._events.append(event)
        else:
            self._moments.append(time.perf_counter())

    def seconds(self) -> NDArray[np.float64]:
        """Seconds of every mark since the first, [marks]; waits until all have passed."""
        if not self._device.is_cuda:
            return np.array(self._moments) - (self._moments[0] if self._moments else 0.0)
        self._device.wait()
        first = self._events[0]
        return np.array([first.elapsed_time(event) / 1000 for event in self._events])
