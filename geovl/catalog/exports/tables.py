"""Records as JSON, with all that they know, and as CSV, one row each."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import geovl
from geovl.catalog.book import Catalog
from geovl.catalog.records import Dataset, Model, Paper, Record, plain

SHELVES: Mapping[str, str] = {"models": "model", "datasets": "dataset", "papers": "paper"}
"""Key of the JSON object to the type of its records."""

_SHARED = (
    "type id name kind year venue paper code project tasks modalities description aliases renamed_to superseded_by "
    "section checked"
)
_MODEL = (
    "weights weights_note license_code license_weights license_note version architecture vision_backbone text_backbone "
    "image_resolution params total_parameters memory_size framework pretrained_source training_data figures_from "
    "intended_use known_failures experimental run_backend run_source run_bands run_gsd_min run_gsd_max"
)
_DATASET = "url access license images images_said samples samples_said image_size gsd sensors classes splits overlaps"
_PAPER = "identifiers entities keywords same_as list_row list_line"
_COUNTS = "results_count made_from_count conflicts_count sources_count"
COLUMNS: tuple[str, ...] = tuple(f"{_SHARED} {_MODEL} {_DATASET} {_PAPER} {_COUNTS}".split())
"""Columns of the CSV: what all records share, then models, data sets (which share ``license_note`` with models), papers
(which share ``url`` with data sets), then how many rows the record's tables have. Cells without a meaning for a record,
or whose value is unknown, are empty; several values are joined by ``; ``."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def _unique(records: Sequence[Record]) -> list[Record]:
    """Return each record once, by type and id."""
    order = list(SHELVES.values())
    found = {(order.index(record.type), record.id): record for record in records}
    return [found[place] for place in sorted(found)]


def json_text(catalog: Catalog, records: Sequence[Record]) -> str:
    """Return records as one JSON object.

    Its keys: ``geovl`` (version), ``models``, ``datasets`` and ``papers`` (each a list, by id), ``tasks`` and
    ``licenses`` (the whole vocabularies, by id). Unknown values are absent. The same records give the same text.
    """
    found = _unique(records)
    out: dict[str, Any] = {"geovl": geovl.__version__}
    for shelf, kind in SHELVES.items():
        out[shelf] = [record.to_dict() for record in found if record.type == kind]
    out["tasks"] = [plain(catalog.tasks[name]) for name in sorted(catalog.tasks)]
    out["licenses"] = [plain(catalog.licenses[name]) for name in sorted(catalog.licenses)]
    return json.dumps(out, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def csv_text(catalog: Catalog, records: Sequence[Record]) -> str:  # noqa: ARG001 - as every writer
    """Return records as CSV after RFC 4180: UTF-8, CRLF, one header line, :data:`COLUMNS`.

    A text that a spreadsheet would run as a formula gets a leading apostrophe; :func:`unquoted` takes it off.
    """
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for record in _unique(records):
        writer.writerow({name: quoted(cell) for name, cell in _row(record).items()})
    return out.getvalue()


def _row(record: Record) -> dict[str, str]:
    values = record.to_dict()
    row = {name: _cell(values[name]) for name in COLUMNS if name in values}
    for name in COLUMNS:
        table, _, part = name.partition("_")
        if table == "run" and isinstance(record, Model) and record.run is not None:
            row[name] = _cell(plain(getattr(record.run, part)))
        elif name.endswith("_count") and hasattr(record, name.removesuffix("_count")):
            row[name] = str(_count(getattr(record, name.removesuffix("_count"))))
    return row


def _count(table: Any) -> int:
    """Return the rows of a table; of sources the places, however many groups of facts were read there."""
    return len({place for places in table.values() for place in places} if isinstance(table, Mapping) else table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "; ".join(map(_cell, value))
    return str(value)


def quoted(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula: such text gets a leading apostrophe, numbers do not."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def unquoted(cell: str) -> str:
    """Return what :func:`quoted` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def json_faults(document: str) -> list[str]:
    """Return what is wrong with a JSON export: its form, not its facts."""
    try:
        found = json.loads(document)
    except json.JSONDecodeError as error:
        return [str(error)]
    keys = ("geovl", *SHELVES, "tasks", "licenses")
    if not isinstance(found, dict) or tuple(found) != keys:
        return [f"expected one object with the keys {', '.join(keys)}"]
    faults = []
    kinds: tuple[type[Record], ...] = (Model, Dataset, Paper)
    for shelf, cls in zip(SHELVES, kinds, strict=True):
        for place, raw in enumerate(found[shelf]):
            if not isinstance(raw, dict) or raw.get("type") != cls.type:
                faults.append(f"{shelf}[{place}]: expected an object of type {cls.type}")
                continue
            try:
                cls.make({key: value for key, value in raw.items() if key != "type"})
            except TypeError as error:  # a key that is unknown, or one that is missing
                faults.append(f"{shelf}[{place}]: {error}")
    return faults


def csv_faults(document: str) -> list[str]:
    """Return what is wrong with a CSV export: its form, not its facts."""
    try:
        header, *rows = list(csv.reader(io.StringIO(document, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        return [str(error)]
    if tuple(header) != COLUMNS:
        return ["the header line does not name the columns of geovl"]
    return [
        f"row {number}: {len(row)} cells, expected {len(COLUMNS)}"
        for number, row in enumerate(rows, 1)
        if len(row) != len(COLUMNS)
    ] + [
        f"row {number}, {name}: a spreadsheet would run {cell!r}"
        for number, row in enumerate(rows, 1)
        for name, cell in zip(COLUMNS, row, strict=False)
        if cell[:1] in set("=+-@\t\r\n") - {""} and not _NUMBER.fullmatch(cell)
    ]
