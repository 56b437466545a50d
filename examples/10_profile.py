"""See where a model's time and memory go: hot spots, the machine's limits, growth with size.

A small transformer over sequences, profiled on random ones.
"""

# %% A model: two encoder layers and a read-out.
import json
import tempfile
from pathlib import Path

import torch
from torch import nn

import zsei
from zsei.report.profile_files import save_profile


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 3)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(sequence).mean(1))


torch.manual_seed(0)
data = {"sequence": torch.randn(32, 128, 64)}

# %% Profile one batch of 16. Every figure is a median with its interval.
record = zsei.profile(Reader(), data, settings=zsei.Settings(batch_size=16, samples=32))
record.show()

# %% What is worth working on, and what limits it.
for part in record.kinds[:3]:
    print(f"{part.name}: {part.share:.0%} of the time, {part.band}, {part.bound}-bound")
print(f"most memory is alive after {record.memory.alive_call}")
for fit in record.growth:
    if fit.exponent is not None:
        print(f"{fit.measure} grow with the {fit.over} to the power {fit.exponent.median:.1f}")

# %% The record, a page, and a trace for chrome://tracing or Perfetto.
files = save_profile(record, Path(tempfile.mkdtemp()) / "profile")
events = json.loads(files["trace"].read_text())["traceEvents"]
print(f"{len(events)} events in {files['trace'].name}; see {files['report'].name}")
