"""Proof that the gate can fail: good artifacts, broken in every way we could think of.

An artifact is broken and its manifest is edited to match, so that no checksum gives it away.
What the gate cannot see stands in docs/parity.md.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from hemline.engines.litert import LiteRTEngine
from hemline.errors import ChecksumError, ManifestError
from hemline.facts import Preprocessing
from hemline.files import sha256
from hemline.golden import selftest
from hemline.parity.verify import ArtifactParity, verify
from hemline_export.backend import keras
from hemline_export.export import Described, export
from hemline_export.freeze import freeze
from hemline_export.recipes import Choices, select_recipes
from hemline_export.tflite import embed_facts, tflite_from_frozen
from hemline_train.fashion_mnist import LABELS

FLOAT, INT8 = "separable.float32.tflite", "separable.int8.tflite"

layers = keras.layers


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "tampered"))


@pytest.fixture
def test_data(garments: Path) -> str:
    return str(garments / "test.npz")


@pytest.fixture(scope="module")
def int8_margin_pt(
    exported: Path, garments: Path, tmp_path_factory: pytest.TempPathFactory
) -> float:
    """A point more than the untouched int8 file may cost, which each small model decides."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("untouched") / "copy"))
    forge(folder, INT8)
    paired = judge(folder, str(garments / "test.npz")).paired
    assert paired is not None
    return max(0.0, -paired.one_sided_low_pt) + 1


def forge(folder: Path, file: str, content: bytes | None = None) -> None:
    """Replaces an artifact, leaves out the others, and makes the manifest agree."""
    if content is not None:
        (folder / file).write_bytes(content)
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    (artifact,) = [a for a in document["artifacts"] if a["file"] == file]
    artifact["sha256"] = sha256(folder / file)
    artifact["size_bytes"] = (folder / file).stat().st_size
    document["artifacts"] = [artifact]
    path.write_text(json.dumps(document))


def judge(folder: Path, data: str, margin_pt: float | None = None) -> ArtifactParity:
    (result,) = verify(folder, data, margin_pt=margin_pt).artifacts
    return result


def test_untouched_artifacts_pass(folder: Path, test_data: str, int8_margin_pt: float) -> None:
    shutil.copytree(folder, other := folder.parent / "other")
    forge(folder, FLOAT)
    assert judge(folder, test_data).verdict == "PASS"
    forge(other, INT8)
    assert judge(other, test_data, int8_margin_pt).verdict == "PASS"


def permute_labels(model: Any) -> Any:
    kernel, bias = model.layers[-1].get_weights()
    order = [1, 0, *range(2, 10)]
    model.layers[-1].set_weights([kernel[:, order], bias[order]])
    return model


def zero_a_channel(model: Any) -> Any:
    kernel, bias = model.layers[-1].get_weights()
    kernel[np.abs(kernel).sum(axis=1).argmax()] = 0
    model.layers[-1].set_weights([kernel, bias])
    return model


def feed_pixels_up_to_255(model: Any) -> Any:
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(255.0), model])


def swap_rows_and_columns(model: Any) -> Any:
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Permute((2, 1, 3)), model])


def drop_the_softmax(model: Any) -> Any:
    model.layers[-1].activation = keras.activations.linear
    return model


def lower_the_logit_of_bags(model: Any) -> Any:
    kernel, bias = model.layers[-1].get_weights()
    bias[LABELS.index("Bag")] -= 4
    model.layers[-1].set_weights([kernel, bias])
    return model


@pytest.mark.parametrize(
    ("tamper", "cause"),
    [
        (permute_labels, "the converter changed the model"),
        (zero_a_channel, "the converter changed the model"),
        (feed_pixels_up_to_255, "the converter changed the model"),
        (swap_rows_and_columns, "the converter changed the model"),
        (lower_the_logit_of_bags, "the converter changed the model"),
        (drop_the_softmax, "was the softmax lost?"),
    ],
)
def test_a_wrong_conversion_fails(
    tamper: Callable[[Any], Any], cause: str, folder: Path, test_data: str
) -> None:
    model = tamper(keras.saving.load_model(folder / "separable.float.keras", compile=False))
    facts = LiteRTEngine(folder / FLOAT, 1).embedded_facts()
    assert facts is not None
    frozen = freeze(model, input_name="image", output_name="probabilities")
    forge(folder, FLOAT, embed_facts(tflite_from_frozen(frozen), facts))
    result = judge(folder, test_data)
    assert result.verdict == "FAIL"
    assert result.reason.endswith(cause)


def test_the_class_that_lost_is_named(folder: Path, test_data: str) -> None:
    model = keras.saving.load_model(folder / "separable.float.keras", compile=False)
    facts = LiteRTEngine(folder / FLOAT, 1).embedded_facts() or b""
    frozen = freeze(lower_the_logit_of_bags(model), input_name="image", output_name="probabilities")
    forge(folder, FLOAT, embed_facts(tflite_from_frozen(frozen), facts))
    falling = {change.label for change in judge(folder, test_data).classes if change.falls}
    assert falling == {"Bag"}


def edit_flatbuffer(path: Path, edit: Callable[[Any, Any], None]) -> bytes:
    """Applies an edit to a .tflite file's model and its graph."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    edit(model, model.subgraphs[0])
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def first_activation(graph: Any) -> Any:
    """The output of the first operator, in the middle of the graph's grids."""
    return graph.tensors[graph.operators[0].outputs[0]]


def double_a_scale(model: Any, graph: Any) -> None:  # noqa: ARG001 - one of several edits
    quantization = first_activation(graph).quantization
    quantization.scale = [2 * scale for scale in quantization.scale]


def shift_a_zero_point(model: Any, graph: Any) -> None:
    """Moves a layer's weights 8 off the zero point that the kernel takes them by.

    A tensor's own zero point is read by the operators on both its sides, so changing that is
    no error but a shift of the range.
    """
    weights = model.buffers[graph.tensors[graph.operators[2].inputs[1]].buffer]
    integers = np.array(weights.data, np.uint8).view(np.int8).astype(np.int16)
    weights.data = np.clip(integers + 8, -127, 127).astype(np.int8).view(np.uint8)


@pytest.mark.parametrize("edit", [double_a_scale, shift_a_zero_point])
def test_a_wrong_grid_fails(
    edit: Callable[[Any, Any], None], folder: Path, test_data: str, int8_margin_pt: float
) -> None:
    forge(folder, INT8, edit_flatbuffer(folder / INT8, edit))
    result = judge(folder, test_data, int8_margin_pt)
    assert result.verdict == "FAIL"
    assert result.paired is not None
    assert result.paired.one_sided_high_pt < -int8_margin_pt


def flip_an_exponent_bit(model: Any, graph: Any) -> None:
    """Multiplies a weight of the last dense layer by 2¹²⁸: the largest below 2, which matters."""
    dense = next(t for t in graph.tensors if list(t.shape) == [10, 16])
    content = np.array(model.buffers[dense.buffer].data, np.uint8)
    sizes = np.abs(content.view(np.float32))
    content[4 * np.where(sizes < 2, sizes, 0).argmax() + 3] ^= 0x40
    model.buffers[dense.buffer].data = content


def test_a_flipped_exponent_bit_fails(folder: Path, test_data: str) -> None:
    forge(folder, FLOAT, edit_flatbuffer(folder / FLOAT, flip_an_exponent_bit))
    assert judge(folder, test_data).verdict == "FAIL"


def test_a_flipped_bit_without_a_forged_manifest_is_refused(folder: Path, test_data: str) -> None:
    content = edit_flatbuffer(folder / FLOAT, flip_an_exponent_bit)
    (folder / FLOAT).write_bytes(content)
    with pytest.raises(ChecksumError, match="the file was changed after the export"):
        verify(folder, test_data)


def test_calibration_on_noise_fails(folder: Path, test_data: str, tmp_path: Path) -> None:
    # Faint noise, as from a camera with its cap on: ranges far too narrow for garments.
    noise = np.random.default_rng(0).integers(0, 8, (100, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "noise.npz", images=noise, labels=np.zeros(100, np.int64))
    export(
        folder / "separable.float.keras",
        str(tmp_path / "noise.npz"),
        folder,
        recipes=select_recipes("float32,int8"),
        described=Described(labels=LABELS, preprocessing=Preprocessing(mean=0.0, std=255.0)),
        choices=Choices(calibration_count=100),
    )
    results = {a.recipe: a for a in verify(folder, test_data).artifacts if a.engine == "litert"}
    assert results["float32"].verdict == "PASS"
    assert results["int8"].verdict == "FAIL"
    assert results["int8"].reason.endswith("the recipe int8 costs the most")


def edit_manifest(folder: Path, edit: Callable[[Any], None]) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (lambda m: m["model"]["labels"].reverse(), r"model\.labels\[0\]"),
        (lambda m: m["model"]["input"]["preprocessing"].update(std=1.0), r"preprocessing\.std"),
        (lambda m: m["artifacts"][0]["facts"].update(margin_pt=50.0), r"margin_pt"),
        (
            lambda m: m["artifacts"][0]["facts"].update(parent_sha256="ab" * 32),
            r"parent|another training run",
        ),
        (lambda m: m.update(note="harmless"), r"unknown keys \['note'\]"),
    ],
)
@pytest.mark.parametrize("command", ["verify", "selftest"])
def test_a_manifest_edited_by_hand_is_refused(
    command: str, edit: Callable[[Any], None], cause: str, folder: Path, test_data: str
) -> None:
    edit_manifest(folder, edit)
    checks = {"verify": lambda: verify(folder, test_data), "selftest": lambda: selftest(folder)}
    with pytest.raises(ManifestError, match=cause):
        checks[command]()
