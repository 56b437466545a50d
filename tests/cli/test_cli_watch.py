"""`zsei watch`: options, lines, objects, exit codes; the analysis itself is a small fake."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import tiny_mlp
from safetensors.torch import save_file

from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.job import Job
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.snapshot import read_weights
from zsei.cli import main


@dataclass
class Said:
    decision: StructuralPruningDecision
    report: AnalysisReport
    record: None = None


@dataclass
class Fake:
    """Stands for the workers and the analyst; what it was opened with, and what it was asked."""

    opened: dict[str, Any] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    asked: list[StructuralAnalysisRequest] = field(default_factory=list)
    closed: int = 0
    interrupt_at: int = 0

    def open(self, name: str, make: Any, **how: Any) -> "Fake":
        self.opened = {"name": name, **how}
        return self

    def analyst(self, folder: RunFolder, job: Job, engine: "Fake") -> "Fake":
        self.jobs.append(job)
        return self

    def close(self) -> None:
        self.closed += 1

    def heard(self, report: ApplicationReport) -> None: ...

    def answer(self, request: StructuralAnalysisRequest, snapshot: Snapshot) -> Said:
        self.asked.append(request)
        if request.checkpoint.epoch == self.interrupt_at:
            raise KeyboardInterrupt
        assert read_weights(snapshot)
        epoch, run = request.checkpoint.epoch, request.checkpoint.run
        return Said(
            StructuralPruningDecision(
                decision_id=f"d-{epoch}", idempotency_key=f"{epoch}:m:d-{epoch}:conservative",
                request_id=request.request_id, run=run, epoch=epoch,
                safety=SafetyValidation(phase="preparation"), rejection_reason="It is too early.",
            ),
            AnalysisReport(
                request_id=request.request_id, idempotency_key=request.idempotency_key, run=run,
                epoch=epoch, depth="full", confidence=1.0, seconds=1.5,
            ),
        )  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    monkeypatch.chdir(tmp_path)
    one = Fake()
    monkeypatch.setattr("zsei.engines.open.open_engine", one.open)
    monkeypatch.setattr("zsei.checkpoint.analyst.Analyst", one.analyst)
    return one


def write(epoch: int, folder: str = "ckpts", **changes: torch.Tensor) -> Path:
    path = Path(folder) / f"{epoch:06d}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(dict(tiny_mlp()[0].state_dict()) | changes, path)
    os.utime(path, ns=(10**18 + epoch, 10**18 + epoch))
    return path


WATCH = ["watch", "ckpts", "--model", "factories:tiny_mlp"]


def test_a_line_for_each_and_notes_beside(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    for epoch in (1, 2):
        write(epoch)
    assert main([*WATCH, "--once"]) == 0
    out, err = capsys.readouterr()
    assert out == (
        "epoch 1 (000001.safetensors): full, confidence 1.00, 1.5 s\n"
        "    Nothing goes: it is too early.\n"
        "epoch 2 (000002.safetensors): full, confidence 1.00, 1.5 s\n"
        "    Nothing goes: it is too early.\n"
    )
    first, last = err.splitlines()
    assert "parameters on 3 levels" in first
    assert "of memory each" in first
    assert last.startswith("Analysed 2 checkpoints, the last of epoch 2; ")
    assert fake.closed == 1


def test_given_again_it_goes_on(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    write(1)
    assert main([*WATCH, "--once", "--quiet"]) == 0
    write(2)
    assert main([*WATCH, "--once", "--quiet"]) == 0
    assert main([*WATCH, "--once", "--quiet"]) == 0  # and nothing new is no error
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("epoch")] == [
        "epoch 1 (000001.safetensors): full, confidence 1.00, 1.5 s",
        "epoch 2 (000002.safetensors): full, confidence 1.00, 1.5 s",
    ]
    assert err == ""


def test_json_is_one_object_a_line(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    for epoch in (1, 2):
        write(epoch)
    assert main([*WATCH, "--once", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["checkpoint"] for line in lines] == ["000001.safetensors", "000002.safetensors"]
    for line in lines:
        AnalysisReport.model_validate(line["report"])
        StructuralPruningDecision.model_validate(line["decision"])


def test_every_option_is_passed_on(fake: Fake, home: Path) -> None:
    write(1)
    Path("elesh.toml").write_text("run.every = 1\nrun.mode = 'mask'\n[elesh]\nsketch_depth = 4\n")
    Path("points.npz").write_bytes(b"")
    words = "--objective classification --config elesh.toml --run gpt --mode remove --engine ray"
    more = "--address ray://127.0.0.1:1 --workers 3 --seed 7 --allow-remote-code --once --quiet"
    assert main([*WATCH, *words.split(), *more.split()]) == 0
    (job,) = fake.jobs
    assert (job.run, job.model, job.objective) == ("gpt", "factories:tiny_mlp", "classification")
    assert (job.config.run.mode, job.config.elesh.sketch_depth) == ("remove", 4)
    assert (job.settings.seed, job.settings.allow_remote_code) == (7, True)
    assert job.settings.home == home.resolve()
    assert fake.opened == {
        "name": "ray", "workers": 3, "address": "ray://127.0.0.1:1", "threads": job.threads,
        "priority": "idle",
    }  # fmt: skip
    assert fake.asked[0].parameters.mode == "remove"
    assert (home / "runs" / "gpt" / "decisions" / "000001.json").exists()


def test_what_is_left_out_is_said_and_all_left_out_is_an_error(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    write(1, **{"0.weight": torch.zeros(2, 2)})
    assert main([*WATCH, "--once"]) == 1
    assert "000001.safetensors is left out: it is of another architecture" in (
        capsys.readouterr().err
    )
    write(2)
    assert main([*WATCH, "--once"]) == 0


def test_a_name_cannot_write_to_the_terminal(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    write(1).rename("ckpts/\x1b[31mred_1.safetensors")
    assert main([*WATCH, "--once"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err


def test_ctrl_c_says_where_it_goes_on(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    for epoch in (1, 2):
        write(epoch)
    fake.interrupt_at = 2
    assert main([*WATCH, "--once", "--quiet"]) == 130
    out, err = capsys.readouterr()
    assert out.startswith("epoch 1 ")
    assert "the last of epoch 1" in err
    assert "goes on from there" in err
    assert fake.closed == 1
    fake.interrupt_at = 0
    assert main([*WATCH, "--once", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("epoch 2 ")


WRONG = {
    "no such folder": (["nowhere", "--once"], "does not exist"),
    "nothing in it": (["empty", "--once"], ".safetensors, .pt, .pth, .bin, .ckpt"),
    "no model": (["ckpts", "--once"], "--model"),
    "a name that is none": (["ckpts", "--model", "m:m", "--run", "../x"], "--run"),
    "an unknown key": (["ckpts", "--model", "m:m", "--config", "bad.yaml"], "elesh.sketch_width"),
    "a mode that is none": (["ckpts", "--mode", "destroy"], "'observe', 'mask', 'remove'"),
    "no workers": (["ckpts", "--workers", "0"], "--workers"),
    "data that is not there": (["ckpts", "--model", "m:m", "--data", "x.npz"], "x.npz"),
}


@pytest.mark.parametrize(("words", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_is_answered_in_one_sentence(
    words: list[str], says: str, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    write(1)
    Path("empty").mkdir()
    Path("bad.yaml").write_text("elesh: {sketch_widht: 3}")
    assert main(["watch", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert fake.asked == []


def test_a_folder_above_the_checkpoints_is_told_so(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("logs/version_0").mkdir(parents=True)
    write(1, "logs/version_0/checkpoints")
    write(2, "logs/version_0/checkpoints")
    assert main(["watch", "logs", "--model", "factories:tiny_mlp", "--once"]) == 2
    assert "logs/version_0/checkpoints: name that" in capsys.readouterr().err


def test_a_model_is_not_waited_for_in_vain(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    write(1, "ckpts").rename("half")
    Path("ckpts/checkpoint-5").mkdir()
    Path("ckpts/checkpoint-5/config.json").write_text("{}")
    Path("ckpts/checkpoint-5/model.safetensors").write_bytes(Path("half").read_bytes()[:-4])
    assert main(["watch", "ckpts", "--once", "--patience", "0", "--quiet"]) == 2
    assert "checkpoint-5 is not" in capsys.readouterr().err


@pytest.mark.long
def test_a_hugging_face_folder_needs_no_model_and_may_be_rotated(
    fake: Fake, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from factories import tiny_gpt2

    model, _ = tiny_gpt2()
    for step in (50, 100):
        folder = Path("ckpts") / f"checkpoint-{step}"
        model.save_pretrained(folder)  # type: ignore[operator]
        state = {"epoch": step / 50, "global_step": step}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        if step == 50:
            assert main(["watch", "ckpts", "--once", "--data", "ids.npz"]) == 2
            import numpy as np

            np.savez("ids.npz", input_ids=np.arange(1, 385).reshape(24, 16) % 60)
            assert main(["watch", "ckpts", "--once", "--data", "ids.npz"]) == 0
            shutil.rmtree(folder)
    assert main(["watch", "ckpts", "--once", "--data", "ids.npz"]) == 0
    assert [asked.checkpoint.epoch for asked in fake.asked] == [1, 2]
    assert [job.model for job in fake.jobs] == [str(home.resolve() / "runs/ckpts/model")] * 2
    assert (home / "runs/ckpts/model/config.json").exists()


TRAIN = """
import sys, time
import torch
from factories import tiny_mlp
model, (x, y) = tiny_mlp()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for epoch in range(1, 4):
    loss = torch.nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    torch.save({"model": model.state_dict(), "epoch": epoch}, f"{sys.argv[1]}/epoch_{epoch}.pt")
    time.sleep(0.5)
"""


@pytest.mark.long
def test_a_training_process_beside_a_watch_of_its_folder(tmp_path: Path, home: Path) -> None:
    """The whole way, with real workers, ended by Ctrl-C."""
    folder = tmp_path / "ckpts"
    folder.mkdir()
    tests = str(Path(__file__).parent.parent)
    env = os.environ | {"ZSEI_HOME": str(home), "PYTHONPATH": tests}
    words = ["watch", str(folder), "--model", "factories:tiny_mlp", "--workers", "1", "--json"]
    begin = "import sys; from zsei.cli import main; sys.exit(main(sys.argv[1:]))"
    with (
        subprocess.Popen([sys.executable, "-c", TRAIN, str(folder)], env=env) as training,
        subprocess.Popen(
            [sys.executable, "-c", begin, *words, "--every", "0.2"], cwd=tmp_path, env=env,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as watching,
    ):  # fmt: skip
        assert watching.stdout is not None
        lines = [json.loads(watching.stdout.readline()) for _ in range(3)]
        assert training.wait(timeout=30) == 0
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=30)
    assert watching.returncode == 130, err
    assert json.loads(out)["error"]["type"] == "Interrupted"
    assert "Analysed 3 checkpoints, the last of epoch 3" in err
    assert [line["report"]["epoch"] for line in lines] == [1, 2, 3]
    assert {line["report"]["depth"] for line in lines} == {"full"}
    run = RunFolder(path=home / "runs" / "ckpts")
    assert run.epochs("decisions") == [1, 2, 3]
