"""A subject as a whole: objective, labels, program or modules, and an untouched user."""

import copy
import random
from collections.abc import Callable
from typing import Any

import factories
import numpy as np
import pytest
import torch
from prepared import family
from torch import Tensor, nn

from zsei.errors import DataError, ExportError, ModelError, NumericalError, ObjectiveError
from zsei.settings import Settings
from zsei.subject import prepare as stage
from zsei.subject.load import demo_folder, load_model
from zsei.subject.objective import IGNORED, readout
from zsei.subject.prepare import prepare
from zsei.subject.program import MainOutput, Program, model_hash
from zsei.subject.types import Subject

FEW = Settings(samples=8, batch_size=4, length=12)


def made(name: str, objective: str = "auto") -> Subject:
    return prepare(*factories.FAMILIES[name](), objective=objective, settings=FEW)


EXPECTED = {
    "bert": ("fidelity", "embedding"),
    "gpt2": ("causal-lm", "logits"),
    "llama": ("causal-lm", "logits"),
    "mixtral": ("causal-lm", "logits"),
    "t5": ("fidelity", "logits"),
    "vit": ("classification", "logits"),
    "resnet": ("classification", "logits"),
    "patchtst": ("regression", "values"),
    "mlp": ("classification", "logits"),
    "lstm": ("classification", "logits"),
    "encoder": ("regression", "values"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_auto_chooses_what_fits_and_says_why(name: str) -> None:
    subject = family(name)
    assert (subject.objective.name, subject.objective.output) == EXPECTED[name]
    assert len(subject.objective.reason) > 20
    assert subject.fidelity == "program"
    assert len(subject.calibration) == len(subject.held_out) == 2


def test_two_subjects_of_one_seed_are_equal() -> None:
    first, second = made("gpt2"), made("gpt2")
    assert first.model_hash == second.model_hash
    assert first.anatomy == second.anatomy
    assert first.objective == second.objective
    for a, b in zip(first.calibration + first.held_out, second.calibration + second.held_out,
                    strict=True):  # fmt: skip
        assert a.groups == b.groups
        assert all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))


def test_the_users_model_and_world_stay_as_they_were() -> None:
    model, data = factories.tiny_encoder()
    model.train()
    model.head.weight.requires_grad_(False)
    handle = model.head.register_forward_hook(lambda *_: None)
    before = model_hash(model)
    flags = [(p.requires_grad, p.grad, p.data_ptr()) for p in model.parameters()]
    state = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    fastpath = torch.backends.mha.get_fastpath_enabled()
    subject = prepare(model, data, settings=FEW)
    assert torch.equal(state[0], torch.get_rng_state())
    assert (random.getstate(), str(np.random.get_state())) == state[1:]
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    assert all(module.training for module in model.modules())
    assert [(p.requires_grad, p.grad, p.data_ptr()) for p in model.parameters()] == flags
    assert list(model.head._forward_hooks) == [handle.id]
    assert model_hash(model) == before == subject.model_hash
    assert subject.model is not model
    assert not any(module.training for module in subject.model.modules())
    assert not any(p.requires_grad for p in subject.model.parameters())
    shared = zip(model.parameters(), subject.model.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in shared), "no memory is doubled"


def test_hash_knows_every_weight() -> None:
    model, _ = factories.tiny_mlp()
    before = model_hash(model)
    with torch.no_grad():
        model[4].bias[2] += 1e-7
    assert model_hash(model) != before


# --- labels of language objectives -------------------------------------------------------------


def test_causal_labels_are_the_tokens_without_padding() -> None:
    model, _ = factories.tiny_gpt2()
    mask = torch.ones(8, 16, dtype=torch.long)
    mask[:, 12:] = 0
    data = {"input_ids": factories.token_ids(8), "attention_mask": mask}
    subject = prepare(model, data, settings=FEW)
    assert subject.objective.name == "causal-lm"
    for batch in (*subject.calibration, *subject.held_out):
        assert batch.labels is not None
        assert torch.equal(batch.labels[:, :12], batch.inputs[0][:, :12])
        assert bool((batch.labels[:, 12:] == IGNORED).all())


def masked_language_model() -> Any:
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32)  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(demo_folder(), local_files_only=True)
    config._name_or_path = str(demo_folder())
    return BertForMaskedLM(config).eval(), tokenizer


def test_masked_labels_hide_a_share_of_real_tokens() -> None:
    model, tokenizer = masked_language_model()
    texts = [" ".join(f"word{n} text" for n in range(k, k + 8)) for k in range(16)]
    settings = Settings(samples=16, batch_size=8, length=32)
    first, second = (prepare(model, texts, settings=settings) for _ in range(2))
    assert (first.objective.name, first.objective.output) == ("masked-lm", "logits")
    for a, b in zip(first.calibration, second.calibration, strict=True):
        assert torch.equal(a.inputs[0], b.inputs[0])
    for batch in (*first.calibration, *first.held_out):
        ids, labels = batch.inputs[0], batch.labels
        assert labels is not None
        hidden = labels != IGNORED
        assert bool((ids[hidden] == tokenizer.mask_token_id).all())
        assert not bool((ids[~hidden] == tokenizer.mask_token_id).any())
        special = torch.tensor(tokenizer.all_special_ids)
        assert not bool(torch.isin(labels[hidden], special).any())
        real = (batch.inputs[1] == 1).sum(1) - 2
        share = hidden.sum(1) / real
        assert bool((hidden.sum(1) >= 1).all())
        assert 0.1 <= float(share.mean()) <= 0.2
    restored = [
        torch.where(b.labels == IGNORED, b.inputs[0], b.labels)
        for b in (*first.calibration, *first.held_out)
        if b.labels is not None
    ]
    decoded = tokenizer.batch_decode(torch.cat(restored), skip_special_tokens=True)
    assert sorted(decoded) == sorted(texts)


def test_encoder_decoder_with_targets_is_a_language_model() -> None:
    model, data = factories.tiny_t5()
    subject = prepare(model, data | {"labels": factories.token_ids(length=6)}, settings=FEW)
    assert subject.objective.name == "causal-lm"
    assert subject.input_names == ("input_ids", "decoder_input_ids")


# --- objectives that do not fit ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "objective", "words"),
    [
        ("bert", "causal-lm", "scores every token"),
        ("bert", "similarity", "pairs of inputs"),
        ("bert", "classification", "the data has no labels"),
        ("gpt2", "masked-lm", "sees the left only"),
        ("gpt2", "regression", "real labels, and the data has no labels"),
        ("mlp", "regression", "labels in the shape"),
        ("mlp", "masked-lm", "scores every token"),
        ("encoder", "classification", "the data has real labels"),
        ("vit", "nonsense", "'nonsense' is none"),
    ],
)
def test_objectives_that_do_not_fit_are_refused(name: str, objective: str, words: str) -> None:
    with pytest.raises(ObjectiveError, match=words):
        made(name, objective)


def test_a_masked_model_cannot_be_asked_for_causal_loss() -> None:
    model, _ = masked_language_model()
    with pytest.raises(ObjectiveError, match="see later"):
        prepare(model, [f"text {n}" for n in range(8)], "causal-lm", settings=FEW)


def test_labels_beyond_the_scores_are_refused() -> None:
    model, (x, _) = factories.tiny_mlp()
    with pytest.raises(ObjectiveError, match="labels below 3"):
        prepare(model, (x, torch.arange(len(x))), "classification", settings=FEW)
    assert prepare(model, (x, torch.arange(len(x))), settings=FEW).objective.name == "fidelity"


def test_fidelity_is_always_possible() -> None:
    for name, kind in (("vit", "logits"), ("encoder", "values"), ("gpt2", "logits")):
        objective = made(name, "fidelity").objective
        assert (objective.name, objective.output, objective.reason) == (
            "fidelity",
            kind,
            "asked for",
        )


def test_similarity_with_gold_scores() -> None:
    pairs = [{"sentence1": f"one {n}", "sentence2": f"two {n}", "score": n / 8} for n in range(8)]
    subject = prepare(None, pairs, settings=FEW)
    assert (subject.objective.name, subject.objective.pooling) == ("similarity", "mean")
    assert subject.calibration[0].size % 2 == 0


# --- models that fail --------------------------------------------------------------------------


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 5:
            return self.linear(x) / 0 * 0
        raise ValueError("the width must be five")


def test_a_forward_that_fails_gives_its_own_words_and_the_shapes() -> None:
    with pytest.raises(ModelError, match=r"five \(given: x \[4, 6\] float32\)"):
        prepare(Failing(), torch.randn(8, 6), settings=FEW)


def test_outputs_that_are_no_numbers() -> None:
    with pytest.raises(NumericalError, match="12 of 12"):
        prepare(Failing(), torch.randn(8, 5), settings=FEW)


def test_weights_that_are_no_numbers() -> None:
    model, data = factories.tiny_mlp()
    model[0].bias.data[0] = torch.nan
    with pytest.raises(NumericalError, match=r"0\.bias"):
        prepare(model, data, settings=FEW)


class Custom(nn.Module):
    """Whatever a test wants forward to be."""

    def __init__(self, compute: Callable[[nn.Module, Tensor], Any]):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 5), nn.ReLU())
        self.last = nn.Linear(5, 3)
        self.compute = compute

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda m, x: m.last(x).mean(), "Axis 0 of the output"),
        (lambda m, x: m.last(x).sum(0), "Axis 0 of the output"),
        (lambda m, x: "text", "returned str"),
        (lambda m, x: m.last(x) + torch.rand(4, 3), "same output twice"),
    ],
)
def test_models_that_cannot_be_measured(compute: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        prepare(Custom(compute), torch.randn(8, 5), settings=FEW)


def test_a_model_that_cannot_be_copied() -> None:
    model = Custom(lambda m, x: m.last(x))
    model.lock = iter(x for x in [1])
    with pytest.raises(ModelError, match="must be copyable"):
        prepare(model, torch.randn(8, 5), settings=FEW)


def test_no_data_for_a_model_of_images() -> None:
    with pytest.raises(DataError, match="takes pixel_values"):
        prepare(factories.tiny_vit()[0], settings=FEW)


# --- the coarser way ---------------------------------------------------------------------------


def branching(model: nn.Module, x: Tensor) -> Tensor:
    inner: Any = model.inner
    last: Any = model.last
    if float(x.sum()) > 1e9:
        x = -x
    return last(x + inner(x))


def test_data_dependent_control_flow_falls_back_to_modules() -> None:
    model = Custom(branching)
    subject = prepare(model, torch.randn(8, 5), settings=FEW)
    assert subject.fidelity == "modules"
    assert any("torch.export" in note and "modules" in note for note in subject.notes)
    assert [(c.id, c.kind, c.flops) for c in subject.anatomy.components] == [
        ("inner.0", "linear", 50), ("last", "linear", 30),
    ]  # fmt: skip
    assert [(s.node, s.kind) for s in subject.anatomy.sites] == [
        ("inner.0", "branch"), ("last", "branch"),
    ]  # fmt: skip


class BranchingBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        model, _ = factories.tiny_bert()
        self.embeddings, self.encoder = model.embeddings, model.encoder
        self.config = model.config
        self.conv = nn.Conv1d(32, 6, 3)
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.encoder(self.embeddings(input_ids)).last_hidden_state
        if float(hidden.sum()) > 1e9:
            hidden = -hidden
        return self.lstm(self.conv(hidden.transpose(1, 2)).transpose(1, 2))[0][:, -1]


def test_modules_show_blocks_and_costs() -> None:
    anatomy = prepare(BranchingBlocks(), {"input_ids": factories.token_ids()}, settings=FEW).anatomy
    layers = [c for c in anatomy.components if c.kind == "layer"]
    assert [(c.id, c.layer) for c in layers] == [("encoder.layer.0", 0), ("encoder.layer.1", 1)]
    program = family("bert").anatomy
    for name in ("encoder.layer.0.intermediate.dense", "encoder.layer.1.output.dense"):
        mine, theirs = anatomy.component(name), program.component(name)
        assert (mine.flops, mine.parameters, mine.bytes, mine.layer, mine.width) == (
            theirs.flops, theirs.parameters, theirs.bytes, theirs.layer, theirs.width,
        )  # fmt: skip
    conv, lstm = anatomy.component("conv"), anatomy.component("lstm")
    assert (conv.kind, conv.units, conv.flops) == ("conv", 6, 2 * 14 * 6 * 32 * 3)
    assert (lstm.kind, lstm.flops) == ("recurrent", 2 * 14 * 4 * 4 * (6 + 4))
    kinds = {(s.component, s.kind) for s in anatomy.sites}
    assert {("conv", "channel"), ("lstm", "branch"), ("encoder.layer.1", "layer")} <= kinds


def test_a_program_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported = stage.export

    def wrong(model: nn.Module, names: Any, inputs: Any) -> Program:
        other: Any = copy.deepcopy(model)
        other[0].bias.data += 1e-3
        return exported(other, names, inputs)

    model, data = factories.tiny_mlp()
    monkeypatch.setattr(stage, "export", wrong)
    subject = prepare(model, data, settings=FEW)
    assert subject.fidelity == "modules"
    assert any("its outputs differ" in note for note in subject.notes)


def test_export_error_is_not_the_users_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Program:
        raise ExportError("the reason")

    monkeypatch.setattr(stage, "export", fail)
    subject = made("mlp")
    assert subject.program is None
    assert any(note.endswith("the reason") for note in subject.notes)


# --- sources -----------------------------------------------------------------------------------


def test_factory_brings_its_data() -> None:
    subject = prepare("tests.factories:tiny_mlp", settings=FEW)
    assert subject.source.kind == "factory"
    assert subject.objective.name == "classification"


def test_a_folder_of_a_language_model_with_its_tokenizer(tmp_path: Any) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(demo_folder(), local_files_only=True)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    subject = prepare(tmp_path, settings=Settings(samples=16, batch_size=8))
    assert (subject.objective.name, subject.anatomy.family) == ("causal-lm", "gpt2")
    assert set(subject.calibration[0].groups) == {"prose", "code"}
    for batch in (*subject.calibration, *subject.held_out):
        assert batch.labels is not None
        assert batch.mask is not None
        assert bool(((batch.labels != IGNORED) == batch.mask).all())


def test_program_file_of_fixed_batch(tmp_path: Any) -> None:
    model, (x, y) = factories.tiny_mlp()
    path = tmp_path / "mlp.pt2"
    torch.export.save(torch.export.export(model, (x[:4],)), path)
    subject = prepare(path, (x, y), settings=Settings(samples=16, batch_size=16))
    assert subject.input_names == ("input",)
    assert {batch.size for batch in subject.calibration} == {4}
    plain = [c.id for c in prepare(model, (x, y), settings=FEW).anatomy.components]
    assert [c.id for c in subject.anatomy.components] == plain
    assert subject.program is not None
    batch = subject.calibration[0]
    assert torch.equal(subject.program(*batch.inputs), model(*batch.inputs))
    with pytest.raises(DataError, match="batches of exactly 4"):
        prepare(path, (x[:6], y[:6]), settings=FEW)


def test_minilm_reads_sentences_as_its_makers_do() -> None:
    """The readout equals mean pooling and normalisation written out."""
    subject = prepare(settings=Settings(samples=4, batch_size=2))
    batch = subject.calibration[0]
    model = load_model(None, FEW).model.eval()
    with torch.no_grad():
        hidden = model(batch.inputs[0], attention_mask=batch.inputs[1])[0]
        found = readout(
            subject.objective, MainOutput(model, subject.input_names)(*batch.inputs), batch
        )
    for i in range(batch.size):
        real = hidden[i][batch.inputs[1][i] == 1].mean(0)
        torch.testing.assert_close(found[i], real / real.norm())
