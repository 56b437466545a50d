"""Requests, decisions, reports: what is answered when, over replays, conflicts and restarts."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from served import (
    Said,
    Script,
    Served,
    applied_of,
    decision_about,
    report_about,
    request,
    served,
    weights,
)

from zsei.checkpoint.contracts import AnalysisReport, StructuralAnalysisRequest
from zsei.errors import DataError
from zsei.gate.breaker import Breaker
from zsei.service.schemas import schema_of
from zsei.service.tally import nearest_rank


def fits(name: str, message: object) -> bool:
    return Draft202012Validator(schema_of(name)).is_valid(message)


def approving(asked: StructuralAnalysisRequest) -> Said:
    decision = decision_about(asked, approved_for_application=True, rejection_reason="")
    return Said(decision=decision, report=report_about(asked))


def test_from_an_upload_to_what_was_done(tmp_path: Path) -> None:
    with served(tmp_path, Script(say=approving)) as s:
        uploaded = s.upload()
        assert uploaded.status_code == 201
        assert s.upload().status_code == 200  # the same bytes
        asked = request()
        taken = s.send(asked)
        assert taken.status_code == 202
        assert taken.headers["location"] == "/v1/decisions/digits-1"
        decision = s.decided("digits-1")
        assert decision == approving(asked).decision
        found, snapshot = s.script.asked[0]
        assert found == asked
        assert snapshot.path == tmp_path / "checkpoints" / "uploads" / "digits.safetensors"
        report = s.client.get("/v1/reports/digits-1")
        assert AnalysisReport.model_validate_json(report.content) == report_about(asked)
        assert fits("AnalysisReport", report.json())
        assert fits("StructuralPruningDecision", s.client.get("/v1/decisions/digits-1").json())
        done = applied_of(decision)
        assert s.send(done, "applied").json() == {"decision_id": "d-digits-1", "repeated": False}
        assert s.send(done, "applied").json()["repeated"] is True
    assert s.script.heard == [done]


def test_a_request_again_gives_the_same_answer_and_no_work(tmp_path: Path) -> None:
    with served(tmp_path) as s:
        s.upload()
        s.send(request())
        first = s.decided("digits-1")
        again = s.send(request())
        assert (again.status_code, again.json()) == (200, first.model_dump(mode="json"))
        assert len(s.script.asked) == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request(2, request_id="digits-3"), "it says something else"),
        (request(3, request_id="other"), "epochs of a run only go up: 'digits' is at 3"),
        (request(2, request_id="other"), "epochs of a run only go up: 'digits' is at 3"),
        (
            request(4, request_id="other", idempotency_key=request(3).idempotency_key),
            "its idempotency key is that of the request 'digits-3'",
        ),
    ],
)
def test_what_contradicts_is_refused(
    tmp_path: Path, asked: StructuralAnalysisRequest, said: str
) -> None:
    with served(tmp_path) as s:
        s.upload()
        s.send(request(3))
        s.decided("digits-3")
        answer = s.send(asked)
        assert answer.status_code == 409
        assert said in answer.json()["detail"]
        assert (
            s.send(request(1, run="another", weights=asked.checkpoint.weights)).status_code == 202
        )


def test_bad_messages_get_clear_answers(tmp_path: Path) -> None:
    with served(tmp_path) as s:
        s.upload()
        message = request().model_dump(mode="json")
        for changed, place, said in (
            ({"version": "2.0"}, "version", "of version 2.0; update the side that is older"),
            ({"surprise": 1}, "surprise", "Extra inputs are not permitted"),
            ({"checkpoint": {"run": "x"}}, "checkpoint.epoch", "Field required"),
        ):
            answer = s.client.post("/v1/requests", json=message | changed)
            assert answer.status_code == 422
            assert answer.headers["content-type"] == "application/problem+json"
            assert any(
                place == e["place"] and said in e["message"] for e in answer.json()["errors"]
            )
        missing = s.send(request(weights="uploads/missing.safetensors"))
        assert missing.status_code == 404
        assert "upload it first" in missing.json()["detail"]
        for path in ("/v1/decisions/x", "/v1/reports/x", "/nothing", "/v1/contracts/Nope"):
            assert s.client.get(path).status_code == 404
        assert s.send(applied_of(decision_about(request())), "applied").status_code == 404
        assert not s.script.asked


def test_a_full_queue_says_so_and_loses_nothing(tmp_path: Path) -> None:
    script = Script()
    script.go.clear()
    with served(tmp_path, script, most=2) as s:
        s.upload()
        codes = []
        for epoch in range(1, 7):
            codes.append(s.send(request(epoch)).status_code)
            while epoch == 1 and not script.asked:
                pass  # until it is analysed, and so waits no more
        assert codes == [202, 202, 202, 429, 429, 429]
        pending = s.client.get("/v1/decisions/digits-3").json()
        assert (pending["state"], pending["ahead"]) == ("waiting", 2)
        assert s.client.delete("/v1/checkpoints/digits.safetensors").status_code == 409
        script.go.set()
        assert [s.decided(f"digits-{epoch}").epoch for epoch in (1, 2, 3)] == [1, 2, 3]
        assert s.send(request(4)).status_code == 202
        s.decided("digits-4")
        assert s.client.delete("/v1/checkpoints/digits.safetensors").status_code == 204
        assert s.client.delete("/v1/checkpoints/digits.safetensors").status_code == 404


def test_an_analysis_that_fails_is_a_decision_that_approves_nothing(tmp_path: Path) -> None:
    def fail(asked: StructuralAnalysisRequest) -> Said:
        raise DataError("The weights are not those that were announced.")

    with served(tmp_path, Script(say=fail)) as s:
        s.upload()
        s.send(request())
        decision = s.decided("digits-1")
        assert decision.depth == "none"
        assert not decision.approved_for_application
        assert decision.rejection_reason == "The weights are not those that were announced."
        report = s.client.get("/v1/reports/digits-1")
        assert report.status_code == 404
        assert decision.rejection_reason in report.json()["detail"]
        applied = s.send(applied_of(decision), "applied")
        assert applied.status_code == 409
        assert "Only what was approved" in applied.json()["detail"]


def test_a_restart_goes_on_where_it_stood(tmp_path: Path) -> None:
    script = Script()
    script.go.clear()
    with served(tmp_path, script, grace=0.0) as s:  # it is ended in the middle of an analysis
        s.upload()
        for epoch in (1, 2):
            assert s.send(request(epoch)).status_code == 202
    folder = tmp_path / "runs" / "digits"
    assert sorted(p.name for p in (folder / "requests").iterdir()) == ["000001.json", "000002.json"]
    for path in (folder / "decisions").glob("*"):
        path.unlink()  # what the scripted analyst said once it was let go
    draft = tmp_path / "checkpoints" / "uploads" / ".upload-0123"
    draft.write_bytes(b"half")
    with served(tmp_path) as s:
        assert not draft.exists()
        assert [s.decided(f"digits-{epoch}").epoch for epoch in (1, 2)] == [1, 2]
        assert s.send(request(2)).status_code == 200
        assert s.send(request(1, request_id="other")).status_code == 409


def test_reports_survive_a_restart_in_order(tmp_path: Path) -> None:
    with served(tmp_path, Script(say=approving)) as s:
        s.upload()
        s.send(request())
        done = applied_of(s.decided("digits-1"))
        s.send(done, "applied")
        back = done.model_copy(update={"outcome": "rolled back", "idempotency_key": "back"})
        assert s.send(back, "applied").json()["repeated"] is False
        assert s.send(done, "applied").status_code == 409
    assert s.script.heard[-1] == back
    with served(tmp_path) as again:
        again.send(request(2))
        again.decided("digits-2")
        assert again.script.heard == []  # each is told once


def test_health_and_metrics_say_what_the_reports_say(tmp_path: Path) -> None:
    seconds = {epoch: float(epoch) for epoch in range(1, 21)}

    def say(asked: StructuralAnalysisRequest) -> Said:
        epoch = asked.checkpoint.epoch
        depth = "none" if epoch == 5 else "basic" if epoch == 6 else "full"
        changed = {"depth": depth, "seconds": seconds[epoch], "peak_memory_bytes": 1000 * epoch}
        return Said(
            decision=decision_about(asked, depth=depth, mode="remove"),
            report=report_about(asked, **changed),
        )

    def check(s: Served) -> None:
        health = s.client.get("/health/elesh/worker-1/structured_analysis").json()
        assert health["completion_rate"] == 19 / 20
        assert health["duration_p95"] == sorted(seconds.values())[18]
        assert health["peak_memory_bytes"] == 20_000
        assert health["last"] == {"run": "digits", "epoch": 20}
        assert {o["name"]: o["held"] for o in health["objectives"]} == {
            "completion_rate": True, "duration_p95": True, "peak_memory_bytes": True,
            "ranking_accuracy": True,
        }  # fmt: skip
        text = s.client.get("/metrics").text
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert found["structured_analysis_completion_rate",] == 0.95
        assert found["analysis_duration_p95",] == 19.0
        assert found["peak_memory_usage",] == 20_000
        assert found["multi_level_accuracy",] == 0.93
        assert found["zsei_decisions_total", "rejected"] == 20
        assert found["zsei_fallbacks_total", "basic"] == 1
        assert found["analysis_duration_seconds_sum",] == sum(seconds.values())
        for end in (1.0, 2.5, 5.0, 10.0, 30.0):
            below = sum(value <= end for value in seconds.values())
            assert found["analysis_duration_seconds_bucket", str(end)] == below

    with served(tmp_path, Script(say=say)) as s:
        s.upload()
        for epoch in seconds:
            s.send(request(epoch))
        s.decided("digits-20")
        check(s)
        assert s.client.get("/health/elesh/worker-2/structured_analysis").status_code == 404
    with served(tmp_path, breaker=lambda: Breaker(open=True, failures=3)) as s:
        check(s)  # counted again from the disk
        health = s.client.get("/health/elesh/worker-1/structured_analysis").json()
        assert health["status"] == "degraded"
        assert "the circuit breaker is open" in health["breaker"]


def test_what_was_not_measured_is_absent(tmp_path: Path) -> None:
    with served(tmp_path) as s:
        health = s.client.get("/health/elesh/worker-1/structured_analysis").json()
        assert health["status"] == "healthy"
        assert {o["held"] for o in health["objectives"]} == {None}
        lines = s.client.get("/metrics").text.splitlines()
        assert not [line for line in lines if line.startswith(("multi_level", "structured_"))]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.95, None), ([3.0], 0.95, 3.0), ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0)],
)
def test_nearest_rank(values: list[float], share: float, expected: float | None) -> None:
    assert nearest_rank(values, share) == expected


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.long)])
def test_many_at_once_find_no_fault(tmp_path: Path, count: int) -> None:
    """Requests of mixed kinds in parallel, from eight sides, with a short queue."""
    with served(tmp_path, most=4) as s:
        s.upload()

        def one(number: int) -> int:
            run, epoch = f"run-{number % 8}", number // 8 + 1
            match number % 5:
                case 0:
                    return s.client.get("/metrics").status_code
                case 1:
                    return s.upload(f"n{number % 3}.safetensors", weights(number % 2)).status_code
                case 2:
                    return s.client.get(f"/v1/decisions/{run}-{epoch}").status_code
                case _:
                    asked = request(epoch, run=run, weights="uploads/digits.safetensors")
                    return s.send(asked).status_code

        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(one, range(count)))
        assert set(codes) <= {200, 201, 202, 404, 409, 429}
        taken = [n for n, code in enumerate(codes) if n % 5 > 2 and code in (200, 202)]
        for number in taken:
            s.decided(f"run-{number % 8}-{number // 8 + 1}")
        assert len(s.script.asked) == len(taken)


def test_documentation_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    with served(tmp_path) as s:
        page = s.client.get("/docs")
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "http" not in page.text.replace("HTTP", "")
        assert all(path in page.text for path in s.client.get("/openapi.json").json()["paths"])
        listed = s.client.get("/v1/contracts").json()["contracts"]
        for contract in listed:
            schema = s.client.get(contract["address"])
            assert json.loads(schema.text)["$id"] == contract["schema_id"]
