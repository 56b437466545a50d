"""What is important, by which measurement, and how far a ranking can be trusted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from zsei.records import AnalysisRecord, CriterionCheck, Measurement, Ranking

IMPORTANCE = ("ablation_effect", "sensitivity", "taylor", "magnitude")
"""What shows the importance of a part, best evidence first."""
KEPT = 512
"""A ranking of this length keeps only its first and last places."""
_MEASUREMENT_OF = {"output sensitivity": "sensitivity"}
"""Criteria whose measurement has another name."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measurement taken of many parts, fit to be compared among them."""

    name: str
    unit: str
    values: Mapping[str, Measurement]
    """Component id -> the measurement."""

    @property
    def largest(self) -> float:
        """Largest value; 0 when nothing could be told."""
        return max((m.value for m in self.values.values() if m.value is not None), default=0.0)


def importance(record: AnalysisRecord, ids: Iterable[str]) -> Score | None:
    """The importance of these components by the measurement that covers most of them.

    One measurement for all: numbers of two kinds in one picture would be compared by eye. A tie
    goes to the better evidence, exact ablation first.
    """
    wanted = list(ids)
    best: Score | None = None
    for name in IMPORTANCE:
        values = {i: m for i in wanted if (m := record.measured(i, name)) is not None}
        if values and (best is None or len(values) > len(best.values)):
            unit = next(iter(values.values())).unit
            best = Score(name=name, unit=unit, values=values)
    return best


@dataclass(frozen=True, kw_only=True)
class Place:
    """One component's place in a ranking."""

    rank: int | None
    """From 1; None at the end of a list whose middle the record does not keep."""
    component: str
    score: float
    measurement: Measurement | None
    """The measurement behind the score, with its spread; None when it was not kept."""


@dataclass(frozen=True, kw_only=True)
class RankingView:
    """A ranking beside the check of the criterion that made it."""

    ranking: Ranking
    check: CriterionCheck | None
    exact: bool
    """Whether exact ablation itself decided the order, which needs no check."""
    first: tuple[Place, ...]
    last: tuple[Place, ...]
    between: int | None
    """How many stand between the first and the last ones shown; None: the record does not say."""

    @property
    def status(self) -> str:
        """How far it can be trusted."""
        if self.exact:
            return "exact"
        return self.check.status if self.check else "not checked"


def rankings(record: AnalysisRecord, top: int = 10, bottom: int = 3) -> tuple[RankingView, ...]:
    """Rankings with their checks, best and worst places."""
    checks = {(c.kind, c.criterion): c for c in record.validation.criteria}
    made: list[RankingView] = []
    for ranking in record.validation.rankings:
        exact = "ablation" in ranking.criterion
        name = _MEASUREMENT_OF.get(ranking.criterion, ranking.criterion.replace(" ", "_"))
        name = "ablation_effect" if exact else name
        names = ranking.components
        split = len(names) if len(names) <= top + bottom else top
        tail = range(max(split, len(names) - bottom), len(names))
        whole = len(names) < KEPT
        places = {
            i: Place(
                rank=i + 1 if whole or i < split else None,
                component=names[i],
                score=ranking.scores[i],
                measurement=record.measured(names[i], name),
            )
            for i in (*range(split), *tail)
            if i < len(ranking.scores)
        }
        made.append(
            RankingView(
                ranking=ranking,
                check=checks.get((ranking.kind, ranking.criterion)),
                exact=exact,
                first=tuple(places[i] for i in range(split) if i in places),
                last=tuple(places[i] for i in tail if i in places),
                between=len(names) - split - len(tail) if whole else None,
            )
        )
    return tuple(view for view in made if view.first)


def is_yardstick(check: CriterionCheck) -> bool:
    """Whether a check is there to compare others with: a random score, the noise of the truth."""
    return check.criterion.startswith("random") or "noise" in check.criterion
