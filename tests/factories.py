"""Small random models of every family, each with random data that fits it.

Every function takes nothing and returns (module, data), so it also serves on the command line:
`zsei analyze tests.factories:tiny_bert`.
"""

from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 64
LENGTH = 16
SAMPLES = 24
WIDTH = 32
HEADS = 4

Made = tuple[nn.Module, Any]


def _seeded(build: Any) -> nn.Module:
    """A model whose weights are the same in every process; the caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def token_ids(samples: int = SAMPLES, length: int = LENGTH) -> Tensor:
    """Random ids [n, t]; 0 is left to padding."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, VOCABULARY, (samples, length), generator=generator)


def _classes(count: int) -> Tensor:
    return torch.arange(SAMPLES) % count


def tiny_bert(**config: Any) -> Made:
    """A BERT encoder, post-norm; some samples are padded."""
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2,
             "num_attention_heads": HEADS, "intermediate_size": 64,
             "max_position_embeddings": 32}  # fmt: skip
    model = _seeded(lambda: BertModel(BertConfig(**(sizes | config))))
    mask = torch.ones(SAMPLES, LENGTH, dtype=torch.long)
    mask[::2, LENGTH - 4 :] = 0
    return model, {"input_ids": token_ids(), "attention_mask": mask}


def tiny_gpt2(**config: Any) -> Made:
    """A GPT-2 language model: fused qkv, tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS,
             "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    model = _seeded(lambda: GPT2LMHeadModel(GPT2Config(**(sizes | config))))
    return model, {"input_ids": token_ids()}


def tiny_llama(**config: Any) -> Made:
    """A Llama language model: grouped queries, gated MLP, rotary positions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48,
             "num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": 2,
             "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    model = _seeded(lambda: LlamaForCausalLM(LlamaConfig(**(sizes | config))))
    return model, {"input_ids": token_ids()}


def tiny_mixtral(**config: Any) -> Made:
    """A Mixtral language model: four experts, two of them chosen per token."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48,
             "num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": 2,
             "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64,
             "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    model = _seeded(lambda: MixtralForCausalLM(MixtralConfig(**(sizes | config))))
    return model, {"input_ids": token_ids()}


def tiny_t5(**config: Any) -> Made:
    """A T5 encoder and decoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2,
             "num_heads": HEADS, "decoder_start_token_id": 0, "pad_token_id": 0}  # fmt: skip
    model = _seeded(lambda: T5ForConditionalGeneration(T5Config(**(sizes | config))))
    return model, {"input_ids": token_ids()}


def tiny_vit(**config: Any) -> Made:
    """A vision transformer that classifies 16 x 16 images."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS,
             "intermediate_size": 64, "image_size": 16, "patch_size": 4, "num_channels": 1,
             "num_labels": 5}  # fmt: skip
    model = _seeded(lambda: ViTForImageClassification(ViTConfig(**(sizes | config))))
    return model, {"pixel_values": _random(SAMPLES, 1, 16, 16), "labels": _classes(5)}


def tiny_resnet(**config: Any) -> Made:
    """A ResNet of transformers: convolutions, batch norms, projected shortcuts."""
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"num_channels": 3, "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2],
             "layer_type": "basic", "num_labels": 5}  # fmt: skip
    model = _seeded(lambda: ResNetForImageClassification(ResNetConfig(**(sizes | config))))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(2))
            module.running_var.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    return model, {"pixel_values": _random(SAMPLES, 3, 32, 32), "labels": _classes(5)}


def tiny_patchtst(**config: Any) -> Made:
    """A PatchTST forecaster: 32 steps of 2 channels in, 8 out."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    sizes = {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8,
             "prediction_length": 8, "d_model": WIDTH, "num_attention_heads": HEADS,
             "num_hidden_layers": 2, "ffn_dim": 64}  # fmt: skip
    model = _seeded(lambda: PatchTSTForPrediction(PatchTSTConfig(**(sizes | config))))
    series = _random(SAMPLES, 40, 2).cumsum(1)
    return model, {"past_values": series[:, :32], "future_values": series[:, 32:]}


def tiny_mlp() -> Made:
    """A plain multilayer perceptron that classifies points."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(),
                             nn.Linear(24, 3))  # fmt: skip

    x = _random(SAMPLES, 8)
    return _seeded(build), (x, x[:, :3].argmax(1))


class TaggingLSTM(nn.Module):
    """Two LSTM layers over tokens, and one answer per sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(tokens))
        return self.head(hidden[:, -1])


def tiny_lstm() -> Made:
    """An LSTM that classifies sequences of tokens."""
    return _seeded(TaggingLSTM), {"tokens": token_ids(), "labels": _classes(3)}


class SequenceEncoder(nn.Module):
    """torch's own transformer encoder over real-valued sequences, with a linear read-out."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.head(self.encoder(sequence).mean(1))


def tiny_encoder() -> Made:
    """`nn.TransformerEncoder` with four real outputs."""
    return _seeded(SequenceEncoder), {
        "sequence": _random(SAMPLES, 10, WIDTH),
        "y": _random(SAMPLES, 4),
    }


FAMILIES = {
    "bert": tiny_bert, "gpt2": tiny_gpt2, "llama": tiny_llama, "mixtral": tiny_mixtral,
    "t5": tiny_t5, "vit": tiny_vit, "resnet": tiny_resnet, "patchtst": tiny_patchtst,
    "mlp": tiny_mlp, "lstm": tiny_lstm, "encoder": tiny_encoder,
}  # fmt: skip
