"""Operations of each family per sample, counted by hand from its configuration.

2 x multiply-adds of matrix products, convolutions, attention and recurrent cells. t tokens, d model
width, f hidden width, h heads, v vocabulary.
"""

from itertools import pairwise, product
from typing import Any


def _attention(
    tokens: int, width: int, keys: int | None = None, key_width: int | None = None
) -> int:
    """q, k, v and output projections plus scores and mixing; `keys` tokens are attended to."""
    keys = tokens if keys is None else keys
    key_width = width if key_width is None else key_width
    projections = 2 * tokens * width * width * 2 + 2 * keys * width * key_width * 2
    return projections + 2 * tokens * keys * width * 2


def bert(config: Any, tokens: int) -> int:
    d, f = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * (_attention(tokens, d) + 2 * tokens * d * f * 2)


def gpt2(config: Any, tokens: int) -> int:
    d = config.n_embd
    layer = _attention(tokens, d) + 2 * tokens * d * 4 * d * 2
    return config.n_layer * layer + 2 * tokens * d * config.vocab_size


def _grouped(config: Any, tokens: int) -> int:
    d = config.hidden_size
    key_width = d // config.num_attention_heads * config.num_key_value_heads
    return _attention(tokens, d, key_width=key_width)


def llama(config: Any, tokens: int) -> int:
    d, f = config.hidden_size, config.intermediate_size
    layer = _grouped(config, tokens) + 2 * tokens * d * f * 3
    return config.num_hidden_layers * layer + 2 * tokens * d * config.vocab_size


def mixtral(config: Any, tokens: int) -> int:
    d, f = config.hidden_size, config.intermediate_size
    experts = config.num_experts_per_tok * 2 * tokens * d * f * 3
    router = 2 * tokens * d * config.num_local_experts
    layer = _grouped(config, tokens) + experts + router
    return config.num_hidden_layers * layer + 2 * tokens * d * config.vocab_size


def t5(config: Any, tokens: int) -> int:
    d, f = config.d_model, config.d_ff
    assert config.num_heads * config.d_kv == d
    attention, mlp = _attention(tokens, d), 2 * tokens * d * f * 2
    encoder = config.num_layers * (attention + mlp)
    decoder = config.num_decoder_layers * (2 * attention + mlp)
    return encoder + decoder + 2 * tokens * d * config.vocab_size


def vit(config: Any) -> int:
    d, f, patch = config.hidden_size, config.intermediate_size, config.patch_size
    patches = (config.image_size // patch) ** 2
    tokens = patches + 1
    embedding = 2 * patches * d * config.num_channels * patch * patch
    layer = _attention(tokens, d) + 2 * tokens * d * f * 2
    return embedding + config.num_hidden_layers * layer + 2 * d * config.num_labels


def resnet(config: Any, image: int) -> int:
    """Basic blocks: 7 x 7 stem at stride 2, max pooling by 2, stages at strides 1, 2, ..."""

    def conv(side: int, channels_in: int, channels: int, kernel: int) -> int:
        return 2 * side * side * channels * channels_in * kernel * kernel

    side = image // 2
    total = conv(side, config.num_channels, config.embedding_size, 7)
    side //= 2
    before = config.embedding_size
    for stage, (width, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
        side = side if stage == 0 else side // 2
        for block in range(depth):
            total += conv(side, before, width, 3) + conv(side, width, width, 3)
            if block == 0 and (before != width or stage > 0):
                total += conv(side, before, width, 1)
            before = width
    return total + 2 * before * config.num_labels


def patchtst(config: Any) -> int:
    d, f = config.d_model, config.ffn_dim
    patches = (config.context_length - config.patch_length) // config.patch_stride + 1
    layer = _attention(patches, d) + 2 * patches * d * f * 2
    one = 2 * patches * config.patch_length * d + config.num_hidden_layers * layer
    assert config.pooling_type == "mean"  # the head reads the mean over patches
    head = 2 * d * config.prediction_length
    return config.num_input_channels * (one + head)


def mlp(widths: list[int]) -> int:
    return sum(2 * a * b for a, b in pairwise(widths))


def lstm(tokens: int, inputs: int, hidden: int, layers: int, outputs: int) -> int:
    cells = 0
    for layer in range(layers):
        cells += tokens * 2 * 4 * hidden * ((inputs if layer == 0 else hidden) + hidden)
    return cells + 2 * hidden * outputs


def encoder(tokens: int, width: int, hidden: int, layers: int, outputs: int) -> int:
    return (
        layers * (_attention(tokens, width) + 2 * tokens * width * hidden * 2) + 2 * width * outputs
    )


def products_by_counting(left: str, right: str, out: str, sizes: dict[str, int]) -> int:
    """2 x multiply-adds of a product of two tensors with named axes: every index tuple, counted."""
    letters = sorted(set(left) | set(right) | set(out))
    return sum(2 for _ in product(*(range(sizes[letter]) for letter in letters)))


def convolution_by_counting(
    image: tuple[int, ...], channels: int, kernel: int, *, groups: int, padding: int, stride: int
) -> int:
    """2 x multiply-adds of a square 2-d convolution, place by place, padding included."""
    samples, inputs, height, width = image
    count = 0
    for _ in range(samples * channels):
        for _ in range(0, height + 2 * padding - kernel + 1, stride):
            for _ in range(0, width + 2 * padding - kernel + 1, stride):
                count += inputs // groups * kernel * kernel
    return 2 * count


def recurrence_by_steps(
    samples: int,
    steps: int,
    inputs: int,
    hidden: int,
    *,
    gates: int,
    layers: int,
    directions: int = 1,
    projection: int = 0,
) -> tuple[int, int]:
    """(all operations, those that wait for the step before) of a recurrent layer, step by step."""
    total = waiting = 0
    state = projection or hidden
    for layer in range(layers):
        entering = inputs if layer == 0 else state * directions
        for _ in range(directions):
            for step in range(steps):
                own = gates * hidden * state + (hidden * projection if projection else 0)
                total += 2 * samples * (gates * hidden * entering + own)
                waiting += 2 * samples * own if step else 0
    return total, waiting
