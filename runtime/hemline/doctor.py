"""`hemline doctor`: what is installed here, which engines run, and whether they predict."""

from dataclasses import dataclass

import numpy as np

from hemline.bundled import bundled_models
from hemline.engines import BUILT_IN, engine_named
from hemline.errors import EngineUnavailableError, HemlineError
from hemline.host import Host, describe_host
from hemline.model import load

SCHEMA = "hemline.doctor/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """One of Hemline's own engines on this machine.

    Attributes:
        name: the engine's name.
        suffix: of the files that it runs.
        version: its own; None if it does not run here.
        reason: why it does not run here; None if it does.
    """

    name: str
    suffix: str
    version: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One prediction with a model that comes with Hemline.

    Attributes:
        model: its name.
        engine: what ran it; None if nothing did.
        reason: why no prediction came out; None if one did.
    """

    model: str
    engine: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is installed here and what works.

    Attributes:
        host: the machine and the versions of what has a part in results.
        engines: all of Hemline's own.
        trials: a prediction with each model that comes with Hemline.
    """

    host: Host
    engines: tuple[EngineState, ...]
    trials: tuple[Trial, ...]

    @property
    def is_well(self) -> bool:
        """Some engine runs, and each model that comes with Hemline predicts."""
        runs = any(engine.reason is None for engine in self.engines)
        return runs and all(trial.reason is None for trial in self.trials)


def diagnose() -> Diagnosis:
    """Looks for each engine, and tries each model that comes with Hemline on a black image."""
    return Diagnosis(
        host=describe_host(),
        engines=tuple(
            _state(name, suffix) for suffix, engines in BUILT_IN.items() for name in engines
        ),
        trials=tuple(_try(name) for name in bundled_models()),
    )


def _state(name: str, suffix: str) -> EngineState:
    try:
        engine = engine_named(suffix, name)
        reason = engine.why_unavailable()
    except EngineUnavailableError as error:
        reason = str(error)
    version = engine.version() if reason is None else None
    return EngineState(name=name, suffix=suffix, version=version, reason=reason)


def _try(name: str) -> Trial:
    try:
        with load(bundled_models()[name]) as model:
            facts = model.require_facts().input
            model.outputs(np.zeros(facts.shape, np.uint8))
            return Trial(model=name, engine=model.engine.name, reason=None)
    except HemlineError as error:
        return Trial(model=name, engine=None, reason=str(error))
