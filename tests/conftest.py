"""What holds for every test: fixed seeds, one thread, no network, a memory folder of its own."""

import gc
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# Set before any test module is imported: some libraries read these once, at import.
for _name in [name for name in os.environ if name.startswith("ZSEI_")]:
    del os.environ[_name]  # what a developer has set must not decide whether a test passes
os.environ |= {
    "ZSEI_ALLOW_MODEL_REQUESTS": "0",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}

torch.set_num_threads(1)
# Exporting makes millions of objects: to look through all of them for cycles as often as Python
# does by itself is a sixth of the whole run.
gc.set_threshold(50_000, 20, 50)


LONG = (
    "test_examples.py", "test_pipeline.py", "test_gate_planted.py", "test_surgery_architectures.py",
    "test_surgery_export.py", "test_pruning_run.py", "test_cli_end_to_end.py",
)  # fmt: skip
"""Files that take longest. They go first: a file runs on one core, and the last one alone."""


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, all else in its own order; what `long.txt` names is marked so."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))
    listed = Path(__file__).with_name("long.txt").read_text(encoding="utf-8").splitlines()
    long = {line for line in listed if line and not line.startswith("#")}
    for item in items:
        if item.nodeid in long:
            item.add_marker("long")


@pytest.fixture(autouse=True, scope="module")
def settled() -> Iterator[None]:
    """What stands between two files stays to the end: it is not looked through again."""
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty memory folder, in force through `ZSEI_HOME`."""
    folder = tmp_path / "zsei-home"
    monkeypatch.setenv("ZSEI_HOME", str(folder))
    return folder


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    own = {None, "", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()}
    return host in own or str(host).startswith("127.")


@pytest.fixture(autouse=True)
def refused_connections(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[list[str]]:
    """Refuses every connection beyond this machine, as an unplugged network does, and lists it.

    A test that caused one fails at its end, unless it asks for this fixture by name and so looks
    at the list itself.
    """
    attempts: list[str] = []

    def refuse(host: object) -> None:
        attempts.append(str(host))
        raise ConnectionRefusedError(f"tests use no network, but something asked for {host!r}")

    def guarded(name: str) -> Any:
        original = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                refuse(address[0])
            return original(self, address)

        return connect

    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if not _is_local(host):
            refuse(host)
        return resolve(host, *arguments, **options)

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield attempts
    expected = "refused_connections" in request.function.__code__.co_varnames
    assert expected or not attempts, f"this test reached for the network: {attempts}"
