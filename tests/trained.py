"""Really trained small models, so that importance means something; seconds each, then cached.

Every function takes nothing and returns (model, data): data the model was not trained on. The
cache (tests/.cache, not in git) is keyed by this file, the training data and torch's version.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.subject.default_text import standard_library_text

CACHE = Path(__file__).parent / ".cache"
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
VOCABULARY = len(CHARACTERS) + 1
"""One more for what is no printable ASCII (id 0)."""
LENGTH = 64
HELD_OUT = 0.1
"""Share of each text, its end, that is kept for measuring."""

Made = tuple[nn.Module, Any]


def _cached(name: str, model: nn.Module, data: Tensor, train: Callable[[nn.Module], None]) -> None:
    """Put trained weights into `model`: from the cache, or by training it now."""
    hasher = hashlib.sha256(Path(__file__).read_bytes())
    hasher.update(data.numpy().tobytes())
    hasher.update(torch.__version__.encode())
    path = CACHE / f"{name}-{hasher.hexdigest()[:16]}.pt"
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            train(model.train())
        CACHE.mkdir(exist_ok=True)
        half = path.with_suffix(f".{id(model)}")
        torch.save(model.state_dict(), half)
        half.rename(path)
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


@lru_cache(maxsize=1)
def character_data() -> tuple[Tensor, dict[str, Tensor]]:
    """(training ids [N], held-out windows [n, t] of the groups prose and code)."""
    numbers = {character: i + 1 for i, character in enumerate(CHARACTERS)}
    training, held_out = [], {}
    for group, texts in standard_library_text().items():
        ids = torch.tensor([numbers.get(c, 0) for c in "\n".join(texts)])
        border = int(len(ids) * (1 - HELD_OUT))
        training.append(ids[:border])
        end = ids[border:]
        held_out[group] = end[: len(end) // LENGTH * LENGTH].view(-1, LENGTH)
    return torch.cat(training), held_out


def _train_characters(model: nn.Module, steps: int) -> None:
    ids, _ = character_data()
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - LENGTH, (24,), generator=generator)
        batch = torch.stack([ids[s : s + LENGTH] for s in starts.tolist()])
        logits = model(input_ids=batch).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def trained_gpt2() -> Made:
    """A GPT-2 character model, 4 layers of 8 heads, below 2.3 nats a character on unseen text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=4, n_head=8, n_positions=LENGTH,
                        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0)  # fmt: skip
    model = _seeded(lambda: GPT2LMHeadModel(config))
    training, held_out = character_data()
    _cached("gpt2", model, training, lambda m: _train_characters(m, 250))
    return model, {group: {"input_ids": ids} for group, ids in held_out.items()}


def trained_llama() -> Made:
    """A Llama character model: 4 layers, 8 query heads on 4 key heads, gated MLP of 128."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128,
                         num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4,
                         max_position_embeddings=LENGTH, bos_token_id=0,
                         eos_token_id=0)  # fmt: skip
    model = _seeded(lambda: LlamaForCausalLM(config))
    training, held_out = character_data()
    _cached("llama", model, training, lambda m: _train_characters(m, 250))
    return model, {group: {"input_ids": ids} for group, ids in held_out.items()}


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits as (train x [n, 1, 8, 8] in 0..1, train y, held-out x, held-out y)."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(found.target, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1300], order[1300:]
    return x[train], y[train], x[test], y[test]


def _batches(size: int, epochs: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        yield from torch.randperm(size, generator=generator).split(64)


def _train_digits(
    model: nn.Module, logits: Callable[[Tensor], Tensor], epochs: int, rate: float
) -> None:
    x, y, _, _ = digits()
    steps = epochs * -(-len(x) // 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for rows in _batches(len(x), epochs):
        loss = F.cross_entropy(logits(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


class Block(nn.Module):
    """Two convolutions with batch norm beside a skip, projected where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        inside = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(inside)))


class DigitsCNN(nn.Module):
    """A small ResNet for 8 x 8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.blocks = nn.ModuleList([Block(24, 24, 1), Block(24, 32, 2), Block(32, 32, 1)])
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.mean((2, 3)))


def trained_cnn() -> Made:
    """A CNN with residuals and batch norm, above 96 % on unseen digits."""
    model = _seeded(DigitsCNN)
    x, _, test_x, test_y = digits()
    _cached("cnn", model, x, lambda m: _train_digits(m, m, 8, 1e-2))
    return model, {"images": test_x, "labels": test_y}


def trained_vit() -> Made:
    """A vision transformer, 4 layers of 4 heads on 2 x 2 patches, above 90 % on unseen digits."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=48, num_hidden_layers=4, num_attention_heads=4,
                       intermediate_size=96, image_size=8, patch_size=2, num_channels=1,
                       num_labels=10, hidden_dropout_prob=0.0,
                       attention_probs_dropout_prob=0.0)  # fmt: skip
    model = _seeded(lambda: ViTForImageClassification(config))
    x, _, test_x, test_y = digits()

    def logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda images: model(pixel_values=images).logits

    _cached("vit", model, x, lambda m: _train_digits(m, logits(m), 20, 4e-3))
    return model, {"pixel_values": test_x, "labels": test_y}


LAGS, STEPS, SEASON = 48, 12, 12
"""Steps a forecaster sees, steps it forecasts, and the period of the season in the data."""


@lru_cache(maxsize=1)
def seasonal_series() -> tuple[Tensor, Tensor]:
    """(training [t, 3], held-out [t, 3]): a season of 12 steps, a slow drift, and noise."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(1600, dtype=torch.float32)[:, None]
    phase = torch.tensor([0.0, 1.0, 2.5])
    season = torch.sin(2 * torch.pi * time / SEASON + phase) * torch.tensor([1.0, 0.6, 1.4])
    drift = 0.05 * torch.randn(1600, 3, generator=generator).cumsum(0)
    series = season + drift + 0.2 * torch.randn(1600, 3, generator=generator)
    return series[:1200], series[1200:]


def windows(series: Tensor, step: int = 1) -> tuple[Tensor, Tensor]:
    """(past [n, lags, v], future [n, steps, v]) of a series [t, v]."""
    found = series.unfold(0, LAGS + STEPS, step).transpose(1, 2)
    return found[:, :LAGS], found[:, LAGS:]


def _train_forecaster(model: nn.Module) -> None:
    past, future = windows(seasonal_series()[0])
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=6 * 18)
    for rows in _batches(len(past), 6):
        loss = model(past_values=past[rows], future_values=future[rows]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def trained_patchtst() -> Made:
    """A PatchTST, 2 layers of 4 heads on patches of 8 steps; it forecasts a season of 12 steps."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    config = PatchTSTConfig(num_input_channels=3, context_length=LAGS, patch_length=8,
                            patch_stride=8, prediction_length=STEPS, d_model=32,
                            num_attention_heads=4, num_hidden_layers=2, ffn_dim=64,
                            attention_dropout=0.0, positional_dropout=0.0, path_dropout=0.0,
                            ff_dropout=0.0, head_dropout=0.0)  # fmt: skip
    model = _seeded(lambda: PatchTSTForPrediction(config))
    training, held_out = seasonal_series()
    _cached("patchtst", model, training, _train_forecaster)
    past, future = windows(held_out, step=5)
    return model, {"past_values": past, "future_values": future}


TRAINED = {
    "gpt2": trained_gpt2, "llama": trained_llama, "cnn": trained_cnn, "vit": trained_vit,
    "patchtst": trained_patchtst,
}  # fmt: skip
