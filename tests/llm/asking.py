"""The question that the transport's tests ask of the server that misbehaves."""

from pydantic import ValidationInfo, field_validator

from zsei.llm import CallRecord, Line, LLMRequest, ask_typed
from zsei.llm.cache import AnswerCache
from zsei.llm.transport import LiteLLM
from zsei.records import Record
from zsei.settings import LLMSettings

KEY = "sk-test-5f1d2c3b4a59687-Secret"
SETTINGS = LLMSettings(deadline_seconds=1.8, attempt_seconds=0.55, retries=2)


class Score(Record):
    component: str
    score: float

    @field_validator("component")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        if value not in info.context["components"]:
            raise ValueError("no such component in this record")
        return value


def line_to(
    scenario: str,
    log: list[CallRecord] | None = None,
    settings: LLMSettings = SETTINGS,
    cache: AnswerCache | None = None,
) -> Line:
    llm = LiteLLM(f"openai/{scenario}", settings, pause=0.01)
    return Line(llm=llm, settings=settings, log=[] if log is None else log, cache=cache)


def ask(scenario: str, log: list[CallRecord] | None = None) -> Score:
    return ask_on(line_to(scenario, log))


def ask_on(line: Line, component: str = "layer.0/head.1") -> Score:
    seconds = line.settings.deadline_seconds
    request = LLMRequest(agent="flow", system="s", prompt="p", seconds=seconds)
    return ask_typed(line, request, Score, {"components": {component}})
