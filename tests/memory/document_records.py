"""Measurements made up for the tests of documents: real shapes, known numbers."""

from zsei.claims.record import ClaimsRecord, Machine, Outcome
from zsei.profiling.record import Growth, MemoryUse, Part, ProfileRecord, Roof
from zsei.records import Failure, Measurement, Verdict
from zsei.speed.record import Combination, SpeedRecord, Trial
from zsei.speedups.speedup import Step
from zsei.timing.interval import Interval

MINILM = "models/all-MiniLM-L6-v2"
BF16 = Step(speedup="lower-precision")
"""As a record holds it: what is usual is left out, and bfloat16 is."""
SDPA = Step(speedup="attention-backend", params={"backend": "sdpa"})
FP16 = Step(speedup="lower-precision", params={"dtype": "float16"})


def around(value: float) -> Interval:
    """An interval a tenth to each side."""
    return Interval(median=value, low=0.9 * value, high=1.1 * value, n=9)


def trial(*steps: Step, speed_up: float, outcome: str = "accepted", cosine: float = 1.0) -> Trial:
    """Steps that were measured."""
    name = "t-" + "-".join(step.text() for step in steps)
    verdict = Verdict.model_validate(
        {"proposal_id": name, "outcome": outcome, "reason": f"{outcome}: as planted"}
    )
    return Trial(
        id=name, steps=steps, exact=False, verdict=verdict, speed_up=around(speed_up),
        measurements=(Measurement(name="mean_cosine", value=cosine),),
    )  # fmt: skip


def speed(
    model: str = MINILM, *, id: str = "s-5aeed0001111", created: str = "2026-03-01T10:00:00Z",
    bf16: float = 2.125,
) -> SpeedRecord:  # fmt: skip
    """bf16 and SDPA held alone and together, fp16 did not, int8 cannot be had."""
    return SpeedRecord(
        id=id, model=model, model_class="BertModel", model_hash="0" * 8, parameters=22_713_216,
        versions={"torch": "2.13"}, seed=0, objective="embedding", metric="mean cosine",
        safety="moderate", device="cpu", device_name="A processor", threads=2, samples=32,
        batch_size=32, baseline=around(0.5375),
        alone=(
            trial(BF16, speed_up=bf16, cosine=0.99998765),
            trial(SDPA, speed_up=1.0625),
            trial(FP16, speed_up=0.25, outcome="rejected"),
        ),
        together=Combination(
            trial=trial(SDPA, BF16, speed_up=2.25), order=(BF16, SDPA), product=2.2578125,
            left_out=(Failure(stage="speed", what="threads", why="It was slower beside bf16."),),
        ),
        refused=(Failure(stage="speed", what="int8", why="It needs a library."),),
        created=created,
    )  # fmt: skip


def claims(model: str = "demo:patchtst", *, id: str = "c1a10001111") -> ClaimsRecord:
    """One claim of each verdict."""
    machine = Machine(name="A processor", device="cpu", cores=2, threads=2)

    def outcome(name: str, verdict: str, **more: object) -> Outcome:
        base = {
            "id": name, "kind": "speed-up", "use": "inference", "unit": "x", "verdict": verdict,
            "reason": f"{verdict}, as planted.", "machine": machine, "command": "zsei claims x",
            "seconds": 1.0,
        }  # fmt: skip
        return Outcome.model_validate({**base, **more})

    return ClaimsRecord(
        id=id, file="claims.yaml", title="", model=model, seed=0, machine=machine, versions={},
        outcomes=(
            outcome("vectorised", "held", at_least=2.0, at_most=4.0, value=2.5),
            outcome(
                "whole", "not held", kind="combined", at_least=71.0, value=3.5,
                quote="together they give 71x", interval=around(3.5),
            ),
            outcome("two-cores", "not decided", at_least=1.5, value=1.5),
            outcome("card", "not measurable here", at_least=3.0),
        ),
        command="zsei claims claims.yaml", created="2026-03-02T10:00:00Z", seconds=5.0,
    )  # fmt: skip


def part(name: str, kind: str, share: float, band: str) -> Part:
    """A component with its share of the time."""
    return Part(
        name=name, kind=kind, calls=6, seconds=around(share / 2), share=share, band=band,
        flops=1000, moved=100, written=10, bound="memory",
    )  # fmt: skip


def profile(model: str = MINILM, *, id: str = "9f0f11e00001") -> ProfileRecord:
    """The MLPs take most of the time; time grows faster than the length."""
    return ProfileRecord(
        id=id, model=model, model_class="BertModel", model_hash="0" * 8, parameters=10,
        versions={}, seed=0, device="cpu", device_name="A processor", threads=2,
        fidelity="program", inputs={"input_ids": (4, 16)}, batch_size=4, length=16, rounds=5,
        whole=around(0.5), sum_of_parts=around(1.0),
        parts=(
            part("encoder.layer.0/mlp", "mlp", 0.4375, "now"),
            part("encoder.layer.0/attention", "attention", 0.03125, "not worth it"),
        ),
        kinds=(part("mlp", "mlp", 0.625, "now"), part("attention", "attention", 0.375, "now")),
        calls=(), roof=Roof(dtype="float32", peak=1e11, bandwidth=1e10, ridge=10.0),
        memory=MemoryUse(
            parameters=90_000, inputs=512, alive=12_345_678, alive_call="linear_7",
            component="encoder.layer.0/mlp",
        ),
        growth=(
            Growth(
                over="length", measure="seconds", sizes=(4, 8, 16), values=(1.0, 2.0, 4.5),
                exponent=around(1.125),
            ),
        ),
        forwards=11.0, created="2026-03-03T10:00:00Z",
    )  # fmt: skip
