"""Where a loss comes from: the chain Keras → float export → recipe → engine, step by step.

Each step is measured against the one before, so that "the converter changed it", "the recipe
costs it" and "another engine computes it differently" can be told apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemline.parity.measures import sqnr_db

FLOAT_EXPORT = "float export"
ENGINE = "engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the chain.

    Attributes:
        name: `float export`, a recipe's name, or `engine` with the name of another.
        source: what came before: a file, or a file in an engine.
        target: what came of it.
        count: the samples that both ran on, the first of the test set.
        delta_pt: accuracy of the target less that of the source, in percentage points; this and
            the next two for classification, None for the other tasks.
        agreement: share of samples with the same top-1 class.
        max_probability_change: the largest |Δp|.
        loss_change_percent: mean loss of the target over that of the source, less 1, in percent;
            for regression and autoencoders, and None where the source's loss is 0.
        sqnr_db: of the target's outputs against the source's; None where they are equal.
    """

    name: str
    source: str
    target: str
    count: int
    delta_pt: float | None
    agreement: float | None
    max_probability_change: float | None
    loss_change_percent: float | None
    sqnr_db: float | None


def measure_step(
    name: str,
    before: tuple[str, NDArray[np.float32]],
    after: tuple[str, NDArray[np.float32]],
    labels: NDArray[np.int64] | None = None,
    mean_loss: Callable[[NDArray[np.float32]], float] | None = None,
) -> Step:
    """Measures what one step did to the outputs.

    Args:
        name: of the step.
        before: what it started from, and its outputs, float32 (n, …).
        after: what came of it, likewise, or of the first samples only.
        labels: int64 (n,), where the outputs are probabilities of classes.
        mean_loss: of outputs, where their task has a loss.
    """
    (source, p), (target, q) = before, after
    p = p[: len(q)]
    delta = agreement = change = growth = None
    if labels is not None:
        labels = labels[: len(q)]
        top, new_top = p.argmax(axis=1), q.argmax(axis=1)
        delta = 100 * float((new_top == labels).mean() - (top == labels).mean())
        agreement = float((top == new_top).mean())
        # What is no probability may be as large as float32 holds.
        change = float(np.abs(np.subtract(p, q, dtype=np.float64)).max())
    if mean_loss is not None:
        old, new = mean_loss(p), mean_loss(q)
        growth = 100 * (new / old - 1) if old else None
    return Step(
        name=name,
        source=source,
        target=target,
        count=len(q),
        delta_pt=delta,
        agreement=agreement,
        max_probability_change=change,
        loss_change_percent=growth,
        sqnr_db=sqnr_db(p, q),
    )


def explain_steps(steps: Sequence[Step]) -> str:
    """Returns the chain in a sentence that names the step with the most noise, if any has some."""
    noisy = [step for step in steps if step.sqnr_db is not None]
    if not noisy:
        return "no step changes an output"
    worst = min(noisy, key=lambda step: step.sqnr_db or 0.0)
    most = max(step.count for step in steps)
    chain = ", ".join(
        f"{step.name}{_describe_change(step)}"
        + (f" on {step.count} samples" if step.count < most else "")
        + (" (equal)" if step.sqnr_db is None else f" ({step.sqnr_db:.0f} dB)")
        for step in steps
    )
    if worst.name.startswith(ENGINE):
        meaning = "the engines compute the file differently"
    elif worst.name == FLOAT_EXPORT:
        meaning = "the converter changed the model"
    else:
        meaning = f"the recipe {worst.name} costs the most"
    return f"{chain}: {meaning}"


def _describe_change(step: Step) -> str:
    if step.delta_pt is not None:
        return f" {step.delta_pt:+.2f} pt"
    return "" if step.loss_change_percent is None else f" {step.loss_change_percent:+.2f} % loss"
