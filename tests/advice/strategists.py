"""Scripted strategists: what they read is the data block of the request, as a model would."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.hostile import HOSTILE
from zsei.errors import LLMRefused
from zsei.llm import LLMRequest
from zsei.llm.scripted import Script
from zsei.subject.types import Subject

Speaker = Callable[[LLMRequest], Script]
SIZES = ("three quarters", "half", "a quarter", "an eighth", "a sixteenth")
"""How much may be asked to go, the boldest first."""
_STRATEGIES = {"head": "prune-heads", "neuron": "prune-neurons", "channel": "prune-channels"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A component and what may be asked for there."""

    strategy: str
    component: str
    names: frozenset[str]
    """The ids under which a verdict may name it: the component's own, or its heads'."""


def targets(subject: Subject) -> tuple[Target, ...]:
    """The first component of each kind whose units can go."""
    found: dict[str, Target] = {}
    for site in subject.anatomy.sites:
        if site.kind in _STRATEGIES and site.kind not in found:
            heads = site.kind == "head"
            found[site.kind] = Target(
                strategy=_STRATEGIES[site.kind],
                component=site.component,
                names=frozenset(site.unit_ids if heads else (site.component,)),
            )
    return tuple(found.values())


def shown(request: LLMRequest) -> dict[str, Any]:
    """The data block of a request."""
    return json.loads(request.prompt.split("<data>\n")[1].split("\n</data>")[0])


def plan(
    choices: Sequence[str] = (),
    variants: Sequence[tuple[str, str, str]] = (),
    words: str = "Worth a try.",
) -> str:
    """A plan of the form that is asked for.

    Args:
        choices: Ids of candidates.
        variants: (strategy, component, size).
        words: Text and rationale.
    """
    answer = {
        "text": words,
        "choices": [{"candidate": name, "rationale": words} for name in choices],
        "variants": [
            {"strategy": strategy, "components": [component], "size": size, "rationale": words}
            for strategy, component, size in variants
        ],
    }
    return json.dumps(answer)


def critique(request: LLMRequest, *, stern: bool) -> str:
    """What a critic says: nothing, or something against every proposal."""
    about = [proposal["id"] for proposal in shown(request)["proposals"]["shown"]] if stern else []
    held = [{"about": name, "kind": "risk", "text": "This may well fail."} for name in about]
    return json.dumps({"text": "That is all.", "objections": held})


def learner(aims: Sequence[Target]) -> Speaker:
    """Starts with the worst it can ask for, and asks for a third of it after each no it is shown.

    Its critic is content with everything.
    """

    def answer(request: LLMRequest) -> str:
        if request.answer_name == "Critique":
            return critique(request, stern=False)
        data = shown(request)
        refusals = [_refusals(data, aim) for aim in aims]
        variants = [
            (aim.strategy, aim.component, SIZES[min(2 * known, len(SIZES) - 1)])
            for aim, known in zip(aims, refusals, strict=True)
        ]
        ordered = sorted(data["candidates"]["shown"], key=_predicted)
        first = ordered[:1] if any(refusals) else ordered[-1:]
        return plan([candidate["id"] for candidate in first], variants)

    return answer


def harmful(aims: Sequence[Target]) -> Speaker:
    """Asks for the most harmful candidates and for most of everything, whatever it is shown.

    Its critic is against all of it.
    """

    def answer(request: LLMRequest) -> str:
        if request.answer_name == "Critique":
            return critique(request, stern=True)
        worst = sorted(shown(request)["candidates"]["shown"], key=_predicted)[-2:]
        return plan([c["id"] for c in worst], [(a.strategy, a.component, SIZES[0]) for a in aims])

    return answer


def hostile(request: LLMRequest) -> str:
    """Chooses like somebody sane and says what strangers say."""
    data = shown(request)
    words = HOSTILE[len(request.prompt) % len(HOSTILE)][:1000].strip() or "x"
    if request.answer_name == "Critique":
        held = [
            {"about": proposal["id"], "kind": "risk", "text": words}
            for proposal in data["proposals"]["shown"]
        ]
        return json.dumps({"text": words, "objections": held})
    return plan([c["id"] for c in data["candidates"]["shown"][:2]], words=words)


def refusing(_: LLMRequest) -> Script:
    """Never answers."""
    return LLMRefused("It declined.")


def babble(seed: int) -> Speaker:
    """Answers anything: bytes, half JSON, hostile words, plans for what is not there, and plans."""
    chance = random.Random(seed)

    def answer(request: LLMRequest) -> Script:
        kind = chance.randrange(16)
        if kind == 0:
            return chance.randbytes(chance.randrange(200))
        if kind == 1:
            return chance.choice(HOSTILE)
        if kind == 2:
            return "[" * chance.randrange(5000)
        if kind == 3:
            return plan([f"p-{chance.randrange(10**12):012d}"])
        if kind == 4:
            return refusing(request)
        words = chance.choice(HOSTILE)[:500].strip() or "x"
        if request.answer_name == "Critique":
            said = hostile(request) if chance.random() < 0.5 else critique(request, stern=True)
            return said[: chance.choice((None, 50))]
        data = shown(request)
        ids = [candidate["id"] for candidate in data["candidates"]["shown"]]
        wild = (chance.choice(sorted(data["strategies"])), chance.choice(["x", *ids]))
        known = [(v["strategy"], v["components"][0]) for v in data["verdicts"]["shown"]]
        wishes = chance.choices([*known * 3, wild], k=chance.randrange(3))
        variants = [(strategy, part, chance.choice(SIZES)) for strategy, part in wishes]
        few = chance.sample(ids, min(len(ids), chance.randrange(4)))
        return plan(few, variants, words)[: chance.choice((None, None, None, 100))]

    return answer


def _refusals(data: dict[str, Any], aim: Target) -> int:
    """How often the data says no to an edit of that very component."""
    return sum(
        verdict["outcome"] != "accepted"
        and verdict["strategy"] == aim.strategy
        and aim.names.issuperset(verdict["components"])
        for verdict in data["verdicts"]["shown"]
    )


def _predicted(candidate: dict[str, Any]) -> float:
    found = [
        fact["value"] for fact in candidate["expected"] if fact["slot"].endswith(":predicted_loss}")
    ]
    return found[0] if found and isinstance(found[0], int | float) else 0.0
