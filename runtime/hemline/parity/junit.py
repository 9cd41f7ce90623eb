"""parity results as JUnit XML, which CI systems show test by test."""

from xml.etree import ElementTree

from hemline.parity.paired import Verdict
from hemline.parity.verify import ParityReport
from hemline.terminal import printable


def format_junit(report: ParityReport, *, strict: bool) -> bytes:
    """Returns JUnit XML: one test case for the float model and one for each artifact.

    FAIL is a failure. What is neither PASS nor FAIL is skipped, with its reason, or with
    `strict` a failure too. A PASS by a reference evaluation says so in its output. Control
    characters, which XML cannot hold, are written out.
    """
    judged = [
        (report.float_model.file, report.float_model.verdict, report.float_model.reason),
        *((artifact.file, artifact.verdict, artifact.reason) for artifact in report.artifacts),
    ]
    results = [(printable(file), verdict, printable(reason)) for file, verdict, reason in judged]
    model = printable(report.model)
    referred = {printable(artifact.file) for artifact in report.artifacts if artifact.is_reference}
    kinds = [_kind(verdict, strict) for _, verdict, _ in results]
    suite = ElementTree.Element(
        "testsuite",
        name=f"hemline verify {model}",
        tests=str(len(results)),
        failures=str(kinds.count("failure")),
        skipped=str(kinds.count("skipped")),
        errors="0",
    )
    for (file, verdict, reason), kind in zip(results, kinds, strict=True):
        case = ElementTree.SubElement(suite, "testcase", classname=model, name=file)
        if kind:
            ElementTree.SubElement(case, kind, message=f"{verdict}: {reason}")
        elif file in referred:
            ElementTree.SubElement(case, "system-out").text = f"{verdict}: {reason}"
    content: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _kind(verdict: str, strict: bool) -> str:
    if verdict == Verdict.PASS:
        return ""
    return "failure" if strict or verdict == Verdict.FAIL else "skipped"
