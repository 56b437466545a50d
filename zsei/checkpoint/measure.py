"""Measures the units of some layers at one checkpoint."""

from zsei.checkpoint.job import Job
from zsei.checkpoint.tasks import GroupMeasure, MeasureTask
from zsei.subject.types import Subject


def measure(subject: Subject, task: MeasureTask, job: Job) -> GroupMeasure:
    """What the task asks for."""
    raise NotImplementedError
