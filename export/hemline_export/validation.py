"""What files are chosen by: their accuracy on validation samples, paired with the float model's."""

from dataclasses import replace
from pathlib import Path

from hemline.model import Model, load
from hemline.parity.judgement import labels_of
from hemline.parity.paired import PairedResult, compare_paired
from hemline.samples import Samples, resolve_samples
from hemline_export.export import Prepared
from hemline_export.keras_engine import KerasEngine
from hemline_export.tuning import hold_out


def split_validation(
    prepared: Prepared, calibration: str | None, validation: str | None
) -> tuple[Prepared, Samples, str]:
    """Returns the model, the samples to judge on, and in words where they come from.

    Args:
        prepared: the model.
        calibration: what it was prepared with.
        validation: samples to judge on; None for the data set's own validation split, or a part
            held out of the calibration file, which the model is then not calibrated with.

    Raises:
        DataError: there are no such samples.
    """
    if validation is not None:
        samples = resolve_samples(validation, prepared.facts.dataset, "validation")
        return prepared, samples, samples.source
    rest, samples, source = hold_out(prepared.samples, calibration, prepared.facts.dataset)
    record = prepared.calibration
    kept = replace(prepared, samples=rest).recalibrate(count=record.count, seed=record.seed)
    return kept, samples, source


class ValidationJudge:
    """A float classifier's answers on validation samples, to hold its artifacts' against.

    Attributes:
        count: how many samples there are.
        float_accuracy: the float model's on them, in [0, 1].
    """

    def __init__(self, prepared: Prepared, samples: Samples) -> None:
        self._images, self._labels = samples.images, labels_of(prepared.facts, samples)
        path = prepared.keras_file
        reference = Model(path, KerasEngine(path, threads=1), prepared.facts)
        self._right = reference.outputs(self._images).argmax(axis=1) == self._labels
        self.count, self.float_accuracy = len(samples), float(self._right.mean())

    def compare(self, path: Path, margin_pt: float) -> PairedResult:
        """Returns an artifact's accuracy against the float model's."""
        right = load(path, trust=True).outputs(self._images).argmax(axis=1) == self._labels
        return compare_paired(
            n=self.count,
            b=int((self._right & ~right).sum()),
            c=int((~self._right & right).sum()),
            margin_pt=margin_pt,
        )
