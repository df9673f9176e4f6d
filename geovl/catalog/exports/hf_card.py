"""Cards of the Hugging Face hub: what its YAML header has a key for, and the rest as text.

The header is YAML with every text quoted as JSON quotes it, so that no text can end a line or change its type. Its
results say to which task they belong only where the model's and the data set's tasks leave no choice; ``other``, a task
of the hub as well, where they do.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import geovl
from geovl.catalog.book import Catalog, key
from geovl.catalog.exports import Refused, hub_dataset, license_parts, paper_of, paper_url, source_url, weights_url
from geovl.catalog.records import UNKNOWN, Dataset, Model, Record, Result

_HUB_WORDS = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql "
    "ofl-1.1 ncsa unlicense zlib pddl llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma"
)
LICENSES = frozenset(_HUB_WORDS.split())
"""The hub's names of licences."""
_HUB_LICENSES = {
    "odbl-1.0": "odbl",
    "odc-by-1.0": "odc-by",
    "pddl-1.0": "pddl",
    "licenseref-llama-3": "llama3",
    "licenseref-cc": "cc",
}
"""Lower-case ids of licences that the hub calls otherwise, beside ``-only`` and ``-or-later``."""

_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def card(catalog: Catalog, records: Sequence[Record]) -> str:
    """Return the card of one model or data set.

    Raises:
        Refused: Nobody has read the licence of its weights or data, on which the hub's users rely.
    """
    (record,) = records
    if isinstance(record, Model):
        return f"---\n{yaml(_model(catalog, record))}---\n\n{_text(catalog, record, _model_text(catalog, record))}"
    if isinstance(record, Dataset):
        return f"---\n{yaml(_dataset(catalog, record))}---\n\n{_text(catalog, record, _dataset_text(catalog, record))}"
    raise TypeError(record.type)


def _model(catalog: Catalog, model: Model) -> dict[str, Any]:
    if model.license_weights == UNKNOWN:
        raise Refused(model, "hf-card", ["license_weights"])
    hubs = [catalog.datasets[name].url for name in model.training_data if name in catalog.datasets]
    return _known(
        {
            **_license(catalog, model.license_weights),
            "library_name": _library(model),
            "pipeline_tag": next(iter(_hub_tags(catalog, model.tasks)), None),
            "tags": _tags(model),
            "datasets": list(dict.fromkeys(filter(None, map(hub_dataset, hubs)))),
            "model-index": _index(catalog, model) if model.results else None,
        }
    )


def _dataset(catalog: Catalog, dataset: Dataset) -> dict[str, Any]:
    if dataset.license == UNKNOWN:
        raise Refused(dataset, "hf-card", ["license"])
    count = next((n for n in (dataset.samples, dataset.images) if isinstance(n, int)), None)
    return _known(
        {
            "pretty_name": dataset.name,
            **_license(catalog, dataset.license),
            "task_categories": list(dict.fromkeys(_hub_tags(catalog, dataset.tasks))),
            "tags": _tags(dataset),
            "size_categories": None if count is None else [size_category(count)],
        }
    )


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != []}


def _tags(record: Record) -> list[str]:
    return list(dict.fromkeys((*record.tasks, *record.modalities, record.kind)))


def _hub_tags(catalog: Catalog, tasks: Iterable[str]) -> list[str]:
    found = [catalog.tasks[name].hub for name in tasks if name in catalog.tasks]
    return [tag for tag in found if tag is not None]


def size_category(count: int) -> str:
    """Return the hub's word for a number of examples, such as ``10K<n<100K``."""
    step = next((place for place in range(len(_SIZES)) if count < 1000 * 10**place), len(_SIZES))
    if step == 0:
        return f"n<{_SIZES[0]}"
    return f"{_SIZES[step - 1]}<n<{_SIZES[step]}" if step < len(_SIZES) else f"n>{_SIZES[-1]}"


def hub_license(catalog: Catalog, name: str) -> str | None:
    """Return the hub's name of a licence, or None where it has none."""
    found = catalog.license(name)
    for word in (name, *((found.id, *found.aliases) if found else ())):
        lower = word.lower().removesuffix("-only").removesuffix("-or-later")
        lower = _HUB_LICENSES.get(lower, lower)
        if lower in LICENSES:
            return lower
    return None


def _license(catalog: Catalog, name: str) -> dict[str, str]:
    known = hub_license(catalog, name)
    if known is not None:
        return {"license": known}
    found = catalog.license(name)
    slug = re.sub(r"[^a-z0-9.+]+", "-", name.replace("LicenseRef-", "").lower()).strip("-")
    link = {"license_link": found.url} if found is not None and found.url else {}
    return {"license": "other", "license_name": slug, **link}


def _library(model: Model) -> str | None:
    """Return the hub's name of the library that loads the weights, where the record names it."""
    loader = model.run.source.partition(":")[0] if model.run is not None else ""
    names = {name.lower().replace(" ", "_") for name in (model.framework or "", loader)}
    return next((name for name in ("transformers", "open_clip", "timm", "diffusers") if name in names), None)


def _index(catalog: Catalog, model: Model) -> list[dict[str, Any]]:
    return [{"name": model.name, "results": [_result(catalog, model, result) for result in model.results]}]


def _result(catalog: Catalog, model: Model, result: Result) -> dict[str, Any]:
    sets = [catalog.datasets[name] for name in result.dataset if name in catalog.datasets]
    names = result.dataset_name or " + ".join(entry.name for entry in sets) or result.where or "not said"
    kinds = [hub_dataset(entry.url) or entry.id for entry in sets] or list(result.dataset) or [slug(names)]
    said = {"setting": result.setting, "variant": result.variant, "note": result.note}
    page = source_url(result.source)
    return _known(
        {
            "task": {"type": _task_type(catalog, model, sets, result.setting)},
            "dataset": _known({"type": " + ".join(kinds), "name": names, "split": result.split}),
            "metrics": [
                _known(
                    {
                        "type": slug(result.metric),
                        "name": _metric_name(result),
                        "value": result.value,
                        "args": {name: word for name, word in said.items() if word} or None,
                    }
                )
            ],
            "source": {"name": result.source, "url": page} if page else None,
        }
    )


def _metric_name(result: Result) -> str:
    """Return the metric with what tells it from the same one under another protocol."""
    how = ", ".join(word for word in (result.variant, result.setting) if word)
    return f"{result.metric} ({how})" if how else result.metric


def _task_type(catalog: Catalog, model: Model, sets: Sequence[Dataset], setting: str | None) -> str:
    """Return the hub's task of a result, ``other`` where the records leave a choice.

    It is one of the model's tasks: the one that the setting names, or else one that a data set is for.
    """
    asked = {task for entry in sets for task in entry.tasks}
    tasks = [task for task in model.tasks if task in asked] or list(model.tasks)
    parts = {key(part) for part in (setting or "").split(",")}
    named = [task for task in model.tasks if parts & {key(word) for word in _words(catalog, task)}]
    tags = {catalog.tasks[task].hub if task in catalog.tasks else None for task in named or tasks}
    return (next(iter(tags)) if len(tags) == 1 else None) or "other"


def _words(catalog: Catalog, task: str) -> tuple[str, ...]:
    return (task, *(catalog.tasks[task].synonyms if task in catalog.tasks else ()))


def slug(text: str) -> str:
    """Return a name as ids are written: lower case, ``_`` for all that is no letter, digit, dot, ``@`` or hyphen."""
    return re.sub(r"[^\w.@-]+", "_", text.lower()).strip("_") or "not_said"


def _text(catalog: Catalog, record: Record, rows: Iterable[tuple[str, str | None]]) -> str:
    paper = paper_of(catalog, record)
    number = record.paper and (paper_url(record.paper) or record.paper)
    about = f"{paper.name}, {number or paper.url or paper.id}" if paper else number
    read = sorted({place for places in record.sources.values() for place in places})
    common = (
        ("Paper", about),
        ("Venue", ", ".join(str(word) for word in (record.venue, record.year) if word)),
        ("Code", record.code),
        ("Project", record.project),
        ("Also called", ", ".join(record.aliases)),
    )
    lines = [f"# {record.name}", "", *([record.description, ""] if record.description else [])]
    lines += [f"- **{name}:** {words}" for name, words in (*rows, *common) if words]
    if record.conflicts:
        lines += ["", "## Where sources differ", ""]
        lines += [f"- {told.about}: {told.kept}; others say {told.others}" for told in record.conflicts]
    lines += ["", "## Where this comes from", ""]
    lines += [
        f"Written by the catalog of geovl {geovl.__version__}, not by the authors. What is not here was not read."
    ]
    lines += ["", *(f"- {place}" for place in read)] if read else []
    return "\n".join(lines) + "\n"


def _meaning(catalog: Catalog, name: str, note: str | None) -> str:
    found = [catalog.license(part) for part in license_parts(name)]
    verdicts = [entry.verdict for entry in found if entry is not None]
    if len(found) > 1:
        verdicts = [f"{entry.id}: {entry.verdict}" for entry in found if entry is not None]
    return " ".join((f"{name}.", *verdicts, *([note] if note else [])))


def _model_text(catalog: Catalog, model: Model) -> list[tuple[str, str | None]]:
    elsewhere = [name for name in model.training_data if not _on_hub(catalog, name)]
    names = [catalog.datasets[name].name if name in catalog.datasets else name for name in elsewhere]
    runs = model.run
    return [
        ("Licence of the weights", _meaning(catalog, model.license_weights, model.license_note)),
        ("Licence of the code", model.license_code),
        ("Weights", ", ".join(weights_url(place) or place for place in model.weights)),
        ("Architecture", model.architecture),
        ("Vision backbone", ", ".join(model.vision_backbone)),
        ("Text backbone", ", ".join(model.text_backbone)),
        ("Framework", model.framework),
        ("Parameters", model.params or (f"{model.total_parameters:,}" if model.total_parameters else None)),
        ("Pictures", f"{model.image_resolution} pixels a side" if model.image_resolution else None),
        ("Bands", ", ".join(runs.bands) if runs else None),
        ("Ground sample distance", _gsd([runs.gsd_min, runs.gsd_max]) if runs else None),
        ("Started from", model.pretrained_source),
        ("Trained on, beside the data sets above" if len(names) < len(model.training_data) else "Trained on",
         ", ".join(names)),
        ("Made from", "; ".join(f"{made.name} ({made.license})" for made in model.made_from)),
        ("Intended use", model.intended_use),
        ("Known failures", " ".join(model.known_failures)),
        ("Poor at", ", ".join(model.experimental)),
        ("Figures measured with", f"`{model.figures_from}`" if model.figures_from else None),
    ]  # fmt: skip


def _on_hub(catalog: Catalog, name: str) -> bool:
    return name in catalog.datasets and hub_dataset(catalog.datasets[name].url) is not None


def _dataset_text(catalog: Catalog, dataset: Dataset) -> list[tuple[str, str | None]]:
    same = [catalog.datasets[name].name if name in catalog.datasets else name for name in dataset.overlaps]
    return [
        ("Page", dataset.url),
        ("Access", dataset.access),
        ("Licence", _meaning(catalog, dataset.license, dataset.license_note)),
        ("Images", _said(dataset.images, dataset.images_said)),
        ("Samples", _said(dataset.samples, dataset.samples_said)),
        ("Pixels", dataset.image_size),
        ("Ground sample distance", _gsd(dataset.gsd)),
        ("Sensors", dataset.sensors),
        ("Classes", None if dataset.classes is None else str(dataset.classes)),
        ("Splits", dataset.splits),
        ("Shares pictures with", ", ".join(same)),
    ]


def _said(count: int | str | None, words: str | None) -> str | None:
    return words or (None if count is None else str(count))


def _gsd(metres: Sequence[float | None]) -> str | None:
    known = list(dict.fromkeys(f"{value:g}" for value in metres if value is not None))
    return f"{' to '.join(known)} m" if known else None


def yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML in block style: text, numbers, booleans, None, lists and tables with plain keys."""
    return "".join(f"{line}\n" for line in _lines(values))


def _lines(value: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Return the lines of a table or list that is not empty."""
    items: Iterable[tuple[str, Any]]
    items = (
        ((f"{key}:", item) for key, item in value.items()) if isinstance(value, Mapping) else (("-", v) for v in value)
    )
    out = []
    for head, item in items:
        if isinstance(item, str) or not isinstance(item, Mapping | Sequence) or not item:
            out.append(f"{head} {_scalar(item)}")
        elif head == "-":
            first, *rest = _lines(item)
            out += [f"- {first}", *(f"  {line}" for line in rest)]
        else:
            out += [head, *(f"  {line}" for line in _lines(item))]
    return out


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*[A-Za-z0-9]")
_WORDS = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null"})


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else _quoted(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
        mantissa, e, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}{e}{exponent}"  # YAML 1.1 takes 1e-05 for a text
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Return text as a JSON string that is a YAML one as well: nothing that YAML cannot hold stands as it is."""
    body = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]", _escape, body)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
