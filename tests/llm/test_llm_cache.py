"""Answers that are kept: only valid ones, whole or not at all, and never in anybody's way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llm.asking import SETTINGS, ask, ask_on, line_to
from llm.fakeserver import FakeServer

from zsei.errors import LLMError, LLMInvalid
from zsei.llm import CallRecord, Line, LLMRequest, ScriptedLLM, ask_typed, open_line
from zsei.llm.cache import AnswerCache, cache_of, question_key
from zsei.records import Record
from zsei.settings import LLMSettings, Settings


class Word(Record):
    word: str


REQUEST = LLMRequest(agent="flow", system="s", prompt="p")


@pytest.fixture
def cache(tmp_path: Path) -> AnswerCache:
    return AnswerCache(folder=tmp_path / "cache")


def say(cache: AnswerCache | None, *answers: str, log: list[CallRecord] | None = None) -> str:
    line = Line(llm=ScriptedLLM(answers), cache=cache, log=[] if log is None else log)
    return ask_typed(line, REQUEST, Word).word


def test_a_question_is_asked_once(cache: AnswerCache) -> None:
    log: list[CallRecord] = []
    assert say(cache, '{"word": "first"}', log=log) == "first"
    assert say(cache, log=log) == "first"  # a script without answers fails when asked
    first, again = log
    assert (first.outcome, first.cached, first.attempts) == ("ok", False, 1)
    assert again == CallRecord(
        agent="flow", model="scripted", prompt_hash=first.prompt_hash, input_tokens=0,
        output_tokens=0, attempts=0, tokens=0, cost=0.0, cached=True, outcome="cached",
    )  # fmt: skip


def test_what_decides_an_answer_is_in_the_key() -> None:
    changes: list[dict[str, object]] = [
        {"system": "t"}, {"prompt": "q"}, {"max_tokens": 9}, {"answer_schema": {}},
        {"answer_name": "other"},
    ]  # fmt: skip
    keys = {question_key(REQUEST.model_copy(update=change), "m") for change in changes}
    keys |= {question_key(REQUEST, "m"), question_key(REQUEST, "n")}
    assert len(keys) == len(changes) + 2
    for change in ({"agent": "x"}, {"seconds": 1.0}, {"retries": 0}):
        assert question_key(REQUEST.model_copy(update=change), "m") == question_key(REQUEST, "m")


@pytest.mark.parametrize("answers", [("no", "no"), ("{", "[]")])
def test_only_valid_answers_are_kept(cache: AnswerCache, answers: tuple[str, ...]) -> None:
    with pytest.raises(LLMInvalid):
        say(cache, *answers)
    assert cache.size() == (0, 0)


def test_a_repaired_answer_belongs_to_the_first_question(cache: AnswerCache) -> None:
    assert say(cache, "no", '{"word": "mended"}') == "mended"
    assert say(cache) == "mended"
    assert cache.size()[0] == 1


def test_a_longer_answer_belongs_to_the_first_question(
    server: FakeServer, cache: AnswerCache
) -> None:
    for _ in range(2):
        ask_on(line_to("truncated-once", cache=cache))
    assert len(server.bodies["truncated-once"]) == 2


def test_a_hit_that_no_longer_holds_is_dropped_and_asked_anew(cache: AnswerCache) -> None:
    def answer(request: LLMRequest) -> str:
        return json.dumps({"component": component, "score": 0.5})

    from llm.asking import Score

    for component in ("a", "b", "b"):
        log: list[CallRecord] = []
        line = Line(llm=ScriptedLLM(answer), cache=cache, log=log)
        assert ask_typed(line, REQUEST, Score, {"components": {component}}).component == component
    assert [call.outcome for call in log] == ["cached"]
    assert cache.size()[0] == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"null", b"[]", b'"text"', b'{"text": 1, "sha256": "x"}', b"\xff\xfe",
        b'{"text": "{}", "sha256": "0"}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_entry_is_a_miss_and_is_replaced(cache: AnswerCache, damage: bytes) -> None:
    say(cache, '{"word": "first"}')
    (path,) = cache.folder.iterdir()
    path.write_bytes(damage)
    assert say(cache, '{"word": "second"}') == "second"
    assert say(cache) == "second"


def test_a_byte_changed_in_an_entry_is_noticed(cache: AnswerCache) -> None:
    say(cache, '{"word": "first"}')
    (path,) = cache.folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"first", b"worst"))
    assert say(cache, '{"word": "second"}') == "second"


def test_a_disk_that_cannot_be_written_is_no_cache_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    blocked = AnswerCache(folder=tmp_path / "file" / "cache")  # a file where a folder must be
    assert say(blocked, '{"word": "first"}') == "first"
    assert say(blocked, '{"word": "second"}') == "second"
    assert (blocked.size(), blocked.clear()) == ((0, 0), 0)

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as part:
            part.write(data[:9])
        raise OSError(28, "No space left on device")

    cache = AnswerCache(folder=tmp_path / "cache")
    monkeypatch.setattr(Path, "write_bytes", full)
    assert say(cache, '{"word": "first"}') == "first"
    assert list(cache.folder.iterdir()) == []  # nothing half written stays


def test_a_folder_that_may_only_be_read_still_answers(
    cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(cache, '{"word": "first"}')

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("utime", "unlink", "replace", "mkdir"):
        monkeypatch.setattr(os, name, denied)
    monkeypatch.setattr(Path, "write_bytes", denied)
    assert say(cache) == "first"
    cache.put("0" * 64, "more")


def test_the_answers_unused_for_longest_go(tmp_path: Path) -> None:
    cache = AnswerCache(folder=tmp_path, megabytes=0.005)
    for number in range(4):
        cache.put(f"{number:064}", "x" * 1000)
        os.utime(tmp_path / f"{number:064}.json", (number, number))
    assert cache.get(f"{0:064}")  # used now
    cache.put(f"{4:064}", "x" * 1000)
    kept = {int(path.stem) for path in tmp_path.iterdir()}
    assert kept == {0, 2, 3, 4}
    assert cache.size()[1] <= 5000
    cache.put(f"{5:064}", "x" * 6000)  # would leave room for nothing else
    assert {int(path.stem) for path in tmp_path.iterdir()} == kept


def test_what_a_killed_process_left_is_swept_away(cache: AnswerCache) -> None:
    cache.folder.mkdir()
    old, new = cache.folder / ".a.1.part", cache.folder / ".b.2.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (1, 1))
    say(cache, '{"word": "first"}')
    assert (old.exists(), new.exists()) == (False, True)  # the new one may be somebody's at work
    assert cache.clear() == 1
    assert list(cache.folder.iterdir()) == []


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from zsei.llm.cache import AnswerCache
cache = AnswerCache(folder=Path(sys.argv[1]), megabytes=0.02)
for turn in range(50):
    for number in range(8):
        text = cache.get(f"{number:064}")
        assert text is None or text == str(number) * 3000, text[:9]
        cache.put(f"{number:064}", str(number) * 3000)
        if turn % 10 == number:
            cache.drop(f"{number:064}")
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()
    assert cache_is_whole(tmp_path)


def cache_is_whole(folder: Path) -> bool:
    cache = AnswerCache(folder=folder, megabytes=0.02)
    assert not list(folder.glob("*.part"))
    return all(cache.get(path.stem) for path in folder.iterdir()) and cache.size()[1] <= 23_000


def test_the_settings_open_a_line_with_a_cache(home: Path, tmp_path: Path) -> None:
    real = open_line(Settings(llm="openai/some-model"))
    assert real is not None
    assert real.cache == AnswerCache(folder=home / "llm-cache", megabytes=32.0)
    assert not home.exists()  # it is made when there is something to keep
    off = open_line(Settings(llm="openai/some-model", llm_call=LLMSettings(cache=False)))
    assert off is not None
    assert off.cache is None
    script = tmp_path / "script.json"
    script.write_text("[]")
    scripted = open_line(Settings(llm=f"scripted:{script}"))
    assert scripted is not None
    assert scripted.cache is None


def test_the_second_run_sends_nothing_and_says_the_same(server: FakeServer) -> None:
    settings = Settings(llm="openai/invalid-then-ok", llm_call=SETTINGS)
    said = []
    for _ in range(2):
        line = open_line(settings)
        assert line is not None
        said.append((ask_on(line).model_dump_json(), line.voice, line.log[-1].outcome))
    assert len(server.bodies["invalid-then-ok"]) == 2  # both in the first run
    assert said[0][:2] == said[1][:2]
    assert (said[0][2], said[1][2]) == ("ok", "cached")
    assert cache_of(settings).size()[0] == 1


def test_the_cache_answers_where_nobody_is_reached_and_the_budget_is_spent(
    server: FakeServer, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_on(line_to("ok", cache=cache))
    spent = LLMSettings(max_calls=1)
    log = [CallRecord(agent="", model="m", prompt_hash="", outcome="LLMTransport")]
    assert ask_on(line_to("ok", log, spent, cache)).score == 0.5
    with pytest.raises(LLMError, match="must be reachable"):  # the hit before changes nothing
        ask_on(line_to("server-error", log, spent, cache))
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(LLMError, match="connection"):  # the same name elsewhere is another model
        ask_on(line_to("ok", cache=cache))


def test_without_a_cache_nothing_is_kept(server: FakeServer, home: Path) -> None:
    ask("ok")
    ask("ok")
    assert len(server.bodies["ok"]) == 2
    assert not home.exists()
