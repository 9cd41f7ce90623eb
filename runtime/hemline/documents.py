"""The one place where dataclasses become JSON documents and documents become dataclasses.

A document is a JSON object whose `schema` key names its kind and version. Unknown keys,
missing keys and values of the wrong type are errors, so a document edited by hand fails
loudly.
"""

import dataclasses
import functools
import json
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from hemline.errors import ManifestError
from hemline.files import read_regular, write_bytes
from hemline.limits import DOCUMENT_BYTES

T = TypeVar("T")

# Asked for once per object, and a manifest holds dozens of a kind.
_type_hints = functools.cache(typing.get_type_hints)

# Larger ones fit no type of NumPy's, and some have no float.
_LARGEST = (1 << 64) - 1
_NUMBER_LIST = r"\[\n\s*-?\d[^\[\]{}\":]*\]"


def to_json(value: Any) -> Any:
    """Turns a dataclass, and all that it holds, into what `json.dumps` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(kind: type[T], value: Any, where: str) -> T:
    """Builds a `kind` from parsed JSON.

    Args:
        kind: a dataclass.
        value: the parsed JSON.
        where: what to call the document in an error.

    Raises:
        ManifestError: a key is missing or unknown, or a value has the wrong type.
    """
    return typing.cast(T, _build(kind, value, where))


def encode(schema: str, value: Any) -> bytes:
    """Returns the document of a dataclass as UTF-8 JSON, ending in a newline.

    Characters that could act on a terminal stand in it as escapes.
    """
    document = {"schema": schema} | to_json(value)
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    text = text.translate(
        {ord(c): json.dumps(c)[1:-1] for c in set(text) if not c.isprintable() and c != "\n"}
    )
    # Lists of numbers, such as samples, stand on one line each.
    return (re.sub(_NUMBER_LIST, _join_lines, text) + "\n").encode()


def decode(schema: str, kind: type[T], content: bytes, where: str) -> T:
    """Reads a document made by `encode`.

    Raises:
        ManifestError: it is not JSON, not of this schema, or `from_json` refuses it.
    """
    return from_json(kind, decode_fields(schema, content, where), where)


def decode_fields(schema: str, content: bytes, where: str) -> dict[str, Any]:
    """Parses a document made by `encode` without building a dataclass of it.

    Raises:
        ManifestError: it is not JSON, or not of this schema.
    """
    try:
        document = json.loads(content)
    # A RecursionError comes of lists within lists within lists.
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(document, dict) or document.get("schema") != schema:
        found = document.get("schema") if isinstance(document, dict) else None
        raise ManifestError(f"{where}: schema is {found!r}, expected {schema!r}")
    return {key: value for key, value in document.items() if key != "schema"}


def write_document(path: Path, schema: str, value: Any) -> None:
    """Writes a dataclass as a document, whole or not at all.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    write_bytes(path, encode(schema, value))


def read_document(path: Path, schema: str, kind: type[T]) -> T:
    """Reads a document from a file.

    Raises:
        ManifestError: there is no such file, or `decode` refuses it.
    """
    return decode(schema, kind, read_content(path), str(path))


def read_content(path: Path) -> bytes:
    """Returns a document's bytes.

    Raises:
        ManifestError: there is no such file, or it is larger than a record.
    """
    return read_regular(path, DOCUMENT_BYTES, ManifestError)


def _join_lines(match: re.Match[str]) -> str:
    return "[" + ", ".join(match.group()[1:-1].replace(",", " ").split()) + "]"


def _build(kind: Any, value: Any, where: str) -> Any:
    if type(value) is kind and kind not in (int, float):
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = [argument for argument in arguments if argument is not type(None)]
        return _build(kind, value, where)
    if origin is tuple:
        _require(isinstance(value, list), where, "a list", value)
        return tuple(_build(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        _require(isinstance(value, dict), where, "an object", value)
        return {key: _build(arguments[1], v, f"{where}.{key}") for key, v in value.items()}
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if kind is float:
        # Beyond what a float holds, an int has no float.
        is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
        _require(is_number, where, "a number", value)
        return float(value)
    _require(type(value) is kind, where, kind.__name__, value)
    if kind is int and abs(value) > _LARGEST:
        raise ManifestError(f"{where}: expected a whole number of 64 bits, got one of more")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    _require(isinstance(value, dict), where, "an object", value)
    hints = _type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    unknown, missing = sorted(set(value) - set(names)), sorted(set(names) - set(value))
    if unknown or missing:
        raise ManifestError(f"{where}: unknown keys {unknown}, missing keys {missing}")
    try:
        return kind(**{name: _build(hints[name], value[name], f"{where}.{name}") for name in names})
    except ValueError as error:
        raise ManifestError(f"{where}: {error}") from error


def _require(condition: bool, where: str, expected: str, value: Any) -> None:
    if not condition:
        raise ManifestError(f"{where}: expected {expected}, got {value!r}")
