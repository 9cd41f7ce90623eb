"""A model file, loaded: images in, class probabilities or other outputs out."""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

import numpy as np

from hemline.commit import newest
from hemline.documents import decode, to_json
from hemline.engines import Engine, engine_for, engine_names
from hemline.engines.base import require_one
from hemline.errors import (
    EngineUnavailableError,
    HemlineError,
    InputError,
    ManifestError,
    ModelFileError,
)
from hemline.facts import ModelFacts, TensorSpec
from hemline.files import describe_unread
from hemline.limits import THREADS
from hemline.listing import FILE_NAME, Listed, find_listed
from hemline.snapshot import Snapshot
from hemline.tensors import ImageReader, OutputReader, plain_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hemline.artifact_facts import ArtifactFacts, EmbeddedFacts
    from hemline.manifest import Manifest

# This many images of a batch are preprocessed at a time, to bound memory.
_CHUNK = 256
# Of a folder's artifacts, this recipe's is loaded if its engine is installed.
_FIRST_CHOICE = "int8"


# Neither frozen nor keyword-only: each would cost a third of a microsecond more, in every call.
@dataclass(slots=True, eq=False)
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
        """Returns the k most probable classes of each image, with their probabilities.

        Raises:
            InputError: k is below 1.
        """
        if k < 1:
            raise InputError(f"the k most probable classes are 1 or more, got {k}")
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.class_names[i], float(row[i])) for i in best]
            for row, best in zip(self.probabilities, order, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a loaded model.

    Attributes:
        file: its file name.
        engine: what runs it.
        engine_version: the engine's own.
        inputs: the file's input tensors, in order.
        outputs: the file's output tensors, in order.
        facts: labels, preprocessing and more; None for a file that Hemline did not make.
        artifact: how the file was made; None for a file that Hemline did not export.
    """

    file: str
    engine: str
    engine_version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    facts: ModelFacts | None
    artifact: ArtifactFacts | None


class Model:
    """A model file opened by its engine. Made by `load`; a context manager that closes it.

    Several threads may share a Model: one call runs at a time and the others wait, so they gain
    no speed by it. For that, load the file once for each thread, as engines let go of Python's
    lock while they compute.

    Attributes:
        path: the file.
        engine: what runs it.
        facts: labels, preprocessing and more, or None for a file that Hemline did not make.
        snapshot: what was opened; None for a model that no file was read for.
    """

    def __init__(
        self,
        path: Path,
        engine: Engine,
        facts: ModelFacts | None,
        snapshot: Snapshot | None = None,
    ) -> None:
        self.path = path
        self.engine = engine
        self.facts = facts
        # Keeps what an engine reads by itself for as long as it may read on.
        self.snapshot = snapshot
        # What threading.Lock is, without half a millisecond of imports.
        self._lock = allocate_lock()
        self._labels: tuple[str, ...] = ()
        self._images: ImageReader | None = None
        if facts is not None:
            self._labels = facts.labels
            self._images = ImageReader(facts.input, require_one(path, "input", engine.inputs))
            output = require_one(path, "output", engine.outputs)
            self._outputs = OutputReader(output, facts.output_shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the engine and its memory. A later call raises InputError."""
        with self._lock:
            self.engine = cast(Engine, _Closed(self.path))
            self.snapshot = None

    @property
    def artifact(self) -> ArtifactFacts | None:
        """How the file was made, as it says itself; None for one that Hemline did not export."""
        found = embedded_facts(self.path, self.engine.embedded_facts())
        return found.artifact if found else None

    @property
    def info(self) -> ModelInfo:
        """What is known of the model and its file."""
        return ModelInfo(
            file=self.path.name,
            engine=self.engine.name,
            engine_version=self.engine.version(),
            inputs=self.engine.inputs,
            outputs=self.engine.outputs,
            facts=self.facts,
            artifact=self.artifact,
        )

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
        return Prediction(probabilities, self._labels)

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
            ModelFileError: the engine cannot run the file.
        """
        reader, lock = self._images, self._lock
        if reader is not None:
            # As `with lock` does, a sixth of a microsecond faster.
            lock.acquire()
            try:
                tensor = reader.one(images)
                if tensor is not None:
                    return self._outputs.read(self.engine.run(tensor))
            finally:
                lock.release()
        return self._outputs_of_batch(images)

    def _outputs_of_batch(self, images: NDArray[Any]) -> NDArray[np.float32]:
        facts, reader = self.require_facts(), self._require_images()
        batch = reader.batch(images)
        takes_any_batch = self.engine.inputs[0].shape[0] is None
        outputs = np.empty((len(batch), *facts.output_shape), np.float32)
        for start in range(0, len(batch), _CHUNK):
            tensors = reader.tensor(batch[start : start + _CHUNK])
            raw = self._run(tensors) if takes_any_batch else self._run_each(tensors)
            outputs[start : start + _CHUNK] = self._outputs.read(raw)
        return outputs

    def _run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        with self._lock:
            return self.engine.run(tensor)

    def _run_each(self, tensors: NDArray[Any]) -> NDArray[Any]:
        lock, run, outputs = self._lock, self.engine.run, []
        for i in range(len(tensors)):
            with lock:
                outputs.append(run(tensors[i : i + 1]))
        return np.concatenate(outputs)

    def tensor(self, images: NDArray[Any]) -> NDArray[Any]:
        """Returns the tensor that `outputs` would give the engine for one image or a batch.

        Raises:
            InputError: as `outputs`.
        """
        reader = self._require_images()
        return reader.tensor(reader.batch(images))

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Runs a file of one input and one output once, on a raw tensor.

        Args:
            tensor: of exactly the file's own input shape and dtype.

        Returns:
            The file's own output tensor.

        Raises:
            InputError: the tensor does not fit the file's input.
            ModelFileError: the file has several inputs or outputs, which `run_all` takes; or its
                engine cannot run it.
        """
        source = require_one(self.path, "input", self.engine.inputs)
        result = require_one(self.path, "output", self.engine.outputs)
        return self.run_all({source.name: tensor})[result.name]

    def run_all(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs any file once, on raw tensors by the names of its inputs.

        Args:
            tensors: one for each input, of exactly its shape and dtype.

        Returns:
            The file's own output tensors, by name.

        Raises:
            InputError: a tensor is missing, unknown or does not fit.
            ModelFileError: the engine cannot run the file.
        """
        names = [spec.name for spec in self.engine.inputs]
        # Subclasses, such as numpy.matrix, keep shapes of their own.
        tensors = {name: plain_array(tensor) for name, tensor in tensors.items()}
        if set(tensors) != set(names):
            raise InputError(
                f"{self.path.name} takes tensors named {', '.join(names)}; got "
                f"{', '.join(tensors) or 'none'}"
            )
        for spec in self.engine.inputs:
            _require_fit(self.path, spec, tensors[spec.name])
        with self._lock:
            found = self.engine.run_all([tensors[name] for name in names])
        return {spec.name: tensor for spec, tensor in zip(self.engine.outputs, found, strict=True)}

    def _require_images(self) -> ImageReader:
        self.require_facts()
        return cast(ImageReader, self._images)

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


class _Closed:
    """Stands where the engine of a closed model was."""

    def __init__(self, path: Path) -> None:
        self._file = path.name

    def __getattr__(self, _: str) -> NoReturn:
        raise InputError(f"{self._file} is closed: load it again")


def _require_fit(path: Path, spec: TensorSpec, tensor: NDArray[Any]) -> None:
    if (
        not isinstance(tensor, np.ndarray)
        or tensor.dtype != spec.dtype
        or len(tensor.shape) != len(spec.shape)
        or any(size not in (None, own) for own, size in zip(tensor.shape, spec.shape, strict=True))
    ):
        found = (
            f"{tensor.dtype} {list(tensor.shape)}"
            if isinstance(tensor, np.ndarray)
            else type(tensor).__name__
        )
        shape = ["any" if size is None else size for size in spec.shape]
        raise InputError(
            f"{path.name}: the tensor {spec.name} is {found}; expected a NumPy array of "
            f"{spec.dtype} [{', '.join(map(str, shape))}]"
        )


def load(
    path: str | Path,
    *,
    engine: str | None = None,
    threads: int = 1,
    compute_units: str | None = None,
    trust: bool = False,
) -> Model:
    """Opens a model file.

    A manifest beside the file that lists it decides: the file's SHA-256 must be the recorded
    one. Without a manifest, the facts inside the file are used. A file that has none, because
    another tool made it, runs on raw tensors.

    A file that no manifest lists is first opened and run once in a child process, with limits of
    time and memory, so that one that crashes or hangs its engine is an error here.

    Args:
        path: a .tflite or .onnx file, or an .mlpackage folder; or a folder of them. Of those that
            its manifest lists and that are there, the int8 artifact is taken if its engine is
            installed, else the first one whose engine is. Without a manifest there must be just
            one.
        engine: what runs it; None for the suffix's own. An .mlpackage runs in `coreml` on macOS;
            `coreml-reference` evaluates it anywhere, slowly, and not as Apple's hardware does to
            the last bit. `litert-builtin` runs a .tflite file without XNNPACK, `micro` in
            TensorFlow Lite Micro.
        threads: how many threads the engine may use, from 1 to 1,024.
        compute_units: for Core ML, what it may run on: CPU_AND_NE (the default), ALL, CPU_ONLY
            or CPU_AND_GPU.
        trust: opens a file that no manifest lists here at once, without a child process.

    Raises:
        InputError: threads is out of range, or the engine knows no such compute units.
        ModelFileError: there is no such file, its engine refuses it or crashes or hangs over it,
            or `engine` is not one for such files.
        ChecksumError: it is not the file that its manifest records.
        ManifestError: its manifest or the facts inside it are not valid.
        EngineUnavailableError: its engine is not installed or not for this system.
    """
    path = Path(path)
    if not 1 <= threads <= THREADS:
        raise InputError(f"threads must be at least 1 and at most {THREADS:,}, got {threads}")
    try:
        return _load(path, engine, threads, compute_units, trust)
    # A name that is too long, or a folder that this user may not enter.
    except (OSError, ValueError) as error:
        if isinstance(error, HemlineError):
            raise
        raise ModelFileError(describe_unread(path, error)) from error


def _load(
    path: Path, engine: str | None, threads: int, compute_units: str | None, trust: bool
) -> Model:
    if not newest(path).exists():
        raise ModelFileError(f"there is no model file {path}")
    if path.is_dir() and not engine_names(path):
        return _load_folder(path, engine, threads, compute_units, trust)
    engine_class = engine_for(path, engine)
    if compute_units is not None:
        _check_compute_units(engine_class, compute_units)
    listed = find_listed(path)
    digest = None
    if listed is None and not trust:
        # Costs milliseconds, which a listed file need not pay.
        from hemline import guard

        digest = guard.try_file(path, engine=engine, compute_units=compute_units)
    return open_model(
        path,
        engine_class,
        threads=threads,
        compute_units=compute_units,
        digest=digest,
        listed=listed,
    )


def open_model(
    path: Path,
    engine_class: type[Engine],
    *,
    threads: int = 1,
    compute_units: str | None = None,
    digest: str | None = None,
    listed: Listed | None = None,
) -> Model:
    """Opens a file in this process.

    Args:
        path: the file.
        engine_class: what runs it.
        threads: how many threads the engine may use.
        compute_units: as for `load`.
        digest: the SHA-256 that a file has that no manifest lists; None: any.
        listed: what its manifest says of it; None: the facts inside the file are used.

    Raises:
        ModelFileError: the engine refuses it, or it has another SHA-256.
        ChecksumError: another than its manifest records.
        ManifestError: the facts inside it are not valid.
        EngineUnavailableError: its engine is not for this system.
    """
    snapshot = Snapshot(path, engine_class, listed)
    if digest is not None and snapshot.sha256 != digest:
        raise ModelFileError(f"{path} was changed while it was being opened; load it again")
    opened = snapshot.open(engine_class, threads, compute_units)
    if listed is not None:
        return Model(path, opened, listed.model, snapshot)
    found = embedded_facts(path, opened.embedded_facts())
    return Model(path, opened, found.model if found else None, snapshot)


def _load_folder(
    folder: Path, engine: str | None, threads: int, compute_units: str | None, trust: bool
) -> Model:
    """Opens the file of a folder that `load` is documented to take."""
    if newest(folder / FILE_NAME).is_file():
        from hemline.manifest import read_manifest

        artifacts = read_manifest(folder).artifacts
        files = [
            folder / artifact.file
            for artifact in sorted(artifacts, key=lambda a: a.facts.recipe != _FIRST_CHOICE)
            if newest(folder / artifact.file).exists()
        ]
    else:
        files = sorted(path for path in folder.iterdir() if engine_names(path))
        if len(files) != 1:
            raise ModelFileError(
                f"{folder} has no {FILE_NAME} and holds {len(files)} model files, expected one: "
                f"name the file to load{''.join(f', {path.name}' for path in files)}"
            )
    reasons = []
    for path in files:
        if engine is not None and engine not in engine_names(path):
            continue
        try:
            return load(
                path, engine=engine, threads=threads, compute_units=compute_units, trust=trust
            )
        except EngineUnavailableError as error:
            reasons.append(f"{path.name}: {error}")
    raise EngineUnavailableError(
        f"nothing in {folder} runs here: "
        f"{'; '.join(reasons) or f'the engine {engine} is for none of its files'}"
    )


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
    # Here and below, imported by what needs it: predicting with a listed file does not.
    from hemline.artifact_facts import EMBEDDED_SCHEMA, EmbeddedFacts

    return decode(EMBEDDED_SCHEMA, EmbeddedFacts, content, f"facts inside {path}")


def check_embedded_facts(folder: Path, manifest: Manifest) -> None:
    """Raises unless a manifest says of each artifact what the facts inside its file say.

    A file of a kind that nothing installed here can read is passed over.

    Raises:
        ManifestError: they differ, or a file holds no valid facts.
        ModelFileError: a file cannot be read.
        ChecksumError: it is not the one that the manifest records.
    """
    from hemline.artifact_facts import EmbeddedFacts

    for artifact in manifest.artifacts:
        path = folder / artifact.file
        try:
            engine = engine_for(path)
            snapshot = Snapshot(path, engine, manifest.listed(artifact.file))
            found = embedded_facts(path, snapshot.read_facts(engine))
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
