"""A forecaster for claims: PatchTST on hourly series, generated or the real ETTh1.

Named by a file of claims beside it as `forecasting:patchtst` or `forecasting:patchtst_etth1`.
"""

import csv
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PatchTSTConfig, PatchTSTForPrediction

CONTEXT, HORIZON, PATCH = 512, 96, 16
SERIES = 7
DAY, WEEK = 24, 168


class Forecaster(nn.Module):
    """PatchTST with its forecast as a bare tensor."""

    def __init__(self, model: PatchTSTForPrediction) -> None:
        super().__init__()
        self.model = model

    def set_attn_implementation(self, name: str) -> None:
        """As a model of transformers: which code computes attention."""
        self.model.set_attn_implementation(name)

    @property
    def config(self) -> PatchTSTConfig:
        """The model's own."""
        return self.model.config

    def forward(self, past_values: Tensor) -> Tensor:
        """Past [n, t, c] to future [n, h, c]."""
        return self.model(past_values=past_values).prediction_outputs


def hourly(length: int, seed: int = 0) -> Tensor:
    """Generated series [t, c]: a day, a week, a slow drift and noise, in other shares each."""
    generator = torch.Generator().manual_seed(seed)
    hours = torch.arange(length)[:, None]
    phase, shares = (torch.rand(2, SERIES, generator=generator) for _ in range(2))
    day = torch.sin(2 * torch.pi * (hours / DAY + phase[0]))
    week = torch.sin(2 * torch.pi * (hours / WEEK + phase[1]))
    noise = torch.randn(length, SERIES, generator=generator)
    drift = torch.randn(length, SERIES, generator=generator).cumsum(0) / 100
    return (0.5 + shares[0]) * day + shares[1] * week + drift + 0.3 * noise


def windows(series: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """(past [n, t, c], future [n, h, c]) of every `step`-th hour."""
    both = series.unfold(0, CONTEXT + HORIZON, step).transpose(1, 2)
    return both[:, :CONTEXT].contiguous(), both[:, CONTEXT:].contiguous()


def made(layers: int = 3, width: int = 128, heads: int = 8) -> Forecaster:
    """The model with seeded weights."""
    torch.manual_seed(0)
    config = PatchTSTConfig(
        num_input_channels=SERIES, context_length=CONTEXT, prediction_length=HORIZON,
        patch_length=PATCH, patch_stride=PATCH, d_model=width, num_hidden_layers=layers,
        num_attention_heads=heads, ffn_dim=2 * width, scaling="std", loss="mse",
    )  # fmt: skip
    return Forecaster(PatchTSTForPrediction(config)).eval()


def trained(model: Forecaster, past: Tensor, future: Tensor, steps: int) -> Forecaster:
    """Briefly, so that outputs follow inputs: what is claimed here is no accuracy of forecasts."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(past), (8,), generator=generator)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(past[rows]), future[rows]).backward()
        optimizer.step()
    return model.eval()


def _with_data(series: Tensor, steps: int) -> tuple[Forecaster, dict[str, Tensor]]:
    """The first seven tenths teach, the rest is measured on."""
    border = int(0.7 * len(series))
    model = trained(made(), *windows(series[:border], 24), steps=steps)
    past, future = windows(series[border:], 12)
    return model, {"past_values": past, "labels": future}


def patchtst() -> tuple[Forecaster, dict[str, Tensor]]:
    """On generated series."""
    return _with_data(hourly(8000), steps=10)


def patchtst_etth1() -> tuple[Forecaster, dict[str, Tensor]]:
    """On ETTh1: seven hourly series of a transformer station, standardised by their first part.

    `ZSEI_EVAL_DATA` names the folder that holds `etth1/ETTh1.csv`.
    """
    path = Path(os.environ.get("ZSEI_EVAL_DATA", "../shared/data")) / "etth1" / "ETTh1.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
    series = torch.tensor(rows)
    known = series[: int(0.7 * len(series))]
    return _with_data((series - known.mean(0)) / known.std(0), steps=60)
