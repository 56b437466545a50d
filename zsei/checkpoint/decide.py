"""Chooses what goes at one checkpoint and puts it before the gate."""

from zsei.checkpoint.contracts import StructuralPruningDecision
from zsei.checkpoint.job import Job
from zsei.checkpoint.tasks import DecideTask
from zsei.subject.types import Subject


def decide(subject: Subject, task: DecideTask, job: Job) -> StructuralPruningDecision:
    """The decision, with its targets, verdict, edit and masks."""
    raise NotImplementedError
