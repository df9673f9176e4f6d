"""One raster on its way to a run: the plan that any process can follow, the bands that are kept, the finish."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

from numpy.typing import NDArray

import geovl
from geovl import sources
from geovl.errors import RasterError, RunError, UsageError
from geovl.finishing import Finish, Summary
from geovl.inference import Task, make_bands, plan_windows, shrink_of
from geovl.raster import Raster, RasterInfo
from geovl.runs import Run, RunStore, new_id, sha256
from geovl.segmenters.base import Segmenter
from geovl.sources import Source
from geovl.stitch import Band, Decision, settle
from geovl.types import ClassPrompt, PromptNote, Vocabulary, Window
from geovl.windows import plan
from geovl.work import Work

_BYTES_PIXEL = 0.5  # of the labels and scores of nano, compressed
_SPECKLE = 25  # pixels; regions below are dropped unless --min-area is given
_WALL = 3.0
"""Pixels by which a wall may leave the labels: a model that answers every fourth pixel has them no straighter."""
_BUILDINGS = {"building", "mobile home", "greenhouse"}
"""Concepts that have walls."""
_IDENTITY = ("geovl", "source", "classes", "model", "options", "shrink")
"""What of a plan decides the result."""


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
    """What is asked of a raster; the result depends on nothing else.

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
    """Metres; None is one pixel, three with ``regularize``; 0 keeps the pixel edges."""
    regularize: bool = False
    """Give buildings straight walls and right angles: the classes that are buildings to the model, or all where
    none is."""
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


def plan_of(
    source: Source,
    info: RasterInfo,
    vocabulary: Vocabulary,
    segmenter: Segmenter,
    notes: tuple[PromptNote, ...],
    options: SegmentOptions,
    run_id: str | None,
) -> dict[str, Any]:
    """Return everything that a process elsewhere needs to know to make a part of a run, as JSON can hold it."""
    record = segmenter.record
    return {
        "id": run_id or new_id(),
        "geovl": geovl.__version__,
        "source": sources.fingerprint(source.path, hashed=False),
        "opened": asdict(source) | {"path": _everywhere(source.path)},
        "classes": [{"name": entry.name, "phrases": list(entry.phrases)} for entry in vocabulary.classes],
        "model": {"id": record.id, "version": record.version, "weights": record.weights},
        "options": asdict(options) | {"bidx": list(options.bidx) if options.bidx else None},
        "shrink": shrink_of(info.gsd, segmenter),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": [asdict(note) for note in notes],
        "warnings": [*info.warnings, *_warnings(info, segmenter, notes, options)],
    }


def opened(source: Source, options: SegmentOptions) -> Raster:
    """Open the raster of a source; what a server named is opened by drivers that follow no other names."""
    drivers = None if source.trusted else sources.REMOTE_DRIVERS
    return Raster(source.path, options.bidx, options.stretch, drivers)


def _everywhere(path: str) -> str:
    """Return a path that means the same in every folder."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def _options(stored: dict[str, Any]) -> SegmentOptions:
    bidx = stored["bidx"]
    return SegmentOptions(**(stored | {"bidx": tuple(bidx) if bidx else None}))


def source_of(work: Work) -> Source:
    """Return the source of an unfinished run."""
    stored = work.plan["opened"]
    return Source(stored["name"], stored["path"], stored["remote"], trusted=stored["trusted"])


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
    seen = None if info.gsd is None else info.gsd * shrink_of(info.gsd, segmenter)
    if span is not None and seen is not None and not span[0] * 0.65 <= seen <= span[1]:
        yield (
            f"The raster has {info.gsd:.3g} m per pixel; {segmenter.record.id} was trained on "
            f"{span[0]:g} to {span[1]:g} m. Expect poor results."
        )
    if options.min_area and info.geobox.crs is None:
        yield "--min-area is in square metres and the raster has no CRS: only regions under 25 pixels are dropped."


def _name(row: int) -> str:
    return f"band-{row:05d}"


def _zone_name(row: int) -> str:
    return f"zone-{row:05d}"


def free_bytes(folder: Path) -> int:
    """Return the free disk where a folder is, or would be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


class Job:
    """One raster, opened, and the unfinished run that it becomes; a context manager."""

    def __init__(self, raster: Raster, plan_: dict[str, Any], identity: dict[str, Any], root: Path) -> None:
        self.raster = raster
        self.identity = identity
        self._plan = plan_
        self._root = root
        self._started = time.perf_counter()
        self.made_here = 0
        """Rows of windows made by this process, or for it."""
        self.options = _options(plan_["options"])
        self.vocabulary = Vocabulary(
            tuple(ClassPrompt(entry["name"], tuple(entry["phrases"])) for entry in plan_["classes"])
        )
        options, shape = self.options, raster.info.geobox.shape
        grid = plan_windows(shape, options.window, options.overlap, plan_["shrink"])
        nodata = 255 if len(self.vocabulary) < 255 else 65535
        decision = Decision(len(self.vocabulary), options.threshold, nodata, options.unknown)
        self.task = Task(self.vocabulary, grid, plan_["shrink"], decision, options.batch)
        self.rows = len(grid.rows.starts)
        self.work: Work

    @classmethod
    def begin(
        cls,
        source: Source,
        vocabulary: Vocabulary,
        segmenter: Segmenter,
        notes: tuple[PromptNote, ...],
        options: SegmentOptions,
        store: RunStore,
        run_id: str | None,
    ) -> Self:
        """Open a raster and plan its run; :meth:`begin_work` then begins it, or goes on with it."""
        raster = opened(source, options)
        try:
            plan_ = plan_of(source, raster.info, vocabulary, segmenter, notes, options, run_id)
            job = cls(raster, plan_, {key: plan_[key] for key in _IDENTITY}, store.folder)
        except BaseException:
            raster.close()
            raise
        return job

    @classmethod
    def resume(cls, work: Work, store: RunStore | None) -> Self:
        """Open the raster of an unfinished run.

        Raises:
            RunError: The raster is no longer what it was.
        """
        plan_ = work.plan
        options = _options(plan_["options"])
        source = source_of(work)
        raster = opened(source, options)
        try:
            if sources.fingerprint(source.path, hashed=False) != plan_["source"]:
                msg = f"{source.name} was changed since run {work.id} was begun."
                raise RunError(msg, f"Start anew: geovl runs remove {work.id}, then the same command.")
            job = cls(
                raster, plan_, {key: plan_[key] for key in _IDENTITY}, store.folder if store else work.folder.parent
            )
            job.work = work
        except BaseException:
            raster.close()
            raise
        return job

    def begin_work(self, *, anew: bool = False) -> None:
        """Open the folder of what is made.

        Args:
            anew: Throw away what was made before.

        Raises:
            OSError: The folder cannot be made.
        """
        self.work = Work.begin(self._root, self._plan, self.identity)
        if anew and not self.work.empty():
            with self.work.claimed(alone=True):
                self.work.remove()
            self.work = Work.begin(self._root, self._plan, self.identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.raster.close()

    def band_bytes(self) -> int:
        """Memory of a band and of the zones around it."""
        grid, decision = self.task.grid, self.task.decision
        width = self.raster.info.geobox.shape[1]
        zone = max((stop - first for first, stop in grid.rows.zones), default=0)
        return width * (grid.rows.size * (2 + decision.unknown) + 3 * 4 * decision.channels * zone)

    def temporary_bytes(self) -> int:
        """Disk that the parts of the run take until it is finished, about."""
        height, width = self.raster.info.geobox.shape
        zone = max((stop - first for first, stop in self.task.grid.rows.zones), default=0)
        decision = self.task.decision
        return round(height * width * _BYTES_PIXEL * (1.5 if decision.unknown else 1)) + 2 * 4 * (
            decision.channels * zone * width
        )

    def check_disk(self, folder: Path) -> None:
        """Refuse work that the disk has no room for.

        Raises:
            RunError: There is too little.
        """
        need, free = 2 * self.temporary_bytes(), free_bytes(folder)
        if need > free:
            msg = f"The run needs about {need / 1e9:.2f} GB of disk; {free / 1e9:.2f} GB are free in {folder}."
            raise RunError(msg, "Free some space or choose another folder with --store")

    def missing(self) -> list[int]:
        """Rows of windows that are not made yet."""
        return [row for row in range(self.rows) if not self.work.has(_name(row))]

    def rows_of(self, shard: tuple[int, int] | None) -> list[int]:
        """Return the rows of windows that are to be made: what is missing, or what is missing of a shard (k, n)."""
        rows = self.missing()
        if shard is None:
            return rows
        first, stop = (self.rows * k // shard[1] for k in (shard[0] - 1, shard[0]))
        return [row for row in rows if first <= row < stop]

    def make(self, segmenter: Segmenter, rows: Sequence[int], listener: Listener) -> None:
        """Make rows of windows in this process, each kept as soon as it is done."""
        before: Band | None = None
        with closing(make_bands(self.raster, self.task, segmenter, rows, self.work, listener.advance)) as bands:
            for band in bands:
                self._keep(band, before)
                before = band

    def _keep(self, band: Band, before: Band | None) -> None:
        """Keep a band, settled where the band above is known already; a band's lower zone is kept until then."""
        row, above = band.row, None
        if before is not None and before.row == row - 1:
            above = before.below
        elif row and (found := self.work.load(_zone_name(row - 1))):
            above = found["below"]
        if band.below is not None:
            self.work.save(_zone_name(row), {"below": band.below})
        settled = band if above is None else settle(band, above, self.task.decision)
        arrays: dict[str, NDArray[Any]] = {"labels": settled.labels, "scores": settled.scores}
        if settled.unknown is not None:
            arrays["unknown"] = settled.unknown
        if settled.above is not None:
            arrays["above"] = settled.above
        self.work.save(_name(row), arrays)
        if row and settled.above is None:
            self.work.drop(_zone_name(row - 1))

    def _settled(self) -> Iterator[Band]:
        """Yield every band, settled.

        Raises:
            RunError: One is damaged; it was removed, and is made when the run is resumed.
        """
        grid = self.task.grid
        for row in range(self.rows):
            arrays = self.work.load(_name(row))
            zone: dict[str, Any] | None = {}
            if arrays is not None and "above" in arrays:
                zone = self.work.load(_zone_name(row - 1))
                if zone is None:  # its band must be made again to have it
                    self.work.drop(_name(row - 1))
            if arrays is None or zone is None:
                msg = f"Part {row + 1} of {self.rows} of run {self.work.id} was damaged on disk."
                raise RunError(msg, "Give the same command again: it makes that part anew and goes on.")
            top, bottom = grid.rows.zone_before(row)[0], grid.rows.zone_after(row)[0]
            window = Window(top, 0, bottom - top, arrays["labels"].shape[1])
            band = Band(
                row, window, arrays["labels"], arrays["scores"], arrays.get("unknown"), arrays.get("above"), None
            )
            yield settle(band, zone["below"], self.task.decision) if zone else band

    def finish(self, store: RunStore, listener: Listener) -> Run:
        """Read the bands once: write the rasters and the polygons, and leave the run.

        Raises:
            RasterError: No pixel of the raster is valid.
        """
        info, work, options = self.raster.info, self.work, self.options
        polygonizing = time.perf_counter()
        pixel = info.gsd or abs(info.geobox.transform.determinant) ** 0.5 or 1.0
        min_area = options.min_area if info.geobox.crs is not None else None
        finish = Finish(
            info.geobox,
            self.vocabulary,
            self.task.decision,
            str(work.plan["model"]["id"]),
            min_area=min_area or 0.0,
            min_pixels=0 if min_area is not None else _SPECKLE,
            simplify=self._simplify() if options.simplify is None else options.simplify / pixel,
            square=self._square(),
        )
        listener.stage("polygonize", info.geobox.shape[0], info.geobox.shape[0] * info.geobox.shape[1])
        with store.create(work.id) as draft:
            summary = finish.write(self._settled(), draft, listener.advance)
            if not summary.seen:
                work.remove()
                msg = f"{info.path!r} has no valid pixel: it is all nodata."
                raise RasterError(msg, "Check the nodata value with: rio info FILE")
            run = draft.commit(self._manifest(summary, polygonizing))
        work.remove()
        return run

    def _simplify(self) -> float:
        """Tolerance in pixels where none was given."""
        return _WALL if self.options.regularize else 1.0

    def _square(self) -> tuple[int, ...]:
        """Labels whose outlines get right angles."""
        if not self.options.regularize:
            return ()
        notes = self.work.plan["notes"]
        buildings = [label for label, note in enumerate(notes, 1) if _BUILDINGS & set(note["nearest"][:1])]
        return tuple(buildings or range(1, len(notes) + 1))

    def _manifest(self, summary: Summary, polygonizing: float) -> dict[str, Any]:
        info, plan_ = self.raster.info, self.work.plan
        now = time.perf_counter()
        seconds = now - self._started
        pixels = info.geobox.shape[0] * info.geobox.shape[1]
        return {
            "geovl": geovl.__version__,
            "identity": self.identity,
            "source": _source(self.raster, str(plan_["opened"]["name"])),
            "working_gsd": None if info.gsd is None else info.gsd * self.task.shrink,
            "model": plan_["model"],
            "parameters": plan_["options"],
            "classes": summary.classes(plan_["notes"]),
            "polygons": summary.polygons,
            "warnings": plan_["warnings"],
            "windows": len(self.task.grid),
            "resumed_rows": self.rows - self.made_here,
            "timings": {
                "begun": plan_["begun"],
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(seconds, 3),
                "polygonize_seconds": round(now - polygonizing, 3),
                "megapixels_per_second": round(pixels / 1e6 / seconds, 3),
            },
        }


def _source(raster: Raster, name: str) -> dict[str, Any]:
    info = raster.info
    path = Path(info.path)
    on_disk = path.is_file()
    stretch = None if raster.stretch is None else {"low": raster.stretch.low, "high": raster.stretch.high}
    return {
        "path": str(path.resolve()) if on_disk else name,  # the path of a remote one may hold a signature
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
