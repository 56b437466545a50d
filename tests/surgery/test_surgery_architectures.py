"""Transformers architectures, built tiny, 30 % cut wherever it is proven: run, save, load, compare.

`architecture_cuts` prints the table for these and for their near twins.
"""

import re

import pytest
from architecture_cuts import Outcome, prune, subject_of
from architectures import ARCHITECTURES
from oracles import removal
from surgery_subjects import difference

from zsei.errors import SurgeryRefused
from zsei.subject.types import Site
from zsei.surgery import apply
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.program_form import edit_program, plan_edits

BLOCKS = {"head": 2, "neuron": 2}
BOTH = {"head": 6, "neuron": 4}
MIXTURE = {"head": 2, "neuron": 2, "expert": 2}
CUT: dict[str, tuple[dict[str, int], str]] = {
    # name: (kind of unit -> sites cut, the plainest form that holds the result; "" is not saved,
    # where another one of the same form is and this one takes seconds)
    "BERT": (BLOCKS, "module"), "DistilBERT": (BLOCKS, "module"), "ALBERT": (BLOCKS, "module"),
    "DeBERTa-v2": (BLOCKS, "module"), "MPNet": (BLOCKS, "program"),
    "ESM": (BLOCKS, "module"), "ModernBERT": (BLOCKS, "module"),
    "FNet": ({"neuron": 2}, "huggingface"),
    "XLNet": ({"neuron": 2}, "module"), "BART": (BOTH, "module"),
    "T5": (BOTH, ""), "GPT-2": (BLOCKS, "module"), "GPT-Neo": (BLOCKS, "module"),
    "GPT-NeoX": (BLOCKS, "module"), "OPT": (BLOCKS, "module"),
    "BLOOM": (BLOCKS, "program"), "Llama": (BLOCKS, "huggingface"),
    "Qwen2": (BLOCKS, "huggingface"), "Qwen3": (BLOCKS, "huggingface"),
    "Gemma 3": (BLOCKS, "huggingface"),
    "Phi-3": (BLOCKS, "huggingface"), "Falcon": (BLOCKS, "module"), "StableLM": (BLOCKS, "module"),
    "OLMo": (BLOCKS, "huggingface"),
    "SmolLM3": (BLOCKS, "huggingface"), "GLM-4": (BLOCKS, "huggingface"),
    "Mixtral": (MIXTURE, "huggingface"), "Qwen2-MoE": (MIXTURE | {"neuron": 4}, "module"),
    "ViT": (BLOCKS, "huggingface"), "BEiT": (BLOCKS, "huggingface"), "DINOv2": (BLOCKS, "module"),
    "CLIP vision": (BLOCKS, "module"), "Swin": ({"head": 4, "neuron": 4}, "module"),
    "SegFormer": ({"head": 2}, "module"), "PoolFormer": ({"channel": 2}, "module"),
    "ConvNeXt": ({"neuron": 4}, "module"), "ResNet": ({"channel": 8}, "module"),
    "RegNet": ({"channel": 5}, "module"), "MobileNet V1": ({"channel": 13}, "module"),
    "EfficientNet": ({"channel": 6}, "module"), "Wav2Vec2": (BLOCKS, "module"),
    "Whisper": (BOTH | {"channel": 1}, "module"), "PatchTST": (BLOCKS, "module"),
}  # fmt: skip
EACH_TIME = (
    "BERT", "BART", "GPT-2", "Llama", "Qwen2-MoE", "ViT", "PoolFormer", "ResNet", "PatchTST",
)  # fmt: skip
"""One of each way in which attention, its neurons or channels are built; the others take longer."""
WHOLE = {
    # name: what says why some of its sites stay whole
    "SqueezeBERT": r"`aten\.conv1d\.default` in `.*\.value` on \[3, 32, 10\].* as 2 x 16",
    "Nystromformer": r"in `encoder\.layer\.0\.attention\.output\.dense` on .*not zero yet",
    "OLMo 2": r"`aten\.mean\.dim` in `model\.layers\.0\.self_attn\.q_norm` on \[3, 10, 48\]",
}
NO_SITE = {
    # name: (a value between two weights, its axis, the call that refuses to lose entries of it)
    "ConvNeXt V2": ("gelu", 3, r"`aten\.mean\.dim` in `.*\.grn` on \[3, 1, 1, 64\]"),
    "BiT": ("relu", 1, r"`aten\.group_norm\.default` in `.*\.norm1` on .*sees 16 entries as 4 x 4"),
}


@pytest.fixture(autouse=True)
def fixed_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are saved for the shapes at hand: exporting each for any size takes seconds."""
    monkeypatch.setattr(apply, "_open_sizes", lambda *_: None)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EACH_TIME else pytest.mark.long) for n in CUT]
)
def test_thirty_percent_go_run_save_and_load(name: str) -> None:
    removed, form = CUT[name]
    found, _ = prune(name, keep=bool(form))
    assert (found.removed, found.form) == (removed, form), found.note
    check(found)
    assert not found.refused


def check(found: Outcome) -> None:
    assert found.mask_error < 1e-5
    assert found.change > 1e-6 + 10 * found.mask_error
    assert found.load_error < 1e-6
    assert 0.02 < found.parameters < 0.5


def test_at_least_forty_are_pruned() -> None:
    assert len(CUT) >= 40
    assert CUT.keys() <= ARCHITECTURES.keys()


@pytest.mark.parametrize("name", WHOLE)
def test_what_stays_whole_is_named(name: str) -> None:
    found, edited = prune(name, keep=False)
    if edited is not None:
        check(found)
    assert re.search(WHOLE[name], found.refused[0])


@pytest.mark.parametrize("name", NO_SITE)
def test_an_architecture_without_sites_says_which_call_mixes_its_channels(name: str) -> None:
    node, axis, reason = NO_SITE[name]
    found = subject_of(name)
    assert found.program is not None
    size = found.program.node(node).meta["val"].shape[axis]
    site = Site(component=node, kind="neuron", node=node, axis=axis, units=size)
    with pytest.raises(SurgeryRefused, match=reason):
        plan_edits(found.program, [RemoveUnits(site=site, units=(1,))])


def test_the_inner_channels_of_a_state_space_model_can_go() -> None:
    """Held at zero behind the convolution, they are zero through the whole recurrence."""
    found = subject_of("Mamba")
    program = found.program
    assert program is not None
    inputs = found.calibration[0].inputs
    site = Site(component="inner", kind="neuron", node="silu", axis=1, units=40)
    edited = edit_program(program, [RemoveUnits(site=site, units=tuple(range(0, 40, 3)))])
    wanted = removal.masked(program, inputs, [(site, range(0, 40, 3))])
    assert difference(edited(*inputs), wanted) < 1e-5
