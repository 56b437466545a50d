"""The callbacks, each in a real short training with a removal in the middle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_cases import CASES, decision_of, mlp
from factories import token_ids
from torch import Tensor, nn

from zsei.checkpoint.contracts import ApplicationReport, StructuralAnalysisRequest
from zsei.training.beside import Beside

OPTIONS: dict[str, Any] = {
    "run": "run",
    "start": False,
    "config": {"run": {"mode": "remove", "keep_snapshots": 9}},
}


def _answering(beside: Beside | None, epoch: int, edit: Any) -> None:
    assert beside is not None
    given = {"decision_id": f"d{epoch}", "epoch": epoch}
    beside.folder.send("decisions", epoch, decision_of(edit, **given))


@pytest.mark.parametrize("evaluated", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_trainer_goes_on_with_the_smaller_model(evaluated: bool, tmp_path: Path) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from zsei.training.huggingface import ZseiTrainerCallback

    model, _, edit = CASES["gpt2"]()
    rows = [{"input_ids": row, "labels": row} for row in token_ids(16)]
    ours = ZseiTrainerCallback(token_ids(8), folder=tmp_path / "run", **OPTIONS)

    class Answering(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if len(ours.events) == 1:
                _answering(ours.beside, 1, edit)

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=4, per_device_train_batch_size=8,
        eval_strategy="epoch" if evaluated else "no", save_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=True, learning_rate=1e-3, seed=3, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows,  # type: ignore[arg-type]
        callbacks=[ours, Answering()],
    )  # fmt: skip
    before = sum(p.numel() for p in model.parameters())
    trainer.train()
    assert [e.outcome for e in ours.events] == ["observed", "applied", "observed", "observed"]
    assert trainer.model is model
    after = sum(p.numel() for p in model.parameters())
    assert after == ours.events[-1].parameters < before
    assert model.config.num_hidden_layers == len(model.transformer.h) == 2
    optimizer: Any = trainer.optimizer
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)  # the schedule ended
    # Every parameter was trained after the cut: four steps since.
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {8}
    beside = ours.beside
    assert beside is not None
    assert beside.errors == 0
    report = beside.folder.read("applied", 2, ApplicationReport)
    request = beside.folder.read("requests", 2, StructuralAnalysisRequest)
    assert report is not None
    assert request is not None
    assert (report.loss_before is not None) == evaluated
    assert (request.checkpoint.loss, request.checkpoint.step) == (report.loss_before, 4)
    assert beside.folder.end.exists()


@pytest.fixture
def quiet() -> Iterator[None]:
    """What Lightning itself warns of on a small machine."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        yield


@pytest.mark.long
@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.usefixtures("quiet")
def test_lightning_goes_on_with_the_smaller_model(name: str, tmp_path: Path) -> None:
    library = pytest.importorskip(name)

    from zsei.training.lightning import ZseiLightningCallback

    network, _, edit = mlp()

    class Module(library.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            right = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("val_accuracy", right)
            self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    x = torch.randn(24, 8)
    data = torch.utils.data.TensorDataset(x, torch.arange(24) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    ours = ZseiLightningCallback(
        (x, torch.arange(24) % 3), model=lambda module: module.net, folder=tmp_path / "run",
        **OPTIONS,
    )  # fmt: skip

    class Answering(library.Callback):  # type: ignore[name-defined]
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if len(ours.events) == 1:
                _answering(ours.beside, 1, edit)

    trainer = library.Trainer(
        max_epochs=4, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[ours, Answering()], num_sanity_val_steps=0,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, loader, loader)
    assert [e.outcome for e in ours.events][:2] == ["observed", "applied"]
    assert ours.events[2].outcome in ("observed", "rolled back")
    assert module.net is network
    optimizer = trainer.optimizers[0]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters()}
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**4)
    assert ours.beside is not None
    assert ours.beside.errors == 0
    report = ours.beside.folder.read("applied", 2, ApplicationReport)
    assert report is not None
    assert report.accuracy_before is not None
    assert report.parameters == 825
    assert ours.beside.folder.end.exists()


@pytest.mark.long
def test_the_libraries_are_loaded_only_when_used() -> None:
    import subprocess
    import sys

    program = (
        "import sys, zsei.training.beside, zsei.training.apply;"
        "print([n for n in ('transformers.trainer', 'lightning', 'pytorch_lightning', 'ray',"
        " 'accelerate', 'fastapi') if n in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert ended.stdout.strip() == "[]"
