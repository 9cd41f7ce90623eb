"""The table of limits in the docs is the one in the code."""

import re
from pathlib import Path

from hemline import limits

DOCS = Path(__file__).parents[2] / "docs" / "runtime.md"


def test_the_docs_have_the_same_table() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    documented = {name: int(number.replace(",", "")) for name, number in rows}
    assert documented == {k: v for k, v in vars(limits).items() if k.isupper()}
