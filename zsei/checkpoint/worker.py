"""A worker: holds the model once per architecture, and does what tasks ask for."""

from dataclasses import dataclass

import torch

from zsei.checkpoint.decide.decide import decide
from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.measure import measure
from zsei.checkpoint.measure.subjects import Subjects
from zsei.checkpoint.tasks import (
    MeasureTask,
    Outline,
    OutlineTask,
    Task,
    TaskResult,
    Unreadable,
)
from zsei.engines.engine import Work
from zsei.errors import ZseiError


@dataclass(frozen=True, kw_only=True)
class OpenWorker:
    """Makes a worker's work in its own process (`zsei.engines.engine.MakeWork`)."""

    job: Job

    def __call__(self) -> Work:
        """A function from task to result that keeps what it has loaded."""
        torch.set_num_threads(self.job.threads)
        subjects = Subjects(job=self.job)
        return lambda task: carry_out(task, subjects)


def carry_out(task: Task, subjects: Subjects) -> TaskResult:
    """One task, on the subject with the weights of its checkpoint.

    A checkpoint that cannot be read is a result, not an error: another try would end the same way.
    """
    try:
        subject = subjects.at(task.snapshot)
    except ZseiError as error:
        return Unreadable(why=str(error))
    if isinstance(task, OutlineTask):
        numbers = {component.layer for component in subject.anatomy.components}
        return Outline(layers=tuple(sorted(number for number in numbers if number is not None)))
    if isinstance(task, MeasureTask):
        return measure(subject, task, subjects.job, subjects.ready())
    return decide(subject, task, subjects.job)
