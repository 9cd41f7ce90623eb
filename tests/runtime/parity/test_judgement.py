from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemline.artifact_facts import ArtifactFacts
from hemline.errors import DataError
from hemline.facts import ModelFacts
from hemline.parity.bootstrap import compare_losses
from hemline.parity.judgement import Judgement, explain_growth, judge_for, require_fit
from hemline.samples import Samples

Outputs = NDArray[np.float32]


def make_samples(images: NDArray[Any], **truth: Any) -> Samples:
    indices = np.arange(len(images), dtype=np.int64)
    return Samples(images=images, indices=indices, source="s.npz", split="file", **truth)


@pytest.fixture
def tensors(model_facts: ModelFacts) -> ModelFacts:
    return replace(model_facts, task="tensors", labels=(), floor_accuracy=None)


@pytest.fixture
def bounds(artifact_facts: ArtifactFacts) -> ArtifactFacts:
    return replace(artifact_facts, margin_pt=None, least_sqnr_db=20.0, least_cosine=0.9)


def judge_tensors(
    facts: ModelFacts, bounds: ArtifactFacts, reference: Outputs, outputs: Outputs
) -> Judgement:
    samples = make_samples(np.zeros((len(reference), 2, 2, 1), np.uint8))
    return judge_for(facts, samples, reference).judge(bounds, outputs, ())


def test_tensors_are_held_to_sqnr(tensors: ModelFacts, bounds: ArtifactFacts) -> None:
    reference = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 10.0]], np.float32)
    near, far = (reference + np.float32(noise) for noise in (0.4, 0.5))
    # The signal is 125, the noise six times 0.16 or 0.25: 21.1 and 19.2 dB.
    found = judge_tensors(tensors, bounds, reference, near)
    assert found.verdict == "PASS"
    fidelity = found.measures["fidelity"]
    assert fidelity.sqnr_db == pytest.approx(21.147, abs=1e-3)
    assert fidelity.max_change == pytest.approx(0.4)
    assert fidelity.least_sqnr_db == 20.0
    found = judge_tensors(tensors, bounds, reference, far)
    assert found.verdict == "FAIL"
    assert found.reason.startswith("SQNR is 19.2 dB, below 20 dB; ")


def test_tensors_are_held_to_the_cosine_of_each_sample(
    tensors: ModelFacts, bounds: ArtifactFacts
) -> None:
    # The second sample is turned by a right angle, but too small for the SQNR to show it.
    reference = np.array([[100.0, 0, 0], [0.1, 0, 0], [0, 0, 0]], np.float32)
    outputs = np.array([[100.0, 0, 0], [0, 0.1, 0], [0, 0, 0]], np.float32)
    found = judge_tensors(tensors, bounds, reference, outputs)
    assert found.verdict == "FAIL"
    assert found.reason.startswith("the mean cosine is 0.666667, below 0.9; the lowest is 0.000000")
    assert found.measures["fidelity"].lowest_cosine_sample == 1


def test_equal_tensors_pass_and_tensors_for_nothing_fail(
    tensors: ModelFacts, bounds: ArtifactFacts
) -> None:
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    for same in (zeros, ones):
        found = judge_tensors(tensors, bounds, same, same.copy())
        assert (found.verdict, found.measures["sqnr_db"]) == ("PASS", None)
    found = judge_tensors(tensors, bounds, zeros, ones)
    assert found.verdict == "FAIL"
    assert found.reason.startswith("the float model's outputs are all 0, and these are not")
    assert judge_tensors(tensors, bounds, ones, zeros).verdict == "FAIL"


def test_values_at_the_ends_of_float32(tensors: ModelFacts, bounds: ArtifactFacts) -> None:
    reference = np.full((2, 3), 3e38, np.float32)
    found = judge_tensors(tensors, bounds, reference, -reference)
    assert found.verdict == "FAIL"
    assert found.measures["fidelity"].max_change == pytest.approx(6e38)


def test_an_autoencoder_is_held_to_its_own_input(
    model_facts: ModelFacts, artifact_facts: ArtifactFacts
) -> None:
    facts = replace(
        model_facts, task="autoencoder", labels=(), floor_accuracy=None, output_shape=(2, 2, 1)
    )
    bounds = replace(artifact_facts, margin_pt=None, margin_loss_percent=10.0)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 2, 2), np.uint8)
    values = (pixels / np.float32(255))[..., np.newaxis]
    reference = values + np.float32(0.5)
    for images in (pixels, values):
        judge = judge_for(facts, make_samples(images), reference)
        assert judge.measure_float() == {"loss": pytest.approx(0.25)}
        found = judge.judge(bounds, values - np.float32(0.55), ())
        assert found.verdict == "FAIL"
        assert found.measures["loss"] == pytest.approx(0.3025)
        assert found.measures["loss_growth"].growth_percent == pytest.approx(21)
        step = judge.measure_step("int8", ("a", reference), ("b", values + np.float32(1)))
        assert step.loss_change_percent == pytest.approx(300)


def test_samples_must_have_what_the_task_needs(model_facts: ModelFacts) -> None:
    images = np.zeros((3, 2, 2), np.uint8)
    with pytest.raises(DataError, match=r"s\.npz has no `labels`"):
        require_fit(model_facts, make_samples(images))
    regression = replace(model_facts, task="regression", labels=(), floor_accuracy=None)
    with pytest.raises(DataError, match=r"s\.npz has no `targets`"):
        require_fit(regression, make_samples(images, labels=np.arange(3)))
    for shape in ((3, 3), (3,), (3, 1)):
        one = replace(regression, output_shape=(3,) if shape == (3, 3) else (1,))
        require_fit(one, make_samples(images, targets=np.zeros(shape, np.float32)))
    with pytest.raises(DataError, match=r"targets of shape \(3,\), the model gives \(3, 3\)"):
        require_fit(regression, make_samples(images, targets=np.zeros(3, np.float32)))


def test_reasons() -> None:
    ones = np.ones(100)
    for losses, margin, reason in (
        (ones, 1.0, "with 95 % confidence the loss grows by less than +1 % (+0 %)"),
        (1.5 * ones, 1.0, "with 95 % confidence the loss grows by more than +1 % (+50 %)"),
    ):
        found = compare_losses(ones, losses, margin_percent=margin)
        assert explain_growth(found) == reason
    few = compare_losses(ones[:20], ones[:20], margin_percent=1.0)
    assert explain_growth(few) == (
        "the loss may grow by more or less than +1 %; 50 samples like these would settle it"
    )


@pytest.mark.parametrize("value", [3.4e38, -3.4e38, -1.0, 0.5])
def test_a_classifier_is_compared_with_probabilities_alone(
    model_facts: ModelFacts, value: float
) -> None:
    samples = make_samples(np.zeros((2, 2, 2, 1), np.uint8), labels=np.array([0, 1]))
    reference = np.array([[0.5, 0.25, 0.25], [value] * 3], np.float32)
    with pytest.raises(DataError, match="are no probabilities: those of sample 1 sum to "):
        judge_for(model_facts, samples, reference)
