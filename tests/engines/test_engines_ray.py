"""The Ray engine on a real cluster: the same answers as the local one, also when a machine goes."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_work import GONE, LIMIT, make

from zsei.engines.engine import Done, Limits
from zsei.engines.local import LocalEngine
from zsei.engines.open import open_engine
from zsei.engines.ray_engine import RayEngine
from zsei.errors import UsageError

pytestmark = pytest.mark.long
pytest.importorskip("ray")

LIMITS = Limits(seconds=3, memory_bytes=LIMIT)
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500,
         "health_check_failure_threshold": 3}  # fmt: skip
"""So that a machine that went away is noticed in seconds."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one processor each, as Ray sees it; nothing of them is left."""
    import ray
    from ray.cluster_utils import Cluster

    here = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray takes a cluster at the loopback address for one at this machine's outer address,
        # unless clusters are switched off, which they are in this sense alone.
        patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
        made = Cluster(initialize_head=True, head_node_args={**here, "_system_config": QUICK})
        made.add_node(**here)
        yield made
        ray.shutdown()
        made.shutdown()


def said(done: Done) -> tuple[Any, ...]:
    # A large task on a worker that had done others is tried on a fresh one: the order decides.
    attempts = None if done.status == "memory" else done.attempts
    return done.task, done.status, done.value, done.why, attempts


def test_both_engines_say_the_same(tmp_path: Path) -> None:
    """Values, faults, tries and reasons; and what the local cluster started is gone at the end."""
    tasks: list[Any] = [
        *(("square", number) for number in range(6)),
        *GONE,
        *("hang", "raise", "mute", "leave", "no memory", "unpicklable"),
        *("unreadable", "balloon", "noise", ("echo", b"x" * 5_000_000), ("echo", threading.Lock())),
    ]
    answers = {}
    before = set(psutil.Process().children(recursive=True))
    for name in ("local", "ray"):
        once = [("once", str(tmp_path / f"{name}{fault}"), fault) for fault in GONE]
        engine = open_engine(name, make, workers=2, priority="normal")
        assert (engine.name, engine.workers, engine.shares_disk) == (name, 2, True)
        *done, tried, again, _, _ = engine.run([*tasks, *once], LIMITS)
        engine.close()
        engine.close()
        assert (tried.value, tried.attempts) == ("done after exit", 2)
        assert (again.value, again.attempts) == ("done after killed", 2)
        answers[name] = [said(one) for one in done]
        assert {one.worker for one in done if one.worker} <= {f"{name}-1", f"{name}-2"}
    assert answers["ray"] == answers["local"]
    assert [one[2] for one in answers["ray"][:6]] == [0, 1, 4, 9, 16, 25]
    assert {one[1] for one in answers["ray"]} == {"done", "error", "crash", "timeout", "memory"}
    assert _ended(set(psutil.Process().children(recursive=True)) - before)


def _ended(processes: set[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def test_a_task_whose_machine_always_goes_is_a_crash(cluster: Any) -> None:
    with RayEngine(make, workers=1, address=cluster.address, priority="normal") as engine:
        limits = Limits(seconds=60, memory_bytes=LIMIT, retries=1)
        done = engine.run(["killed parent", ("square", 2)], limits)
    assert [(one.status, one.attempts) for one in done] == [("crash", 2), ("done", 1)]
    assert done[0].why.startswith("Its place in the cluster was lost (ActorDiedError")


def test_a_machine_that_goes_away_costs_no_task(cluster: Any, tmp_path: Path) -> None:
    """Both machines are at work when the daemon of one is killed: its task is done on the other."""
    markers, gate = [tmp_path / "one", tmp_path / "two"], tmp_path / "go"
    tasks = [("wait", str(marker), str(gate)) for marker in markers]
    tasks += [("square", number) for number in range(6)]
    done: list[Done] = []
    with RayEngine(make, workers=2, address=cluster.address, priority="normal") as engine:
        assert not engine.shares_disk
        limits = Limits(seconds=60, memory_bytes=LIMIT)
        run = threading.Thread(target=lambda: done.extend(engine.run(tasks, limits)))
        run.start()
        pids = [_number_in(marker) for marker in markers]
        other = next(node for node in cluster.list_all_nodes() if node != cluster.head_node)
        os.kill(other.all_processes["raylet"][0].process.pid, 9)
        lost = _first_gone(pids)
        gate.touch()
        run.join(120)
        assert not run.is_alive()
        again = engine.run([("square", 7)], limits)
    assert [one.status for one in done] == ["done"] * 8
    assert [one.value for one in done] == [*map(str, markers), 0, 1, 4, 9, 16, 25]
    assert [one.attempts for one in done[:2]] == [1 + (pid == lost) for pid in pids]
    assert again[0].value == 49


def _number_in(marker: Path) -> int:
    for _ in range(1200):
        if marker.exists() and marker.read_text():
            return int(marker.read_text())
        time.sleep(0.05)
    raise AssertionError("the task did not begin")


def _first_gone(pids: list[int]) -> int:
    for _ in range(600):
        for pid in pids:
            if not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie":
                return pid
        time.sleep(0.05)
    raise AssertionError("the worker of the machine that went away lives on")


def _cannot_be_made() -> Any:
    raise OSError("no such model")


def test_a_worker_that_cannot_start_is_said_as_locally() -> None:
    tasks = [("square", number) for number in range(3)]
    answers = []
    for engine in (LocalEngine(_cannot_be_made, workers=2), RayEngine(_cannot_be_made, workers=2)):
        with engine:
            answers.append([said(one) for one in engine.run(tasks, LIMITS)])
    assert answers[0] == answers[1]
    assert answers[0][0][3] == "No worker could be started: OSError: no such model"


def test_a_cluster_that_does_not_answer_is_said() -> None:
    with pytest.raises(UsageError, match=r"must answer at `127.0.0.1:1`.*ray start --head"):
        RayEngine(make, workers=1, address="127.0.0.1:1")


SCRIPT = """
    import sys
    sys.path.insert(0, {folder!r})
    from faulty_work import make
    from zsei.engines.engine import Limits
    from zsei.engines.open import open_engine
    engine = open_engine("ray", make, workers=1)
    print([one.value for one in engine.run([("square", 3), "noise"], Limits())], flush=True)
    engine.run([("stay", {marker!r})] if sys.argv[1:] else [], Limits())
    engine.close()
"""


def test_a_script_hears_nothing_of_ray(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", _script(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.stdout, ended.stderr) == ("[9, 'heard']\n", "")


def _script(folder: Path) -> str:
    here, marker = str(Path(__file__).parent), str(folder / "pid")
    return textwrap.dedent(SCRIPT).format(folder=here, marker=marker)


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    """Nor the daemons of the cluster it started. Ray's own helpers (`ray::DashboardAgent`,
    `ray::RuntimeEnvAgent`) find out later, by asking now and then.
    """
    program = [sys.executable, "-c", _script(tmp_path), "stay"]
    parent = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    worker = psutil.Process(_number_in(tmp_path / "pid"))
    started = psutil.Process(parent.pid).children(recursive=True)
    ours = {worker, *(one for one in started if "Agent" not in " ".join(one.cmdline()))}
    parent.kill()
    parent.wait()
    assert len(ours) > 3
    assert _ended(ours)
