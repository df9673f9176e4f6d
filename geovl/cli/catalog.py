"""``geovl catalog``: which models and data sets there are, whether one may use them, how good they are."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geovl.cli import options, output
from geovl.cli.fetch import fetch
from geovl.errors import CatalogError, UsageError

if TYPE_CHECKING:
    from geovl.catalog import Catalog
    from geovl.catalog.exports import Format
    from geovl.catalog.records import Record
    from geovl.catalog.select import Choice

app = typer.Typer(
    help="Models, data sets and papers: list, show, search, compare, fetch, check, export.", no_args_is_help=True
)
app.command()(fetch)

Task = Annotated[
    list[str] | None,
    typer.Option(help="Only records for this task; synonyms do: RES, VQA. Again: or that.", show_default=False),
]
Kind = Annotated[
    list[str] | None,
    typer.Option(help="model, dataset, paper, or a kind of these, such as contrastive, vqa.", show_default=False),
]
Modality = Annotated[list[str] | None, typer.Option(help="rgb, multispectral, sar, drone, ...", show_default=False)]
License = Annotated[
    list[str] | None,
    typer.Option(
        "--license",
        help="SPDX identifier; commercial or permissive: all of a record is; copyleft, custom, non-commercial, "
        "unknown: a part of it is.",
        show_default=False,
    ),
]
Year = Annotated[str | None, typer.Option(help="2024, 2024.., ..2022 or 2022..2024.", show_default=False)]
TrainedOn = Annotated[list[str] | None, typer.Option(help="Models trained on this data set.", show_default=False)]
EvaluatedOn = Annotated[list[str] | None, typer.Option(help="Models measured on this data set.", show_default=False)]
OpenWeights = Annotated[bool, typer.Option("--open-weights", help="Models whose weights can be had.")]
Runnable = Annotated[bool, typer.Option("--runnable", help="Models that geovl runs.")]
Words = Annotated[list[str], typer.Argument(metavar="WORDS...", help="What to look for.")]


@app.command("list")
def list_records(
    task: Task = None,
    kind: Kind = None,
    modality: Modality = None,
    license_: License = None,
    year: Year = None,
    trained_on: TrainedOn = None,
    evaluated_on: EvaluatedOn = None,
    open_weights: OpenWeights = False,
    runnable: Runnable = False,
    sort: Annotated[str, typer.Option(help="id, name, year, kind, license or images.")] = "kind",
    catalog: options.Catalog = None,  # noqa: ARG001 - laid over by its callback
    as_json: options.Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """List models and data sets; papers with --kind paper.

    Options narrow the list; the same option again widens it.

    \b
    Examples:
      geovl catalog list --task grounding
      geovl catalog list --kind contrastive --license permissive --open-weights
      geovl catalog list --evaluated-on rrsis-d --year 2024..
      geovl catalog list --kind survey
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl.catalog import select

        if as_json and as_csv:
            raise UsageError("--json and --csv were both given.", "Give either.")
        choice = _choice(task, kind, modality, license_, year, trained_on, evaluated_on, open_weights, runnable)
        found, records = _choose(choice)
        records = select.ordered(records, sort)
        if as_json:
            output.answer_json([record.to_dict() for record in records])
        elif as_csv:
            from geovl.catalog import exports

            output.answer_raw(exports.write(found, records, "csv"))
        elif records:
            for line in output.columns(*_table(records), grow="description", right=("year",)):
                output.answer(line)
        output.note(_tally(records), quiet=quiet or as_json or as_csv)
        if license_ and "unknown" not in license_:
            rest = len(_choose(replace(choice, licenses=("unknown",)))[1])
            hint = f"{rest} more have a licence that nobody has read: the same with --license unknown"
            output.note(hint, quiet=quiet or as_json or as_csv or not rest)


@app.command()
def show(
    record: Annotated[str, typer.Argument(metavar="ID", help="Id, name, alias, arXiv number, DOI or hub id.")],
    as_is: Annotated[
        bool, typer.Option("--as-is", help="A record that was renamed: itself, not what it is called now.")
    ] = False,
    catalog: options.Catalog = None,  # noqa: ARG001 - laid over by its callback
    as_json: options.Json = False,
) -> None:
    """Show one record whole: links, licences and what they allow, results, what is related, BibTeX.

    \b
    Examples:
      geovl catalog show nano
      geovl catalog show GeoChat --json
      geovl catalog show 2306.11300
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import catalog as catalogs
        from geovl.catalog.related import related
        from geovl.cli import cards

        found = catalogs.load()
        entry = found.find(record, as_is=as_is)
        if not as_is:
            _tell_rename(found, record, entry)
        if as_json:
            output.answer_json({**entry.to_dict(), "related": related(entry, found)})
            return
        for line in cards.card(entry, found, output.width()):
            output.answer(line)


@app.command()
def search(
    words: Words,
    limit: Annotated[int, typer.Option(help="Most records to show.", min=1)] = 20,
    catalog: options.Catalog = None,  # noqa: ARG001 - laid over by its callback
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Search every field of every record, best first; synonyms count, and words may be misspelt.

    \b
    Examples:
      geovl catalog search flood damage
      geovl catalog search RES sentinel --limit 5
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import catalog as catalogs
        from geovl.catalog.search import search as look

        found = look(catalogs.load(), " ".join(words), limit)
        if not as_json:
            for word, instead in found.corrected:
                output.note(f"{word!r} stands in no record; looked for {instead}.", quiet=quiet)
        if not found.hits:
            msg = f"Nothing in the catalog says {' '.join(words)!r}."
            raise CatalogError(msg, "Try fewer or other words; tasks and their synonyms: geovl catalog tasks")
        if as_json:
            output.answer_json([{**hit.record.to_dict(), "excerpt": hit.excerpt} for hit in found.hits])
            return
        if not found.all_words:
            output.note("No record has all the words; these have some.", quiet=quiet)
        rows = [(hit.record.id, hit.record.type, _year(hit.record), hit.excerpt) for hit in found.hits]
        for line in output.columns(("id", "type", "year", "found"), rows, grow="found"):
            output.answer(line)


@app.command()
def compare(
    ids: Annotated[list[str], typer.Argument(metavar="ID ID...", help="Two records or more of one type.")],
    catalog: options.Catalog = None,  # noqa: ARG001 - laid over by its callback
    as_json: options.Json = False,
) -> None:
    """Put records side by side; results only where data set, split and setting are the same.

    \b
    Examples:
      geovl catalog compare lgce rmsin geopixel
      geovl catalog compare remoteclip georsclip skyclip
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import catalog as catalogs
        from geovl.cli import cards

        found = catalogs.load()
        records = list({entry.id: entry for entry in map(found.find, ids)}.values())
        kinds = {record.type for record in records}
        if len(records) < 2 or len(kinds) > 1:
            what = f"{records[0].id} alone" if len(records) < 2 else f"a {' and a '.join(sorted(kinds))}"
            raise UsageError(
                f"Two of one type are needed, and this is {what}.", "Give two or more models, or data sets."
            )
        if as_json:
            output.answer_json(cards.comparison_dict(records))
            return
        for line in cards.comparison(records, found, output.width()):
            output.answer(line)


@app.command()
def tasks(
    catalog: options.Catalog = None,  # noqa: ARG001 - laid over by its callback
    as_json: options.Json = False,
) -> None:
    """List the vocabulary of tasks, with synonyms and how many records have each.

    \b
    Examples:
      geovl catalog tasks
      geovl catalog tasks --json
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import catalog as catalogs
        from geovl.catalog.records import plain

        found = catalogs.load(types=("model", "dataset"))
        if as_json:
            output.answer_json([plain(found.tasks[name]) for name in sorted(found.tasks)])
            return
        rows = [
            (
                name,
                str(sum(name in record.tasks for record in found.models.values())),
                str(sum(name in record.tasks for record in found.datasets.values())),
                "; ".join((found.tasks[name].meaning.rstrip("."), *found.tasks[name].synonyms)),
            )
            for name in sorted(found.tasks)
        ]
        heads = ("task", "models", "datasets", "meaning and synonyms")
        for line in output.columns(heads, rows, grow=heads[3], right=("models", "datasets")):
            output.answer(line)


@app.command()
def check(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of records. Default: catalog/ of a checkout here, else geovl's own.", show_default=False
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check every record; name each fault with file, line, field and what was expected; exit 1 on any.

    A folder of your own, without vocabularies, may refer to geovl's records.

    \b
    Examples:
      geovl catalog check
      geovl catalog check my-records
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import catalog as catalogs
        from geovl import settings
        from geovl.catalog.check import check as look
        from geovl.catalog.read import VOCABULARIES

        own, here = settings.shipped_catalog(), Path("catalog")
        where = folder or (here if (here / "tasks.toml").is_file() else own)
        _check_folder(where)
        # a folder with both vocabularies is a whole catalog, such as that of a checkout
        whole = all((where / name).is_file() for name in VOCABULARIES)
        below = None if whole else catalogs.load((own,))
        faults = look(where, below)
        if as_json:
            rows = [{"file": str(f.path), "line": f.line, "field": f.field, "message": f.message} for f in faults]
            output.answer_json(rows)
        else:
            for fault in faults:
                output.answer(str(fault))
        count = sum(len(list((where / shelf).glob("*.toml"))) for shelf in ("models", "datasets", "papers"))
        if faults:
            msg = f"{len(faults)} fault{'s' * (len(faults) > 1)} in the {count} records of {where}."
            raise CatalogError(msg, "Each line says file, line, field, what is wrong and what was expected.")
        output.note(f"{where}: {count} records, no fault.")


@app.command()
def export(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Records. Default: all.", show_default=False)
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="json, csv, bibtex, hf-card, stac-mlm or croissant.")
    ] = "json",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File to write, or folder for a file a record. Default: stdout.", show_default=False
        ),
    ] = None,
    task: Task = None,
    kind: Kind = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="Also run the standard's own validator (needs geovl[standards]).")
    ] = False,
    overwrite: options.Overwrite = False,
    catalog: options.Catalog = None,  # noqa: ARG001 - laid over by its callback
    quiet: options.Quiet = False,
) -> None:
    """Write records in another format; what a standard requires and nobody knows is refused, never invented.

    hf-card, stac-mlm and croissant describe one record a file: give one ID, or a folder with -o.

    \b
    Examples:
      geovl catalog export --format json -o catalog.json
      geovl catalog export remoteclip --format hf-card
      geovl catalog export --task grounding --format bibtex > grounding.bib
      geovl catalog export --format croissant -o croissant/
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl.catalog import exports

        form = exports.find(format_)
        found, records = _to_export(ids, task, kind, form)
        if form.many or (ids and len(records) == 1 and (out is None or out.suffix)):
            refused = [] if ids else list(exports.refusals(found, records, form.name))
            passed = {error.record_id for error in refused}
            text = exports.write(found, [record for record in records if record.id not in passed], form.name)
            _validated(form.name, [("", text)] if validate else [])
            for refusal in refused:
                output.note(f"left out: {refusal.message}", quiet=quiet)
            if out is None or str(out) == "-":
                output.answer_raw(text)
            else:
                _save(out, text, overwrite)
                output.answer(str(out))
            return
        if out is None:
            msg = f"{form.name} describes one record a file, and {len(records)} are to be written."
            raise UsageError(msg, "Give one ID, or a folder: -o DIR")
        _export_each(
            found, records, form.name, out, named=bool(ids), validate=validate, overwrite=overwrite, quiet=quiet
        )


def _export_each(
    found: "Catalog", records: "Sequence[Record]", form: str, out: Path, named: bool, *,
    validate: bool, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write a file for each record into a folder; of records that nobody named pass over those that are refused."""
    from geovl.catalog import exports

    texts, refused = [], []
    for record in records:
        try:
            texts.append((record.id, exports.write(found, [record], form)))
        except exports.Refused as error:
            if named:
                raise
            refused.append(error)
    _validated(form, texts if validate else [])
    paths = [(out / f"{name}{exports.find(form).suffix}", text) for name, text in texts]
    if not overwrite and (there := [path for path, _ in paths if path.exists()]):
        raise UsageError(f"{there[0]} is there already.", "Add --overwrite, or give another folder.")
    for path, text in paths:
        _save(path, text, overwrite)
    output.answer(str(out))
    for refusal in refused[:3]:
        output.note(refusal.message, quiet=quiet)
    more = f" ({len(refused) - 3} more like these)" if len(refused) > 3 else ""
    output.note(f"{len(texts)} written, {len(refused)} refused{more}.", quiet=quiet)


def _to_export(
    ids: list[str] | None, task: list[str] | None, kind: list[str] | None, form: "Format"
) -> "tuple[Catalog, list[Record]]":
    """Return the catalog and the records to write: those named, or those chosen that the format has a place for."""
    from geovl import catalog as catalogs
    from geovl.catalog import select

    found = catalogs.load()
    if ids and (task or kind):
        raise UsageError("IDs and a choice by --task or --kind were given.", "Give either.")
    if ids:
        return found, list({entry.id: entry for entry in map(found.find, ids)}.values())
    if task or kind:
        records = select.choose(found, _choice(task, kind))
    else:  # the papers of models and data sets are among the papers
        records = list(found.papers.values() if form.name == "bibtex" else found)
    return found, [record for record in records if record.type in form.takes]


def _validated(form: str, texts: Sequence[tuple[str, str]]) -> None:
    from geovl.catalog.exports.validate import validate

    for name, text in texts:
        if complaints := validate(form, text):
            msg = f"{name} is no valid {form}: {'; '.join(complaints[:3])}".lstrip()
            raise CatalogError(msg, "That is a fault of geovl or of the record; nothing was written.")


def _save(path: Path, text: str, overwrite: bool) -> None:
    """Write a file whole or not at all."""
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already.", "Add --overwrite, or give another name with -o.")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CatalogError(f"{path} cannot be written: {error.strerror}.", "Give another place with -o.") from error


def _choice(
    task: list[str] | None = None, kind: list[str] | None = None, modality: list[str] | None = None,
    license_: list[str] | None = None, year: str | None = None, trained_on: list[str] | None = None,
    evaluated_on: list[str] | None = None, open_weights: bool = False, runnable: bool = False,
) -> "Choice":  # fmt: skip
    from geovl.catalog.select import Choice

    return Choice(
        tasks=tuple(task or ()), kinds=tuple(kind or ()), modalities=tuple(modality or ()),
        licenses=tuple(license_ or ()), years=year, trained_on=tuple(trained_on or ()),
        evaluated_on=tuple(evaluated_on or ()), open_weights=open_weights, runnable=runnable,
    )  # fmt: skip


def _choose(choice: "Choice") -> "tuple[Catalog, list[Record]]":
    """Return the part of the catalog that a choice needs, and the records that meet it."""
    from geovl import catalog as catalogs
    from geovl.catalog import select

    kinds = select.types(choice)
    mention: tuple[str, ...] = ()
    if choice.tasks and kinds == ("model", "dataset"):
        words = catalogs.load(types=())
        mention = tuple(words.task(name).id for name in choice.tasks)
    data = (("dataset",) if choice.trained_on or choice.evaluated_on else ()) + (
        ("model", "dataset") * ("paper" in kinds)
    )
    found = catalogs.load(types=(*kinds, *data), mention=mention)
    return found, select.choose(found, choice)


def _table(records: "Sequence[Record]") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heads and rows, most telling column first."""
    from geovl.catalog import licenses

    kinds = {record.type for record in records}
    if kinds == {"paper"}:
        return ("id", "year", "description"), [(record.id, _year(record), record.name) for record in records]
    heads = ("id", "type", "year", "license", "description", "kind", "tasks")
    rows = [
        (
            record.id, record.type, _year(record), _cut(licenses.short(record), 26), _about(record), record.kind,
            ", ".join(record.tasks),
        )
        for record in records
    ]  # fmt: skip
    shown = [place for place, name in enumerate(heads) if name != "type" or len(kinds) > 1]
    return tuple(heads[place] for place in shown), [tuple(row[place] for place in shown) for row in rows]


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def _about(record: "Record") -> str:
    now = f"Now {record.renamed_to}. " if record.renamed_to else ""
    return now + (record.description or record.name)


def _year(record: "Record") -> str:
    return str(record.year or "")


def _tally(records: "Sequence[Record]") -> str:
    if not records:
        return "No record meets all of that."
    count = {kind: sum(record.type == kind for record in records) for kind in ("model", "dataset", "paper")}
    words = [f"{number} {kind}{'s' * (number > 1)}" for kind, number in count.items() if number]
    return ", ".join(words) + ". About one: geovl catalog show ID"


def _tell_rename(found: "Catalog", name: str, entry: "Record") -> None:
    old = found.find(name, as_is=True)
    if old.renamed_to == entry.id:
        output.note(f"{old.name} goes as {entry.name} now; the earlier record: geovl catalog show {old.id} --as-is")


def _check_folder(where: Path) -> None:
    try:
        there = where.is_dir()
    except OSError as error:
        raise CatalogError(f"{where} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if not there:
        msg = f"There is no catalog folder {where}."
        raise CatalogError(msg, "Give the folder that holds models/, datasets/, papers/.")
