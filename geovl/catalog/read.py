"""From TOML files to records: quickly where they were checked before, with exact faults where not.

The schema is strict: an unknown key is a fault, so a typo cannot hide. pydantic tells the faults and is
imported only for that; the records shipped with geovl are checked in CI and read without it.
"""

import datetime as dt
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from geovl.catalog.places import locate
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
    """Return the record files of a shelf of a catalog, sorted by name.

    Raises:
        CatalogError: The shelf cannot be read.
    """
    try:
        return sorted(path for path in (folder / shelf).iterdir() if path.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CatalogError(f"{folder / shelf} cannot be read: {error.strerror}.", "Check its permissions.") from error


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
        text = path.read_text("utf-8-sig")
        if mention and not any(f'"{word}"' in text for word in mention):
            return None
        return cls.make(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
        raise CatalogError(f"{path}: {error}", "See every fault with: geovl catalog check") from error


def checked(path: Path, cls: type[Record]) -> Record | list[Fault]:
    """Read a record and return it, or every fault of its form."""
    record, faults = examined(path, cls)
    return faults or record or []


def examined(path: Path, cls: type[Record]) -> tuple[Record | None, list[Fault]]:
    """Read a record as far as it can be read.

    Returns:
        The record without its faulty keys, None if what must be there is among them; and every fault of its form.
    """
    raw = _toml(path)
    if isinstance(raw, Fault):
        return None, [raw]
    text, values = raw
    faults = _validate(path, text, values, cls, ())
    if faults:
        wrong = {fault.field.partition(".")[0] for fault in faults}
        values = {key: value for key, value in values.items() if key not in wrong}
        if _validate(path, text, values, cls, ()):
            return None, faults
    record = cls.make(values)
    faults += [Fault(path, line_of(text, (key,)), key, message) for key, message in _own(path, record)]
    return record, faults


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
        tables = tomllib.loads(path.read_text("utf-8-sig")) if path.is_file() else {}
        return {name: _word(cls, name, values) for name, values in tables.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
        raise CatalogError(f"{path}: {error}", "See every fault with: geovl catalog check") from error


def _word(cls: type, name: str, values: Mapping[str, Any]) -> Any:
    return cls(id=name, **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _toml(path: Path) -> tuple[str, dict[str, Any]] | Fault:
    try:
        text = path.read_text("utf-8-sig")  # Windows' editors put a mark before
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
    except RecursionError:
        return Fault(path, 1, "file", "is nested too deeply")


def _validate(path: Path, text: str, values: object, cls: type, above: tuple[str, ...]) -> list[Fault]:
    from pydantic import ValidationError  # noqa: PLC0415 - slow; only where faults are told

    if odd := list(_odd(values, ())):
        return [Fault(path, line_of(text, (*above, *at)), ".".join(map(str, at)), message) for at, message in odd]
    try:
        # TOML has no tuples: by way of JSON they may be strict
        _schema(cls).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        return [_fault(path, text, told, above) for told in error.errors(include_url=False)]
    return []


def _odd(value: object, at: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield place and message of values that TOML has and a record cannot: dates, and numbers that are none."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _odd(item, (*at, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _odd(item, (*at, index))
    elif isinstance(value, dt.date | dt.time):
        yield at, f"is a date, {value}; expected text or a number: put it in quotes"
    elif isinstance(value, float) and not math.isfinite(value):
        yield at, f"is {value}; expected a number"


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
    """Return the line of TOML text where a value stands, or else the nearest table or array that should hold it.

    Args:
        text: The file, which must be valid TOML.
        place: Keys and indices from the top, such as ``("results", 2, "value")``.

    Returns:
        Line, from 1; 1 where nothing of it is found.
    """
    lines = locate(text)
    for length in range(len(place), 0, -1):
        if (line := lines.get(tuple(place[:length]))) is not None:
            return line
    return 1


def _own(path: Path, record: Record) -> Iterator[tuple[str, str]]:
    """Yield key and message of what is wrong with a well-formed record by itself."""
    if record.id != path.stem:
        yield "id", f"is {record.id!r}; it must be the file's name without .toml, {path.stem!r}"
    if not re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", record.id):
        yield "id", f"is {record.id!r}; expected lower case letters, digits and single hyphens"
