"""The budget of a line: what would pass it is not asked."""

import contextlib
import json
import random

import pytest
from llm.asking import ask_on, line_to
from llm.fakeserver import FakeServer
from pydantic import ValidationError

from zsei.errors import LLMBudget, LLMError, LLMInvalid, LLMTransport
from zsei.llm import CallRecord, Line, LLMRequest, RawAnswer, ScriptedLLM, ask_typed
from zsei.llm.budget import booked, most_read, retries_within
from zsei.llm.prices import flat_price, listed_price
from zsei.records import Record
from zsei.settings import LLMSettings


class Word(Record):
    word: str


GOOD = '{"word": "a"}'
REQUEST = LLMRequest(agent="flow", system="s", prompt="p" * 400, max_tokens=100)
READ = most_read(REQUEST.model_copy(update={
    "answer_schema": Word.model_json_schema(), "answer_name": "Word",
}))  # fmt: skip
WORST = READ + 100


def line(answers: object = None, log: list[CallRecord] | None = None, **settings: object) -> Line:
    llm = ScriptedLLM(answers or (lambda request: GOOD))  # type: ignore[arg-type]
    limits = LLMSettings.model_validate(settings)
    return Line(llm=llm, settings=limits, log=[] if log is None else log)


def ask(on: Line) -> int:
    """Asks until the budget is spent; returns how often it was asked."""
    with contextlib.suppress(LLMBudget):
        while True:
            ask_typed(on, REQUEST, Word)
    return len(on.llm.requests)  # type: ignore[attr-defined]


def told(read: int, written: int) -> RawAnswer:
    return RawAnswer(text=GOOD, model="scripted", input_tokens=read, output_tokens=written)


def test_calls_are_counted() -> None:
    assert ask(line(max_calls=3)) == 3
    with pytest.raises(LLMBudget, match="MAX_CALLS"):
        ask_typed(line(lambda request: "no", max_calls=1), REQUEST, Word)  # the re-ask is a call


@pytest.mark.parametrize(("limit", "calls"), [(WORST - 1, 0), (WORST, 1), (3 * WORST, 3)])
def test_where_nobody_says_what_it_was_the_worst_is_counted(limit: int, calls: int) -> None:
    assert ask(line(max_total_tokens=limit)) == calls


def test_what_the_provider_says_is_counted() -> None:
    on = line(lambda request: told(60, 40), max_total_tokens=WORST + 250)
    assert ask(on) == 3  # after 0, 100 and 200 tokens the worst still fits, after 300 no more
    assert [call.tokens for call in on.log] == [100] * 3
    with pytest.raises(LLMBudget, match=rf"{WORST - 50} are left .* may take {WORST}"):
        ask_typed(on, REQUEST, Word)


def test_money_is_counted_at_the_price_of_the_settings() -> None:
    prices = {"input_price": 10.0, "output_price": 1000.0}
    worst = (READ * 10 + 100 * 1000) / 1e6
    each = (60 * 10 + 40 * 1000) / 1e6
    on = line(lambda request: told(60, 40), max_cost=worst + 2.5 * each, **prices)
    assert ask(on) == 3
    assert [call.cost for call in on.log] == pytest.approx([each] * 3)
    with pytest.raises(LLMBudget, match="MAX_COST"):
        ask_typed(on, REQUEST, Word)
    free = line(max_cost=0.01, input_price=0.0, output_price=0.0, max_calls=5)
    assert ask(free) == 5
    assert [call.cost for call in free.log] == [0.0] * 5


def test_a_price_nobody_knows_is_not_nothing() -> None:
    on = line()
    ask_typed(on, REQUEST, Word)
    assert on.log[0].cost is None
    with pytest.raises(LLMBudget, match=r"INPUT_PRICE and ZSEI_LLM_CALL__OUTPUT_PRICE"):
        ask_typed(line(max_cost=1.0), REQUEST, Word)


def test_both_prices_or_none() -> None:
    with pytest.raises(ValidationError, match="together"):
        LLMSettings(input_price=1.0)


def test_doubled_tokens_are_counted_before_they_are_asked_for() -> None:
    cut = RawAnswer(text="{", model="m", finish_reason="length", input_tokens=9, output_tokens=100)
    on = line([cut, GOOD], max_total_tokens=WORST + 109 + 99)
    with pytest.raises(LLMBudget):
        ask_typed(on, REQUEST, Word)
    assert ask_typed(line([cut, GOOD], max_total_tokens=WORST + 109 + 100), REQUEST, Word)


def test_retries_must_be_payable_too() -> None:
    def allowed(**settings: object) -> int:
        return retries_within(line(**settings), REQUEST)  # type: ignore[arg-type]

    worst = most_read(REQUEST) + 100
    assert allowed() == 2
    assert allowed(retries=0) == 0
    assert [allowed(max_total_tokens=n * worst) for n in (1, 2, 3, 9)] == [0, 1, 2, 2]
    price = {"input_price": 1.0, "output_price": 1.0}
    costs = [allowed(max_cost=n * worst / 1e6 * 1.0001, **price) for n in (1, 2, 3, 9)]
    assert costs == [0, 1, 2, 2]


def test_attempts_that_nothing_came_back_from_count_the_worst() -> None:
    on = line(input_price=1.0, output_price=2.0)
    worst = most_read(REQUEST)
    dear = worst + 2 * 100
    answer = told(60, 40).model_copy(update={"attempts": 3, "lost": 2})
    assert booked(on, REQUEST, answer) == (
        100 + 2 * (worst + 100), pytest.approx((60 + 80 + 2 * dear) / 1e6),
    )  # fmt: skip
    failure = LLMTransport("gone")
    assert booked(on, REQUEST, failure)[0] == worst + 100  # nobody counted: one at least
    failure.attempts = 3
    assert booked(on, REQUEST, failure) == (0, 0.0)
    failure.lost = 2
    assert booked(on, REQUEST, failure)[0] == 2 * (worst + 100)


def test_a_limit_holds_whatever_the_server_does(server: FakeServer) -> None:
    """Requests that a provider may charge for never pass the budget, at the worst of each."""
    probe = line_to("server-error")
    with pytest.raises(LLMTransport):
        ask_on(probe)
    one = probe.log[-1].tokens // 3
    assert probe.log[-1].attempts == 3
    for limit, requests in ((one - 1, 0), (one, 1), (2 * one, 2)):
        server.bodies.clear()
        settings = probe.settings.model_copy(update={"max_total_tokens": limit})
        with pytest.raises(LLMError):
            ask_on(line_to("server-error", settings=settings))
        assert len(server.bodies["server-error"]) == requests


def test_no_sequence_of_answers_passes_a_budget() -> None:
    """Whatever comes back within the tokens that were allowed, the sums stay inside."""
    generator = random.Random(5)
    for _ in range(200):

        def answer(request: LLMRequest) -> RawAnswer | Exception:
            if generator.random() < 0.1:
                error = LLMInvalid("odd")
                error.attempts, error.lost = 1, generator.randrange(2)
                return error
            known = generator.random() < 0.7
            return RawAnswer(
                text=generator.choice([GOOD, "no"]),
                model="m",
                finish_reason=generator.choice(["stop", "stop", "length"]),
                input_tokens=generator.randrange(most_read(request)) if known else None,
                output_tokens=generator.randrange(request.max_tokens) if known else None,
            )

        most = generator.randrange(1, 20 * WORST)
        money = generator.uniform(0.001, 20 * WORST * 5 / 1e6)
        on = line(
            answer, max_total_tokens=most, max_cost=money, input_price=3.0, output_price=5.0,
            max_calls=generator.randrange(1, 12),
        )  # fmt: skip
        for _ in range(15):
            with contextlib.suppress(LLMError):
                ask_typed(on, REQUEST, Word)
        assert sum(call.tokens for call in on.log) <= most
        assert sum(call.cost or 0 for call in on.log) <= money * (1 + 1e-9)
        assert len(on.log) <= on.settings.max_calls


def test_bytes_bound_tokens() -> None:
    """Beside a real tokenizer, on text of every kind; special tokens are what `_AROUND` covers."""
    import litellm

    generator = random.Random(2)
    texts = [
        "The heads of layer 3 are redundant. " * 20,
        json.dumps({f"encoder.layer.{n}/head.{n}": generator.random() for n in range(50)}),
        "".join(chr(generator.randrange(32, 0x2FFF)) for _ in range(500)),
        "".join(generator.choice("0123456789") for _ in range(500)),
        "\u200b\U0001f9e0" * 100,
        "   \n\t" * 100,
    ]
    for text in texts:
        request = LLMRequest(system="s", prompt=text)
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": text}]
        assert most_read(request) >= litellm.token_counter(model="gpt-4o", messages=messages)


def test_a_listed_price_with_tiers() -> None:
    entry = {
        "litellm_provider": "p",
        "input_cost_per_token": 1.0,
        "output_cost_per_token": 10.0,
        "input_cost_per_token_above_200k_tokens": 2.0,
        "output_cost_per_token_above_200k_tokens": 20.0,
        "input_cost_per_token_above_200k_tokens_priority": 99.0,
        "output_cost_per_reasoning_token": 15.0,
    }
    price = listed_price({"m": entry}, "p/m", "p")
    assert price is not None
    assert price.of(100, 10) == 100 + 150
    assert price.of(200_000, 1) == 400_000 + 20
    assert flat_price(3.0, 5.0).of(1_000_000, 2_000_000) == pytest.approx(13.0)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"litellm_provider": "other", "input_cost_per_token": 1, "output_cost_per_token": 1},
        {"litellm_provider": "p", "input_cost_per_token": 1},
        {"litellm_provider": "p", "input_cost_per_token": 0, "output_cost_per_token": 0},
        {"litellm_provider": "p", "input_cost_per_token": "1", "output_cost_per_token": 1},
        {"litellm_provider": "p", "input_cost_per_token": -1, "output_cost_per_token": 1},
    ],
)
def test_a_price_that_the_list_does_not_say(entry: object) -> None:
    assert listed_price({"m": entry}, "p/m", "p") is None


def test_every_price_in_the_list_is_read_or_left() -> None:
    import litellm

    known = 0
    for name, entry in litellm.model_cost.items():
        price = listed_price(litellm.model_cost, name, str(entry.get("litellm_provider")))
        if price is not None:
            known += 1
            assert price.of(0, 0) == 0
            assert 0 < price.of(1000, 1000) < 100
    assert known > 500


def test_records_of_calls_from_before_are_read() -> None:
    old = '{"agent": "a", "model": "m", "prompt_hash": "h", "outcome": "ok"}'
    call = CallRecord.model_validate_json(old)
    assert (call.cost, call.cached, call.tokens) == (None, False, 0)
