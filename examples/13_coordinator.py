"""A training process that asks another one, over HTTP, what may be cut at each checkpoint.

    python examples/13_coordinator.py

The other process is `zsei serve coordinator.task:begin`, started here; it could as well run on
another machine. After each epoch the coordinator uploads its weights, asks for an analysis, polls
for the decision, carries it out and reports what it did. Then training goes on.

All that crosses is JSON and one safetensors file, so a coordinator needs no ZSEI. Instead of
`apply_decision` it can read the cut itself: `decision["edit"]["cuts"]` names each parameter, the
axis and the entries that go, and `decision["edit"]["attributes"]` the integers that follow.

    keep = [i for i in range(tensor.shape[cut["axis"]]) if i not in cut["removed"]]
    smaller = tensor.index_select(cut["axis"], torch.tensor(keep))

The same holds for the optimizer's memory of that parameter (`exp_avg`, `exp_avg_sq`). The schemas
of all messages: `zsei contracts`, or /v1/contracts of the service.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from coordinator.task import begin, points
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS = 8
CONFIG = """
elesh:
  structured_pruning:
    safety_schedule: {validation_epochs: 2, conservative_epochs: 3, moderate_epochs: 3,
                      aggressive_epochs: 0}
run: {mode: remove, shape: linear, target_sparsity: 0.10, decide_every: 1, ablate_every: 4}
"""


# %% How the two processes talk: requests of urllib, and nothing else.
class Service:
    """`zsei serve`, as a process of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "elesh.yaml").write_text(CONFIG)
        command = [
            sys.executable, "-m", "zsei", "serve", "coordinator.task:begin", "--port", "0",
            "--checkpoints", str(folder / "checkpoints"), "--config", str(folder / "elesh.yaml"),
            "--workers", "1",
        ]  # fmt: skip
        settings = {"ZSEI_HOME": str(folder / "home"), "ZSEI_SAMPLES": "1024"}
        self.log = (folder / "serve.log").open("w")
        self.process = subprocess.Popen(
            command, cwd=Path(__file__).parent, env=os.environ | settings, stdout=subprocess.PIPE,
            stderr=self.log, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if " at http" not in said:
            raise SystemExit((folder / "serve.log").read_text())
        self.address = said.split(" at ")[1].split()[0]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer."""
        data, kind = body, "application/octet-stream"
        if not isinstance(body, bytes | None):
            data, kind = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(
            self.address + path, data=data, method=method, headers={"content-type": kind}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise SystemExit(json.loads(error.read())["detail"]) from None

    def decision(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its decision; a real coordinator would train meanwhile."""
        status, answer = self.ask("POST", "/v1/requests", request)
        while status == 202:
            time.sleep(0.1)
            status, answer = self.ask("GET", f"/v1/decisions/{request['request_id']}")
        return answer

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()  # type: ignore[union-attr]
        self.log.close()


# %% Training.
Data = tuple[Tensor, Tensor]


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> None:
    """One epoch."""
    for rows in torch.randperm(len(data[0])).split(100):
        optimizer.zero_grad()
        F.cross_entropy(model(data[0][rows]), data[1][rows]).backward()
        optimizer.step()


def validated(model: nn.Module, data: Data) -> dict[str, float]:
    """What training measures on data of its own."""
    with torch.no_grad():
        out = model(data[0])
    right = (out.argmax(1) == data[1]).double().mean()
    return {"accuracy": right.item(), "loss": F.cross_entropy(out, data[1]).item()}


def request_about(
    model: nn.Module, epoch: int, uploaded: dict[str, Any], measured: dict[str, float],
    original: int, applied: list[str],
) -> dict[str, Any]:  # fmt: skip
    """The request for the analysis of a checkpoint."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    name = f"coordinated-{epoch}"
    return {
        "request_id": name,
        "idempotency_key": f"{epoch}:{uploaded['sha256'][:12]}:{name}",
        "checkpoint": {
            "run": "coordinated", "epoch": epoch, "weights": uploaded["weights"],
            "sha256": uploaded["sha256"], **measured,
        },
        "architecture": {
            "model_class": type(model).__name__, "original_parameters": original,
            "parameters": sum(p.numel() for p in model.parameters()), "shapes": shapes,
            "applied": list(applied),
        },
        "parameters": {"mode": "remove"},
    }  # fmt: skip


def main() -> None:
    """Train, and at each checkpoint ask, apply, report."""
    from zsei.checkpoint.contracts import StructuralPruningDecision
    from zsei.training.apply import apply_decision

    torch.set_num_threads(1)
    model, _ = begin()
    data, validation = points(4000, seed=0), points(2000, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    original = sum(p.numel() for p in model.parameters())
    applied: list[str] = []
    sent: list[tuple[dict[str, Any], dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        try:
            for epoch in range(1, EPOCHS + 1):
                trained(model, optimizer, data)
                measured = validated(model, validation)
                name = f"/v1/checkpoints/coordinated-{epoch}.safetensors"
                _, uploaded = service.ask("PUT", name, save(model.state_dict()))
                request = request_about(model, epoch, uploaded, measured, original, applied)
                decision = service.decision(request)
                sent.append((request, decision))
                said = decision["rejection_reason"] or "approved"
                print(f"epoch {epoch}: loss {measured['loss']:.3f}, {said[:90]}")
                if decision["approved_for_application"]:
                    done = apply_decision(
                        model, optimizer, StructuralPruningDecision.model_validate(decision)
                    )
                    after = validated(model, validation)
                    figures = {f"{k}_before": v for k, v in measured.items()}
                    figures |= {f"{k}_after": v for k, v in after.items()}
                    report = done.report(epoch, **figures).model_dump(mode="json")
                    service.ask("POST", "/v1/applied", report)
                    if done.outcome == "applied":
                        applied.append(decision["decision_id"])
                    print(f"         {done.outcome}: {done.reason} Loss {after['loss']:.3f}.")
                service.ask("DELETE", name)
            repeated = all(service.ask("POST", "/v1/requests", r) == (200, d) for r, d in sent)
            _, health = service.ask("GET", "/health/elesh/worker-0/structured_analysis")
        finally:
            service.stop()
    left = sum(p.numel() for p in model.parameters())
    print(f"{original} parameters became {left} in {len(applied)} cuts")
    print(f"all requests sent again: {'the same decisions' if repeated else 'other decisions'}")
    print(f"service: {health['answered']} answered, {health['completion_rate']:.0%} with a result")


if __name__ == "__main__":
    main()
