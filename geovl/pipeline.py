"""The flow: open raster, plan windows, make bands, polygonize, keep as a run.

A run is made in two steps. *Making* turns windows into bands of labels, each kept as soon
as it is done; it can be interrupted, resumed, and divided among processes and machines.
*Finishing* reads the bands once, in order, and leaves the run.
"""

import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rasterio
from rasterio.errors import RasterioError

from geovl import catalog, distributed, sources, weights
from geovl.errors import RunError, UsageError
from geovl.inference import make_bands
from geovl.jobs import (
    BYTES_PIXEL,
    Job,
    Listener,
    PartError,
    SegmentOptions,
    Silent,
    everywhere,
    free_bytes,
    opened,
    plan_of,
)
from geovl.polygonize import STRIP_PIXELS
from geovl.runs import Run, RunStore
from geovl.segmenters import registry
from geovl.segmenters.base import KnowsUnknown, Segmenter
from geovl.sources import Source
from geovl.types import Axis, ModelRecord, Vocabulary, WindowGrid
from geovl.work import Work

_FINISH_SECONDS = 0.03  # a megapixel, once the bands are made
_TRACE_BYTES = 20  # a pixel of a strip of the tracer
_USUAL_PEAK = 600_000_000  # bytes, of nano
_TRIES = 3  # of a run whose parts turn out to be damaged
_TASKS = 64  # at least into so many a run is divided for workers elsewhere, if it has as many rows


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run is made; the result does not depend on it.

    Raises:
        UsageError: A value out of its range.
    """

    resume: bool | None = None
    """None goes on with an unfinished run of the same; True also takes a finished one as done; False starts anew."""
    shard: tuple[int, int] | None = None
    """(k, n): only the k-th of n parts is made, from 1; the run is finished by :func:`merge`."""
    workers: int | None = None
    """Processes on this machine, through dask."""
    scheduler: str | None = None
    """Address of a dask scheduler."""
    device: str = "auto"
    """What the workers run the model on."""

    def __post_init__(self) -> None:
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            msg = f"Shard {self.shard[0]}/{self.shard[1]} does not exist; shards count from 1/N to N/N."
            raise UsageError(msg)
        if self.workers is not None and self.workers < 1:
            msg = f"--workers is {self.workers}; it must be 1 or more."
            raise UsageError(msg)
        if self.shard is not None and (self.workers or self.scheduler):
            msg = "--shard makes a part without any engine; --workers and --scheduler divide the run themselves."
            raise UsageError(msg, "Use one of them.")
        if self.workers and self.scheduler:
            msg = "--workers starts processes here; a --scheduler has its own."
            raise UsageError(msg, "Use one of them.")
        if self.shard is not None and self.resume is False:
            msg = "--no-resume throws away what was made, and with --shard that is what the other shards made."
            raise UsageError(msg, "Remove the unfinished run first, see geovl runs list; then make all shards.")

    @property
    def spread(self) -> bool:
        """Whether dask is asked for."""
        return bool(self.workers or self.scheduler)


def load_segmenter(
    model: str,
    device: str = "auto",
    options: Mapping[str, str | float | bool] | None = None,
    method: str | None = None,
) -> Segmenter:
    """Return the segmenter of a model, its weights checked.

    Args:
        model: Catalog id, or ``backend:weights`` such as ``clearclip:ViT-B-16-quickgelu/openai``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        options: What the backend is told, over what the record says.
        method: Another backend for the same weights, such as ``segearth-ov`` for a CLIP.

    Raises:
        ModelError: Unknown, damaged, in need of an extra, or unable to use the device.
        UsageError: No such device, or no such option.
    """
    record = model_record(model)
    if method is not None:
        backends = registry.known()
        alike = sorted(name for name, place in backends.items() if place == backends.get(record.backend))
        if method not in alike:
            msg = f"{record.id} cannot be run by the method {method!r}."
            raise UsageError(msg, f"Its methods: {', '.join(alike)}")
        if method != record.backend:  # what the record says of its own method is not for this one
            told = {name: value for name, value in record.options.items() if name in _OF_WEIGHTS}
            plain = record.id.partition(":")
            name = f"{method}:{plain[2]}" if plain[1] else f"{record.id} ({method})"
            record = replace(record, id=name, backend=method, options=told)
    merged = {**record.options, **(options or {})}
    if merged.get("vision"):
        merged["vision"] = everywhere(str(merged["vision"]))
    return load_record(replace(record, options=merged, digest=""), device)


_BUNDLED = ("nano", "nano-text")
"""Backends that have their weights with them."""
_OF_WEIGHTS = ("architecture", "file", "quick_gelu", "templates")
"""Options that are of a record's weights, not of the method that reads them."""


def model_record(model: str) -> ModelRecord:
    """Return what running a model needs.

    Args:
        model: As for :func:`load_segmenter`.

    Raises:
        ModelError: Unknown.
    """
    backend, colon, source = model.partition(":")
    if not colon or backend not in registry.known() or backend in _BUNDLED:
        return catalog.model(model).record
    if not source.strip():
        msg = f"{model!r} names no weights."
        raise UsageError(msg, f"For example {backend}:ViT-B-16-quickgelu/openai, or {backend}:/path/to/weights")
    parts = urlsplit(source)
    if parts.scheme in {"http", "https"} and (parts.query or "@" in parts.netloc):
        msg = "The URL of the weights holds a signature or password, which a run would keep."
        raise UsageError(msg, f"Download the file, then: --model {backend}:FILE")
    place = everywhere(source)
    return ModelRecord(f"{backend}:{place}", backend, {}, "", None, "unknown", place)


def load_record(record: ModelRecord, device: str = "auto") -> Segmenter:
    """Return the segmenter of a record; errors as for :func:`load_segmenter`."""
    if record.source == "bundled":
        weights.verify(record, weights.folder(record))
        if record.backend == "nano-text":  # which sees through nano's encoder
            weights.verify(base := catalog.model("nano").record, weights.folder(base))
    return registry.load(record, device)


def mosaic(found: Sequence[Source], store: RunStore) -> Source:
    """Write many sources as one, to make one run of them.

    Args:
        found: Sources of one grid.
        store: Where the mosaic is kept, as the runs made of it need it.

    Raises:
        SourceError: They do not fit together.
        RunError: The store cannot be written.
    """
    paths = [everywhere(entry.path) for entry in found]
    names = hashlib.sha256("\n".join(map(sources.redacted, paths)).encode()).hexdigest()[:16]
    folder = store.root / "mosaics" / names
    with store.writable():
        folder.mkdir(parents=True, exist_ok=True)
        with rasterio.Env(**sources.environment(any(entry.remote for entry in found))):
            path = sources.mosaic(paths, folder)
    return replace(sources.resolve(str(path))[0], name=f"mosaic of {len(found)} rasters")


def segment(
    source: Source | str,
    vocabulary: Vocabulary,
    segmenter: Segmenter,
    store: RunStore,
    options: SegmentOptions | None = None,
    listener: Listener | None = None,
    execution: Execution | None = None,
    *,
    run_id: str | None = None,
) -> Run | None:
    """Segment one raster and keep the result as a run.

    Args:
        source: A raster, or its path.
        vocabulary: What to look for.
        segmenter: The model.
        store: Where the run is kept.
        options: Defaults where None.
        listener: Told of progress and warnings.
        execution: How; here and now where None.
        run_id: Id of a new run; by the time where None.

    Returns:
        The finished run; None where only a shard of it was made.

    Raises:
        PromptError: The model refuses a prompt.
        SourceError: The raster cannot be read.
        RasterError: The raster cannot be used.
        RunError: The store cannot be written, for example because the disk is full.
    """
    options, listener, execution = options or SegmentOptions(), listener or Silent(), execution or Execution()
    notes = segmenter.understand(vocabulary)
    if options.unknown and not isinstance(segmenter, KnowsUnknown):
        msg = f"{segmenter.record.id} cannot tell what it does not know."
        raise UsageError(msg, "Leave --unknown out, or use --model nano.")
    source = Source(source, source) if isinstance(source, str) else source
    shared = execution.shard is not None
    begin = partial(Job.begin, source, vocabulary, segmenter, notes, options, store, run_id, shared=shared)
    with sources.reading(source), begin() as job:
        if execution.resume and (done := _finished(store, job.identity)):
            listener.warn(f"Run {done.id} is the same and finished; nothing is made again.")
            return done
        with store.writable():
            job.begin_work(anew=execution.resume is False)
        for warning in job.work.plan["warnings"]:
            listener.warn(warning)
        with _writing(store.folder), job.work.claimed(alone=not shared):
            job.check_disk(store.folder)
            for _ in range(_TRIES):
                _make(job, source, segmenter, execution, listener)
                if shared:
                    return None
                try:
                    return job.finish(listener)
                except PartError as error:  # it was removed: make it again
                    listener.warn(error.message)
            return job.finish(listener)


def merge(store: RunStore, run_id: str | None = None, listener: Listener | None = None) -> Run:
    """Finish a run that was made in shards.

    Args:
        store: Where its parts are.
        run_id: Its id; the only unfinished run where None.
        listener: Told of progress.

    Raises:
        RunError: There is no such run, parts of it are missing, or its source was changed.
    """
    work = store.unfinished(run_id)
    with Job.resume(work, store) as job:
        job.check_source()
        if missing := job.missing():
            shown = ", ".join(str(row + 1) for row in missing[:8]) + (" …" if len(missing) > 8 else "")
            msg = f"Run {work.id} is not whole: of {job.rows} rows of windows {len(missing)} are missing ({shown})."
            raise RunError(msg, "Make the missing shards; or run the same command without --shard, which makes them.")
        with _writing(store.folder), work.claimed(alone=False):
            return job.finish(listener or Silent())


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would take."""

    source: str
    megapixels: float
    windows: int
    memory_bytes: int
    """Most memory of the process, about."""
    temporary_bytes: int
    """Disk that is needed on the way, about, in the store."""
    output_bytes: int
    """Size of the run's rasters, about; polygons come to it."""
    free_bytes: int
    """Free disk in the store."""
    seconds: float
    """On this machine, alone; by running the model on one window."""


def estimate(
    source: Source | str, vocabulary: Vocabulary, segmenter: Segmenter, options: SegmentOptions, store: RunStore
) -> Estimate:
    """Say what :func:`segment` would take, by running the model on the window in the middle.

    Raises:
        PromptError: The model refuses a prompt.
        SourceError: The raster cannot be read.
    """
    notes = segmenter.understand(vocabulary)
    source = Source(source, source) if isinstance(source, str) else source
    with sources.reading(source), closing(opened(source, options.bidx, options.stretch)) as raster:
        plan_ = plan_of(source, raster, vocabulary, segmenter, notes, options, None)
        job = Job(raster.info, plan_, {}, store, raster)
        grid = job.task.grid
        row, col = len(grid.rows.starts) // 2, len(grid.cols.starts) // 2
        middle = WindowGrid(
            *(Axis((axis.starts[i],), axis.size, ()) for axis, i in ((grid.rows, row), (grid.cols, col)))
        )
        seconds = float("inf")
        for _ in range(2):  # the first run of a model also sets it up
            started = time.perf_counter()
            deque(make_bands(raster, replace(job.task, grid=middle), segmenter, [0]), maxlen=0)
            seconds = min(seconds, time.perf_counter() - started)
        megapixels = raster.info.geobox.shape[0] * raster.info.geobox.shape[1] / 1e6
        return Estimate(
            source.name,
            round(megapixels, 3),
            len(grid),
            _peak() + job.band_bytes() + STRIP_PIXELS * _TRACE_BYTES,
            job.temporary_bytes(),
            round(megapixels * 1e6 * BYTES_PIXEL * (1.5 if options.unknown else 1)),
            free_bytes(store.folder),
            round(len(grid) * seconds + megapixels * _FINISH_SECONDS, 1),
        )


def _peak() -> int:
    """Most memory that this process had so far, bytes."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return _USUAL_PEAK
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_rows(folder: str, source: dict[str, Any], first: int, stop: int, device: str = "auto") -> int:
    """Make some rows of windows of an unfinished run; what a worker elsewhere is asked to do.

    Args:
        folder: Of the work, as every worker sees it.
        source: Fields of the :class:`~geovl.sources.Source`; they may hold a signature, and are kept nowhere.
        first: First row of windows.
        stop: Row behind the last.
        device: What the model runs on.

    Returns:
        Rows that were made; those that were there already are not made again.
    """
    work = Work.open(Path(folder))
    raster = Source(**source)
    with sources.reading(raster), Job.resume(work, RunStore(work.folder.parent.parent), raster) as job:
        rows = job.rows_to_make(first, stop)
        job.make(_worker_segmenter(json.dumps(work.plan["model"]), device), rows, Silent())
    return len(rows)


@lru_cache(1)
def _worker_segmenter(record: str, device: str) -> Segmenter:
    """Return the segmenter of a record that came as JSON: a worker needs no catalog."""
    told = json.loads(record)
    gsd = told.pop("gsd_range")
    return load_record(ModelRecord(**told, gsd_range=None if gsd is None else tuple(gsd)), device)


_IDENTITIES: dict[Path, dict[str, Any] | None] = {}
"""Of the runs whose manifests were read already: with thousands of sources each is read once."""


def _finished(store: RunStore, identity: dict[str, Any]) -> Run | None:
    """Return the newest finished run of the same; a source whose content cannot be known is never the same."""
    if identity["source"].get("kind") == "path":
        return None
    for run in reversed(store.list()):
        if run.path not in _IDENTITIES:
            try:
                _IDENTITIES[run.path] = run.manifest.get("identity")
            except RunError:  # damaged: it is no answer
                _IDENTITIES[run.path] = None
        if _IDENTITIES[run.path] == identity:
            return run
    return None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what a full or vanished disk raises into a RunError."""
    try:
        yield
    except (OSError, RasterioError) as error:
        msg = f"The run cannot be written to {folder}: {error}"
        hint = "Free some space or choose another folder with --store; the same command goes on with what is done."
        raise RunError(msg, hint) from error


def _make(job: Job, source: Source, segmenter: Segmenter, execution: Execution, listener: Listener) -> None:
    """Make what is missing of a run, or of a shard of it."""
    first, stop = 0, job.rows
    if execution.shard is not None:
        first, stop = (job.rows * k // execution.shard[1] for k in (execution.shard[0] - 1, execution.shard[0]))
    rows = job.rows_to_make(first, stop)
    job.made_here += len(rows)
    shape, columns = job.info.geobox.shape, len(job.task.grid.cols.starts)
    if len(job.missing()) < job.rows and execution.shard is None:
        listener.warn(f"Going on with run {job.work.id}: {job.rows - len(rows)} of {job.rows} rows are done.")
    listener.stage("segment", columns * len(rows), shape[0] * shape[1] * len(rows) // job.rows)
    if not (execution.spread and rows):
        job.make(segmenter, rows, listener)
        return
    folder, size = str(job.work.folder.resolve()), max(len(rows) // _TASKS, 1)
    opened_ = asdict(source) | {"path": everywhere(source.path)}
    tasks = [
        (folder, opened_, row, min(row + size, job.rows), execution.device)
        for row in range(rows[0], rows[-1] + 1, size)
    ]
    for made in distributed.each(make_rows, tasks, execution.scheduler, execution.workers):
        listener.advance(columns * made)


__all__ = [
    "Estimate", "Execution", "Listener", "SegmentOptions", "Silent", "estimate", "load_record", "load_segmenter",
    "make_rows", "merge", "model_record", "mosaic", "segment",
]  # fmt: skip
