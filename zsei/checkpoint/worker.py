"""A worker: holds the model once per architecture, and does what tasks ask for."""

from dataclasses import dataclass

import torch

from zsei.checkpoint.decide import decide
from zsei.checkpoint.job import Job
from zsei.checkpoint.measure import measure
from zsei.checkpoint.subjects import Subjects
from zsei.checkpoint.tasks import MeasureTask, Task, TaskResult
from zsei.engines.engine import Work


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
    """One task, on the subject with the weights of its checkpoint."""
    subject = subjects.at(task.snapshot)
    if isinstance(task, MeasureTask):
        return measure(subject, task, subjects.job)
    return decide(subject, task, subjects.job)
