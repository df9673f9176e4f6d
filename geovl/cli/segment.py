"""``geovl segment``: words and a raster in, a run out."""

from inspect import cleandoc
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from geovl.cli import options, output
from geovl.errors import GeovlError, UsageError

if TYPE_CHECKING:
    from geovl.runs import Run

_EXAMPLES = """Examples:

  geovl segment tile.tif "airport runways"

  geovl segment tile.tif building road water -o land.gpkg

  geovl segment 'tiles/*.tif' building --min-area 20 --json
"""


def segment(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A GeoTIFF (or anything GDAL reads), a folder, a quoted glob, a VRT."),
    ],
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="What to look for; several prompts give one class each.")
    ],
    model: Annotated[str, typer.Option("-m", "--model", help="Catalog id of the model.")] = "nano",
    out: options.Output = None,
    bidx: Annotated[
        str | None, typer.Option(help="Bands for red, green, blue, such as 4,3,2; or one grey band.")
    ] = None,
    stretch: Annotated[
        str, typer.Option(help="auto, none, minmax, or percentiles such as 2,98; always of the whole raster.")
    ] = "auto",
    window: Annotated[int, typer.Option(help="Side of a window, pixels.")] = 1152,
    overlap: Annotated[int, typer.Option(help="Pixels over which windows are blended.")] = 128,
    threshold: Annotated[float, typer.Option(help="Lowest score of a class, 0 to 1.")] = 0.5,
    min_area: Annotated[
        float | None,
        typer.Option(help="Drop regions below this many m². Default: below 25 pixels.", show_default=False),
    ] = None,
    simplify: Annotated[
        float | None,
        typer.Option(help="Tolerance in m, shared edges kept. Default: one pixel; 0: off.", show_default=False),
    ] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also keep unknown.tif: how unlike everything taught a pixel is, 0 to 1.")
    ] = False,
    overwrite: options.Overwrite = False,
    store: options.Store = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Find what words name in a raster; keep a run.

    A run holds polygons, label raster, scores and how they were made.
    Prints the run's id on stdout (--json: the manifest) and a table on stderr.
    """
    output.set_verbosity(verbose, quiet)
    with output.faults():
        from geovl import pipeline, raster, runs, settings
        from geovl.types import Vocabulary

        vocabulary = Vocabulary.from_prompts(prompts)
        chosen = pipeline.SegmentOptions(
            bidx=parse_bidx(bidx), stretch=stretch, window=window, overlap=overlap,
            threshold=threshold, min_area=min_area, simplify=simplify, unknown=unknown,
        )  # fmt: skip
        raster.parse_stretch(stretch)
        sources = raster.find_sources(source)
        _check_output(out, sources, overwrite)
        segmenter = pipeline.load_segmenter(model)
        keep = runs.RunStore(store or settings.store_dir())
        made: list[Run] = []
        failed: list[tuple[str, GeovlError]] = []
        for path in sources:
            try:
                with Progress(path, quiet=quiet) as progress:
                    made.append(pipeline.segment(path, vocabulary, segmenter, keep, chosen, progress))
            except GeovlError as error:
                if len(sources) == 1:
                    raise
                failed.append((path, error))  # the other sources are still worth having
        _report(made, out, overwrite=overwrite, as_json=as_json, quiet=quiet, many=len(sources) > 1)
        if failed:
            listed = "\n".join(f"  {path}: {error.message}" for path, error in failed)
            msg = f"{len(failed)} of {len(sources)} sources failed:\n{listed}"
            raise GeovlError(msg, "The other runs were kept.")


segment.__doc__ = f"{cleandoc(segment.__doc__ or '')}\n\n{_EXAMPLES}"


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


def _check_output(out: Path | None, sources: list[str], overwrite: bool) -> None:
    """Refuse an output that cannot work before any work is done."""
    if out is None:
        return
    from geovl.export.formats import check_target, resolve

    if len(sources) > 1:
        msg = f"-o names one file, but there are {len(sources)} sources."
        raise UsageError(msg, "Leave -o out, and export each run: geovl export RUN -o FILE")
    resolve(None, out)
    check_target(out, overwrite=overwrite)


def _report(made: "list[Run]", out: Path | None, *, overwrite: bool, as_json: bool, quiet: bool, many: bool) -> None:
    manifests = [run.manifest for run in made]
    if made and out is not None:
        from geovl import api

        api.Run(made[0].path).export(out, overwrite=overwrite)
    if not quiet:
        for run, manifest in zip(made, manifests, strict=True):
            output.stderr().print(_table(manifest, title=manifest["source"]["path"] if many else ""))
            speed = manifest["timings"]["megapixels_per_second"]
            output.note(f"{manifest['polygons']} polygons, {speed:.1f} megapixels per second; run {run.id}")
        if made and out is not None:
            output.note(f"Written: {out}")
        elif made:
            output.note("Next: geovl export --format gpkg -o FILE.gpkg")
    if as_json:
        output.answer_json(manifests if many else manifests[0])
    else:
        for run in made:
            output.answer(run.id)


def _table(manifest: dict[str, Any], title: str) -> Any:
    rows = []
    for entry in manifest["classes"]:
        area, score = entry["area_m2"], entry["score"]
        rows.append(
            (
                entry["name"],
                str(entry["polygons"]),
                "-" if area is None else f"{area:,.0f}",
                "-" if score is None else f"{score:.2f}",
            )
        )
    columns = ("class", "polygons", "area m²", "score")
    return output.table(columns, rows, right=columns[1:], title=title)


class Progress:
    """Progress bars on stderr, one a stage: steps, megapixels per second, time left."""

    def __init__(self, source: str, *, quiet: bool) -> None:
        self._source = Path(source).name
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._per_step = 0.0

    def __enter__(self) -> Self:
        console = output.stderr()
        if not self._quiet and console.is_terminal:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Bars(*columns, console=console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, total: int, pixels: int) -> None:
        """Begin a bar of ``total`` steps over ``pixels`` pixels."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._per_step = pixels / max(total, 1) / 1e6
        unit = "windows" if name == "segment" else "rows"
        self._task = self._bar.add_task(f"{name} {self._source} ({unit})", total=total, speed="")

    def advance(self, steps: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._task, steps)
            rate = self._bar.tasks[0].speed
            if rate:
                self._bar.update(self._task, speed=f"{rate * self._per_step:.1f} MP/s")

    def warn(self, message: str) -> None:
        """Print a warning above the bar."""
        if not self._quiet:
            output.warn(message)
