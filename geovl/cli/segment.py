"""``geovl segment``: words and a raster in, a run out."""

import sys
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geovl.cli import options, output, pictures
from geovl.cli.legend import legend
from geovl.cli.progress import Progress
from geovl.errors import GeovlError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from geovl.pipeline import Execution, SegmentOptions
    from geovl.runs import Run, RunStore
    from geovl.segmenters.base import Segmenter
    from geovl.sources import Source
    from geovl.types import Vocabulary

_EXAMPLES = """Examples:

  geovl segment tile.tif "airport runways"

  geovl segment tile.tif building road water -o land.gpkg

  geovl segment 'tiles/*.tif' building --min-area 20 --json

  geovl segment mosaic.vrt building --dry-run

  geovl segment mosaic.vrt building --shard 3/16   (then: geovl runs merge)
"""


def segment(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A GeoTIFF (or anything GDAL reads), a folder, a quoted glob, @LIST, a VRT, a URL, STAC.",
        ),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT...", help="What to look for; several prompts give one class each.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "-m", "--model", help="Catalog id, or BACKEND:WEIGHTS such as clearclip:ViT-B-16-quickgelu/openai."
        ),
    ] = "nano",
    method: Annotated[
        str | None,
        typer.Option(
            help="How a CLIP is read: clearclip, proxyclip, segearth-ov, sclip, maskclip. Default: the record's.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="File of classes, one a line: building, house, roof  #e41a1c", show_default=False),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            help="Open-vocabulary models: what stands against the prompts, names with commas, or none. "
            "A score of 0.5 means as likely as the strongest of these.",
            show_default=False,
        ),
    ] = None,
    gsd: Annotated[
        float | None,
        typer.Option(
            help="Metres per pixel that the model is shown; the result stays on the raster's grid.", show_default=False
        ),
    ] = None,
    refine: Annotated[bool, typer.Option("--refine", help="Draw scores to the edges in the picture.")] = False,
    precision: Annotated[
        str | None, typer.Option(help="Open-vocabulary models: float32, bf16 or fp16.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Another option of the model, such as crop=336.", show_default=False
        ),
    ] = None,
    catalog: options.Catalog = None,  # noqa: ARG001 - laid over by its callback
    out: options.Output = None,
    bidx: Annotated[
        str | None, typer.Option(help="Bands for red, green, blue, such as 4,3,2; or one grey band.")
    ] = None,
    stretch: Annotated[
        str, typer.Option(help="auto, none, minmax, or percentiles such as 2,98; always of the whole raster.")
    ] = "auto",
    window: Annotated[
        int | None, typer.Option(help="Side of a window, pixels. Default: the model's; nano 1152.", show_default=False)
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Pixels over which windows are blended. Default: the model's; nano 128.", show_default=False),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Lowest score of a class, 0 to 1.")] = 0.5,
    min_area: Annotated[
        float | None,
        typer.Option(help="Drop regions below this many m². Default: below 25 pixels.", show_default=False),
    ] = None,
    simplify: Annotated[
        float | None,
        typer.Option(help="Tolerance in m, shared edges kept. Default: one pixel; 0: off.", show_default=False),
    ] = None,
    regularize: Annotated[
        bool, typer.Option("--regularize", help="Give buildings straight walls and right angles; shared walls stay so.")
    ] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also keep unknown.tif: how unlike everything taught a pixel is, 0 to 1.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Windows given to the model at once; halved where memory is short.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    zoom: Annotated[
        bool, typer.Option("--zoom", help="Ask a text-as-mask model again on a crop around each thing that it found.")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="URL of an OpenAI-compatible server that runs the model; its key: GEOVL_ENDPOINT_KEY.",
            show_default=False,
        ),
    ] = None,
    asset: Annotated[
        str | None, typer.Option(help="Key of the asset to take from STAC items.", show_default=False)
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Make one run over all sources, as one mosaic.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print windows, memory, disk and time that it would take; make nothing.")
    ] = False,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Take finished runs of the same as done / start anew. Default: go on with an unfinished one.",
            show_default=False,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Make part K/N only: every N-th of many sources, or rows of one, for geovl runs merge.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine, through dask.", show_default=False)
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler, tcp://HOST:PORT.", show_default=False)
    ] = None,
    overwrite: options.Overwrite = False,
    store: options.Store = None,
    picture: options.Picture = True,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Find what words name in a raster; keep a run.

    A run holds polygons, label raster, scores and how they were made.
    Prints the run's id on stdout (--json: the manifest) and a table on stderr.
    """
    output.set_verbosity(verbose, quiet)
    with output.faults("what was done is kept: the same command goes on from there."):
        from geovl import pipeline, raster, runs, settings, sources

        vocabulary = _vocabulary(prompts or [], classes)
        told = model_options(set_ or [], background=background, precision=precision, endpoint=endpoint)
        told |= {"zoom": "true"} if zoom else {}
        chosen = pipeline.SegmentOptions(
            bidx=parse_bidx(bidx), stretch=stretch, window=window, overlap=overlap, batch=batch,
            threshold=threshold, min_area=min_area, simplify=simplify, unknown=unknown,
            regularize=regularize, gsd=gsd, refine=refine,
        )  # fmt: skip
        execution = pipeline.Execution(
            resume=resume, shard=parse_shard(shard), workers=workers, scheduler=scheduler, device=device
        )
        raster.parse_stretch(stretch)
        keep = runs.RunStore(store or settings.store_dir())
        found = sources.resolve(source, asset=asset, say=lambda text: output.note(text, quiet=quiet))
        if merge and len(found) > 1:
            found = [pipeline.mosaic(found, keep)]
        _check_output(out, len(found), overwrite, shard=shard)
        found, execution = _share(found, execution)
        segmenter = pipeline.load_segmenter(model, device, told, method)
        if dry_run:
            _estimate(found, vocabulary, segmenter, chosen, keep, as_json=as_json)
            return
        made: list[Run] = []
        failed: list[tuple[str, GeovlError]] = []
        for entry in found:
            try:
                with Progress(entry.name, quiet=quiet) as progress:
                    run = pipeline.segment(entry, vocabulary, segmenter, keep, chosen, progress, execution)
                if run is not None:
                    made.append(run)
            except GeovlError as error:
                if len(found) == 1:
                    raise
                failed.append((entry.name, error))  # the other sources are still worth having
        if not found:
            output.note(f"Shard {shard} has nothing to do: there are fewer sources than shards.", quiet=quiet)
        elif execution.shard is None:
            _pictured(made, wanted=picture and not quiet)
            _report(made, out, overwrite=overwrite, as_json=as_json, quiet=quiet, many=len(found) > 1)
        else:
            output.note(f"Shard {shard} is made. When all are: geovl runs merge", quiet=quiet)
        if failed:
            listed = "\n".join(f"  {name}: {error.message}" for name, error in failed)
            msg = f"{len(failed)} of {len(found)} sources failed:\n{listed}"
            raise GeovlError(msg, "The other runs were kept; with --resume only what failed is made again.")


segment.__doc__ = f"{cleandoc(segment.__doc__ or '')}\n\n{_EXAMPLES}"


def _vocabulary(prompts: list[str], classes: Path | None) -> "Vocabulary":
    """Return the classes of the prompts or of a file.

    Raises:
        UsageError: Neither or both were given.
    """
    from geovl.classes import read
    from geovl.types import Vocabulary

    if bool(prompts) == (classes is not None):
        msg = "Prompts and --classes were both given." if prompts else "No prompt was given."
        raise UsageError(msg, 'Say what to look for: geovl segment tile.tif "building", or --classes FILE')
    return read(classes) if classes is not None else Vocabulary.from_prompts(prompts)


def model_options(pairs: list[str], **named: str | None) -> dict[str, str]:
    """Return what the model is told: named options and ``name=value`` pairs.

    Raises:
        UsageError: A pair without a name or a sign, or an option twice.
    """
    told = {name: value for name, value in named.items() if value is not None}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            msg = f"--set is {pair!r}; it takes NAME=VALUE."
            raise UsageError(msg, "For example --set crop=336")
        if name.strip() in told:
            msg = f"{name.strip()} was given twice."
            raise UsageError(msg)
        told[name.strip()] = value.strip()
    return told


def parse_bidx(text: str | None) -> tuple[int, ...] | None:
    """Parse ``4,3,2``.

    Raises:
        UsageError: Not one or three whole numbers from 1.
    """
    if text is None:
        return None
    try:
        bands = tuple(int(part) for part in text.split(","))
    except ValueError:
        bands = ()
    if len(bands) not in (1, 3) or min(bands, default=0) < 1:
        msg = f"--bidx is {text!r}; it takes one band or three, counted from 1."
        raise UsageError(msg, "For example --bidx 4,3,2")
    return bands


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Parse ``3/16``.

    Raises:
        UsageError: Not two whole numbers.
    """
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal()):
        msg = f"--shard is {text!r}; it takes K/N, counted from 1."
        raise UsageError(msg, "For example --shard 3/16")
    return int(part), int(parts)


def _share(found: "list[Source]", execution: "Execution") -> "tuple[list[Source], Execution]":
    """Of many sources return those that a shard makes, each whole; one source is divided by its rows."""
    from dataclasses import replace

    if execution.shard is None or len(found) == 1:
        return found, execution
    part, parts = execution.shard
    return found[part - 1 :: parts], replace(execution, shard=None)


def _check_output(out: Path | None, count: int, overwrite: bool, *, shard: str | None) -> None:
    """Refuse an output that cannot work before any work is done."""
    if out is None:
        return
    from geovl.export.formats import check_target, resolve

    if shard is not None:
        msg = "-o needs a finished run, and --shard makes a part of one."
        raise UsageError(msg, "Leave -o out; after geovl runs merge: geovl export -o FILE")
    if count > 1:
        msg = f"-o names one file, but there are {count} sources."
        raise UsageError(msg, "Leave -o out, and export each run: geovl export RUN -o FILE; or make one run: --merge")
    resolve(None, out)
    check_target(out, overwrite=overwrite)


def _pictured(made: "list[Run]", *, wanted: bool) -> None:
    if wanted and len(made) == 1:
        pictures.show(made[0], sys.stderr)


def _write(run: "Run", out: Path, *, overwrite: bool) -> None:
    from geovl import api
    from geovl.export.formats import export, resolve

    for warning in export(api.layer(run), out, resolve(None, out), overwrite=overwrite):
        output.warn(warning)


def _report(made: "list[Run]", out: Path | None, *, overwrite: bool, as_json: bool, quiet: bool, many: bool) -> None:
    manifests = [run.manifest for run in made]
    if made and out is not None:
        _write(made[0], out, overwrite=overwrite)
    if not quiet:
        for run, manifest in zip(made, manifests, strict=True):
            console = output.stderr()
            title = manifest["source"]["path"] if many else ""
            console.print(legend(manifest, console, title=title), soft_wrap=True, end="")
            speed = manifest["timings"]["megapixels_per_second"]
            output.note(f"{manifest['polygons']} polygons, {speed:.1f} megapixels per second; run {run.id}")
            for line in _remarks(manifest):
                output.note(line)
        if made and out is not None:
            output.note(f"Written: {out}")
        elif made:
            output.note("Next: geovl view --open, or geovl export --format gpkg -o FILE.gpkg")
        if many:
            output.stderr().print(_sources(manifests))
    if as_json:
        output.answer_json(manifests if many else manifests[0])
    else:
        for run in made:
            output.answer(run.id)


_MARKS = {
    "repaired": "had to be repaired: rows too short or too long, or labels that nobody asked for",
    "unread": "held no mask",
    "failed": "never came",
    "cut": "were cut off at the most tokens",
}


def _remarks(manifest: dict[str, Any]) -> "Iterator[str]":
    """Say what a model that writes its masks cannot show, and what was wrong with its answers."""
    cell = manifest.get("cell")
    if cell is not None:
        metres = cell["metres"]
        size = f"{cell['pixels']:.3g} pixels" + (f", {metres:.3g} m" if metres is not None else "")
        least = f"{3 * metres:.3g} m" if metres is not None else f"{3 * cell['pixels']:.3g} pixels"
        yield f"A cell of the mask is {size}: things under three cells, {least}, come out coarse."
    for mark, count in manifest.get("marks", {}).items():
        yield f"Answers about {count} of {manifest['windows']} windows {_MARKS.get(mark, mark)}."


def _sources(manifests: list[dict[str, Any]]) -> Any:
    """Make the summary of many runs: a line a source."""
    columns = ("run", "source", "polygons", "area m²", "megapixels/s")
    rows = []
    for manifest in manifests:
        areas = [entry["area_m2"] for entry in manifest["classes"]]
        area = "-" if None in areas else f"{sum(areas):,.0f}"
        speed = f"{manifest['timings']['megapixels_per_second']:.1f}"
        rows.append((manifest["id"], Path(manifest["source"]["path"]).name, str(manifest["polygons"]), area, speed))
    return output.table(columns, rows, right=columns[2:], title="all sources")


def _estimate(
    found: "list[Source]",
    vocabulary: "Vocabulary",
    segmenter: "Segmenter",
    chosen: "SegmentOptions",
    keep: "RunStore",
    *,
    as_json: bool,
) -> None:
    """Print what the work would take."""
    from dataclasses import asdict

    from geovl import pipeline

    told = [pipeline.estimate(entry, vocabulary, segmenter, chosen, keep) for entry in found]
    if as_json:
        output.answer_json([asdict(one) for one in told] if len(told) > 1 else asdict(told[0]))
        return
    columns = ("source", "megapixels", "windows", "memory", "temporary disk", "output", "time")
    rows = [
        (one.source.rpartition("/")[2], f"{one.megapixels:,.1f}", f"{one.windows:,}", _bytes(one.memory_bytes),
         _bytes(one.temporary_bytes), _bytes(one.output_bytes), _duration(one.seconds))
        for one in told
    ]  # fmt: skip
    output.answer_table(output.table(columns, rows, right=columns[1:]))
    output.note(
        f"About {_duration(sum(one.seconds for one in told))} in all, by a try of {segmenter.record.id} on one window; "
        f"{_bytes(told[0].free_bytes)} of disk are free."
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
