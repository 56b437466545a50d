"""Transformers architectures built tiny from their configs, with random weights.

Two layers, 32 channels and four heads (48 and six where keys are shared), images of 32 pixels.
`architecture_cuts` cuts 30 % out of each and prints what became of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 64
LENGTH = 10
SAMPLES = 3

TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 40, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GROUPED = TEXT | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}
SEQ2SEQ = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip
IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (8, 8),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 32,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one architecture is built, and what it reads."""

    model: str
    """Class of transformers."""
    config: Mapping[str, Any]
    reads: str = "text"
    """text, pair (encoder and decoder text), image, sound, spectrum or series."""


def _text(model: str, **config: Any) -> Architecture:
    return Architecture(model=model, config=TEXT | config)


def _grouped(model: str, **config: Any) -> Architecture:
    return Architecture(model=model, config=GROUPED | config)


def _image(model: str, **config: Any) -> Architecture:
    return Architecture(model=model, config=IMAGE | config, reads="image")


def _network(model: str, **config: Any) -> Architecture:
    return Architecture(model=model, config=config, reads="image")


def _pair(model: str, **config: Any) -> Architecture:
    return Architecture(model=model, config=SEQ2SEQ | config, reads="pair")


ARCHITECTURES: dict[str, Architecture] = {
    # Encoders of text.
    "BERT": _text("BertModel"),
    "RoBERTa": _text("RobertaModel"),
    "DistilBERT": _text("DistilBertModel", dim=32, n_layers=2, n_heads=4, hidden_dim=40),
    "ALBERT": _text("AlbertModel", embedding_size=16),
    "ELECTRA": _text("ElectraModel", embedding_size=16),
    "DeBERTa": _text("DebertaModel", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "DeBERTa-v2": _text(
        "DebertaV2Model", relative_attention=True, pos_att_type=["c2p", "p2c"],
        position_buckets=8, share_att_key=True,
    ),
    "MPNet": _text("MPNetModel"),
    "CamemBERT": _text("CamembertModel"),
    "XLM-R": _text("XLMRobertaModel"),
    "ESM": _text("EsmModel", mask_token_id=3, position_embedding_type="rotary"),
    "ModernBERT": _text("ModernBertModel", global_attn_every_n_layers=2, local_attention=8),
    "SqueezeBERT": _text("SqueezeBertModel", embedding_size=32, q_groups=2, k_groups=2,
                         v_groups=2, post_attention_groups=1, intermediate_groups=2,
                         output_groups=2),
    "Nystromformer": _text("NystromformerModel", segment_means_seq_len=10, num_landmarks=10),
    "FNet": _text("FNetModel"),
    "MegatronBERT": _text("MegatronBertModel"),
    "RoCBert": _text("RoCBertModel", enable_pronunciation=False, enable_shape=False),
    "LayoutLM": _text("LayoutLMModel"),
    "ERNIE": _text("ErnieModel"),
    "XLNet": Architecture(
        model="XLNetModel",
        config={"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 40},
    ),
    "CLIP text": _text("CLIPTextModel"),
    "SigLIP text": _text("SiglipTextModel"),
    # Encoders and decoders.
    "BART": _pair("BartModel"),
    "Pegasus": _pair("PegasusModel"),
    "Marian": _pair("MarianModel"),
    "mBART": _pair("MBartModel"),
    "T5": _pair("T5ForConditionalGeneration", d_kv=8, d_ff=40, num_layers=2, num_heads=4),
    "Flan-T5 (gated)": _pair("T5ForConditionalGeneration", d_kv=8, d_ff=40, num_layers=2,
                             num_heads=4, feed_forward_proj="gated-gelu",
                             tie_word_embeddings=False),
    # Decoders of text.
    "GPT-2": _text("GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "GPTBigCode": _text("GPTBigCodeForCausalLM", n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "GPT-Neo": _text("GPTNeoForCausalLM", attention_types=[[["global", "local"], 1]],
                     num_layers=2, num_heads=4),
    "GPT-NeoX": _text("GPTNeoXForCausalLM"),
    "GPT-J": _text("GPTJForCausalLM", n_embd=32, n_layer=2, n_head=4, n_positions=64,
                   rotary_dim=4),
    "CodeGen": _text("CodeGenForCausalLM", n_embd=32, n_layer=2, n_head=4, n_positions=64,
                     rotary_dim=4),
    "OPT": _text("OPTForCausalLM", ffn_dim=40, word_embed_proj_dim=32),
    "BLOOM": _text("BloomForCausalLM", n_layer=2, n_head=4),
    "BioGPT": _text("BioGptForCausalLM"),
    "Llama": _grouped("LlamaForCausalLM"),
    "Mistral": _grouped("MistralForCausalLM"),
    "Qwen2": _grouped("Qwen2ForCausalLM", tie_word_embeddings=True),
    "Qwen3": _grouped("Qwen3ForCausalLM", head_dim=8),
    "Gemma": _grouped("GemmaForCausalLM", head_dim=8),
    "Gemma 2": _grouped("Gemma2ForCausalLM", head_dim=8),
    "Gemma 3": _grouped("Gemma3ForCausalLM", head_dim=8),
    "Phi": _grouped("PhiForCausalLM"),
    "Phi-3": _grouped("Phi3ForCausalLM"),
    "Falcon": _text("FalconForCausalLM", new_decoder_architecture=True, num_kv_heads=3,
                    hidden_size=48, num_attention_heads=6),
    "Falcon (multi-query)": _text("FalconForCausalLM", multi_query=True),
    "StableLM": _grouped("StableLmForCausalLM"),
    "OLMo": _grouped("OlmoForCausalLM"),
    "OLMo 2": _grouped("Olmo2ForCausalLM"),
    "Cohere": _grouped("CohereForCausalLM"),
    "Granite": _grouped("GraniteForCausalLM"),
    "SmolLM3": _grouped("SmolLM3ForCausalLM"),
    "Starcoder2": _grouped("Starcoder2ForCausalLM"),
    "Nemotron": _grouped("NemotronForCausalLM"),
    "Helium": _grouped("HeliumForCausalLM", head_dim=8),
    "GLM-4": _grouped("Glm4ForCausalLM", head_dim=8),
    # Mixtures of experts.
    "Mixtral": _grouped("MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2),
    "Qwen2-MoE": _grouped("Qwen2MoeForCausalLM", shared_expert_intermediate_size=24, **EXPERTS),
    "Qwen3-MoE": _grouped("Qwen3MoeForCausalLM", head_dim=8, **EXPERTS),
    "OLMoE": _grouped("OlmoeForCausalLM", **EXPERTS),
    # State space.
    "Mamba": _text("MambaForCausalLM", state_size=4),
    # Images.
    "ViT": _image("ViTModel"),
    "DeiT": _image("DeiTModel"),
    "BEiT": _image("BeitModel"),
    "Data2Vec vision": _image("Data2VecVisionModel"),
    "DINOv2": _image("Dinov2Model"),
    "CLIP vision": _image("CLIPVisionModel"),
    "SigLIP vision": _image("SiglipVisionModel"),
    "Swin": _network("SwinModel", embed_dim=16, depths=[2, 2], num_heads=[4, 4], window_size=4,
                   patch_size=4, image_size=32),
    "SegFormer": _network("SegformerModel", hidden_sizes=[16, 32], depths=[1, 1],
                        num_attention_heads=[2, 4], sr_ratios=[2, 1], patch_sizes=[7, 3],
                        strides=[4, 2], mlp_ratios=[2, 2], num_encoder_blocks=2),
    "PoolFormer": _network("PoolFormerModel", hidden_sizes=[16, 32], depths=[1, 1],
                         patch_sizes=[7, 3], strides=[4, 2], padding=[2, 1],
                         num_encoder_blocks=2),
    "ConvNeXt": _network("ConvNextModel", hidden_sizes=[16, 32], depths=[2, 2], num_stages=2),
    "ConvNeXt V2": _network("ConvNextV2Model", hidden_sizes=[16, 32], depths=[2, 2], num_stages=2),
    "ResNet": _network("ResNetModel", embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2],
                     layer_type="bottleneck"),
    "BiT": _network("BitModel", embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2],
                  num_groups=4),
    "RegNet": _network("RegNetModel", embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2],
                     groups_width=8),
    "MobileNet V1": _network("MobileNetV1Model", depth_multiplier=0.25),
    "MobileNet V2": _network("MobileNetV2Model", depth_multiplier=0.25),
    "EfficientNet": _network("EfficientNetModel", width_coefficient=1.0, depth_coefficient=0.5,
                             in_channels=[32, 16], out_channels=[16, 32], kernel_sizes=[3, 5],
                             strides=[1, 2], num_block_repeats=[1, 2], expand_ratios=[1, 4],
                             hidden_dim=1280),
    # Sound.
    "Wav2Vec2": Architecture(model="Wav2Vec2Model", config=SPEECH, reads="sound"),
    "HuBERT": Architecture(model="HubertModel", config=SPEECH, reads="sound"),
    "Whisper": Architecture(
        model="WhisperModel",
        config=SEQ2SEQ | {"num_mel_bins": 8, "max_source_positions": 16,
                          "max_target_positions": 32, "suppress_tokens": None,
                          "begin_suppress_tokens": None},
        reads="spectrum",
    ),
    "AST": Architecture(
        model="ASTModel",
        config=IMAGE | {"num_mel_bins": 16, "max_length": 32, "patch_size": 8,
                        "frequency_stride": 8, "time_stride": 8},
        reads="bins",
    ),
    # Time series.
    "PatchTST": Architecture(
        model="PatchTSTForPrediction",
        config={"num_input_channels": 2, "context_length": 32, "patch_length": 8,
                "patch_stride": 8, "prediction_length": 8, "d_model": 32,
                "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 40},
        reads="series",
    ),
    "PatchTSMixer": Architecture(
        model="PatchTSMixerForPrediction",
        config={"num_input_channels": 2, "context_length": 32, "patch_length": 8,
                "patch_stride": 8, "prediction_length": 8, "d_model": 16, "num_layers": 2},
        reads="series",
    ),
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """(the model in eval mode with random weights, its inputs by name)."""
    import transformers

    architecture = ARCHITECTURES[name]
    found: Any = getattr(transformers, architecture.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = found(found.config_class(**architecture.config)).eval()
        for tensor in model.parameters():
            # Biases and norms start at 0 and 1 and would hide what is cut wrongly.
            if tensor.ndim == 1:
                tensor.data.add_(0.2 * torch.randn_like(tensor))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for buffer, low, high in (
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 1.5),
                ):
                    assert buffer is not None
                    buffer.uniform_(low, high)
        return model, _inputs(architecture)


def _inputs(architecture: Architecture) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (SAMPLES, LENGTH))
    made = {
        "text": {"input_ids": ids},
        "pair": {"input_ids": ids, "decoder_input_ids": ids.flip(0)},
        "image": {"pixel_values": torch.randn(SAMPLES, 3, 32, 32)},
        "sound": {"input_values": torch.randn(SAMPLES, 800)},
        "spectrum": {
            "input_features": torch.randn(SAMPLES, 8, 32), "decoder_input_ids": ids,
        },
        "bins": {"input_values": torch.randn(SAMPLES, 32, 16)},
        "series": {"past_values": torch.randn(SAMPLES, 32, 2).cumsum(1)},
    }  # fmt: skip
    return made[architecture.reads]
