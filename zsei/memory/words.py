"""The words people use for what is measured, found, judged and analysed.

Plain tables: another wording for an old thing is one more entry here. What the store itself holds
(models, components, codes, strategies, metrics) needs no entry; see `vocabulary`.
"""

import re

KINDS = {
    "head": "head", "attention head": "head",
    "layer": "layer", "block": "layer",
    "mlp": "mlp", "feed-forward": "mlp", "feed forward": "mlp", "feedforward": "mlp", "ffn": "mlp",
    "attention": "attention", "attention block": "attention", "attention module": "attention",
    "embedding": "embedding", "expert": "experts", "norm": "norm", "normalisation": "norm",
    "normalization": "norm", "layer norm": "norm", "layernorm": "norm", "batch norm": "norm",
    "conv": "conv", "convolution": "conv", "linear": "linear", "linear layer": "linear",
    "pool": "pool", "pooling": "pool", "residual": "residual", "residual join": "residual",
    "neuron": "neuron", "channel": "channel", "lstm layer": "recurrent", "recurrent": "recurrent",
}  # fmt: skip

ANYTHING = ("component", "unit")
"""Kinds of ranking that are no kind of component: the words mean whatever there is."""

METRICS = {
    "mean_abs": ("mean absolute activation", "mean activation", "activation size"),
    "rms": ("root mean square", "rms activation"),
    "near_zero_share": ("near-zero share", "share near zero", "sparsity", "sparse"),
    "outlier_ratio": ("outlier ratio", "outliers", "outlier"),
    "effective_rank": ("effective rank", "rank", "effective dimension", "dimensionality"),
    "rank_cap": ("rank cap", "cap of the rank", "largest possible rank"),
    "saturation": ("saturation", "saturated share", "saturated"),
    "attention_entropy": ("attention entropy", "entropy"),
    "first_token_mass": ("first token mass", "first-token mass", "attention sink", "first token"),
    "diagonal_mass": ("diagonal mass", "mass on the diagonal"),
    "previous_token_mass": ("previous token mass", "previous-token mass", "previous token"),
    "branch_to_stream": ("branch to stream", "branch-to-stream ratio", "branch to stream ratio"),
    "branch_stream_cosine": ("branch stream cosine", "cosine of branch and stream"),
    "block_influence": ("block influence",),
    "gradient_rms": ("gradient rms", "grad rms", "grad norm", "gradient size", "gradient norm",
                     "gradient", "gradients"),
    "sensitivity": ("output sensitivity", "sensitivity", "sensitive"),
    "taylor": ("taylor score", "taylor importance", "taylor"),
    "magnitude": ("magnitude", "weight magnitude"),
    "activation_frequency": ("activation frequency", "how often active"),
    "ablation_effect": ("ablation effect", "effect of ablation", "exact ablation", "ablation",
                        "effect when removed", "effect of removing"),
    "flops": ("flop", "flops", "compute", "operations", "floating point operations"),
    "flops_share": ("flops share", "share of flops", "share of the flops", "share of compute",
                    "share of the compute"),
    "parameters": ("parameter", "parameters", "parameter count", "weights", "params", "param",
                   "param count"),
    "bytes": ("bytes", "memory", "memory use", "memory traffic"),
    "bytes_share": ("bytes share", "share of bytes", "share of the bytes", "share of memory",
                    "share of the memory"),
    "share": ("flow share", "share of the flow", "share"),
    "attribution": ("attribution",),
    "dead_units": ("dead unit", "number of dead units", "dead neuron", "dead neurons",
                   "dead channel", "dead channels"),
    "seconds": ("seconds", "time", "run time", "runtime", "latency"),
    "width": ("width",),
    "units": ("units", "number of units"),
}  # fmt: skip

ADJECTIVES = {
    "slowest": ("seconds", "max"), "fastest": ("seconds", "min"),
    "most expensive": ("flops", "max"), "costliest": ("flops", "max"),
    "cheapest": ("flops", "min"), "least expensive": ("flops", "min"),
    "heaviest": ("parameters", "max"), "widest": ("width", "max"), "narrowest": ("width", "min"),
}  # fmt: skip

CODES = {
    "computational-bottleneck": ("computational bottleneck", "compute bottleneck",
                                 "bottleneck in compute", "hot spot", "hotspot"),
    "memory-bottleneck": ("memory bottleneck", "bottleneck in memory"),
    "information-bottleneck": ("information bottleneck", "information loss",
                               "information is lost", "lose information", "loses information"),
    "redundant-heads": ("redundant heads", "head redundancy", "duplicate heads"),
    "redundant-neurons": ("redundant neurons", "redundant channels", "neuron redundancy",
                          "duplicate neurons"),
    "redundant-layers": ("redundant layers", "redundant blocks", "layer redundancy"),
    "critical-path-information": ("information critical path", "critical path of information",
                                  "critical information path", "main information path"),
    "critical-path-latency": ("latency critical path", "critical path of latency",
                              "critical latency path", "longest latency path"),
    "dead-units": ("dead units", "dead neurons", "dead channels"),
    "low-effect": ("low effect", "little effect", "waste", "wasteful"),
    "gradient-flow": ("gradient flow", "vanishing gradients", "exploding gradients",
                      "vanishing gradient", "exploding gradient"),
}  # fmt: skip

CODE_FAMILIES = {
    "bottleneck": "-bottleneck", "critical path": "critical-path-",
    "redundant": "redundant-", "redundancy": "redundant-", "redundancies": "redundant-",
    "superfluous": "redundant-", "duplicated": "redundant-",
}  # fmt: skip
"""A word for several codes: all codes that hold the fragment, narrowed by a kind where named."""

REDUNDANT_OF_KIND = {
    "head": "redundant-heads", "attention": "redundant-heads", "layer": "redundant-layers",
    "neuron": "redundant-neurons", "channel": "redundant-neurons", "mlp": "redundant-neurons",
    "conv": "redundant-neurons",
}  # fmt: skip

KIND_OF_CODE = {"redundant-heads": "head", "redundant-layers": "layer"}
"""What is counted where the number of such things is asked for."""

OUTCOMES = {
    "accepted": (
        "accepted",
        "accept",
        "approved",
        "passed the gate",
        "allowed",
        "approve",
        "let through",
    ),
    "rejected": (
        "rejected",
        "reject",
        "refused",
        "refuse",
        "turned down",
        "denied",
        "deny",
        "declined",
        "decline",
    ),
    "inapplicable": ("inapplicable", "not applicable"),
    "inconclusive": ("inconclusive", "undecided"),
    "failed": ("failed", "fail", "crashed", "crash", "broke", "raised an error"),
}

STRATEGIES = {
    "prune head": ("prune heads", "pruning heads", "head pruning", "remove heads",
                   "removing heads", "prune head", "heads pruned", "pruned heads",
                   "heads removed", "heads be pruned", "heads be removed", "drop heads",
                   "dropping heads", "pruning of heads", "removal of heads", "cut heads",
                   "cutting heads"),
    "prune neuron": ("prune neurons", "pruning neurons", "neuron pruning", "remove neurons",
                     "removing neurons", "pruned neurons", "neurons pruned", "neurons be pruned",
                     "drop neurons", "dropping neurons", "pruning of neurons"),
    "prune channel": ("prune channels", "pruning channels", "channel pruning", "remove channels",
                      "removing channels", "pruned channels", "channels pruned"),
    "merge neuron": ("merge neurons", "merging neurons", "neuron merging", "merged neurons",
                     "neurons merged", "neurons be merged", "merging of neurons"),
    "remove layer": ("remove layers", "removing layers", "layer removal", "remove a layer",
                     "removing a layer", "drop layers", "dropping layers", "prune layers",
                     "pruning layers", "removed layers", "layers removed", "drop a layer",
                     "dropping a layer", "layer pruning", "removal of layers",
                     "removal of a layer", "layer dropping", "layer dropped", "layers dropped",
                     "layer removed", "removing the layer", "take out a layer", "skip a layer"),
    "replace layer": ("replace layers", "replacing layers", "layer replacement",
                      "replace a layer", "replacing a layer"),
    "factor": ("low-rank factorisation", "low-rank factorization", "factorisation",
               "factorization", "factorise", "factorize", "factorising", "factorizing",
               "low-rank", "svd", "low-rank approximation"),
    "prune": ("prune", "pruning", "pruned"),
}  # fmt: skip
"""Wordings, filed under the parts of a strategy's name that they mean."""

RUN_FIELDS = {
    "objective": ("objective",), "safety": ("safety level", "safety"), "seed": ("seed",),
    "llm": ("language model", "llm"), "created": ("date", "when"), "family": ("family",),
    "model": ("model name",), "dtype": ("dtype", "data type"), "metric": ("metric",),
    "replacement": ("replacement",), "fidelity": ("fidelity",), "device": ("device",),
    "samples": ("sample count", "number of samples", "samples"),
}  # fmt: skip

FAMILIES = {
    "encoder": "albert bert camembert deberta deberta-v2 distilbert electra modernbert mpnet "
    "roberta xlm-roberta",
    "decoder": "bloom falcon gemma gemma2 gemma3 gpt2 gpt-2 gpt_neo gpt_neox gptj llama mistral "
    "mixtral olmo phi phi3 qwen2 qwen3 qwen2_moe starcoder2",
    "mixture of experts": "mixtral olmoe qwen2_moe qwen3_moe",
    "moe": "mixtral olmoe qwen2_moe qwen3_moe",
    "encoder-decoder": "bart marian mbart pegasus t5 whisper",
    "vision model": "beit convnext deit dinov2 efficientnet mobilenet resnet swin vit",
    "vision transformer": "beit deit dinov2 swin vit",
    "cnn": "convnext efficientnet mobilenet regnet resnet vgg",
    "convolutional network": "convnext efficientnet mobilenet regnet resnet vgg",
    "time series model": "autoformer informer patchtsmixer patchtst",
    "speech model": "hubert wav2vec2 wavlm whisper",
    "rnn": "gru lstm rnn",
    "recurrent network": "gru lstm rnn",
}
"""Kinds of architecture people name, and the families that belong to each."""

KNOWN_FAMILIES = frozenset(name for names in FAMILIES.values() for name in names.split())

NUMBERS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "twelve": 12, "twenty": 20,
}  # fmt: skip

_SAYING_NOTHING = """
    actually back between contrast mean name only please put setting settings side typical under
    week
    already anybody anyone became become complete e.g entire full hi hello i.e previously ran
    running someone status whole
    a about across all also am an analyse analysed analyses analysis analyze analyzed and any
    anything anywhere are aren as at attempt attempted bad be because been being big but by
    called can change changed changes come component components cost costs could currently d
    decided decision decisions define definition describe did didn do does doesn doing don
    done each edit edits ever every exactly explain find finding findings for found from gate
    gave get give given gives go good had happen happened happens has have having help helped
    here high how i if in information inside into is isn it its kind know large least less let
    level list ll looked lot low made make many matching may me mean meaning means measure
    measured measurement mine model models more most much my name names need network networks
    neural no not now number of on one ones or our out overall part parts per please proposal
    proposals propose proposed re reason reasons recorded respect result results right run
    runs s said say says score scores seen severe severity should show size small so some
    somewhere stored strategies strategy such suggest suggested suggestion suggestions t take
    taken takes taking tell than thank thanks that the their them then there these they thing
    things this those to told took tried try unit up us use used uses using value values ve
    verdict verdicts was wasn we well were weren what when where which while who whose why
    will with within work worked works worth would yes you your zsei
"""
_STOPWORDS = frozenset(_SAYING_NOTHING.split())


def content_words(text: str) -> list[str]:
    """The words of a question that say what it is about, lower case, in order."""
    return [word for word in re.findall(r"[^\W_]+", text.lower()) if word not in _STOPWORDS]


def foreign_names(text: str) -> list[str]:
    """Words built on a well-known family, such as bert-large or llama3, in lower-case text."""
    return [
        word
        for word in re.findall(r"[a-z][\w.-]*\w", text)
        if any(re.sub(r"\d+$", "", piece) in KNOWN_FAMILIES for piece in re.split(r"[-_.]", word))
    ]


def spoken(identifier: str) -> str:
    """`redundant-heads` or `effective_rank` as people say it: with spaces, lower case."""
    return re.sub(r"[-_]+", " ", identifier).lower()
