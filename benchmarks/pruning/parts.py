"""What is compared: models, the data that scores, and the other data that judges.

The trained ResNet-20, the small trained Llama and the sentence pairs are read from the folder that
ZSEI_EVAL_DATA names (`../shared/data` without it). Calibration data is the same for everybody; only
the others may look at labels, and at which sentences are pairs.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pruning import quality

Inputs = dict[str, Tensor]
SENTENCES = 512
"""Calibration sentences or images."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """How much goes."""

    name: str
    parameters: int
    """Parameters that go; what is left may differ by 1 % of the counted ones."""
    heads: float | None = None
    """Share of the heads where it is prescribed; then `neurons` is too."""
    neurons: float | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A model in eval mode with what is needed to cut and to judge it."""

    name: str
    model: nn.Module
    forward: Callable[[nn.Module, Inputs], Tensor]
    """Model and inputs to what is judged: embeddings [n, d] or logits [n, (t,) classes]."""
    calibration: tuple[Inputs, ...]
    """Batches; of sentences, the second half of a batch are the partners of the first."""
    labels: tuple[Tensor, ...]
    """Labels of the calibration batches, empty where there are none. For the others only."""
    quality: Callable[[nn.Module], dict[str, float]]
    """Quality on data nobody calibrated on."""
    metric: str
    """The key of `quality` that decides."""
    larger_is_better: bool
    targets: tuple[Target, ...]
    source: tuple[Any, Any]
    """Model and data that `zsei.subject.prepare.prepare` takes: the same calibration, no labels."""
    counted: int
    """Parameters the targets are shares of."""
    heads: int = 0
    """Heads a layer; 0 where there are none."""
    full_quality: Callable[[nn.Module], dict[str, float]] | None = None
    """More figures, dearer, for prescribed cuts only."""


def evaluation_data() -> tuple[ModuleType, Path]:
    """The reader of the evaluation data, and its folder.

    Raises:
        SystemExit: There is none.
    """
    folder = Path(os.environ.get("ZSEI_EVAL_DATA", "../shared/data")).resolve()
    if not (folder / "models.py").exists():
        raise SystemExit(
            f"This benchmark compares on trained models and text in a folder with a models.py; "
            f"{folder} holds none. Set ZSEI_EVAL_DATA to the folder of the evaluation data."
        )
    spec = importlib.util.spec_from_file_location("evaluation_models", folder / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, folder


def parameters(model: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def shares(model: nn.Module, *percentages: int) -> tuple[Target, ...]:
    """Targets as percentages of all parameters."""
    total = parameters(model)
    return tuple(Target(name=f"{p} %", parameters=round(total * p / 100)) for p in percentages)


def minilm() -> Part:
    """The sentence encoder: 6 layers of 12 heads and 1536 neurons, 22.7 M parameters."""
    from zsei.settings import Settings
    from zsei.subject.load import load_model

    loaded = load_model("demo:minilm", Settings())
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    module, _ = evaluation_data()
    first, second, gold = module.sentence_pairs("dev")
    judged = list(dict.fromkeys(text for pair in zip(first, second, strict=True) for text in pair))
    seen, pairs = set(judged), []
    for a, b, _ in zip(*module.sentence_pairs("train"), strict=True):
        if a not in seen and b not in seen and a != b:
            seen |= {a, b}
            pairs.append((a, b))
    pairs = pairs[: SENTENCES // 2]

    def encode(texts: list[str]) -> Inputs:
        found = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

    calibration = []
    for begin in range(0, len(pairs), 32):
        own = pairs[begin : begin + 32]
        calibration.append(encode([a for a, _ in own] + [b for _, b in own]))
    encoder = parameters(model.get_submodule("encoder"))
    few = judged[:1000]
    original = cache(lambda: quality.embeddings(model, few, encode))

    def cosines(edited: nn.Module) -> dict[str, float]:
        return quality.cosines(quality.embeddings(edited, few, encode), original())

    def correlation(edited: nn.Module) -> dict[str, float]:
        rows = {text: row for row, text in enumerate(judged)}
        found = quality.embeddings(edited, judged, encode)
        places = ([rows[text] for text in first], [rows[text] for text in second])
        return {"spearman": quality.correlation(found, *places, gold)}

    # 12 heads to 9 and 1536 neurons to 1228 in each of 6 layers of width 384.
    quarter = 6 * (3 * 32 * (4 * 384 + 3) + 308 * (2 * 384 + 1))
    targets = (
        Target(name="heads 1/4, neurons 1/5", parameters=quarter, heads=0.25, neurons=0.2),
        Target(name="30 % of the encoder", parameters=round(0.3 * encoder)),
        Target(name="40 % of the encoder", parameters=round(0.4 * encoder)),
    )
    return Part(
        name="minilm", model=model, forward=quality.embed, calibration=tuple(calibration),
        labels=(), quality=cosines, full_quality=correlation, metric="cosine",
        larger_is_better=True, targets=targets, heads=12, counted=encoder,
        source=("demo:minilm", [text for pair in pairs for text in pair]),
    )  # fmt: skip


def stories() -> Part:
    """A trained Llama: 5 layers, 8 query heads on 4 key heads, gated MLP of 172."""
    from transformers import AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    module, folder = evaluation_data()
    tokenizer = AutoTokenizer.from_pretrained(folder / "stories260k")
    model = LlamaForCausalLM.from_pretrained(folder / "stories260k", dtype=torch.float32).eval()
    ids = [tokenizer(text, verbose=False).input_ids for text in module.stories()]
    # Windows of 128 tokens of the first stories; the beginnings of others judge.
    windows = islice(
        (own[b : b + 128] for own in ids[:120] for b in range(0, len(own) - 127, 128)), SENTENCES
    )
    batches = torch.tensor(list(windows)).split(32)
    judged = [torch.tensor([own[:256]]) for own in ids[120:]]
    original = cache(lambda: quality.causal_log_probabilities(model, judged))
    return Part(
        name="stories", model=model, forward=quality.causal_logits,
        calibration=tuple({"input_ids": batch} for batch in batches), labels=batches,
        quality=lambda edited: quality.next_token(edited, judged, original()), metric="loss",
        larger_is_better=False, targets=shares(model, 10, 20, 30),
        heads=8, counted=parameters(model),
        source=(str(folder / "stories260k"), {"input_ids": torch.cat(batches)}),
    )  # fmt: skip


def resnet() -> Part:
    """A ResNet-20 trained on CIFAR-10, 269 722 parameters, shortcuts without convolutions."""
    module, _ = evaluation_data()
    model = module.resnet20()
    images, labels = module.cifar("calibration")
    images, labels = images[:SENTENCES], labels[:SENTENCES]
    return _classifier("resnet", model, "x", images, labels, *module.cifar("test"))


def vit() -> Part:
    """The vision transformer the tests train on digits: 4 layers of 4 heads and 96 neurons."""
    from tests.trained import digits, trained_vit

    model, _ = trained_vit()
    images, labels, test, gold = digits()
    images, labels = images[:SENTENCES], labels[:SENTENCES]
    return _classifier("vit", model, "pixel_values", images, labels, test, gold)


def _classifier(
    name: str, model: nn.Module, argument: str, images: Tensor, labels: Tensor, test: Tensor,
    gold: Tensor,
) -> Part:  # fmt: skip
    original = cache(lambda: quality.class_log_probabilities(model, argument, test))
    return Part(
        name=name, model=model, forward=quality.class_logits,
        calibration=tuple({argument: batch} for batch in images.split(64)),
        labels=labels.split(64), metric="loss", larger_is_better=False,
        quality=lambda edited: quality.classes(edited, argument, test, gold, original()),
        targets=shares(model, 10, 20, 30),
        heads=4 if name == "vit" else 0, counted=parameters(model),
        source=(model, {argument: images}),
    )  # fmt: skip


PARTS = {"minilm": minilm, "stories": stories, "resnet": resnet, "vit": vit}
