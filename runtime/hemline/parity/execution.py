"""Runs files on images: several at a time, and Core ML where it cannot take this process along."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.coreml import device as coreml_device
from hemline.engines import engine_for
from hemline.engines.coreml import DEFAULT_COMPUTE_UNITS, CoreMLEngine
from hemline.errors import EngineUnavailableError, ModelFileError, UnknownOperationError
from hemline.listing import Listed
from hemline.model import open_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A file to run.

    Attributes:
        path: the file.
        listed: what its manifest says of it.
        engine: what runs it; None for the engine that `load` takes.
        count: on the first so many images only; None: on all.
        may_be_refused: an engine that refuses the file is a result, and no error.
    """

    path: Path
    listed: Listed
    engine: str | None
    count: int | None = None
    may_be_refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What came of a job.

    Attributes:
        engine: what ran it, or would have.
        version: the engine's own; empty if nothing ran.
        outputs: float32 (n, *output shape); None if there are none.
        reason: why there are none.
        crashed: because the engine took its process along, and not for want of one.
    """

    engine: str
    version: str = ""
    outputs: NDArray[np.float32] | None = None
    reason: str = ""
    crashed: bool = False


def run_jobs(
    jobs: Sequence[Job], images: NDArray[Any], progress: Callable[[str], None] = lambda _: None
) -> list[Run]:
    """Runs each job on all images, as many at a time as there are cores.

    Engines let go of Python's lock while they compute, TensorFlow Lite Micro aside, so threads are
    enough; but Core ML, whose failures may kill their process, runs in children, one after the
    other.

    Args:
        jobs: what to run.
        images: as `Model.outputs` takes a batch.
        progress: is told what is being run.

    Raises:
        HemlineError: a file cannot be loaded, or the images do not fit.
    """
    calls = [_prepare(job, images) for job in jobs]
    with _one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = []
        for job, run in zip(jobs, pool.map(lambda call: call(), calls), strict=True):
            progress(f"ran {job.path.name}")
            runs.append(run)
    return runs


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keeps NumPy's BLAS to a thread, as jobs take all cores already, if threadpoolctl is there."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield


def _prepare(job: Job, images: NDArray[Any]) -> Callable[[], Run]:
    """Opens a job's file, here and now; returns what runs it."""
    refusals: tuple[type[Exception], ...] = (EngineUnavailableError, UnknownOperationError)
    if job.may_be_refused:
        refusals = (*refusals, ModelFileError)
    name = job.engine or ""
    try:
        engine = engine_for(job.path, job.engine)
        if engine is CoreMLEngine:
            run = _run_core_ml(job, images)
            return lambda: run
        name = engine.name
        model = open_model(job.path, engine, listed=job.listed)
    except refusals as error:
        refused = Run(engine=name, reason=str(error))
        return lambda: refused

    def call() -> Run:
        try:
            outputs = model.outputs(images[: job.count])
        except UnknownOperationError as error:
            return Run(engine=model.engine.name, reason=str(error))
        return Run(
            engine=model.engine.name,
            version=model.engine.version(),
            outputs=outputs,
        )

    return call


def _run_core_ml(job: Job, images: NDArray[Any]) -> Run:
    outputs, answer = coreml_device.run_package(
        job.path, DEFAULT_COMPUTE_UNITS, images, expected_sha256=job.listed.sha256
    )
    if outputs is None:
        return Run(
            engine=CoreMLEngine.name, reason=answer.failure or "", crashed=not answer.refused
        )
    return Run(engine=CoreMLEngine.name, version=CoreMLEngine.version(), outputs=outputs)
