"""What an agent would be sent about a stored analysis: for those who write or doubt a card."""

from zsei.advice.agents import Session, request_to
from zsei.advice.facts import Facts
from zsei.advice.names import Reader
from zsei.advice.schemas import OUTPUTS
from zsei.analyzers.check_strategies import strategy_checks
from zsei.cards import AgentCard, Cards
from zsei.errors import UsageError
from zsei.llm import LLMRequest
from zsei.records import AnalysisRecord
from zsei.settings import LLMSettings


def preview(
    agent: AgentCard, record: AnalysisRecord, cards: Cards, limits: LLMSettings
) -> LLMRequest:
    """The request that an agent's card makes of a record, its answer's schema included.

    For agents that interpret it is the very one of the analysis, with its hash, as long as cards
    and limits are the same. Agents that propose or criticise are shown the whole record, as after
    its last round; candidates that nobody tried are not kept in a record and so not shown.

    Raises:
        UsageError: The agent speaks about questions or speed-ups and not about an analysis.
    """
    if agent.output not in OUTPUTS:
        raise UsageError(
            f"A prompt for a stored analysis needs an agent that reads one, but {agent.name} "
            f"speaks at the stage {agent.stage!r}, about a question or about speed-ups; leave "
            "--run out."
        )
    about = _unjudged(record) if agent.stage == "interpret" else record
    facts = Facts(about, record.proposals if agent.stage == "criticise" else ())
    session = Session(facts=facts, reader=Reader(facts, cards), cards=cards, line=None)
    output = OUTPUTS[agent.output]
    return request_to(agent, session, limits).model_copy(
        update={"answer_schema": output.model_json_schema(), "answer_name": output.__name__}
    )


def _unjudged(record: AnalysisRecord) -> AnalysisRecord:
    """The record as it was when agents interpreted it: nothing said, proposed or judged yet."""
    after = strategy_checks(record.proposals, record.verdicts)
    checks = tuple(check for check in record.validation.checks if check not in after)
    return record.model_copy(
        update={
            "interpretations": (),
            "objections": (),
            "proposals": (),
            "verdicts": (),
            "rounds": (),
            "combined": None,
            "validation": record.validation.model_copy(update={"checks": checks}),
        }
    )
