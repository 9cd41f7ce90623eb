"""A model file, loaded: images in, class probabilities or other outputs out."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.documents import decode, to_json
from hemline.engines import Engine, engine_for
from hemline.errors import EngineUnavailableError, InputError, ManifestError, ModelFileError
from hemline.facts import EMBEDDED_SCHEMA, EmbeddedFacts, ModelFacts
from hemline.manifest import FILE_NAME, Manifest, check_sha256, read_manifest
from hemline.tensors import ImageReader, OutputReader

# Engines without a fixed batch get this many images at a time, to bound memory.
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What a classifier says of n images.

    Attributes:
        probabilities: float32 (n, classes).
        class_names: a name for each class.
    """

    probabilities: NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def indices(self) -> NDArray[np.int64]:
        """The most probable class of each image, int64 (n,)."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def labels(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.class_names[i] for i in self.indices]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """Returns the k most probable classes of each image, with their probabilities."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.class_names[i], float(row[i])) for i in best]
            for row, best in zip(self.probabilities, order, strict=True)
        ]


class Model:
    """A model file opened by its engine. Made by `load`.

    One call runs at a time: several threads may share a Model, but gain no speed by it.

    Attributes:
        path: the file.
        engine: what runs it.
        facts: labels, preprocessing and more, or None for a file that Hemline did not make.
    """

    def __init__(self, path: Path, engine: Engine, facts: ModelFacts | None) -> None:
        self.path = path
        self.engine = engine
        self.facts = facts
        self._lock = threading.Lock()
        if facts is not None:
            self._labels = facts.labels
            self._images = ImageReader(facts.input, engine.input)
            self._outputs = OutputReader(engine.output, facts.output_shape)

    def predict(self, images: NDArray[Any]) -> Prediction:
        """Classifies one image or a batch.

        Args:
            images: as `outputs` takes them.

        Raises:
            InputError: as `outputs`; or the model is no classifier.
        """
        probabilities = self.outputs(images)
        if not self._labels:
            raise InputError(
                f"{self.path.name} is for the task {self.require_facts().task}, not "
                "classification, so it has no classes to predict: use outputs()"
            )
        return Prediction(probabilities=probabilities, class_names=self._labels)

    def outputs(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Runs one image or a batch, whatever the task.

        Args:
            images: uint8 pixels, or float32 values in the model's input range; of the model's
                image shape for one image, with n in front for a batch. A last axis of size 1
                may be left out.

        Returns:
            float32 (n, *output shape); for a classifier its probabilities.

        Raises:
            InputError: wrong shape, dtype or values (NaN included), or the file carries no
                facts, so its preprocessing is not known: `run` takes raw tensors.
        """
        facts, batch = self.require_facts(), self._images.batch(images)
        if len(batch) == 1:
            return self._outputs.read(self.run(self._images.tensor(batch)))
        step = _CHUNK if self.engine.input.shape[0] is None else 1
        outputs = np.empty((len(batch), *facts.output_shape), np.float32)
        for start in range(0, len(batch), step):
            tensor = self._images.tensor(batch[start : start + step])
            outputs[start : start + step] = self._outputs.read(self.run(tensor))
        return outputs

    def tensor(self, images: NDArray[Any]) -> NDArray[Any]:
        """Returns the tensor that `outputs` would give the engine for one image or a batch.

        Raises:
            InputError: as `outputs`.
        """
        self.require_facts()
        return self._images.tensor(self._images.batch(images))

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Runs the engine once on a tensor of exactly the file's own input shape and dtype."""
        with self._lock:
            return self.engine.run(tensor)

    def require_facts(self) -> ModelFacts:
        """Returns the facts.

        Raises:
            InputError: the file carries none.
        """
        if self.facts is None:
            raise InputError(
                f"{self.path.name} has no Hemline facts, so its preprocessing is not known: "
                "use run() with a tensor, or export the model with Hemline"
            )
        return self.facts


def load(
    path: str | Path,
    threads: int = 1,
    *,
    engine: str | None = None,
    compute_units: str | None = None,
) -> Model:
    """Opens a model file.

    A manifest beside the file that lists it decides: the file's SHA-256 must be the recorded
    one. Without a manifest, the facts inside the file are used.

    Args:
        path: a .tflite or .onnx file, or an .mlpackage folder.
        threads: how many threads the engine may use, at least 1.
        engine: what runs it; None for the suffix's own. An .mlpackage runs in `coreml` on macOS;
            `coreml-reference` evaluates it anywhere, slowly, and not as Apple's hardware does to
            the last bit. `litert-builtin` runs a .tflite file without XNNPACK.
        compute_units: for Core ML, what it may run on: CPU_AND_NE (the default), ALL, CPU_ONLY
            or CPU_AND_GPU.

    Raises:
        InputError: threads is below 1, or the engine knows no such compute units.
        ModelFileError: there is no such file, its engine refuses it, or `engine` is not one for
            such files.
        ChecksumError: it is not the file that its manifest records.
        ManifestError: its manifest or the facts inside it are not valid.
        EngineUnavailableError: its engine is not installed or not for this system.
    """
    path = Path(path)
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    if not path.exists():
        raise ModelFileError(f"there is no model file {path}")
    engine_class = engine_for(path, engine)
    facts = _facts_from_manifest(path)
    if compute_units is None:
        opened = engine_class(path, threads)
    else:
        _check_compute_units(engine_class, compute_units)
        opened = engine_class(path, threads, compute_units)
    if facts is None:
        embedded = embedded_facts(path, opened.embedded_facts())
        facts = embedded.model if embedded else None
    return Model(path, opened, facts)


def _check_compute_units(engine_class: type[Engine], compute_units: str) -> None:
    known = engine_class.compute_units
    if not known:
        raise InputError(
            f"compute units {compute_units!r}: {engine_class.name}, which runs this file, has no "
            "choice of compute units; leave them out"
        )
    if compute_units not in known:
        raise InputError(f"compute units {compute_units!r}: expected one of {', '.join(known)}")


def embedded_facts(path: Path, content: bytes | None) -> EmbeddedFacts | None:
    """Parses the facts document found inside a file.

    Raises:
        ManifestError: it is not valid.
    """
    if content is None:
        return None
    return decode(EMBEDDED_SCHEMA, EmbeddedFacts, content, f"facts inside {path}")


def check_embedded_facts(folder: Path, manifest: Manifest) -> None:
    """Raises unless a manifest says of each artifact what the facts inside its file say.

    A file of a kind that nothing installed here can read is passed over.

    Raises:
        ManifestError: they differ, or a file holds no valid facts.
        ModelFileError: a file cannot be read.
    """
    for artifact in manifest.artifacts:
        path = folder / artifact.file
        try:
            found = embedded_facts(path, engine_for(path).read_facts(path))
        except EngineUnavailableError:
            continue
        if found is None:
            raise ManifestError(
                f"{path} is listed in its manifest, but holds no facts of its own, as every "
                "exported file does: restore it, or export again"
            )
        stated = to_json(EmbeddedFacts(model=manifest.model, artifact=artifact.facts))
        difference = _first_difference(stated, to_json(found))
        if difference:
            key, in_manifest, in_file = difference
            raise ManifestError(
                f"{path}: {key} is {in_manifest!r} in its manifest and {in_file!r} inside the "
                "file; one of them was changed after the export: restore it, or export again"
            )


def _first_difference(one: Any, other: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Returns the dotted key of the first difference in JSON, and what stands there in each."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(f"{key}.{k}" if key else k, one.get(k), other.get(k)) for k in one | other]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{key}[{i}]", *both) for i, both in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other else (key, one, other)
    found = (_first_difference(a, b, name) for name, a, b in pairs)
    return next((difference for difference in found if difference), None)


def _facts_from_manifest(path: Path) -> ModelFacts | None:
    if not (path.parent / FILE_NAME).is_file():
        return None
    manifest = read_manifest(path.parent)
    recorded = manifest.sha256_by_file().get(path.name)
    if recorded is None:
        return None
    check_sha256(path, recorded)
    return manifest.model
