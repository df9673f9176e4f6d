"""From TOML files to records: quickly where they were checked before, with exact faults where not.

The schema is strict: an unknown key is a fault, so a typo cannot hide. pydantic tells the faults and is
imported only for that; the records shipped with geovl are checked in CI and read without it.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from geovl.catalog.records import (
    Conflict,
    Dataset,
    License,
    MadeFrom,
    Model,
    Paper,
    Record,
    Reliability,
    Result,
    Run,
    Task,
)
from geovl.errors import CatalogError

SHELVES: Mapping[str, type[Record]] = {"models": Model, "datasets": Dataset, "papers": Paper}
"""Folder of a catalog to what its files hold."""
VOCABULARIES: Mapping[str, type] = {"tasks.toml": Task, "licenses.toml": License}
"""File of a catalog to what its tables hold."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a record."""

    path: Path
    line: int
    """First line is 1."""
    field: str
    message: str
    """What was found and what was expected."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.field}: {self.message}"


def files(folder: Path, shelf: str) -> list[Path]:
    """Return the record files of a shelf of a catalog, sorted by name."""
    return sorted((folder / shelf).glob("*.toml"))


def trusted(path: Path, cls: type[Record], mention: Sequence[str] = ()) -> Record | None:
    """Read a record that was checked before.

    Args:
        path: Its file.
        cls: What it holds.
        mention: Skip the file, unparsed, unless it holds one of these words in quotes.

    Raises:
        CatalogError: It cannot be read after all.
    """
    try:
        text = path.read_text("utf-8")
        if mention and not any(f'"{word}"' in text for word in mention):
            return None
        return cls.make(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
        raise CatalogError(f"{path}: {error}", "See every fault with: geovl catalog check") from error


def checked(path: Path, cls: type[Record]) -> Record | list[Fault]:
    """Read a record and return it, or every fault of its form."""
    raw = _toml(path)
    if isinstance(raw, Fault):
        return [raw]
    text, values = raw
    faults = _validate(path, text, values, cls, ())
    if not faults:
        record = cls.make(values)
        faults = [Fault(path, line_of(text, (key,)), key, message) for key, message in _own(path, record)]
        if not faults:
            return record
    return faults


def vocabulary(path: Path, cls: type) -> dict[str, Any] | list[Fault]:
    """Read ``tasks.toml`` or ``licenses.toml``: id to Task or License, or every fault."""
    raw = _toml(path)
    if isinstance(raw, Fault):
        return [raw]
    text, tables = raw
    faults: list[Fault] = []
    for name, values in tables.items():
        if not isinstance(values, dict):
            faults.append(Fault(path, line_of(text, (name,)), name, "is no table; every entry is [id] with keys below"))
        else:
            faults += _validate(path, text, {"id": name, **values}, cls, (name,))
    return faults or {name: _word(cls, name, values) for name, values in tables.items()}


def trusted_vocabulary(path: Path, cls: type) -> dict[str, Any]:
    """Read a vocabulary that was checked before; none if the file is not there.

    Raises:
        CatalogError: It cannot be read after all.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
        return {name: _word(cls, name, values) for name, values in tables.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
        raise CatalogError(f"{path}: {error}", "See every fault with: geovl catalog check") from error


def _word(cls: type, name: str, values: Mapping[str, Any]) -> Any:
    return cls(id=name, **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _toml(path: Path) -> tuple[str, dict[str, Any]] | Fault:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        return Fault(path, 1, "file", f"is not UTF-8: {error}")
    except OSError as error:
        return Fault(path, 1, "file", f"cannot be read: {error.strerror}")
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at line (\d+)", str(error))
        line = int(place[1]) if place else len(text.splitlines()) or 1
        return Fault(path, line, "file", f"is not TOML: {error}")


def _validate(path: Path, text: str, values: object, cls: type, above: tuple[str, ...]) -> list[Fault]:
    from pydantic import ValidationError  # noqa: PLC0415 - slow; only where faults are told

    try:
        # TOML has no tuples: by way of JSON they may be strict
        _schema(cls).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        return [_fault(path, text, told, above) for told in error.errors(include_url=False)]
    return []


@cache
def _schema(cls: type) -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config  # noqa: PLC0415 - see _validate

    strict = with_config(ConfigDict(extra="forbid", strict=True))
    for part in (Task, License, Result, Conflict, MadeFrom, Reliability, Run, Model, Dataset, Paper):
        strict(part)
    return TypeAdapter(cls)


def _fault(path: Path, text: str, told: Mapping[str, Any], above: tuple[str, ...]) -> Fault:
    """Say what pydantic found in words that name the field, its line, what was expected and what was there."""
    place = _place(told["loc"])
    field = ".".join(map(str, place)) or "record"
    given = told.get("input")
    kind = str(told["type"])
    if kind in {"unexpected_keyword_argument", "extra_forbidden"}:
        message = "is no key of this table; compare its spelling with a record beside it"
    elif kind in {"missing", "missing_argument"}:
        message = "is missing and must be there"
    else:
        expected = str(told["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
        message = f"expected {expected}, found {_short(given)}"
    return Fault(path, line_of(text, (*above, *place)), ".".join((*above, field)) if above else field, message)


def _place(loc: Iterable[Any]) -> tuple[Any, ...]:
    """Return the path of keys and indices in the file, without pydantic's names of branches of a union."""
    return tuple(part for part in loc if isinstance(part, int) or str(part) not in {"int", "str", "float", "bool"})


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def line_of(text: str, place: Sequence[str | int]) -> int:
    """Return the line of TOML text where a value stands, or else the table that should hold it.

    Args:
        text: The file.
        place: Keys and indices from the top, such as ``("results", 2, "value")``.

    Returns:
        Line, from 1; 1 where nothing of it is found.
    """
    best, line = 0, 1
    for number, found in _keys(text):
        shared = 0
        for mine, other in zip(found, place, strict=False):
            if mine != other:
                break
            shared += 1
        if shared == len(found) and shared > best:
            best, line = shared, number
    return line


_HEADER = re.compile(r"\s*\[(\[)?\s*([^\]]+?)\s*\]\]?")
_KEY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([\w-]+))\s*""")


def _keys(text: str) -> Iterator[tuple[int, tuple[str | int, ...]]]:
    """Yield line and path of every header, key and array item of TOML text that is known to be valid."""
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str, ...], int] = {}
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if header := _HEADER.fullmatch(line.partition("#")[0].rstrip()):
            names = _parts(header[2])
            table = names
            if header[1]:
                counts[names] = counts.get(names, -1) + 1
                table = (*names, counts[names])
            elif names[:1] in counts:
                table = (names[0], counts[names[:1]], *names[1:])
            yield number, table
        elif found := _KEY.match(line):
            path = (*table, *_parts(found[1]))
            yield number, path
            for item, offset in _items(line[found.end() :], lines[number:]):
                yield number + offset, (*path, item)
            number += _skip(line[found.end() :], lines[number:])


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(found[1] or found[2] or found[3] or "" for found in _PART.finditer(dotted))


_STRING = re.compile(r"""\"\"\".*?(?:\"\"\"|$)|'''.*?(?:'''|$)|"(?:\\.|[^"\\])*"|'[^']*'|\#.*""")


def _skip(value: str, following: Sequence[str]) -> int:
    """Return how many further lines a value goes on."""
    for quotes in ('"""', "'''"):
        if value.lstrip().startswith(quotes):
            if value.count(quotes) > 1:
                return 0
            return next((k + 1 for k, line in enumerate(following) if quotes in line), len(following))
    depth, used = _depth(value), 0
    while depth > 0 and used < len(following):
        depth += _depth(following[used])
        used += 1
    return used


def _depth(line: str) -> int:
    bare = _STRING.sub("", line)
    return bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")


def _items(value: str, following: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield index and line offset of the items of an array that is written one item a line."""
    if value.strip() != "[":
        return
    index = 0
    for offset, line in enumerate(following, 1):
        bare = line.strip()
        if bare.startswith("]"):
            return
        if bare and not bare.startswith("#"):
            yield index, offset
            index += 1


def _own(path: Path, record: Record) -> Iterator[tuple[str, str]]:
    """Yield key and message of what is wrong with a well-formed record by itself."""
    if record.id != path.stem:
        yield "id", f"is {record.id!r}; it must be the file's name without .toml, {path.stem!r}"
    if not re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", record.id):
        yield "id", f"is {record.id!r}; expected lower case letters, digits and single hyphens"
