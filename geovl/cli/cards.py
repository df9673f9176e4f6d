"""Catalog records as text to read: one whole, or some side by side."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from geovl.catalog import Catalog, licenses
from geovl.catalog.records import Dataset, Model, Paper, Record, Result, plain
from geovl.catalog.related import Row, compare, measured_on, paper_of, related
from geovl.cli import output

_LABEL = 15


def card(record: Record, catalog: Catalog, width: int) -> Iterator[str]:
    """Yield the lines of a record's card, none longer than the terminal is wide where words allow."""
    yield f"{record.name} ({record.id})"
    yield from textwrap.wrap(record.description or "", width)
    yield ""
    for label, text in _facts(record, catalog):
        yield from _labelled(label, text, width)
    if licenses.of(record):
        yield from _section("may I use it", _rights(record, catalog), width)
    if isinstance(record, Model):
        yield from _section("geovl", [_runs(record)], width)
        if record.results:
            by = f" (measured by: {record.figures_from})" if record.figures_from else ""
            yield f"\nresults as published{by}" if not by else f"\nresults{by}"
            yield from _results(record.results)
        yield from _own(record, width)
    if isinstance(record, Dataset) and (figures := measured_on(record, catalog)):
        yield "\nresults as published: figures of different papers, not of one protocol"
        heads = ("model", "metric", "value", "split; setting; checkpoint")
        rows = [(model.id, r.metric, f"{r.value:g}", _how(r)) for model, r in figures]
        yield from (f"  {line}" for line in output.columns(heads, rows, grow=heads[3], right=("value",), indent=2))
    if record.conflicts:
        told = [f"{c.about}: {c.kept}; others: {c.others}{f' ({c.why})' if c.why else ''}" for c in record.conflicts]
        yield from _section("sources disagree", told, width)
    if others := related(record, catalog):
        yield from _section("related", [f"{name}: {', '.join(ids)}" for name, ids in others.items()], width)
    read = [f"{group}: {name}" for group, names in record.sources.items() for name in names]
    state = "the work's own repository or hub page was opened" if record.checked else "lists, tables or abstracts only"
    yield from _section(f"read in ({state})", read, width)
    yield from _bibtex(record, catalog)


def _facts(record: Record, catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Yield label and text of what is known, in the order in which people ask."""
    yield "kind", f"{record.type}, {record.kind}"
    yield "year", " ".join(filter(None, (str(record.year or ""), record.venue or "")))
    yield "also called", ", ".join(record.aliases)
    yield "now", record.renamed_to or ""
    yield "later version", record.superseded_by or ""
    yield "tasks", ", ".join(record.tasks)
    yield "imagery", ", ".join(record.modalities)
    if isinstance(record, Model):
        yield "architecture", record.architecture or ""
        yield "vision", "; ".join(record.vision_backbone)
        yield "text", "; ".join(record.text_backbone)
        size = f"{record.memory_size / 1e6:.1f} MB" if record.memory_size else ""
        exact = f"{record.total_parameters:,}" if record.total_parameters else record.params or ""
        yield "parameters", ", ".join(filter(None, (exact, size)))
        yield "pixels a side", str(record.image_resolution or "")
        yield "start", record.pretrained_source or ""
        yield "use", record.intended_use or ""
        where = [f"https://huggingface.co/{name}" if _is_hub(name) else name for name in record.weights]
        yield "weights", "; ".join((*where, *filter(None, (record.weights_note,))))
    if isinstance(record, Dataset):
        yield "images", _said(record.images, record.images_said)
        yield "samples", _said(record.samples, record.samples_said)
        yield "classes", str(record.classes or "")
        yield "pixels", record.image_size or ""
        yield "resolution", f"{' to '.join(f'{value:g}' for value in record.gsd)} m" if record.gsd else ""
        yield "sensors", record.sensors or ""
        yield "splits", record.splits or ""
        yield "access", record.access or ""
        yield "data", record.url or ""
    if isinstance(record, Paper):
        yield "list", f"row {record.list_row}, line {record.list_line}" if record.list_row else ""
        yield "same as", record.same_as or ""
    paper = paper_of(record, catalog)
    number = record.paper or (paper.paper if paper else None)
    title = paper.name if paper and paper is not record else ""
    yield "paper", " ".join(filter(None, (number or "", _page(number), title)))
    if isinstance(record, Paper) and not _page(number):
        yield "page", record.url or ""
    yield "code", record.code or ""
    yield "project", record.project or ""


def _rights(record: Record, catalog: Catalog) -> Iterator[str]:
    for what, expression in licenses.of(record):
        yield f"{what}: {expression.replace('LicenseRef-', '')}. {licenses.verdict(expression, catalog)}"
    if isinstance(record, Model | Dataset) and record.license_note:
        yield f"note: {record.license_note}"


def _runs(record: Model) -> str:
    if record.run is None:
        return "does not run it"
    low, high = record.run.gsd_min, record.run.gsd_max
    gsd = f", {low:g} to {high:g} m per pixel" if low is not None and high is not None else ""
    return f"runs it: geovl segment tile.tif PROMPT --model {record.id} ({', '.join(record.run.bands)}{gsd})"


def _results(results: Sequence[Result]) -> Iterator[str]:
    heads = ("metric", "value", "on", "split; setting; checkpoint")
    rows = [(r.metric, f"{r.value:g}", r.where, _how(r)) for r in results]
    yield from (f"  {line}" for line in output.columns(heads, rows, grow=heads[3], right=("value",), indent=2))


def _how(result: Result) -> str:
    return "; ".join(filter(None, (result.split, result.setting, result.variant)))


def _own(record: Model, width: int) -> Iterator[str]:
    """Yield what only models of ours tell: reliability, failures, what they were made from."""
    if record.reliability:
        told = record.reliability
        yield f"\nreliability of all prompts together (expected calibration error {told.ece:.3f})"
        for score, share, count in zip(told.score, told.share, told.pixels, strict=True):
            if count:
                yield f"  score {score:.2f}  right {share:.2f}  {'#' * round(share * 40)}"
    yield from _section("experimental", [", ".join(record.experimental)] if record.experimental else [], width)
    yield from _section("known failures", record.known_failures, width)
    made = [f"{s.name}: {s.license}. {s.attribution or ''}".rstrip() for s in record.made_from]
    yield from _section("made from", made, width)


def _bibtex(record: Record, catalog: Catalog) -> Iterator[str]:
    from geovl.catalog import exports

    if paper_of(record, catalog) is None:
        return
    try:
        text = exports.write(catalog, [record], "bibtex")
    except exports.Refused:
        return
    yield "\nBibTeX (authors are not in the catalog)"
    yield from (f"  {line}" for line in text.strip().splitlines() if not line.startswith("%"))


def _section(title: str, lines: Sequence[str] | Iterator[str], width: int) -> Iterator[str]:
    body = list(lines)
    if body:
        yield f"\n{title}"
        for line in body:
            yield from textwrap.wrap(line, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False,
                                     break_on_hyphens=False)  # fmt: skip


def _labelled(label: str, text: str, width: int) -> Iterator[str]:
    if text:
        yield from textwrap.wrap(
            text, max(width, 40), initial_indent=label.ljust(_LABEL), subsequent_indent=" " * _LABEL,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip


def _said(value: int | str | None, said: str | None) -> str:
    return said or (f"{value:,}" if isinstance(value, int) else value or "")


def _is_hub(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _page(number: str | None) -> str:
    from geovl.catalog.exports import paper_url

    return paper_url(number) or ""


_FIELDS = {
    "kind": "kind",
    "year": "year",
    "venue": "venue",
    "tasks": "tasks",
    "modalities": "imagery",
    "license_code": "licence, code",
    "license_weights": "licence, weights",
    "license": "licence",
    "params": "parameters",
    "vision_backbone": "vision",
    "text_backbone": "text",
    "image_resolution": "pixels a side",
    "training_data": "trained on",
    "weights": "weights",
    "images": "images",
    "samples": "samples",
    "classes": "classes",
    "gsd": "resolution, m",
    "image_size": "pixels",
    "sensors": "sensors",
    "overlaps": "overlaps with",
    "paper": "paper",
    "code": "code",
    "url": "data",
}
"""Field of a record to what it is called."""


def comparison(records: Sequence[Record], catalog: Catalog, width: int) -> Iterator[str]:
    """Yield records side by side, then the results that may be compared, then what may not and why."""
    label = 17
    each = max((width - label) // len(records) - 2, 14)
    yield from _side_by_side("", [record.id for record in records], label, each)
    for field, name in _FIELDS.items():
        cells = [_cell(getattr(record, field, None)) for record in records]
        if any(cells):
            yield from _side_by_side(name, [cell or "?" for cell in cells], label, each)
    families = [", ".join(sorted(licenses.families(record, catalog))) for record in records]
    if any(families):
        yield from _side_by_side("licence families", families, label, each)
    if not all(isinstance(record, Model) for record in records):
        return
    found = compare(records)
    yield ""
    if found.rows:
        yield "results with the same data set, split and setting"
        heads = ("on", *(record.id for record in records), "metric", "split", "setting")
        yield from (
            f"  {line}"
            for line in output.columns(heads, [_figures(row) for row in found.rows], grow="setting", indent=2)
        )
        if not all(row.stated for row in found.rows):
            yield "  * split or setting is stated by neither source: they may differ"
    else:
        yield "no results with the same data set, split and setting"
    if found.left_out:
        yield f"  left out: {found.left_out} on data sets that two of them share, with another metric, split or setting"
    if found.alone:
        yield f"  left out: {found.alone} on data sets that only one of them was measured on"
    yield "  figures come from different papers: equal names do not prove equal protocols"


def comparison_dict(records: Sequence[Record]) -> dict[str, Any]:
    """Return a comparison as plain values."""
    found = compare(records)
    return {
        "records": [record.to_dict() for record in records],
        "results": [
            {
                "metric": row.metric, "on": row.dataset, "split": row.split, "setting": row.setting,
                "stated": row.stated,
                "values": {r.id: [plain(v) for v in vs] for r, vs in zip(records, row.values, strict=True) if vs},
            }
            for row in found.rows
        ],
        "left_out": found.left_out,
        "measured_alone": found.alone,
    }  # fmt: skip


def _figures(row: Row) -> tuple[str, ...]:
    def cell(results: tuple[Result, ...]) -> str:
        return ", ".join(f"{r.value:g}{f' ({r.variant})' if r.variant else ''}" for r in results) or "-"

    setting = row.setting or "*"
    return (row.dataset, *map(cell, row.values), row.metric, row.split or "*", setting)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        spans = all(isinstance(item, float) for item in value)
        return " to ".join(f"{item:g}" for item in value) if spans else "; ".join(map(str, value))
    return str(value).replace("LicenseRef-", "") if value is not None else ""


def _side_by_side(name: str, cells: Sequence[str], label: int, each: int) -> Iterator[str]:
    wrapped = [textwrap.wrap(cell, each) or [""] for cell in cells]
    for line in range(max(map(len, wrapped))):
        parts = [lines[line] if line < len(lines) else "" for lines in wrapped]
        first = name if line == 0 else ""
        yield (first.ljust(label) + "  ".join(part.ljust(each) for part in parts)).rstrip()
