"""``geovl catalog fetch``: the weights of a model, with licence and size told before a byte is moved."""

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geovl.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from geovl.types import ModelRecord
    from geovl.weights import File, Origin, Progress


def fetch(
    model: Annotated[str, typer.Argument(metavar="ID", help="A model that geovl runs: geovl catalog list --runnable")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be downloaded; download nothing.")] = False,
    catalog: options.Catalog = None,  # noqa: ARG001 - laid over by its callback
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a model's weights; print the paths of the files.

    What is here already stays; a download that was broken off goes on. Without a network it says which files
    to put where.

    \b
    Examples:
      geovl catalog fetch remoteclip-vit-b-32
      geovl catalog fetch proxyclip-dinov2-vit-b-14 --dry-run
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults("what was downloaded is kept: the same command goes on from there."):
        from geovl import catalog as catalogs
        from geovl.catalog import licenses

        entry = catalogs.model(model)
        found = catalogs.load(types=())
        verdict = licenses.verdict(entry.license_weights, found)
        output.note(f"Weights of {entry.name}: {entry.license_weights}. {verdict}", quiet=quiet)
        origins = origins_of(entry.record)
        missing = _missing(origins)
        for name, size in missing.items():
            told = "size unknown" if size is None else f"{size / 1e6:,.0f} MB"
            output.note(f"To download: {name} ({told})", quiet=quiet)
        if dry_run:
            if as_json:
                output.answer_json({"model": entry.id, "missing": missing})
            return
        files = _all(origins, quiet=quiet)
        if not missing:
            output.note("Everything is here already.", quiet=quiet)
        for file in files:
            if file.checked == "nothing":
                output.note(f"{file.name}: nothing names its sha256, so that it could not be checked.", quiet=quiet)
        if as_json:
            rows = [{"name": f.name, "path": str(f.path), "sha256_from": f.checked} for f in files]
            output.answer_json({"model": entry.id, "files": rows})
            return
        for file in files:
            output.answer(str(file.path))


def _missing(origins: "list[Origin]") -> dict[str, int | None]:
    """Return what is to be downloaded, and how large it is."""
    from geovl import weights

    missing: dict[str, int | None] = {}
    for what in origins:
        with suppress(weights.NotThereError):  # told when it is wanted, with all that is needed
            missing |= weights.remaining(what)
    return missing


def _all(origins: "list[Origin]", *, quiet: bool) -> "list[File]":
    """Return all files, downloaded where they are not here; what is lacking is told at once."""
    from geovl import weights

    files: list[File] = []
    lacking: list[weights.NotThereError] = []
    with _bars(quiet=quiet) as progress:
        for what in origins:
            try:
                found = weights.fetch(what, progress)
                for index in [file for file in found if file.name == weights.WEIGHTS_INDEX]:
                    named = tuple((name,) for name in weights.parts(index.path))
                    found = (*found, *weights.fetch(replace(what, needed=named, optional=()), progress))
                files += found
            except weights.NotThereError as error:
                lacking.append(error)
    if lacking:
        hints = "\n".join(error.hint for error in lacking if error.hint)
        raise weights.NotThereError(" ".join(error.message for error in lacking), hints)
    return files


def origins_of(record: "ModelRecord") -> "list[Origin]":
    """Return where all weights of a record come from: its own, and those of a vision network beside it."""
    from geovl import weights

    found = [weights.of_record(record)]
    vision = str(record.options.get("vision", ""))
    if vision.startswith("hf-hub:"):
        names = (("config.json",), ("model.safetensors", "pytorch_model.bin"))
        found.append(weights.origin(vision, names))
    return found


@contextmanager
def _bars(*, quiet: bool) -> "Iterator[Progress | None]":
    """Give what downloads report to: a bar a file, on a terminal."""
    console = output.stderr()
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    tasks: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=console, transient=True) as bars:

        def progress(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield progress
