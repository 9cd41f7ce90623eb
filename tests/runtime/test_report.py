import json
from dataclasses import replace
from pathlib import Path

import pytest

from hemline.benchmark.latency import summarize_latency
from hemline.errors import ManifestError
from hemline.files import sha256
from hemline.manifest import read_manifest
from hemline.report import format_table, read_parity, report

PACKAGE = "toy.float16.mlpackage"


def test_a_table() -> None:
    table = format_table(("name", "bytes"), [("a", "1,234,567"), ("longer", "8")])
    assert table.splitlines() == [
        "| name   |     bytes |",
        "| ------ | --------: |",
        "| a      | 1,234,567 |",
        "| longer |         8 |",
    ]


def test_a_table_without_rows() -> None:
    assert format_table(("a", "b"), []).splitlines() == ["| a | b |", "| - | : |"]


def test_the_report_of_a_folder(build: Path) -> None:
    rows = report(build / "toy")
    assert [(row.file, row.size_bytes, row.result, row.verdict) for row in rows] == [
        ("toy.float.keras", 6, 0.91234, "PASS"),
        ("toy.int8.tflite", 8, 0.9118, "PASS"),
        ("toy.float16.mlpackage", 2, None, "NOT_RUN"),
    ]
    assert [row.change for row in rows] == [None, pytest.approx(-0.05), None]
    assert rows[1].latency is not None
    # Of `predict`, not of the bare engine.
    assert rows[1].latency.median_ns == 4400.0
    assert rows[0].latency is rows[2].latency is None


def test_rows_are_paired_by_name_and_content(build: Path) -> None:
    expected = report(build / "toy")
    for name in ("parity.json", "bench.json"):
        path = build / "toy" / name
        document = json.loads(path.read_bytes())
        for key in {"artifacts", "files"} & document.keys():
            document[key].reverse()
        path.write_text(json.dumps(document))
    assert report(build / "toy") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"artifacts": "twice"}, "is of other files than the manifest's"),
        ({"artifacts": "one"}, "is of other files than the manifest's"),
        ({"task": "cooking"}, "unknown task 'cooking'; known: classification, "),
        ({"task": "regression"}, "judges the task regression, and the manifest's is classif"),
        ({"verdict": "GOOD"}, r"artifacts\[0\]: unknown verdict 'GOOD'; known: PASS, FAIL"),
        ({"float verdict": ""}, r"float_model: unknown verdict ''; known: PASS, FAIL"),
    ],
)
def test_a_parity_json_that_cannot_be(build: Path, change: dict[str, str], message: str) -> None:
    path = build / "toy" / "parity.json"
    document = json.loads(path.read_bytes())
    ((key, value),) = change.items()
    match key:
        case "artifacts":
            first, second = document["artifacts"]
            document["artifacts"] = [first, first] if value == "twice" else [second]
        case "task":
            document["task"] = value
        case "verdict":
            document["artifacts"][0]["verdict"] = value
        case _:
            document["float_model"]["verdict"] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=message):
        report(build / "toy")


def test_the_cells_of_a_report(build: Path) -> None:
    rows = report(build / "toy")
    assert {row.header() for row in rows} == {
        ("artifact", "bytes", "accuracy", "delta pt", "verdict", "p50 µs", "speed")
    }
    assert [row.cells() for row in rows] == [
        ("toy.float.keras", "6", "0.9123", "", "PASS", "", ""),
        ("toy.int8.tflite", "8", "0.9118", "-0.05", "PASS", "4.4~", ""),
        ("toy.float16.mlpackage", "2", "", "", "NOT_RUN", "", ""),
    ]
    steady = replace(rows[1], latency=summarize_latency([], [12_345] * 3, 1), change=0.0)
    assert steady.cells()[3:] == ("+0.00", "PASS", "12.3", "")
    referred = replace(rows[2], verdict="PASS", is_reference=True)
    assert referred.cells()[4] == "PASS (reference)"


def test_a_core_ml_package_shows_the_compute_units_that_load_takes(build: Path) -> None:
    path = build / "toy" / "bench.json"
    document = json.loads(path.read_bytes())
    int8 = document["files"][0]
    package = {"file": PACKAGE, "sha256": sha256(build / "toy" / PACKAGE)}
    fast, slow = ({**int8["bare"], "median_ns": ns} for ns in (10.0, 20.0))
    document["files"] += [
        {**int8, **package, "engine": "coreml 9 CPU_AND_NE", "predict": slow},
        {**int8, **package, "engine": "coreml 9 ALL", "predict": fast},
    ]
    document["not_run"] = {f"{PACKAGE} (CPU_ONLY)": "killed"}
    path.write_text(json.dumps(document))
    latency = report(build / "toy")[2].latency
    assert latency is not None
    assert latency.median_ns == 20.0
    # Other compute units do not stand in for those that did not run.
    del document["files"][1]
    document["not_run"] = {PACKAGE: "killed"}
    path.write_text(json.dumps(document))
    assert report(build / "toy")[2].latency is None


def test_a_file_without_facts_shows_its_bare_latency(build: Path) -> None:
    path = build / "toy" / "bench.json"
    document = json.loads(path.read_bytes())
    document["files"][0] |= {"predict": None, "predict_ratio": None}
    path.write_text(json.dumps(document))
    latency = report(build / "toy")[1].latency
    assert latency is not None
    assert latency.median_ns == 1000.0


def test_the_latency_is_that_of_one_image(build: Path) -> None:
    path = build / "toy" / "bench.json"
    document = json.loads(path.read_bytes())
    one = document["files"][0]
    document["files"] = [one | {"batch": 8}, one | {"threads": 2, "predict": None}, one]
    path.write_text(json.dumps(document))
    latency = report(build / "toy")[1].latency
    assert latency is not None
    # The first of its kind: of two threads, but of one image.
    assert latency.median_ns == 1000.0


def test_the_speed_is_the_benchmark_s(build: Path) -> None:
    path = build / "toy" / "bench.json"
    document = json.loads(path.read_bytes())
    document["files"][0]["speed"] = {
        "file": "toy.int8.tflite",
        "reference": "toy.float32.tflite",
        "ratio": 2.5,
        "low": 2.4,
        "high": 2.6,
        "verdict": "faster",
    }
    path.write_text(json.dumps(document))
    assert [row.cells()[-1] for row in report(build / "toy")] == ["", "2.50× faster", ""]


def test_an_older_benchmark_is_made_anew(build: Path) -> None:
    path = build / "toy" / "bench.json"
    document = json.loads(path.read_bytes()) | {"schema": "hemline.bench/1"}
    path.write_text(json.dumps(document))
    message = (
        r"schema is 'hemline\.bench/1', expected 'hemline\.bench/2'; "
        r"make it anew: hemline bench DIR --json .*bench\.json"
    )
    with pytest.raises(ManifestError, match=message):
        report(build / "toy")


def test_a_latency_of_another_file_is_not_shown(build: Path) -> None:
    path = build / "toy" / "bench.json"
    document = json.loads(path.read_bytes())
    document["files"][0]["sha256"] = "00" * 32
    path.write_text(json.dumps(document))
    assert [row.latency for row in report(build / "toy")] == [None, None, None]


@pytest.mark.parametrize("name", ["manifest.json", "parity.json", "bench.json"])
def test_a_missing_document(build: Path, name: str) -> None:
    (build / "toy" / name).unlink()
    with pytest.raises(ManifestError, match=name.replace(".", r"\.")):
        report(build / "toy")


def test_a_stale_parity_report(build: Path) -> None:
    folder = build / "toy"
    path = folder / "parity.json"
    document = json.loads(path.read_bytes())
    for stale in (
        document | {"artifacts": document["artifacts"][:1]},
        document | {"float_model": document["float_model"] | {"sha256": "00" * 32}},
    ):
        path.write_text(json.dumps(stale))
        with pytest.raises(
            ManifestError,
            match=r"parity\.json is of other files than the manifest's; run `hemline verify`",
        ):
            report(folder)
        with pytest.raises(ManifestError):
            read_parity(folder, read_manifest(folder))
