"""Read and check catalog records: one TOML file each, its name is its id.

The schema is strict: an unknown key is a fault, so a typo cannot hide. pydantic reads the
files and is imported only then.
"""

import difflib
import tomllib
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from geovl import settings
from geovl.errors import CatalogError, ModelError
from geovl.types import ModelRecord


@dataclass(frozen=True, slots=True)
class Source:
    """Something that a model was made from."""

    name: str
    license: str
    attribution: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One measured figure."""

    metric: str
    value: float
    dataset: str
    split: str
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far scores can be taken at their word: pixels of held-out pictures, sorted into steps of the score."""

    ece: float
    """Expected calibration error: mean distance between score and share, over pixels."""
    score: tuple[float, ...]
    """Mean score of each step."""
    share: tuple[float, ...]
    """Share of its pixels that show what was asked for."""
    pixels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunTable:
    """What running a model needs."""

    backend: str
    bands: tuple[str, ...]
    gsd_min: float
    """Metres per pixel, finest."""
    gsd_max: float
    """Metres per pixel, coarsest."""
    weights: dict[str, str]
    """File to sha256."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model's record; keys are those of STAC and its MLM extension."""

    id: str
    name: str
    description: str
    license: str
    version: str
    architecture: str
    framework: str
    tasks: tuple[str, ...]
    total_parameters: int
    memory_size: int
    """Bytes of the weights."""
    pretrained_source: str
    intended_use: str
    run: RunTable
    figures_from: str = ""
    """The command that measured the results."""
    known_failures: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    results: tuple[Result, ...] = field(default=())
    experimental: tuple[str, ...] = ()
    """Concepts that it was taught but is poor at, or that no held-out picture shows."""
    reliability: Reliability | None = None

    @property
    def record(self) -> ModelRecord:
        """The part that running the model needs."""
        run = self.run
        return ModelRecord(
            self.id, run.backend, dict(run.weights), self.version, (run.gsd_min, run.gsd_max), self.license
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a record."""

    path: Path
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.key}: {self.message}"


@cache
def _schema() -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config  # noqa: PLC0415 - slow; only where a file is read

    strict = with_config(ConfigDict(extra="forbid"))
    for part in (Source, Result, Reliability, RunTable, ModelEntry):
        strict(part)
    return TypeAdapter(ModelEntry)


def _read(path: Path) -> ModelEntry | list[Fault]:
    from pydantic import ValidationError  # noqa: PLC0415 - see _schema

    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return [Fault(path, "file", str(error))]
    try:
        entry: ModelEntry = _schema().validate_python(raw)
    except ValidationError as error:
        return [Fault(path, ".".join(map(str, e["loc"])) or "record", e["msg"]) for e in error.errors()]
    told = entry.reliability
    if told is not None and not len(told.score) == len(told.share) == len(told.pixels):
        return [Fault(path, "reliability", "score, share and pixels must have one value for each step")]
    if entry.id != path.stem or entry.id != entry.id.lower():
        return [Fault(path, "id", f"is {entry.id!r}; it must be the file's name, in lower case")]
    return entry


def check(folder: Path) -> list[Fault]:
    """Return every fault of every record below a catalog folder.

    Raises:
        CatalogError: The folder does not exist.
    """
    if not folder.is_dir():
        msg = f"There is no catalog folder {folder}."
        raise CatalogError(msg, "Give the folder that holds models/")
    read = [_read(path) for path in sorted((folder / "models").glob("*.toml"))]
    return [fault for found in read if isinstance(found, list) for fault in found]


def load_models() -> dict[str, ModelEntry]:
    """Return every model record by id.

    Raises:
        CatalogError: A record is faulty.
    """
    out = {}
    for path in sorted((settings.catalog_dir() / "models").glob("*.toml")):
        found = _read(path)
        if isinstance(found, list):
            raise CatalogError(str(found[0]), "See every fault with: geovl catalog check")
        out[found.id] = found
    return out


def model(model_id: str) -> ModelEntry:
    """Return one model's record.

    Raises:
        ModelError: There is none of that id; near ones are named.
        CatalogError: A record is faulty.
    """
    models = load_models()
    if model_id in models:
        return models[model_id]
    near = difflib.get_close_matches(model_id, models, n=3) or sorted(models)[:5]
    msg = f"No model is called {model_id!r}."
    raise ModelError(msg, f"Known: {', '.join(near)}. List all with: geovl catalog list")


def card(entry: ModelEntry) -> str:
    """Return a record as text to read: the model card."""
    run = entry.run
    lines = [
        f"{entry.name} ({entry.id} {entry.version})",
        entry.description,
        "",
        f"license       {entry.license}",
        f"tasks         {', '.join(entry.tasks)}",
        f"architecture  {entry.architecture}, {entry.total_parameters:,} parameters, {entry.memory_size / 1e6:.1f} MB",
        f"imagery       {', '.join(run.bands)} at {run.gsd_min:g} to {run.gsd_max:g} m per pixel",
        f"start         {entry.pretrained_source}",
        f"use           {entry.intended_use}",
    ]
    if entry.results:
        lines += ["", f"results (measured by: {entry.figures_from})"]
        lines += [f"  {r.metric:32} {r.value:.3f}  {r.dataset}, {r.split}, {r.setting}" for r in entry.results]
    if entry.reliability:
        told = entry.reliability
        lines += ["", f"reliability of all prompts together (expected calibration error {told.ece:.3f})"]
        lines += [
            f"  score {score:.2f}  right {share:.2f}  {'#' * round(share * 40)}"
            for score, share, count in zip(told.score, told.share, told.pixels, strict=True)
            if count
        ]
    if entry.experimental:
        lines += ["", f"experimental: {', '.join(entry.experimental)}"]
    if entry.known_failures:
        lines += ["", "known failures", *(f"  {text}" for text in entry.known_failures)]
    if entry.sources:
        lines += ["", "made from", *(f"  {s.name}: {s.license}. {s.attribution}".rstrip() for s in entry.sources)]
    return "\n".join(lines)
