"""The flow: open raster, plan windows, segment, stitch, polygonize, keep as a run."""

import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

import geovl
from geovl import catalog, weights
from geovl.errors import RasterError, RunError, UsageError
from geovl.palette import class_colors, rgba
from geovl.polygonize import Polygons, polygonize
from geovl.raster import BlockWriter, Raster, RasterInfo, coarsen
from geovl.runs import LABELS, SCORES, SEGMENTS, UNKNOWN, Draft, Run, RunStore, sha256
from geovl.segmenters import registry
from geovl.segmenters.base import KnowsUnknown, Segmenter
from geovl.stitch import SCORE_NODATA, SCORE_SCALE, Stitcher, enlarge
from geovl.types import Chip, GeoBox, PromptNote, Vocabulary, Window, WindowGrid
from geovl.windows import plan

T = TypeVar("T")
Labels = NDArray[np.unsignedinteger]

_AHEAD = 2  # chips read ahead of the model
_MOST_SHRINK = 8  # finer than a centimetre or two, a scene is no longer seen from above
_WIDEST = 2304  # source pixels; side of a window that is shown to the model coarser
_SPECKLE = 25  # pixels; regions below are dropped unless --min-area is given


class Listener(Protocol):
    """Hears how the work goes on."""

    def stage(self, name: str, total: int, pixels: int) -> None:
        """A stage of ``total`` steps over ``pixels`` pixels begins."""

    def advance(self, steps: int) -> None:
        """So many steps of the stage are done."""

    def warn(self, message: str) -> None:
        """Something that the user should know, once."""


class Silent:
    """A listener that says nothing."""

    def stage(self, name: str, total: int, pixels: int) -> None:
        """Ignore."""

    def advance(self, steps: int) -> None:
        """Ignore."""

    def warn(self, message: str) -> None:
        """Ignore."""


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """How a raster is segmented.

    Raises:
        UsageError: A value out of its range.
    """

    bidx: tuple[int, ...] | None = None
    """1-based bands for red, green, blue; chosen by the raster's own words when None."""
    stretch: str = "auto"
    """``auto``, ``none``, ``minmax``, or two percentiles such as ``"2,98"``."""
    window: int = 1152
    """Side of a window, pixels as the model sees them."""
    overlap: int = 128
    """Pixels over which windows are blended, as the model sees them."""
    batch: int = 1
    """Windows given to the model at once."""
    threshold: float = 0.5
    """Lowest score of a class, 0..1."""
    min_area: float | None = None
    """Square metres; None drops regions under 25 pixels."""
    simplify: float | None = None
    """Metres; None is one pixel, 0 keeps the pixel edges."""
    unknown: bool = False
    """Also keep a raster of how unlike everything taught each pixel is."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            msg = f"Threshold is {self.threshold}; it is a probability, 0 to 1."
            raise UsageError(msg)
        for name, value in (("min-area", self.min_area), ("simplify", self.simplify)):
            if value is not None and not 0 <= value < float("inf"):
                msg = f"--{name} is {value}; it must be 0 or more."
                raise UsageError(msg)
        if self.batch < 1:
            msg = f"Batch is {self.batch}; it must be 1 or more."
            raise UsageError(msg)
        plan((1, 1), self.window, self.overlap)


def load_segmenter(model: str) -> Segmenter:
    """Return the segmenter of a catalog record, its weights checked.

    Raises:
        ModelError: Unknown, damaged, or in need of an extra.
    """
    record = catalog.model(model).record
    weights.verify(record, weights.folder(record))
    return registry.load(record)


def segment(
    source: str,
    vocabulary: Vocabulary,
    segmenter: Segmenter,
    store: RunStore,
    options: SegmentOptions | None = None,
    listener: Listener | None = None,
) -> Run:
    """Segment one raster and keep the result as a run.

    Args:
        source: Path of a raster.
        vocabulary: What to look for.
        segmenter: The model.
        store: Where the run is kept.
        options: Defaults where None.
        listener: Told of progress and warnings.

    Returns:
        The finished run.

    Raises:
        PromptError: The model refuses a prompt.
        SourceError: The raster cannot be read.
        RasterError: The raster cannot be used.
        RunError: The store cannot be written, for example because the disk is full.
    """
    options, listener = options or SegmentOptions(), listener or Silent()
    started = time.perf_counter()
    notes = segmenter.understand(vocabulary)
    if options.unknown and not isinstance(segmenter, KnowsUnknown):
        msg = f"{segmenter.record.id} cannot tell what it does not know."
        raise UsageError(msg, "Leave --unknown out, or use --model nano.")
    with Raster(source, options.bidx, options.stretch) as raster, store.create() as draft:
        info = raster.info
        shrink = _shrink(info, segmenter)
        warnings = [*info.warnings, *_warnings(info, segmenter, notes, options)]
        for warning in warnings:
            listener.warn(warning)
        nodata = 255 if len(vocabulary) < 255 else 65535
        with _writing(draft):
            windows = _label(raster, shrink, vocabulary, segmenter, options, draft, nodata, listener)
            labelled = time.perf_counter()
            polygons = _polygons(info, options, draft, nodata, listener)
            frame = _frame(polygons, vocabulary, info, segmenter.record.id, draft.id)
            frame.to_parquet(
                draft.folder / SEGMENTS, compression="zstd", schema_version="1.1.0", write_covering_bbox=True
            )
            finished = time.perf_counter()
            pixels = info.geobox.shape[0] * info.geobox.shape[1]
            manifest = {
                "geovl": geovl.__version__,
                "source": _source(raster),
                "working_gsd": None if info.gsd is None else info.gsd * shrink,
                "model": {"id": segmenter.record.id, "version": segmenter.record.version,
                          "weights": segmenter.record.weights},
                "parameters": asdict(options),
                "classes": _classes(frame, vocabulary, notes),
                "polygons": len(frame),
                "warnings": warnings,
                "windows": windows,
                "timings": {
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    "segment_seconds": round(labelled - started, 3),
                    "polygonize_seconds": round(finished - labelled, 3),
                    "megapixels_per_second": round(pixels / 1e6 / (finished - started), 3),
                },
            }  # fmt: skip
            return draft.commit(manifest)


@contextmanager
def _writing(draft: Draft) -> Iterator[None]:
    """Turn what a full or vanished disk raises into a RunError."""
    try:
        yield
    except (OSError, RasterioError) as error:
        msg = f"The run cannot be written to {draft.target.parent}: {error}"
        raise RunError(msg, "Free some space or choose another folder with --store; nothing was kept.") from error


def _warnings(
    info: RasterInfo, segmenter: Segmenter, notes: tuple[PromptNote, ...], options: SegmentOptions
) -> Iterator[str]:
    for note in notes:
        if note.status == "guess":
            near = ", ".join(note.nearest)
            yield f"{note.name!r} is not a concept that {segmenter.record.id} was taught; nearest: {near}."
        elif note.status == "experimental":
            yield f"{note.name!r} is experimental in {segmenter.record.id}: expect poor results."
    span = segmenter.record.gsd_range
    seen = None if info.gsd is None else info.gsd * _shrink(info, segmenter)
    if span is not None and seen is not None and not span[0] * 0.65 <= seen <= span[1]:
        yield (
            f"The raster has {info.gsd:.3g} m per pixel; {segmenter.record.id} was trained on "
            f"{span[0]:g} to {span[1]:g} m. Expect poor results."
        )
    if options.min_area and info.geobox.crs is None:
        yield "--min-area is in square metres and the raster has no CRS: only regions under 25 pixels are dropped."


def _shrink(info: RasterInfo, segmenter: Segmenter) -> int:
    """Return how many source pixels make one for the model: more than 1 where the raster is finer than it knows."""
    span = segmenter.record.gsd_range
    if span is None or not info.gsd:
        return 1
    return min(max(1, round(span[0] / info.gsd)), _MOST_SHRINK)


def _plan(shape: tuple[int, int], options: SegmentOptions, shrink: int) -> WindowGrid:
    """Plan windows over the pixels that the model sees, and return them in source pixels.

    With ``shrink`` above 1 the grid may reach beyond the raster, by less than one pixel of the model.
    """
    window, overlap = options.window, options.overlap
    if shrink > 1:  # the scores of a window are kept at source resolution
        window = min(window, max(_WIDEST // shrink, 384))
        overlap = min(overlap, window // 3)
    rows, cols = (-(-length // shrink) for length in shape)
    return plan((rows, cols), window, overlap).scaled(shrink)


@dataclass(frozen=True, slots=True)
class _Item:
    """A window that was read."""

    row: int
    col: int
    size: tuple[int, int]
    """Height and width of the window in the grid, source pixels."""
    chip: Chip
    """As the model sees it."""
    valid: NDArray[np.bool_]
    """bool, ``size``: where the raster has data."""

    @property
    def useful(self) -> bool:
        """Whether anything is worth computing."""
        return bool(self.valid.any())


def _ahead(items: Generator[T], depth: int) -> Generator[T]:
    """Yield from ``items``, which are made in a thread of their own, up to ``depth`` ahead."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def make() -> None:
        try:
            with closing(items):
                for item in items:
                    put(item)
                    if stop.is_set():
                        return
            put(None)
        except BaseException as error:  # noqa: BLE001 - carried over to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=make, name="geovl-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _read(raster: Raster, grid: WindowGrid, multiple: int, shrink: int) -> Generator[_Item]:
    """Read the windows in order; by one thread, since one open file decodes each block once."""
    height, width = raster.info.geobox.shape
    for row, col, window in grid:
        size = (window.height, window.width)
        if shrink == 1:
            chip = raster.read(window, multiple)
            yield _Item(row, col, size, chip, chip.valid[: window.height, : window.width])
            continue
        inside = window._replace(
            height=min(window.height, height - window.row), width=min(window.width, width - window.col)
        )
        fine = raster.read(inside)
        beyond = ((0, window.height - inside.height), (0, window.width - inside.width))
        yield _Item(row, col, size, coarsen(fine, shrink, multiple), np.pad(fine.valid, beyond))


@dataclass(frozen=True, slots=True)
class _Scored:
    """A window that the model has seen."""

    item: _Item
    scores: NDArray[np.float32]
    """float32 (classes, height, width), 0..1."""
    strange: NDArray[np.float32] | None
    """float32 (1, height, width), 0..1: how unlike everything taught, where that was asked for."""


def _scored(
    items: Generator[_Item], segmenter: Segmenter, vocabulary: Vocabulary, options: SegmentOptions, shrink: int
) -> Generator[_Scored]:
    """Run the model over batches of windows; those without any data are not computed."""
    with closing(items):
        while batch := list(islice(items, options.batch)):
            useful = [item.chip for item in batch if item.useful]
            found = segmenter.segment(useful, vocabulary)[::-1] if useful else []
            known: list[NDArray[np.float32]] = []
            if options.unknown and isinstance(segmenter, KnowsUnknown) and useful:
                known = segmenter.familiarity(useful)[::-1]
            for item in batch:
                scores, strange = np.zeros((len(vocabulary), *item.size), np.float32), None
                if options.unknown:
                    strange = np.ones((1, *item.size), np.float32)
                if item.useful:
                    scores = enlarge(found.pop().probabilities(), item.size, shrink)
                    strange = enlarge(1 - known.pop()[None], item.size, shrink) if known else None
                yield _Scored(item, scores, strange)


def _label(
    raster: Raster,
    shrink: int,
    vocabulary: Vocabulary,
    segmenter: Segmenter,
    options: SegmentOptions,
    draft: Draft,
    nodata: int,
    listener: Listener,
) -> int:
    """Write the label and score rasters; return the number of windows.

    Raises:
        RasterError: No pixel of the raster is valid.
    """
    geobox = raster.info.geobox
    grid = _plan(geobox.shape, options, shrink)
    stitcher = Stitcher(grid, len(vocabulary), options.threshold, nodata)
    colors = {i: rgba(c) for i, c in enumerate(class_colors(vocabulary.names).values(), 1)}
    tags = {"classes": "\n".join(vocabulary.names), "model": segmenter.record.id, "run": draft.id}
    dtype = "uint8" if nodata == 255 else "uint16"
    listener.stage("segment", len(grid), geobox.shape[0] * geobox.shape[1])
    seen = False
    with ExitStack() as stack:
        colormap = {0: (0, 0, 0, 0), **colors} if dtype == "uint8" else None
        labels = stack.enter_context(BlockWriter(draft.folder / LABELS, geobox, dtype, nodata, tags, colormap))
        scores = stack.enter_context(_score_writer(draft, SCORES, geobox))
        unknown, strangeness = None, Stitcher(grid, 1, 0.0, SCORE_NODATA)
        if options.unknown:
            unknown = stack.enter_context(_score_writer(draft, UNKNOWN, geobox))
        # reading, the model and what comes after it run at once, each in a thread
        items = _ahead(_read(raster, grid, segmenter.multiple, shrink), _AHEAD)
        scored = _ahead(_scored(items, segmenter, vocabulary, options, shrink), 1)
        stack.callback(scored.close)  # ends the threads
        for done in scored:
            item = done.item
            seen = seen or bool(item.valid.any())
            for band in stitcher.add(item.row, item.col, done.scores, item.valid):
                labels.write(*_inside(band.labels, band.window, geobox.shape))
                scores.write(*_inside(band.scores, band.window, geobox.shape))
            if unknown is not None and done.strange is not None:
                for band in strangeness.add(item.row, item.col, done.strange, item.valid):
                    unknown.write(*_inside(band.scores, band.window, geobox.shape))
            listener.advance(1)
    if not seen:
        msg = f"{raster.info.path!r} has no valid pixel: it is all nodata."
        raise RasterError(msg, "Check the nodata value with: rio info FILE")
    return len(grid)


def _inside(values: Labels, window: Window, shape: tuple[int, int]) -> tuple[Labels, Window]:
    """Cut off what a band has beyond the raster."""
    rows, cols = min(window.height, shape[0] - window.row), min(window.width, shape[1] - window.col)
    return values[:rows, :cols], Window(window.row, window.col, rows, cols)


def _score_writer(draft: Draft, name: str, geobox: GeoBox) -> BlockWriter:
    return BlockWriter(draft.folder / name, geobox, "uint8", SCORE_NODATA, {"run": draft.id}, scale=1 / SCORE_SCALE)


def _polygons(info: RasterInfo, options: SegmentOptions, draft: Draft, nodata: int, listener: Listener) -> Polygons:
    geobox = info.geobox
    pixel = info.gsd or abs(geobox.transform.determinant) ** 0.5 or 1.0
    min_area = options.min_area if geobox.crs is not None else None
    listener.stage("polygonize", 2 * geobox.shape[0], geobox.shape[0] * geobox.shape[1])
    with (
        rasterio.Env(GDAL_CACHEMAX=64),
        rasterio.open(draft.folder / LABELS) as labels,
        rasterio.open(draft.folder / SCORES) as scores,
    ):

        def reader(dataset: Any) -> Any:
            width = geobox.shape[1]
            return lambda top, bottom: dataset.read(1, window=((top, bottom), (0, width)))

        return polygonize(
            reader(labels),
            reader(scores),
            geobox,
            nodata=nodata,
            score_scale=SCORE_SCALE,
            min_area=min_area or 0.0,
            min_pixels=0 if min_area is not None else _SPECKLE,
            simplify=1.0 if options.simplify is None else options.simplify / pixel,
            step=listener.advance,
        )


def _frame(polygons: Polygons, vocabulary: Vocabulary, info: RasterInfo, model: str, run: str) -> Any:
    import geopandas as gpd  # noqa: PLC0415 - slow to import: it comes in while the first results exist already

    names = np.array(["", *vocabulary.names], object)
    phrases = np.array(["", *(", ".join(entry.phrases) for entry in vocabulary.classes)], object)
    return gpd.GeoDataFrame(
        {
            "class": names[polygons.label],
            "prompt": phrases[polygons.label],
            "score": polygons.score,
            "area_m2": polygons.area_m2,
            "perimeter_m": polygons.perimeter_m,
            "model": np.full(len(polygons.label), model, object),
            "run": np.full(len(polygons.label), run, object),
        },
        geometry=polygons.geometry,
        crs=info.geobox.crs,
    ).astype({"class": "str", "prompt": "str", "model": "str", "run": "str"})


def _source(raster: Raster) -> dict[str, Any]:
    info = raster.info
    path = Path(info.path)
    on_disk = path.is_file()
    stretch = None if raster.stretch is None else {"low": raster.stretch.low, "high": raster.stretch.high}
    return {
        "path": str(path.resolve()) if on_disk else info.path,
        "bytes": path.stat().st_size if on_disk else None,
        "sha256": sha256(path) if on_disk else None,
        "driver": info.driver,
        "shape": list(info.geobox.shape),
        "transform": list(info.geobox.transform)[:6],
        "crs": info.geobox.crs.to_string() if info.geobox.crs else None,
        "gsd": info.gsd,
        "dtype": info.dtype,
        "bands": list(info.bands),
        "stretch": stretch,
    }


def _classes(frame: Any, vocabulary: Vocabulary, notes: tuple[PromptNote, ...]) -> list[dict[str, Any]]:
    out = []
    colors = class_colors(vocabulary.names)
    for label, (entry, note) in enumerate(zip(vocabulary.classes, notes, strict=True), 1):
        mine = frame[frame["class"] == entry.name]
        area = float(mine["area_m2"].sum(skipna=False)) if len(mine) else 0.0
        weight = mine["area_m2"] if np.isfinite(area) and area > 0 else mine.geometry.area
        score = float(np.average(mine["score"], weights=weight)) if len(mine) else None
        out.append(
            {
                "label": label,
                "name": entry.name,
                "phrases": list(entry.phrases),
                "color": colors[entry.name],
                "polygons": len(mine),
                "area_m2": round(area, 2) if np.isfinite(area) else None,
                "score": None if score is None else round(score, 4),
                "status": note.status,
                "nearest": list(note.nearest),
            }
        )
    return out


__all__ = ["Listener", "SegmentOptions", "Silent", "load_segmenter", "segment"]
