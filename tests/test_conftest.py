"""The fence around the tests holds."""

import os
import socket
from pathlib import Path

import pytest


def test_connections_beyond_this_machine_are_refused(refused_connections: list[str]) -> None:
    with pytest.raises(ConnectionRefusedError, match="no network"):
        socket.create_connection(("example.org", 443), timeout=1)
    with socket.socket() as raw, pytest.raises(ConnectionRefusedError, match="no network"):
        raw.connect(("192.0.2.1", 443))
    assert refused_connections == ["example.org", "192.0.2.1"]


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()


def test_memory_stands_in_a_folder_of_its_own(home: Path) -> None:
    assert os.environ["ZSEI_HOME"] == str(home)
    assert not home.exists()


def test_what_the_default_run_leaves_out_exists() -> None:
    tests = Path(__file__).parent
    lines = (tests / "long.txt").read_text(encoding="utf-8").splitlines()
    named = [line for line in lines if line and not line.startswith("#")]
    assert named == sorted(set(named))
    for line in named:
        file, function = line.split("[")[0].split("::")
        assert f"def {function}(" in (tests.parent / file).read_text(encoding="utf-8"), line
