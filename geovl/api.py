"""The Python interface: ``import geovl; geovl.segment("tile.tif", ["building"])``."""

from pathlib import Path

from geovl import pipeline, runs, settings
from geovl.errors import UsageError
from geovl.export.formats import Layer, export, resolve
from geovl.pipeline import SegmentOptions
from geovl.raster import find_sources
from geovl.types import Vocabulary


class Run(runs.Run):
    """A finished run that can also be exported."""

    def export(self, path: str | Path, format: str | None = None, *, overwrite: bool = False) -> Path:  # noqa: A002
        """Write the polygons, or the label raster, to a file.

        Args:
            path: File to write.
            format: Name of a format (see ``geovl export --help``); by the file's suffix when None.
            overwrite: Replace a file that is there.

        Returns:
            The path.

        Raises:
            UsageError: No such format.
            ExportError: The file is there, or cannot be written.
        """
        target = Path(path)
        export(layer(self), target, resolve(format, target), overwrite=overwrite)
        return target


def layer(run: runs.Run) -> Layer:
    """Return what an export of a run needs."""
    colors = {entry["name"]: entry["color"] for entry in run.manifest["classes"]}
    return Layer(run.to_geodataframe(), run.path / runs.LABELS, colors, run.id)


def _store(store: str | Path | None) -> runs.RunStore:
    return runs.RunStore(Path(store) if store is not None else settings.store_dir())


def open_run(run_id: str | None = None, *, store: str | Path | None = None) -> Run:
    """Return a run of the store by its id, the latest when None.

    Raises:
        RunError: There is no such run.
    """
    return Run(_store(store).get(run_id).path)


def segment(
    source: str | Path,
    prompts: str | list[str],
    *,
    model: str = "nano",
    store: str | Path | None = None,
    options: SegmentOptions | None = None,
) -> Run:
    """Segment one raster by words and keep the result as a run.

    Args:
        source: A GeoTIFF, or anything GDAL reads.
        prompts: What to look for, one class each.
        model: Catalog id.
        store: Folder of runs; ``.geovl`` when None.
        options: Bands, windows, threshold and the like.

    Returns:
        The run: ``to_geodataframe()``, ``labels()``, ``scores()``, ``export()``.

    Raises:
        UsageError: The source names several rasters; use :func:`segment_all`.
        GeovlError: Whatever else is wrong, said in one sentence.
    """
    found = find_sources(str(source))
    if len(found) != 1:
        msg = f"{str(source)!r} names {len(found)} rasters; geovl.segment takes one."
        raise UsageError(msg, "Use geovl.segment_all, which returns one run per raster.")
    return segment_all(found[0], prompts, model=model, store=store, options=options)[0]


def segment_all(
    source: str | Path,
    prompts: str | list[str],
    *,
    model: str = "nano",
    store: str | Path | None = None,
    options: SegmentOptions | None = None,
) -> list[Run]:
    """Segment every raster of a folder or glob; arguments and errors as in :func:`segment`."""
    vocabulary = Vocabulary.from_prompts(prompts)
    segmenter = pipeline.load_segmenter(model)
    made = (pipeline.segment(path, vocabulary, segmenter, _store(store), options) for path in find_sources(str(source)))
    return [Run(run.path) for run in made]
