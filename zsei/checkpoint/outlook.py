"""What a run's checkpoints must look like and what analysing them will take, said beforehand."""

import os
from dataclasses import replace
from math import ceil

import psutil

from zsei.checkpoint.estimate import Estimate, estimate
from zsei.checkpoint.job import Job
from zsei.checkpoint.probe import probe_job
from zsei.checkpoint.weights.fit import Frame, frame_of, layers_of
from zsei.subject.load import load_model


def look_ahead(job: Job, workers: int | None = None) -> tuple[Frame, Estimate]:
    """Load the model of a job once and try it with one batch of its data.

    Args:
        job: Its model is a name, as on the command line.
        workers: Workers at most; None leaves it to the configuration.

    Raises:
        ZseiError: Model or data cannot be loaded, or do not fit each other.
    """
    assert isinstance(job.model, str)
    loaded = load_model(job.model, job.settings)
    given = loaded.data if job.data is None else job.data
    probe = probe_job(replace(job, model=loaded.model, data=given))
    frame = frame_of(loaded.model)
    elesh, config = job.config.elesh, job.config
    if workers is not None:
        elesh = elesh.model_copy(update={"analysis_workers_per_gpu": workers})
        config = config.model_copy(update={"elesh": elesh})
    return frame, estimate(
        probe, config, batches=probe.batches, backwards=job.settings.probes,
        groups=max(1, ceil(layers_of(frame) / elesh.layers_per_worker)), cores=os.cpu_count() or 1,
        room_bytes=psutil.virtual_memory().available,
    )  # fmt: skip
