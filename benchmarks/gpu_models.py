"""Factories of the models that `gpu.py` measures: random weights where a size is all that counts.

Each returns (module, data). Tokens are drawn at random: no weight and no input is zero, for a card
is faster on zeros than it will ever be.
"""

from typing import Any

import torch
from torch import Tensor, nn

SAMPLES, LENGTH = 32, 256


def gpt2_small() -> tuple[nn.Module, dict[str, Tensor]]:
    """GPT-2 small: 124 million parameters, 12 layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _decoder(GPT2LMHeadModel(GPT2Config(use_cache=False)), 50_257)


def decoder_1b5() -> tuple[nn.Module, dict[str, Tensor]]:
    """A decoder of the Llama kind with 1.5 billion parameters: 28 layers, width 2048."""
    return _llama(layers=28, width=2048, inner=5504, heads=16, vocabulary=32_000)


def tiny_decoder() -> tuple[nn.Module, dict[str, Tensor]]:
    """The same in tiny, to see whether the benchmark itself runs."""
    return _llama(layers=2, width=32, inner=64, heads=4, vocabulary=100)


def _llama(**size: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=size["layers"], hidden_size=size["width"],
        intermediate_size=size["inner"], num_attention_heads=size["heads"],
        vocab_size=size["vocabulary"], use_cache=False,
    )  # fmt: skip
    return _decoder(LlamaForCausalLM(config), size["vocabulary"])


def _decoder(model: nn.Module, vocabulary: int) -> tuple[nn.Module, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (SAMPLES, LENGTH), generator=generator)
    return model.eval(), {"input_ids": tokens}
