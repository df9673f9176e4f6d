"""The Python interface: ``import geovl; geovl.segment("tile.tif", ["building"])``."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from geovl import pipeline, runs, settings, sources
from geovl.errors import UsageError
from geovl.export.formats import Layer, export, resolve
from geovl.pipeline import Execution, SegmentOptions
from geovl.types import Vocabulary
from geovl.vectors import read_head
from geovl.views.page import Basemap, page


class Run(runs.Run):
    """A finished run that can also be exported."""

    def export(
        self,
        path: str | Path,
        format: str | None = None,  # noqa: A002
        *,
        overwrite: bool = False,
        style: bool = True,
        colors: bool = False,
    ) -> Path:
        """Write the polygons, or the label raster, to a file.

        Args:
            path: File to write.
            format: Name of a format (see ``geovl export --help``); by the file's suffix when None.
            overwrite: Replace a file that is there.
            style: Also write styles beside a format that cannot carry one; one that somebody made is kept.
            colors: Give each polygon its colour as a property.

        Returns:
            The path.

        Raises:
            UsageError: No such format, or one without polygons was to be coloured.
            ExportError: The file is there, or cannot be written.

        Warns:
            UserWarning: What of the run the format cannot hold.
        """
        target = Path(path)
        written = replace(layer(self), colored=colors)
        for warning in export(written, target, resolve(format, target), overwrite=overwrite, style=style):
            warnings.warn(warning, stacklevel=2)
        return target


def layer(run: runs.Run) -> Layer:
    """Return what an export of a run needs.

    Raises:
        RunError: The segments are missing or damaged.
    """
    colors = {entry["name"]: entry["color"] for entry in run.manifest["classes"]}
    found = Layer(run.path / runs.SEGMENTS, run.path / runs.LABELS, colors, run.id)
    read_head(found.file)  # a damaged run is told before the target is touched
    return found


def _store(store: str | Path | None) -> runs.RunStore:
    return runs.RunStore(Path(store) if store is not None else settings.store_dir())


def open_run(run_id: str | None = None, *, store: str | Path | None = None) -> Run:
    """Return a run of the store by its id, the latest when None.

    Raises:
        RunError: There is no such run.
    """
    return Run(_store(store).get(run_id).path)


def view(
    run: runs.Run | Sequence[runs.Run], path: str | Path, *, basemap: str | None = None, overwrite: bool = False
) -> Path:
    """Write a map of one run or several as one HTML file that needs no network.

    Args:
        run: One, or several of one place, which get a slider over their dates.
        path: File to write.
        basemap: Address of tiles to load beneath them, with ``{z}``, ``{x}`` and ``{y}``.
        overwrite: Replace a file that is there.

    Returns:
        The path.

    Raises:
        UsageError: Runs that cannot be shown together, or a basemap that is none.
        RunError: A run is damaged, or lies where a map of the web has no place for it.
        ExportError: The file is there, or cannot be written.

    Warns:
        UserWarning: What cannot be shown.
    """
    shown = [run] if isinstance(run, runs.Run) else list(run)
    for warning in page(shown, Path(path), basemap=Basemap(basemap) if basemap else None, overwrite=overwrite):
        warnings.warn(warning, stacklevel=2)
    return Path(path)


def segment(
    source: str | Path,
    prompts: str | list[str] | Vocabulary,
    *,
    model: str = "nano",
    method: str | None = None,
    model_options: Mapping[str, str | float | bool] | None = None,
    store: str | Path | None = None,
    options: SegmentOptions | None = None,
    execution: Execution | None = None,
) -> Run:
    """Segment one raster by words and keep the result as a run.

    Args:
        source: A GeoTIFF, or anything GDAL reads.
        prompts: What to look for, one class each; or the vocabulary that ``geovl.classes.read`` makes of a file.
        model: Catalog id, or ``backend:weights``.
        method: How a CLIP is read, such as ``segearth-ov``; the record's where None.
        model_options: What ``--set``, ``--background`` and ``--precision`` say on the command line.
        store: Folder of runs; ``.geovl`` when None.
        options: Bands, windows, threshold and the like.
        execution: How it is made: resumed, by dask workers, on which device.

    Returns:
        The run: ``to_geodataframe()``, ``labels()``, ``scores()``, ``export()``.

    Raises:
        UsageError: The source names several rasters; use :func:`segment_all`.
        GeovlError: Whatever else is wrong, said in one sentence.
    """
    found = sources.resolve(str(source))
    if len(found) != 1:
        msg = f"{str(source)!r} names {len(found)} rasters; geovl.segment takes one."
        raise UsageError(msg, "Use geovl.segment_all, which returns one run per raster.")
    if execution is not None and execution.shard is not None:
        msg = "geovl.segment returns a finished run, and a shard is only part of one."
        raise UsageError(msg, "Use geovl.pipeline.segment for each shard, then geovl.pipeline.merge.")
    return segment_all(
        source, prompts, model=model, method=method, model_options=model_options, store=store, options=options,
        execution=execution,
    )[0]  # fmt: skip


def segment_all(
    source: str | Path,
    prompts: str | list[str] | Vocabulary,
    *,
    model: str = "nano",
    method: str | None = None,
    model_options: Mapping[str, str | float | bool] | None = None,
    store: str | Path | None = None,
    options: SegmentOptions | None = None,
    execution: Execution | None = None,
) -> list[Run]:
    """Segment every raster that a source names; arguments and errors as in :func:`segment`."""
    vocabulary = prompts if isinstance(prompts, Vocabulary) else Vocabulary.from_prompts(prompts)
    device = "auto" if execution is None else execution.device
    segmenter = pipeline.load_segmenter(model, device, model_options, method)
    made = (
        pipeline.segment(entry, vocabulary, segmenter, _store(store), options, execution=execution)
        for entry in sources.resolve(str(source))
    )
    return [Run(run.path) for run in made if run is not None]
