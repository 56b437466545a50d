"""What fits a config loads by transformers alone, in a process where there is no zsei."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from surgery_subjects import FEW, difference, sites
from torch import Tensor, nn

from zsei.subject.prepare import prepare
from zsei.surgery.apply import apply_edits
from zsei.surgery.edits import BypassLayer, RemoveUnits
from zsei.surgery.save import load, save

PLAIN = """
import json, sys
sys.modules["zsei"] = None  # importing it would now fail
import torch, transformers
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for name, auto in json.loads(sys.argv[2]).items():
    folder = f"{sys.argv[1]}/{name}"
    model = getattr(transformers, auto).from_pretrained(f"{folder}/model").eval()
    inputs = load_file(f"{folder}/inputs.safetensors")
    with torch.no_grad():
        found = {"output": model(**inputs)[0].contiguous()}
        if model.can_generate():
            prompt = {k: v[:, :6] for k, v in inputs.items()}
            found["written"] = model.generate(
                **prompt, max_new_tokens=8, do_sample=False, use_cache=True, eos_token_id=None
            )
    save_file(found, f"{folder}/found.safetensors")
"""


def all_alike(made: factories.Made, **units: tuple[int, ...]) -> tuple[Any, Any]:
    """A model that lost the same of every block, and its subject."""
    found = prepare(*made, settings=FEW)
    edits = [
        RemoveUnits(site=site, units=units[site.kind])
        for site in found.anatomy.sites
        if site.kind in units
    ]
    return found, apply_edits(found, edits)


def one_layer_less(made: factories.Made) -> tuple[Any, Any]:
    found = prepare(*made, settings=FEW)
    layers = sites(found.anatomy, "layer")
    return found, apply_edits(found, [BypassLayer(site=layers[0])])


def greedy(model: nn.Module, ids: Tensor, count: int) -> Tensor:
    """Tokens one by one, each from a whole forward pass without a cache."""
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids


CASES = {
    # name -> (Auto class, what is cut)
    "grouped": (
        "AutoModelForCausalLM",
        lambda: all_alike(factories.tiny_llama(num_hidden_layers=1), head=(0, 1), neuron=(0, 5)),
    ),
    "shorter": (
        "AutoModelForCausalLM",
        lambda: one_layer_less(factories.tiny_llama()),
    ),
    "tied": (
        "AutoModelForCausalLM", lambda: one_layer_less(factories.tiny_gpt2())
    ),
    "encoder": (
        "AutoModel",
        lambda: all_alike(factories.tiny_bert(num_hidden_layers=1), neuron=(1, 2, 60)),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Any]:
    """Every case that is asked for saved, and what transformers made of it in one process."""
    from safetensors.torch import load_file, save_file

    root = tmp_path_factory.mktemp("plain")
    own = [item.name for item in request.session.items if item.path == request.path]
    asked = {name for name in CASES if any(f"[{name}]" in test for test in own)}
    found = {}
    for name in sorted(asked):
        subject, edited = CASES[name][1]()
        recipe = save(edited, root / name / "model")
        inputs = dict(zip(subject.input_names, edited.inputs, strict=True))
        save_file(inputs, root / name / "inputs.safetensors")
        found[name] = {"edited": edited, "recipe": recipe, "folder": root / name / "model"}
    autos = json.dumps({name: CASES[name][0] for name in found})
    subprocess.run([sys.executable, "-c", PLAIN, str(root), autos], check=True)
    for name, own in found.items():
        own |= load_file(root / name / "found.safetensors")
    return found


@pytest.mark.parametrize("name", CASES)
def test_transformers_alone_gives_the_same(name: str, cases: dict[str, Any]) -> None:
    own = cases[name]
    edited = own["edited"]
    assert own["recipe"].form == "huggingface"
    assert difference(own["output"], edited.output) < 1e-6
    before = sum(p.numel() for p in edited.model.parameters())
    assert sum(p.numel() for p in load(own["folder"]).parameters()) == before
    if "written" in own:
        wanted = greedy(edited.model, edited.inputs[0][:, :6], 8)
        assert torch.equal(own["written"], wanted)
        assert len(wanted[:, 6:].unique()) > 1


def test_a_cache_serves_what_only_zsei_loads(tmp_path: Path) -> None:
    """Uneven heads have no config that says them; generation with a cache works all the same."""
    found = prepare(*factories.tiny_gpt2(), settings=FEW)
    edit = RemoveUnits(site=sites(found.anatomy, "head")[0], units=(2,))
    edited = apply_edits(found, [edit])
    assert save(edited, tmp_path / "model").form == "module"
    back: Any = load(tmp_path / "model")
    prompt = edited.inputs[0][:, :6]
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": True, "eos_token_id": None}
    ids = back.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **options)
    assert torch.equal(ids, greedy(back, prompt, 8))
