"""One raster on its way to a run: the plan that any process can follow, the bands that are kept, the finish."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

import geovl
from geovl import sources
from geovl.errors import RasterError, RunError, UsageError
from geovl.finishing import Finish, Rows, Summary
from geovl.inference import Task, make_bands, packed, plan_windows, scale_of, unpacked
from geovl.polygonize import Ground
from geovl.raster import Raster, RasterInfo, Stretch
from geovl.runs import MANIFEST, Run, RunStore, new_id, sha256
from geovl.segmenters import refine
from geovl.segmenters.base import HasBatch, HasCells, HasWindows, Refers, Segmenter
from geovl.settling import SPECKLE, rejected, settlement, smallest
from geovl.sources import Source
from geovl.stitch import Band, Decision, settle
from geovl.types import ClassPrompt, GeoBox, PromptNote, Vocabulary, Window
from geovl.windows import plan
from geovl.work import Work

BYTES_PIXEL = 0.5
"""Of labels and scores, compressed: two to three times what nano's took where it was measured."""
WINDOW = (1152, 128)
"""Side and overlap of windows where neither user nor model says."""
_WALL = 3.0
"""Pixels by which a wall may leave the labels: a model that answers every fourth pixel has them no straighter."""
_BUILDINGS = {"building", "mobile home", "greenhouse"}
"""Concepts that have walls."""
_IDENTITY = ("geovl", "source", "classes", "model", "options", "scale")
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
    window: int | None = None
    """Side of a window, pixels as the model sees them; None is what the model does best with."""
    overlap: int | None = None
    """Pixels over which windows are blended, as the model sees them; None goes with the window."""
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
    gsd: float | None = None
    """Metres per pixel that the model is shown, to the nearest whole factor; None is the raster's own, or the finest
    that the model knows."""
    refine: bool = False
    """Draw scores to the edges in the picture."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            msg = f"Threshold is {self.threshold}; it is a probability, 0 to 1."
            raise UsageError(msg)
        for name, value in (("min-area", self.min_area), ("simplify", self.simplify)):
            if value is not None and not 0 <= value < float("inf"):
                msg = f"--{name} is {value}; it must be 0 or more."
                raise UsageError(msg)
        if self.gsd is not None and not 0 < self.gsd < float("inf"):
            msg = f"--gsd is {self.gsd}; it is in metres per pixel, more than 0."
            raise UsageError(msg)
        if self.batch < 1:
            msg = f"Batch is {self.batch}; it must be 1 or more."
            raise UsageError(msg)
        if self.window is not None or self.overlap is not None:
            plan((1, 1), *self.windows(WINDOW))

    def windows(self, best: tuple[int, int]) -> tuple[int, int]:
        """Return side and overlap of windows in pixels, what was not asked for as a model does best with it."""
        window = best[0] if self.window is None else self.window
        # a small window that somebody asks for wants no large overlap
        overlap = min(best[1], window // 3) if self.overlap is None else self.overlap
        return window, overlap


def plan_of(
    source: Source,
    raster: Raster,
    vocabulary: Vocabulary,
    segmenter: Segmenter,
    notes: tuple[PromptNote, ...],
    options: SegmentOptions,
    run_id: str | None,
) -> dict[str, Any]:
    """Return everything that a process elsewhere needs to know to make a part of a run, as JSON can hold it."""
    record, info = segmenter.record, raster.info
    best = segmenter.windows(len(vocabulary)) if isinstance(segmenter, HasWindows) else WINDOW
    window, overlap = options.windows(best)
    if options.refine and options.overlap is None:  # else windows would not agree where they meet
        overlap = max(overlap, min(2 * refine.halo(), window // 3))
    batch = max(options.batch, segmenter.batch) if isinstance(segmenter, HasBatch) else options.batch
    options = replace(options, window=window, overlap=overlap, batch=batch)
    scale = scale_of(info.gsd, segmenter, options.gsd)
    alone = len(plan_windows(info.geobox.shape, window, overlap, scale)) == 1
    return {
        "id": run_id or new_id(),
        "geovl": geovl.__version__,
        "source": sources.fingerprint(source.path, hashed=False),
        "opened": {
            "name": source.name,
            "path": sources.redacted(everywhere(source.path)),
            "datetime": source.datetime,
        },
        "raster": _described(info, raster.stretch),
        "classes": [asdict(entry) | {"phrases": list(entry.phrases)} for entry in vocabulary.classes],
        "model": asdict(record) | {"gsd_range": None if record.gsd_range is None else list(record.gsd_range)},
        "options": asdict(options) | {"bidx": list(options.bidx) if options.bidx else None},
        "scale": scale,
        # one window shows a model the whole scene: it may read expressions itself
        "settled": segmenter.refers
        if isinstance(segmenter, Refers) and not (alone and segmenter.reads_whole)
        else None,
        "cell": _cell(info, segmenter, window, scale),
        # a model that has windows of its own is slow: the scores of a row of windows are kept as they come
        "keeps": isinstance(segmenter, HasWindows),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": [asdict(note) for note in notes],
        "warnings": [*info.warnings, *_warnings(info, segmenter, notes, options)],
    }


def _cell(info: RasterInfo, segmenter: Segmenter, window: int, scale: int) -> dict[str, float | None] | None:
    """Return how large a cell is of a model that has cells, in pixels of the raster and in metres."""
    if not isinstance(segmenter, HasCells):
        return None
    shown = window * scale if scale > 0 else window / -scale
    pixels = min(shown, max(info.geobox.shape)) / segmenter.cells
    return {"pixels": round(pixels, 2), "metres": None if info.gsd is None else round(pixels * info.gsd, 3)}


def opened(source: Source, bidx: tuple[int, ...] | None, stretch: str | Stretch | None) -> Raster:
    """Open the raster of a source; what a server named is opened by drivers that follow no other names."""
    drivers = None if source.trusted else sources.REMOTE_DRIVERS
    return Raster(source.path, bidx, stretch, drivers)


def everywhere(path: str) -> str:
    """Return a path that means the same in every folder."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def _options(stored: dict[str, Any]) -> SegmentOptions:
    bidx = stored["bidx"]
    return SegmentOptions(**(stored | {"bidx": tuple(bidx) if bidx else None}))


def identity_of(plan_: dict[str, Any], *, shared: bool = True) -> dict[str, Any]:
    """Return what of a plan decides the result: runs with equal ones have the same bytes.

    Args:
        plan_: See :func:`plan_of`.
        shared: False makes the identity of a source whose content cannot be known one that no other run has.
    """
    identity = {key: plan_[key] for key in _IDENTITY}
    # what a resolution came to is in the scale
    identity["options"] = {key: value for key, value in plan_["options"].items() if key not in {"batch", "gsd"}}
    if plan_["source"].get("kind") == "path" and not shared:
        identity["only"] = plan_["id"]
    return identity


def _described(info: RasterInfo, stretch: Stretch | None) -> dict[str, Any]:
    """Return what is known of a raster, as JSON can hold it: whoever goes on with a run needs the very same."""
    box = info.geobox
    return {
        "path": sources.redacted(info.path),
        "driver": info.driver,
        "shape": list(box.shape),
        "transform": list(box.transform)[:6],
        "crs": None if box.crs is None else box.crs.to_wkt(),
        "count": info.count,
        "dtype": info.dtype,
        "bands": list(info.bands),
        "gsd": info.gsd,
        "warnings": list(info.warnings),
        "stretch": None if stretch is None else {"low": list(stretch.low), "high": list(stretch.high)},
    }


def _info_of(stored: dict[str, Any]) -> RasterInfo:
    crs = None if stored["crs"] is None else CRS.from_wkt(stored["crs"])
    height, width = stored["shape"]
    box = GeoBox((height, width), Affine(*stored["transform"]), crs)
    return RasterInfo(
        stored["path"], stored["driver"], box, stored["count"], stored["dtype"], tuple(stored["bands"]),
        stored["gsd"], tuple(stored["warnings"]),
    )  # fmt: skip


def _stretch_of(stored: dict[str, Any]) -> Stretch | None:
    found = stored["stretch"]
    return None if found is None else Stretch(tuple(found["low"]), tuple(found["high"]))


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
    scale = scale_of(info.gsd, segmenter, options.gsd)
    seen = None if info.gsd is None else (info.gsd * scale if scale > 0 else info.gsd / -scale)
    if span is not None and seen is not None and not span[0] * 0.65 <= seen <= span[1]:
        yield (
            f"{segmenter.record.id} sees {seen:.3g} m per pixel and was trained on {span[0]:g} to {span[1]:g} m. "
            "Expect poor results."
        )
    if options.min_area and not Ground(info.geobox).measures:
        yield (
            "--min-area is in square metres and the raster has no place on Earth (no CRS, or a local one): "
            "only regions under 25 pixels are dropped."
        )


def _name(row: int) -> str:
    return f"band-{row:05d}"


def _zone_name(row: int) -> str:
    return f"zone-{row:05d}"


def free_bytes(folder: Path) -> int:
    """Return the free disk where a folder is, or would be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


class PartError(RunError):
    """A part of a run that was kept is damaged."""


class Job:
    """One raster, opened, and the unfinished run that it becomes; a context manager."""

    def __init__(
        self, info: RasterInfo, plan_: dict[str, Any], identity: dict[str, Any], store: RunStore, raster: Raster | None
    ) -> None:
        self.info = info
        self.identity = identity
        self._raster = raster
        self._plan = plan_
        self._store = store
        self._started = time.perf_counter()
        self.made_here = 0
        """Rows of windows made by this process, or for it."""
        self.options = _options(plan_["options"])
        self.vocabulary = Vocabulary(
            tuple(ClassPrompt(**(entry | {"phrases": tuple(entry["phrases"])})) for entry in plan_["classes"])
        )
        options = self.options
        # what is asked of the windows
        refers = plan_.get("settled")
        self._settlement = settlement(self.vocabulary, strict=refers == "rules") if refers else None
        asked = self.vocabulary if self._settlement is None else self._settlement.asked
        channels = len(asked) + options.unknown
        grid = plan_windows(info.geobox.shape, *options.windows(WINDOW), plan_["scale"], channels)
        nodata = 255 if len(asked) < 255 else 65535
        decision = Decision(len(asked), options.threshold, nodata, options.unknown)
        self.task = Task(asked, grid, plan_["scale"], decision, options.batch, options.refine)
        self.rows = len(grid.rows.starts)
        self._marks: Counter[str] = Counter()
        """How often each mark stands on a window; known once all bands were read."""
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
        *,
        shared: bool,
    ) -> Self:
        """Open a raster and plan its run; :meth:`begin_work` then begins it, or goes on with it."""
        raster = opened(source, options.bidx, options.stretch)
        try:
            plan_ = plan_of(source, raster, vocabulary, segmenter, notes, options, run_id)
            return cls(raster.info, plan_, identity_of(plan_, shared=shared), store, raster)
        except BaseException:
            raster.close()
            raise

    @classmethod
    def resume(cls, work: Work, store: RunStore, source: Source | None = None) -> Self:
        """Take up an unfinished run.

        Args:
            work: What there is of it.
            store: Where it is.
            source: Its raster, to make more of it; None only to finish it.

        Raises:
            SourceError: The raster cannot be read.
        """
        plan_ = work.plan
        raster = None
        if source is not None:
            raster = opened(source, _options(plan_["options"]).bidx, _stretch_of(plan_["raster"]))
        job = cls(_info_of(plan_["raster"]), plan_, identity_of(plan_), store, raster)
        job.work = work
        return job

    def begin_work(self, *, anew: bool = False) -> None:
        """Open the folder of what is made.

        Args:
            anew: Throw away what was made before.

        Raises:
            OSError: The folder cannot be made.
            RunError: What was made before is being worked on.
        """
        self.work = Work.begin(self._store.folder, self._plan, self.identity)
        # a kill between the end of a run and the removal of its parts leaves both
        ended = (self._store.folder / self.work.id / MANIFEST).is_file()
        if (anew and not self.work.empty()) or ended:
            with self.work.claimed(alone=True):
                self.work.remove()
            self.work = Work.begin(self._store.folder, self._plan, self.identity)
        if self._raster is not None:
            self._raster.stretch = _stretch_of(self.work.plan["raster"])  # that of whoever began

    def check_source(self) -> None:
        """Refuse to go on with a local source that is not what it was when the run was begun.

        Raises:
            RunError: It was changed.
        """
        stored = self.work.plan["source"]
        path = self.work.plan["opened"]["path"]
        if stored.get("kind") in {"file", "vrt"} and Path(path).exists():
            if sources.fingerprint(path, hashed=False) == stored:
                return
            msg = f"{path} was changed since run {self.work.id} was begun."
            raise RunError(msg, f"Start anew: geovl runs remove {self.work.id}, then the same command.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._raster is not None:
            self._raster.close()

    def band_bytes(self) -> int:
        """Memory of a band and of the zones around it."""
        grid, decision = self.task.grid, self.task.decision
        width = self.info.geobox.shape[1]
        zone = max((stop - first for first, stop in grid.rows.zones), default=0)
        return width * (grid.rows.size * (2 + decision.unknown) + 3 * 4 * decision.channels * zone)

    def temporary_bytes(self) -> int:
        """Disk that the parts of the run take until it is finished, about."""
        height, width = self.info.geobox.shape
        zone = max((stop - first for first, stop in self.task.grid.rows.zones), default=0)
        decision = self.task.decision
        kept = 4 * decision.channels * self.task.grid.rows.size * width if self._plan.get("keeps") else 0
        return (
            round(height * width * BYTES_PIXEL * (1.5 if decision.unknown else 1))
            + kept
            + 2 * 4 * (decision.channels * zone * width)
        )

    def check_disk(self, folder: Path) -> None:
        """Refuse work that the disk has no room for.

        Raises:
            RunError: There is too little.
        """
        to_make = len(self.missing()) / self.rows
        need, free = round((1 + to_make) * self.temporary_bytes()), free_bytes(folder)
        if need > free:
            msg = f"The run needs about {need / 1e9:.2f} GB of disk; {free / 1e9:.2f} GB are free in {folder}."
            raise RunError(msg, "Free some space or choose another folder with --store")

    def missing(self) -> list[int]:
        """Rows of windows that are not made yet."""
        return [row for row in range(self.rows) if not self.work.has(_name(row))]

    def rows_to_make(self, first: int, stop: int) -> list[int]:
        """Return the rows of windows that are missing between two.

        Where a band was damaged, the band above is made again too: what they share was kept only until both were there.
        """
        rows = [row for row in self.missing() if first <= row < stop]
        above = {
            row - 1 for row in rows if row and self.work.has(_name(row - 1)) and not self.work.has(_zone_name(row - 1))
        }
        return sorted({*rows, *above})

    def make(self, segmenter: Segmenter, rows: Sequence[int], listener: Listener) -> None:
        """Make rows of windows in this process, each kept as soon as it is done.

        Raises:
            RunError: The job was taken up without its raster.
            SourceError: A window cannot be read.
            OSError: The disk is full.
        """
        if self._raster is None:
            msg = f"Run {self.work.id} was taken up without its raster."
            raise RunError(msg)
        before: Band | None = None
        with closing(make_bands(self._raster, self.task, segmenter, rows, self.work, listener.advance)) as bands:
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
        if self.work.has(_name(row)):
            return  # made again for its zone only; what is there is settled, and may be so for good
        settled = band if above is None else settle(band, above, self.task.decision)
        arrays: dict[str, NDArray[Any]] = {"labels": settled.labels, "scores": settled.scores}
        if settled.unknown is not None:
            arrays["unknown"] = settled.unknown
        if settled.above is not None:
            arrays["above"] = settled.above
        if settled.marks:
            arrays["marks"] = packed(settled.marks)
        self.work.save(_name(row), arrays)
        if row and settled.above is None:
            self.work.drop(_zone_name(row - 1))

    def _settled(self) -> Iterator[Band]:
        """Yield every band, settled.

        Raises:
            PartError: One is damaged; it was removed, and is made when the run is resumed.
        """
        grid = self.task.grid
        self._marks.clear()
        for row in range(self.rows):
            arrays = self.work.load(_name(row))
            zone: dict[str, Any] | None = {}
            if arrays is not None and "above" in arrays:
                zone = self.work.load(_zone_name(row - 1))
            if arrays is None or zone is None:
                self.work.drop(_name(row))
                msg = f"Part {row + 1} of {self.rows} of run {self.work.id} was damaged on disk."
                raise PartError(msg, "Give the same command again: it makes that part anew and goes on.")
            if "marks" in arrays:
                self._marks.update(unpacked(arrays["marks"]))
            top, bottom = grid.rows.zone_before(row)[0], grid.rows.zone_after(row)[0]
            window = Window(top, 0, bottom - top, arrays["labels"].shape[1])
            band = Band(
                row, window, arrays["labels"], arrays["scores"], arrays.get("unknown"), arrays.get("above"), None
            )
            yield settle(band, zone["below"], self.task.decision) if zone else band

    def _meant(self) -> Iterator[Band]:
        """Return every band, settled, with only what the expressions of the vocabulary mean."""
        plan_, shape = self._settlement, self.info.geobox.shape
        if plan_ is None or not plan_.settles:
            return self._settled()
        rows = Rows(self._settled(), lambda _band: None, shape)
        nodata, least = self.task.decision.nodata, self._least()
        out = rejected(plan_, rows.labels, rows.scores, self.info.geobox, nodata, least)
        return out.erase(self._settled(), shape)

    def _least(self) -> float:
        """Pixels of the smallest region that can be what an expression means: none that is dropped later on."""
        asked = self.options.min_area
        if asked is not None:
            return asked / self.info.gsd**2 if self.info.gsd else 0.0
        cell = self.work.plan.get("cell")
        return smallest(None if cell is None else cell["pixels"])

    def finish(self, listener: Listener) -> Run:
        """Read the bands once: write the rasters and the polygons, and leave the run.

        Raises:
            RasterError: No pixel of the raster is valid.
            PartError: What was kept is damaged.
            RunError: The source was changed meanwhile.
        """
        info, work, options = self.info, self.work, self.options
        polygonizing = time.perf_counter()
        pixel = info.gsd or abs(info.geobox.transform.determinant) ** 0.5 or 1.0
        min_area = options.min_area if Ground(info.geobox).measures else None
        finish = Finish(
            info.geobox,
            self.vocabulary,
            self.task.decision,
            str(work.plan["model"]["id"]),
            min_area=min_area or 0.0,
            min_pixels=0 if min_area is not None else SPECKLE,
            simplify=self._simplify() if options.simplify is None else options.simplify / pixel,
            square=self._square(),
        )
        listener.stage("polygonize", info.geobox.shape[0], info.geobox.shape[0] * info.geobox.shape[1])
        with self._store.create(work.id) as draft:
            summary = finish.write(self._meant(), draft, listener.advance)
            if not summary.seen:
                work.remove()
                msg = f"{info.path!r} has no valid pixel: it is all nodata."
                raise RasterError(msg, "Check the nodata value with: rio info FILE")
            self.check_source()
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
        info, plan_ = self.info, self.work.plan
        now = time.perf_counter()
        seconds = now - self._started
        pixels = info.geobox.shape[0] * info.geobox.shape[1]
        return {
            "geovl": geovl.__version__,
            "identity": self.identity,
            "source": _source(info, plan_),
            "working_gsd": None if info.gsd is None else info.gsd * self.task.shrink / self.task.grow,
            "model": plan_["model"],
            "parameters": plan_["options"],
            "classes": summary.classes(plan_["notes"]),
            "polygons": summary.polygons,
            "warnings": plan_["warnings"],
            "settled": self._settlement is not None and self._settlement.settles,
            "windows": len(self.task.grid),
            "marks": dict(sorted(self._marks.items())),
            "cell": plan_.get("cell"),
            "resumed_rows": self.rows - self.made_here,
            "timings": {
                "begun": plan_["begun"],
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(seconds, 3),
                "polygonize_seconds": round(now - polygonizing, 3),
                "megapixels_per_second": round(pixels / 1e6 / seconds, 3),
            },
        }


def _source(info: RasterInfo, plan_: dict[str, Any]) -> dict[str, Any]:
    path = Path(plan_["opened"]["path"])
    on_disk = path.is_file()
    return {
        # the path of a remote one may hold a signature
        "path": str(path) if on_disk else str(plan_["opened"]["name"]),
        "bytes": path.stat().st_size if on_disk else None,
        "sha256": sha256(path) if on_disk else None,
        "driver": info.driver,
        "shape": list(info.geobox.shape),
        "transform": list(info.geobox.transform)[:6],
        "crs": info.geobox.crs.to_string() if info.geobox.crs else None,
        "gsd": info.gsd,
        "dtype": info.dtype,
        "bands": list(info.bands),
        "stretch": plan_["raster"]["stretch"],
        # of runs begun by an earlier geovl nobody kept it
        "datetime": plan_["opened"].get("datetime"),
    }
