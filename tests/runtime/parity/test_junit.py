from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hemline.documents import read_document
from hemline.parity.junit import format_junit
from hemline.parity.verify import FILE_NAME, SCHEMA, ParityReport


@pytest.fixture
def report(build: Path) -> ParityReport:
    report = read_document(build / "toy" / FILE_NAME, SCHEMA, ParityReport)
    one, other = report.artifacts
    return replace(
        report,
        artifacts=(
            replace(one, verdict="FAIL", reason='"<&> lost'),
            replace(other, verdict="NOT_RUN", reason="no engine"),
        ),
    )


def test_each_file_is_a_case(report: ParityReport) -> None:
    suite = ElementTree.fromstring(format_junit(report, strict=False))
    assert {k: suite.get(k) for k in ("tests", "failures", "skipped", "errors")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
    }
    passed, failed, skipped = suite
    assert (passed.get("classname"), passed.get("name")) == ("toy", "toy.float.keras")
    assert len(passed) == 0
    assert [(child.tag, child.get("message")) for child in failed] == [
        ("failure", 'FAIL: "<&> lost')
    ]
    assert [(child.tag, child.get("message")) for child in skipped] == [
        ("skipped", "NOT_RUN: no engine")
    ]


def test_strict_takes_no_excuse(report: ParityReport) -> None:
    suite = ElementTree.fromstring(format_junit(report, strict=True))
    assert (suite.get("failures"), suite.get("skipped")) == ("2", "0")


def test_a_pass_by_a_reference_says_so(report: ParityReport) -> None:
    one, other = report.artifacts
    passed = replace(other, engine="coreml-reference", verdict="PASS", reason="(a reference)")
    referred = replace(report, artifacts=(one, passed))
    case = ElementTree.fromstring(format_junit(referred, strict=True))[2]
    assert [(child.tag, child.text) for child in case] == [("system-out", "PASS: (a reference)")]


def test_what_xml_cannot_hold_is_written_out(report: ParityReport) -> None:
    one, other = report.artifacts
    hostile = replace(one, file="\x1b[2J.tflite", reason="\0\x1b\u202e\udcff]]>")
    content = format_junit(replace(report, artifacts=(hostile, other)), strict=False)
    case = ElementTree.fromstring(content)[1]
    assert case.get("name") == r"\x1b[2J.tflite"
    assert case[0].get("message") == r"FAIL: \x00\x1b\u202e\udcff]]>"
