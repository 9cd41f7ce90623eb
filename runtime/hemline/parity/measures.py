"""How far the outputs of two models lie apart, and how well their probabilities are calibrated.

Every function refuses nothing: NaN in, NaN out. `hemline.parity.verify` looks for NaN first.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The least probability that a logarithm is taken of, as in Keras's cross-entropy.
EPSILON = 1e-7
_BINS = 15


def cross_entropy(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Returns the mean cross-entropy in nats.

    Args:
        probabilities: float32 (n, classes).
        labels: int64 (n,).
    """
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(of_label, EPSILON, 1)).mean())


def mean_kl(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Returns the mean Kullback-Leibler divergence of `other` from `reference`, in nats.

    Args:
        reference: probabilities, float32 (n, classes).
        other: the same shape.
    """
    p = np.clip(reference.astype(np.float64), EPSILON, 1)
    q = np.clip(other.astype(np.float64), EPSILON, 1)
    return float((p * np.log(p / q)).sum(axis=1).mean())


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Returns the signal-to-quantization-noise ratio in dB: 10·log10(Σ r² / Σ (r − o)²).

    None where the two are equal (no noise), or where the reference is all zero (no signal).
    """
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(reference, other, dtype=np.float64)).sum())
    return decibels(signal, noise)


def decibels(signal: float, noise: float) -> float | None:
    """Returns 10·log10(signal / noise) of two powers; None where either is 0."""
    return 10 * math.log10(signal / noise) if signal and noise else None


def cosine_similarity(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Returns the cosine of the angle between two tensors of one shape, read as vectors.

    1 if both are zero, 0 if one is.
    """
    r, o = (tensor.astype(np.float64).ravel() for tensor in (reference, other))
    lengths = math.sqrt(float(r @ r) * float(o @ o))
    return float(r @ o) / lengths if lengths else float(not r.any() and not o.any())


def calibration_error(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Returns the expected calibration error in [0, 1], with 15 bins of equal width.

    The mean distance of confidence and accuracy over bins of top-1 confidence, weighted by their
    samples. Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3.

    Args:
        probabilities: float32 (n, classes).
        labels: int64 (n,).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # Bins are open below and closed above, as in the paper.
    bins = np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))
