import pytest

from hemline.terminal import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("émeu · 10 µs … −3 × 日本 🦤", "émeu · 10 µs … −3 × 日本 🦤"),
        ("", ""),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b2J\x7f\0", r"\x9b2J\x7f\x00"),
        ("PASS\rFAIL\nmore\ttab", r"PASS\rFAIL\nmore\ttab"),
        ("\u202efdp.exe\u2066", r"\u202efdp.exe\u2066"),
        ("\u2028\u2029\u00a0\u200b", r"\u2028\u2029\xa0\u200b"),
        # A file name that is not UTF-8, as Python reads it.
        (b"\xff.tflite".decode(errors="surrogateescape"), r"\udcff.tflite"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(text).isprintable()
