"""What a catalog record holds: one frozen dataclass for each kind of record and each of its tables.

Keys are those of STAC and its MLM extension where these have one. ``None`` means that nobody has read it
anywhere; it never means "none". Licences are the exception: they say ``unknown`` in words, as a reader must
not take a gap for a permission.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

if TYPE_CHECKING:
    from geovl.types import ModelRecord

UNKNOWN = "unknown"
"""A licence that was not read anywhere."""

Count = int | str
"""A number where the source gives an exact one, else its own words (``about 5.2 million``)."""

ModelKind = Literal[
    "contrastive",
    "conversational",
    "generative",
    "segmentation",
    "backbone",
    "change",
    "location",
    "detection",
    "task",
    "agent",
]
DatasetKind = Literal[
    "instruction",
    "benchmark",
    "image-text",
    "classification",
    "vqa",
    "change",
    "caption",
    "segmentation",
    "grounding",
    "referring-segmentation",
    "detection",
]
PaperKind = Literal["model", "dataset", "application", "survey", "exploration"]
Modality = Literal[
    "rgb",
    "multispectral",
    "hyperspectral",
    "infrared",
    "sar",
    "elevation",
    "lidar",
    "location",
    "drone",
    "satellite",
    "street-view",
    "time-series",
    "video",
]
Family = Literal["permissive", "copyleft", "non-commercial", "custom", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A word of the fixed vocabulary of tasks."""

    id: str
    meaning: str
    synonyms: tuple[str, ...] = ()
    mlm: str | None = None
    """Nearest value of ``mlm:tasks``."""
    hub: str | None = None
    """Nearest ``pipeline_tag`` of the Hugging Face hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """What a licence lets people do, in plain words."""

    id: str
    """SPDX identifier, or ``LicenseRef-...`` where SPDX has none."""
    family: Family
    verdict: str
    url: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One published or measured figure."""

    metric: str
    value: float
    """As the source prints it; see the metric for its scale."""
    dataset: tuple[str, ...] = ()
    """Ids of the data sets; several where the figure is a mean over them."""
    dataset_name: str | None = None
    """Its name, where the data set has no record."""
    split: str | None = None
    setting: str | None = None
    """The protocol: zero-shot, fine-tuned, with SAM, ..."""
    variant: str | None = None
    """Which checkpoint of the family."""
    source: str | None = None
    note: str | None = None

    @property
    def where(self) -> str:
        """The data sets in words."""
        return self.dataset_name or " + ".join(self.dataset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two sources that say different things, and which of them the record follows."""

    about: str
    """The field."""
    kept: str
    others: str
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFrom:
    """Something that a model of ours was made from."""

    name: str
    license: str
    attribution: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How far scores can be taken at their word: pixels of held-out pictures, sorted into steps of the score."""

    ece: float
    """Expected calibration error: mean distance between score and share, over pixels."""
    score: tuple[float, ...]
    """Mean score of each step."""
    share: tuple[float, ...]
    """Share of its pixels that show what was asked for."""
    pixels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What running a model needs."""

    backend: str
    """A name in the registry of segmenters."""
    source: str
    """Where the weights come from: ``bundled``, ``hf-hub:<owner>/<name>``, ``open_clip:<model>/<tag>``, ``timm:<name>``
    or a URL."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """File to sha256."""
    revision: str | None = None
    """Commit or tag of the source."""
    bands: tuple[str, ...] = ("red", "green", "blue")
    """STAC common names, in the order in which the model wants them."""
    mean: tuple[float, ...] | None = None
    """One value a band, of pixels in 0..1."""
    std: tuple[float, ...] | None = None
    gsd_min: float | None = None
    """Metres per pixel, finest."""
    gsd_max: float | None = None
    """Metres per pixel, coarsest."""
    templates: str | None = None
    """Name of a set of prompt templates."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What only this backend knows: crop, stride, partner, dialect, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What models, data sets and papers have in common."""

    type: ClassVar[str]

    id: str
    """Lower case with hyphens; the name of the file."""
    name: str
    kind: str
    year: int | None = None
    venue: str | None = None
    paper: str | None = None
    """arXiv number, DOI, or ``ieee:``, ``pii:``, ``mdpi:`` and the publisher's key."""
    code: str | None = None
    project: str | None = None
    """A page that is no repository."""
    tasks: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] = ()
    description: str | None = None
    aliases: tuple[str, ...] = ()
    renamed_to: str | None = None
    """Id of the record under which this goes now; whoever asks for this one gets that."""
    superseded_by: str | None = None
    """Id of a later version that is another thing."""
    section: str | None = None
    """Section of the survey's list; none for what was added to it."""
    conflicts: tuple[Conflict, ...] = ()
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Group of facts (entry, license, results, ...) to where they were read."""
    checked: bool = False
    """Whether the work's own repository or hub page was opened."""

    @classmethod
    def make(cls, raw: Mapping[str, Any]) -> Self:
        """Return the record of plain values that were checked before."""
        made: Self = _make(cls, raw)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values, without what is unknown or empty."""
        out: dict[str, Any] = {"type": self.type}
        for entry in fields(self):
            value = plain(getattr(self, entry.name))
            if value is not None and value not in ([], {}, ""):
                out[entry.name] = value
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Record):
    """A model."""

    type: ClassVar[str] = "model"

    kind: ModelKind
    weights: tuple[str, ...] = ()
    """Hub ids ``owner/name``, URLs, or ``bundled``."""
    weights_note: str | None = None
    license_code: str = UNKNOWN
    license_weights: str = UNKNOWN
    license_note: str | None = None
    """What limits the licences: words of a README, missing files."""
    version: str | None = None
    architecture: str | None = None
    vision_backbone: tuple[str, ...] = ()
    text_backbone: tuple[str, ...] = ()
    """Text tower or language model."""
    image_resolution: Count | None = None
    """Pixels a side."""
    params: str | None = None
    """Number of parameters in the source's words."""
    total_parameters: int | None = None
    """Exact number."""
    memory_size: int | None = None
    """Bytes of the weights."""
    framework: str | None = None
    pretrained_source: str | None = None
    training_data: tuple[str, ...] = ()
    """Ids of data sets."""
    results: tuple[Result, ...] = ()
    figures_from: str | None = None
    """The command that measured the results, where we did."""
    intended_use: str | None = None
    known_failures: tuple[str, ...] = ()
    experimental: tuple[str, ...] = ()
    """Concepts that it was taught but is poor at, or that no held-out picture shows."""
    made_from: tuple[MadeFrom, ...] = ()
    reliability: Reliability | None = None
    run: Run | None = None

    @property
    def record(self) -> "ModelRecord":
        """The part that running the model needs.

        Raises:
            ValueError: It has no ``[run]``.
        """
        from geovl.types import ModelRecord  # noqa: PLC0415 - brings numpy, which no list needs

        run = self.run
        if run is None:
            msg = f"{self.id} cannot be run"
            raise ValueError(msg)
        gsd = None if run.gsd_min is None or run.gsd_max is None else (run.gsd_min, run.gsd_max)
        told = dict(run.options) | ({"templates": run.templates} if run.templates else {})
        return ModelRecord(
            self.id, run.backend, dict(run.weights), self.version or "", gsd, self.license_weights, run.source,
            run.revision, run.mean, run.std, options=told,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Record):
    """A data set or benchmark."""

    type: ClassVar[str] = "dataset"

    kind: DatasetKind
    url: str | None = None
    access: str | None = None
    """What stands between a reader and the data: a form, an announcement only."""
    license: str = UNKNOWN
    license_note: str | None = None
    images: Count | None = None
    images_said: str | None = None
    """The source's words, where they say more than the number."""
    samples: Count | None = None
    """Captions, questions, masks, ..."""
    samples_said: str | None = None
    image_size: str | None = None
    """Pixels."""
    gsd: tuple[float, ...] = ()
    """Metres per pixel: one value, or finest and coarsest."""
    sensors: str | None = None
    classes: Count | None = None
    splits: str | None = None
    overlaps: tuple[str, ...] = ()
    """Ids of sets with the same pictures or a count that is the same: not to train on one and test on the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper(Record):
    """A paper."""

    type: ClassVar[str] = "paper"

    kind: PaperKind
    url: str | None = None
    identifiers: tuple[str, ...] = ()
    """Other numbers of the same paper, written like ``paper``."""
    entities: tuple[str, ...] = ()
    """Ids of the models and data sets that it presents."""
    keywords: tuple[str, ...] = ()
    same_as: str | None = None
    """Id of another record of the same paper, where the survey's list has it twice."""
    list_row: str | None = None
    """Its row of the survey's list: section and number."""
    list_line: int | None = None
    """Line of the list's README."""


_TABLES: Mapping[str, type] = {
    "results": Result,
    "conflicts": Conflict,
    "made_from": MadeFrom,
    "reliability": Reliability,
    "run": Run,
}


def frozen(value: Any) -> Any:
    """Return plain values with every list a tuple."""
    if isinstance(value, list):
        return tuple(map(frozen, value))
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    return value


def _make(cls: Any, raw: Mapping[str, Any]) -> Any:
    values = {}
    for key, value in raw.items():
        table = _TABLES.get(key)
        if table is None or isinstance(value, str):
            values[key] = frozen(value)
        elif isinstance(value, list):
            values[key] = tuple(_make(table, row) for row in value)
        else:
            values[key] = _make(table, value)
    return cls(**values)


def plain(value: Any) -> Any:
    """Return a value of a record as JSON knows it: lists for tuples, tables without what is unknown."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        items = ((entry.name, plain(getattr(value, entry.name))) for entry in fields(value))
        return {key: item for key, item in items if item is not None and item not in ([], {}, "")}
    return value
