"""The catalog in other people's formats: nothing invented, nothing broken, and valid by each format's own validator."""

import csv
import dataclasses
import io
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geovl
import geovl.catalog
from geovl.catalog import exports
from geovl.catalog.book import Catalog
from geovl.catalog.exports import FORMATS, Refused, bibtex, hf_card, tables, write
from geovl.catalog.exports.validate import validate
from geovl.catalog.records import (
    Conflict,
    Dataset,
    License,
    MadeFrom,
    Model,
    Paper,
    Reliability,
    Result,
    Run,
    Task,
)
from geovl.errors import CatalogError, UsageError

DIGEST = "d63569ce04c7e64015d699e9f757aa14926a2f5b969f240bada7add0e3884147"

MODEL = Model(
    id="skyeye",
    name="SkyEye",
    kind="contrastive",
    year=2024,
    venue="CVPR",
    paper="2403.01234",
    code="https://github.com/someone/skyeye",
    project="https://skyeye.test/",
    tasks=("retrieval", "captioning", "open-vocabulary-segmentation"),
    modalities=("rgb",),
    description="Looks down; says: what it sees.",
    aliases=("Sky Eye",),
    conflicts=(Conflict(about="params", kept="1", others="2"),),
    sources={
        "entry": ("someone/skyeye:README.md", "arxiv:2403.01234 (abstract)"),
        "license": ("someone/skyeye:README.md",),
    },
    checked=True,
    weights=("someone/skyeye-b",),
    license_code="MIT",
    license_weights="CC-BY-NC-4.0",
    architecture="ViT",
    text_backbone=("CLIP text",),
    total_parameters=12,
    memory_size=48,
    framework="pytorch",
    pretrained_source="CLIP",
    training_data=("pairs", "offhub", "nowhere"),
    results=(
        Result(
            metric="recall@1",
            value=1e-05,
            dataset=("pairs",),
            split="test",
            setting="zero-shot",
            source="arxiv:2403.01234",
        ),
        Result(
            metric="CIDEr", value=101.0, dataset=("pairs", "offhub"), setting="tuned, image captioning", variant="L"
        ),
        Result(metric="OA", value=9.5, dataset_name="Town: 'set'"),
    ),
    known_failures=("Snow.",),
    made_from=(MadeFrom(name="OSM", license="ODbL-1.0"),),
    reliability=Reliability(ece=0.1, score=(0.5,), share=(0.4,), pixels=(7,)),
    run=Run(
        backend="clearclip",
        source="hf-hub:someone/skyeye-b",
        weights={"model.safetensors": DIGEST, "vocab.txt": DIGEST},
        revision="abc123",
        bands=("red", "green", "blue"),
        mean=(0.5, 0.4, 0.2),
        std=(0.1, 0.2, 0.4),
        gsd_min=0.3,
        gsd_max=2.0,
        options={"crop": 224},
    ),
)
BARE = Model(id="bare", name="Bare", kind="task")
PAIRS = Dataset(
    id="pairs",
    name="Pairs",
    kind="image-text",
    year=2023,
    paper="2403.01234",
    tasks=("retrieval",),
    modalities=("rgb",),
    description="Pictures and sentences.",
    url="https://huggingface.co/datasets/someone/pairs",
    access="after a form",
    license="Apache-2.0",
    images=9999,
    samples=10000,
    gsd=(0.3, 1.0),
    classes="about 20",
)
OFFHUB = Dataset(
    id="offhub",
    name="Off the hub",
    kind="caption",
    tasks=("captioning",),
    url="https://example.test/offhub",
    license="LicenseRef-Research-Use AND ODbL-1.0",
)
PAPER = Paper(
    id="p-skyeye",
    name="SkyEye: A 3D Vision-Language Model for Sentinel-2 & Drones",
    kind="model",
    year=2024,
    venue="CVPR",
    paper="2403.01234",
    identifiers=("10.1109/XYZ.2024.1_2",),
    entities=("skyeye", "pairs"),
)
TWICE = Paper(id="p-again", name="SkyEye again", kind="application", year=2024, paper="2403.01234", same_as="p-skyeye")
LISTED = Paper(id="p-listed", name="Offhub & Others", kind="dataset", year=2020, entities=("offhub",))
CATALOG = Catalog(
    models={entry.id: entry for entry in (MODEL, BARE)},
    datasets={entry.id: entry for entry in (PAIRS, OFFHUB)},
    papers={entry.id: entry for entry in (PAPER, TWICE, LISTED)},
    tasks={
        entry.id: entry
        for entry in (
            Task(id="retrieval", meaning="Rank.", mlm="similarity-search", hub="zero-shot-image-classification"),
            Task(
                id="captioning",
                meaning="Describe.",
                synonyms=("image captioning",),
                mlm="image-captioning",
                hub="image-to-text",
            ),
            Task(
                id="open-vocabulary-segmentation",
                meaning="Segment.",
                mlm="semantic-segmentation",
                hub="image-segmentation",
            ),
        )
    },
    licenses={
        entry.id: entry
        for entry in (
            License(
                id="Apache-2.0", family="permissive", verdict="Free.", url="https://spdx.org/licenses/Apache-2.0.html"
            ),
            License(
                id="CC-BY-NC-4.0",
                family="non-commercial",
                verdict="No trade.",
                url="https://spdx.org/licenses/CC-BY-NC-4.0.html",
            ),
            License(id="ODbL-1.0", family="copyleft", verdict="Share.", url="https://spdx.org/licenses/ODbL-1.0.html"),
            License(id="LicenseRef-Research-Use", family="non-commercial", verdict="Research only."),
        )
    },
)
RECORDS = list(CATALOG)


def change(record, **values):
    return dataclasses.replace(record, **values)


def without(record, **values):
    """The catalog with another version of a record, and that version."""
    new = change(record, **values)
    shelf = {Model: "models", Dataset: "datasets", Paper: "papers"}[type(record)]
    return dataclasses.replace(CATALOG, **{shelf: {**getattr(CATALOG, shelf), record.id: new}}), new


def leaves(value):
    """Every scalar, empty list and empty table of a JSON value."""
    if isinstance(value, dict | list) and value:
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def needs(*modules):
    for name in modules:
        pytest.importorskip(name, reason=f'{name} is not installed: pip install "geovl[standards]"')


# ---- what all formats share


def test_formats_say_what_they_take_and_importing_them_loads_no_writer():
    assert list(FORMATS) == ["json", "csv", "bibtex", "hf-card", "stac-mlm", "croissant"]
    assert all(entry.suffix.startswith(".") and entry.about.endswith(".") for entry in FORMATS.values())
    code = (
        "import sys, geovl.catalog.exports; print([n for n in sys.modules if n.startswith('geovl.catalog.exports.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_format_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(UsageError) as error:
        write(CATALOG, [MODEL], "yaml")
    assert all(name in error.value.hint for name in FORMATS)


@pytest.mark.parametrize(("record", "form"), [(PAPER, "hf-card"), (PAIRS, "stac-mlm"), (MODEL, "croissant")])
def test_a_record_of_a_type_that_a_format_has_no_place_for_is_an_error(record, form):
    with pytest.raises(UsageError, match=record.id):
        write(CATALOG, [record], form)


@pytest.mark.parametrize("form", ["hf-card", "croissant"])
def test_a_format_of_one_record_takes_neither_none_nor_two(form):
    for records in ([], [PAIRS, OFFHUB]):
        with pytest.raises(UsageError, match=str(len(records))):
            write(CATALOG, records, form)


def test_a_refusal_names_record_and_fields_and_says_what_to_do():
    with pytest.raises(Refused) as error:
        write(CATALOG, [BARE], "stac-mlm")
    refused = error.value
    assert isinstance(refused, CatalogError)
    assert refused.record_id == "bare"
    assert {"architecture", "tasks", "year"} <= set(refused.fields)
    assert "bare" in refused.message
    assert "models/bare.toml" in refused.hint
    assert all(field in refused.message for field in refused.fields)


def test_refusals_lists_each_record_that_cannot_be_written_and_passes_other_types_over():
    found = list(exports.refusals(CATALOG, RECORDS, "hf-card"))
    assert [(refused.record_id, refused.fields) for refused in found] == [("bare", ("license_weights",))]
    assert not list(exports.refusals(CATALOG, RECORDS, "json"))


@pytest.mark.parametrize(
    ("number", "page"),
    [
        ("2403.01234", "https://arxiv.org/abs/2403.01234"),
        ("cs/0112017", "https://arxiv.org/abs/cs/0112017"),
        ("10.1109/A.1", "https://doi.org/10.1109/A.1"),
        ("ieee:123", "https://ieeexplore.ieee.org/document/123"),
        ("pii:S1", "https://www.sciencedirect.com/science/article/pii/S1"),
        ("mdpi:2072-4292/1/2/3", "https://www.mdpi.com/2072-4292/1/2/3"),
        ("acl:X1", None),
        (None, None),
    ],
)
def test_the_page_of_a_papers_number(number, page):
    assert exports.paper_url(number) == page


@pytest.mark.parametrize(
    ("source", "page"),
    [
        ("someone/some.repo:docs/a.md", "https://github.com/someone/some.repo/blob/HEAD/docs/a.md"),
        ("arxiv:2403.01234 (table 3)", "https://arxiv.org/abs/2403.01234"),
        ("hf:someone/model (licence tag)", "https://huggingface.co/someone/model"),
        ("https://a.test/b", "https://a.test/b"),
        ("geovl:LICENSE", None),
        ("a talk", None),
        (None, None),
    ],
)
def test_the_page_of_a_source(source, page):
    assert exports.source_url(source) == page


def test_the_paper_of_a_record_is_found_by_number_then_by_what_it_presents():
    assert exports.paper_of(CATALOG, MODEL) == PAPER
    assert exports.paper_of(CATALOG, TWICE) == PAPER
    assert exports.paper_of(CATALOG, OFFHUB) == LISTED
    assert exports.paper_of(CATALOG, change(OFFHUB, paper="9999.99999")) is None
    assert exports.paper_of(CATALOG, BARE) is None


def test_papers_that_are_the_same_as_each_other_do_not_hang():
    ring = {"a": change(PAPER, id="a", same_as="b"), "b": change(PAPER, id="b", same_as="a")}
    assert exports.paper_of(Catalog(papers=ring), ring["a"]).id in ring


# ---- json


def test_json_gives_every_record_back():
    found = json.loads(write(CATALOG, RECORDS, "json"))
    assert list(found) == ["geovl", "models", "datasets", "papers", "tasks", "licenses"]
    assert found["geovl"] == geovl.__version__
    back = [
        cls.make({key: value for key, value in raw.items() if key != "type"})
        for shelf, cls in (("models", Model), ("datasets", Dataset), ("papers", Paper))
        for raw in found[shelf]
    ]
    assert back == RECORDS
    assert [entry["id"] for entry in found["tasks"]] == sorted(CATALOG.tasks)
    assert [entry["id"] for entry in found["licenses"]] == sorted(CATALOG.licenses)


def test_json_leaves_out_what_is_unknown_and_keeps_the_keys_of_the_records():
    found = json.loads(write(CATALOG, RECORDS, "json"))
    assert not [leaf for leaf in leaves(found) if leaf in ("", None, [], {})]
    pairs = next(entry for entry in found["datasets"] if entry["id"] == "pairs")
    assert {"license", "images", "samples", "gsd", "classes", "url"} <= set(pairs)
    assert next(entry for entry in found["papers"] if entry["id"] == "p-skyeye")["name"] == PAPER.name
    assert next(entry for entry in found["models"] if entry["id"] == "bare")["license_weights"] == "unknown"


@pytest.mark.parametrize("form", ["json", "csv"])
@given(records=st.permutations(RECORDS))
@settings(max_examples=20)
def test_the_order_in_which_records_come_and_doubles_do_not_matter(form, records):
    assert write(CATALOG, [*records, records[0]], form) == write(CATALOG, RECORDS, form)


# ---- csv


def rows(document):
    return list(csv.DictReader(io.StringIO(document, newline=""), strict=True))


def test_every_field_of_a_record_has_a_column_or_is_a_table():
    tables_only = {"results", "made_from", "conflicts", "sources", "run", "reliability"}
    names = {entry.name for cls in (Model, Dataset, Paper) for entry in dataclasses.fields(cls)}
    assert names - set(tables.COLUMNS) == tables_only
    assert len(set(tables.COLUMNS)) == len(tables.COLUMNS)
    assert tables.COLUMNS[:5] == ("type", "id", "name", "kind", "year")


def test_csv_has_one_row_a_record_with_its_values_and_empty_cells_for_the_rest():
    text = write(CATALOG, RECORDS, "csv")
    assert text.count("\r\n") == text.count("\n") == len(RECORDS) + 1
    found = {row["id"]: row for row in rows(text)}
    assert set(found) == {record.id for record in RECORDS}
    model = found["skyeye"]
    assert (model["type"], model["year"], model["checked"]) == ("model", "2024", "true")
    assert model["tasks"] == "retrieval; captioning; open-vocabulary-segmentation"
    assert (model["run_backend"], model["run_bands"], model["run_gsd_max"]) == ("clearclip", "red; green; blue", "2.0")
    assert (model["results_count"], model["made_from_count"], model["conflicts_count"]) == ("3", "1", "1")
    assert model["sources_count"] == "2", "a place where two groups of facts were read counts once"
    assert model["url"] == model["gsd"] == ""
    assert (found["pairs"]["gsd"], found["pairs"]["images"], found["pairs"]["results_count"]) == (
        "0.3; 1.0",
        "9999",
        "",
    )
    assert found["bare"]["results_count"] == "0"
    assert found["p-again"]["same_as"] == "p-skyeye"


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "-1;2"])
def test_a_text_that_a_spreadsheet_would_run_is_quoted(cell):
    catalog, paper = without(PAPER, name=cell)
    (row,) = rows(write(catalog, [paper], "csv"))
    assert row["name"] == f"'{cell}"
    assert tables.unquoted(row["name"]) == cell


@pytest.mark.parametrize("cell", ["-1.5", "+3", "-2e-5", "1", "a=1", "o'clock", "'", ""])
def test_numbers_and_harmless_texts_are_not_quoted(cell):
    assert tables.quoted(cell) == tables.unquoted(cell) == cell


@given(st.text())
def test_no_cell_is_a_formula_and_every_text_comes_back(text):
    catalog, paper = without(PAPER, name=text or "x", venue=text)
    document = write(catalog, [paper], "csv")
    assert validate("csv", document) == []
    (row,) = rows(document)
    assert tables.unquoted(row["venue"]) == text
    assert not row["venue"].startswith(("=", "@", "\t", "\r", "\n"))


# ---- bibtex


def test_a_paper_is_an_entry_with_its_numbers_and_no_author():
    text = write(CATALOG, [PAPER], "bibtex")
    assert text.startswith("@misc{p-skyeye,\n")
    assert "  title = {{SkyEye}: A {3D} Vision-Language Model for Sentinel-2 \\& Drones},\n" in text
    assert "  year = {2024},\n  eprint = {2403.01234},\n  archivePrefix = {arXiv},\n" in text
    assert "  doi = {10.1109/XYZ.2024.1_2},\n" in text
    assert "  url = {https://arxiv.org/abs/2403.01234},\n  note = {CVPR}\n" in text
    assert "author" not in text


def test_models_data_sets_and_papers_that_are_the_same_share_one_entry():
    assert write(CATALOG, [MODEL, PAIRS, TWICE, PAPER], "bibtex") == write(CATALOG, [PAPER], "bibtex")


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (change(PAPER, year=None), "year"),
        (change(PAPER, name=" "), "name"),
        (LISTED, "name"),
        (change(LISTED, name="FAIR1M Dataset"), "name"),
        (BARE, "paper"),
        (change(BARE, paper="9999.99999"), "9999.99999"),
    ],
)
def test_a_record_without_paper_title_or_year_has_no_entry(record, field):
    with pytest.raises(Refused) as error:
        write(CATALOG, [record], "bibtex")
    assert error.value.record_id == record.id
    assert len(error.value.fields) == 1
    assert field in error.value.fields[0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("RemoteCLIP: a VLM", "{RemoteCLIP}: a {VLM}"),
        ("A Large-Scale Set", "A Large-Scale Set"),
        ("Sentinel-2 and S2 in 3D", "Sentinel-2 and {S2} in {3D}"),
        (
            "{x} 100% $5 #1 a_b ~ ^ \\",
            r"\textbraceleft{}x\textbraceright{} 100\% \$5 \#1 a\_b \textasciitilde{} \textasciicircum{} \textbackslash{}",
        ),
        ("Éric naïve Žižek ﬁ", r"{\'{E}}ric na{\"{\i}}ve {\v{Z}}i{\v{z}}ek ﬁ"),
        ("“a” \N{EN DASH} b", "``a'' -- b"),
        ("遥感 大模型", "遥感 大模型"),
    ],
)
def test_titles_keep_acronyms_and_letters(text, wanted):
    assert bibtex.title(text) == wanted


TITLES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn")), min_size=1, max_size=40)


@given(TITLES)
def test_braces_of_any_title_are_in_balance(text):
    depth = 0
    for character in bibtex.title(text):
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0


@given(st.text("aZéñüçŁøßåÅœ&%$#_{}\\~ 4é|<>", max_size=30))
def test_latex_means_the_text_that_it_was_made_of(text):
    needs("pylatexenc")
    import unicodedata

    from pylatexenc.latex2text import LatexNodes2Text

    made = bibtex.latex(text).replace(r"\textbraceleft{}", r"\{").replace(r"\textbraceright{}", r"\}")  # it lacks these
    plain = LatexNodes2Text().latex_to_text(made)
    assert unicodedata.normalize("NFC", plain) == unicodedata.normalize("NFC", " ".join(text.split()))


@given(name=TITLES, url=st.text(min_size=1))
def test_bibtex_is_read_back_by_bibtexparser(name, url):
    needs("bibtexparser")
    import bibtexparser

    name = f"On the {name}"
    catalog, paper = without(PAPER, name=name, url=url if url.strip() else None)
    text = write(catalog, [paper], "bibtex")
    assert validate("bibtex", text) == []
    (entry,) = bibtexparser.parse_string(text).entries
    assert (entry.key, entry["year"], entry["eprint"]) == ("p-skyeye", "2024", "2403.01234")
    assert entry["title"] == bibtex.title(name)


# ---- hf-card

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z]{2,3}_[a-z]", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["tags", "model-index", "name", "license"]), PLAIN, min_size=1))
@settings(max_examples=200)
def test_yaml_gives_back_every_value(values):
    needs("yaml")
    import yaml

    assert yaml.safe_load(hf_card.yaml(values)) == values


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "On",
        "null",
        "~",
        "1e5",
        "0x1f",
        "12:30:00",
        "2024-01-01",
        "- a",
        "a: b",
        "# c",
        "---",
        " ",
        "\u2028",
        "\x7f",
        "\ufeff",
        "🛰",
    ],
)
def test_yaml_keeps_texts_that_look_like_something_else(text):
    needs("yaml")
    import yaml

    assert yaml.safe_load(hf_card.yaml({"a": [text], "b": text})) == {"a": [text], "b": text}


def header(document):
    needs("yaml")
    import yaml

    first, head, _ = document.split("---\n", 2)
    assert first == ""
    return yaml.safe_load(head)


def test_a_model_card_says_what_the_hub_has_keys_for():
    found = header(write(CATALOG, [MODEL], "hf-card"))
    assert found["license"] == "cc-by-nc-4.0"
    assert found["pipeline_tag"] == "zero-shot-image-classification"
    assert found["datasets"] == ["someone/pairs"], "only what is on the hub"
    assert found["tags"] == ["retrieval", "captioning", "open-vocabulary-segmentation", "rgb", "contrastive"]
    assert "library_name" not in found


def test_a_model_card_says_the_rest_in_words():
    text = write(CATALOG, [MODEL], "hf-card").split("---\n", 2)[2]
    for words in (
        "# SkyEye",
        "Off the hub",
        "nowhere",
        "No trade.",
        PAPER.name,
        "someone/skyeye:README.md",
        "0.3 to 2 m",
        "Snow.",
    ):
        assert words in text
    assert "not by the authors" in text


def test_results_keep_split_setting_and_variant_and_guess_no_task():
    (index,) = header(write(CATALOG, [MODEL], "hf-card"))["model-index"]
    first, second, third = index["results"]
    assert index["name"] == "SkyEye"
    assert first["task"] == {"type": "zero-shot-image-classification"}, "the only task that both are for"
    assert first["dataset"] == {"type": "someone/pairs", "name": "Pairs", "split": "test"}
    (metric,) = first["metrics"]
    assert metric == {
        "type": "recall@1",
        "name": "recall@1 (zero-shot)",
        "value": 1e-05,
        "args": {"setting": "zero-shot"},
    }
    assert first["source"] == {"name": "arxiv:2403.01234", "url": "https://arxiv.org/abs/2403.01234"}
    assert second["task"] == {"type": "image-to-text"}, "the setting names it"
    assert second["dataset"] == {"type": "someone/pairs + offhub", "name": "Pairs + Off the hub"}
    assert second["metrics"][0]["name"] == "CIDEr (L, tuned, image captioning)"
    assert second["metrics"][0]["args"] == {"setting": "tuned, image captioning", "variant": "L"}
    assert third["task"] == {"type": "other"}, "any of the model's three"
    assert third["dataset"] == {"type": "town_set", "name": "Town: 'set'"}


def test_a_data_set_card_says_what_the_hub_has_keys_for():
    found = header(write(CATALOG, [PAIRS], "hf-card"))
    assert found == {
        "pretty_name": "Pairs",
        "license": "apache-2.0",
        "task_categories": ["zero-shot-image-classification"],
        "tags": ["retrieval", "rgb", "image-text"],
        "size_categories": ["10K<n<100K"],
    }
    text = write(CATALOG, [PAIRS], "hf-card")
    assert "0.3 to 1 m" in text
    assert "after a form" in text
    assert "about 20" in text


def test_a_licence_that_the_hub_does_not_know_is_named_and_linked():
    found = header(write(CATALOG, [OFFHUB], "hf-card"))
    assert (found["license"], found["license_name"]) == ("other", "research-use-and-odbl-1.0")
    assert "license_link" not in found
    assert "LicenseRef-Research-Use: Research only. ODbL-1.0: Share." in write(CATALOG, [OFFHUB], "hf-card")
    own = License(id="LicenseRef-Own", family="custom", verdict="Ask.", url="https://own.test/")
    catalog = dataclasses.replace(CATALOG, licenses={"LicenseRef-Own": own})
    found = header(write(catalog, [change(PAIRS, license="LicenseRef-Own")], "hf-card"))
    assert (found["license"], found["license_name"], found["license_link"]) == ("other", "own", "https://own.test/")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("MIT", "mit"),
        ("GPL-3.0-only", "gpl-3.0"),
        ("AGPL-3.0-or-later", "agpl-3.0"),
        ("odbl-1.0", "odbl"),
        ("LicenseRef-Llama-3", "llama3"),
        ("LicenseRef-X", None),
    ],
)
def test_the_hubs_name_of_a_licence(name, wanted):
    assert hf_card.hub_license(CATALOG, name) == wanted


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9999, "1K<n<10K"),
        (10**4, "10K<n<100K"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_size_categories(count, words):
    assert hf_card.size_category(count) == words


def test_a_card_without_licence_is_refused():
    for record, field in ((BARE, "license_weights"), (change(PAIRS, license="unknown"), "license")):
        with pytest.raises(Refused) as error:
            write(CATALOG, [record], "hf-card")
        assert error.value.fields == (field,)


@given(name=st.text(min_size=1), description=st.text(), setting=st.text())
@settings(max_examples=50)
def test_cards_are_read_back_by_the_hubs_library_whatever_their_words(name, description, setting):
    needs("huggingface_hub", "yaml")
    import huggingface_hub
    from huggingface_hub.repocard_data import model_index_to_eval_results

    catalog, model = without(
        MODEL,
        name=name,
        description=description,
        results=(change(MODEL.results[0], setting=setting), *MODEL.results[1:]),
    )
    text = write(catalog, [model], "hf-card")
    assert validate("hf-card", text) == []
    data = huggingface_hub.ModelCard(text).data
    assert data.model_name == name
    assert [(r.metric_value, r.dataset_split) for r in data.eval_results] == [
        (1e-05, "test"),
        (101.0, None),
        (9.5, None),
    ]
    assert (data.eval_results[0].metric_args or {}).get("setting", "") == setting
    assert model_index_to_eval_results(header(text)["model-index"]) == (name, data.eval_results)
    card = huggingface_hub.DatasetCard(write(catalog, [change(PAIRS, name=name, description=description)], "hf-card"))
    assert (card.data.pretty_name, card.data.license) == (name, "apache-2.0")


# ---- stac-mlm


def test_an_item_describes_what_geovl_runs():
    item = json.loads(write(CATALOG, [MODEL], "stac-mlm"))
    assert (item["type"], item["stac_version"], item["id"]) == ("Feature", "1.1.0", "skyeye")
    assert item["geometry"] is None
    assert "bbox" not in item, "not allowed without a geometry"
    said = item["properties"]
    assert (said["datetime"], said["start_datetime"]) == (None, "2024-01-01T00:00:00Z")
    assert said["license"] == "CC-BY-NC-4.0"
    assert said["mlm:tasks"] == ["semantic-segmentation", "similarity-search", "image-captioning"]
    assert "open-vocabulary-segmentation" in said["keywords"]
    (pictures,) = said["mlm:input"]
    assert pictures["bands"] == [band["name"] for band in said["bands"]] == ["red", "green", "blue"]
    assert pictures["input"]["shape"] == [-1, 3, -1, -1]
    assert pictures["input"]["data_type"] == "float32"
    assert [(s["mean"], s["stddev"]) for s in pictures["value_scaling"]] == [
        (127.5, 25.5),
        (102.0, 51.0),
        (51.0, 102.0),
    ]
    assert said["mlm:output"][0]["result"]["dim_order"] == ["batch", "class", "height", "width"]
    assert said["mlm:hyperparameters"] == {
        "text_backbone": ["CLIP text"],
        "gsd_min": 0.3,
        "gsd_max": 2.0,
        "clearclip.crop": 224,
    }
    assert said["mlm:framework"] == "PyTorch"


def test_assets_of_an_item_are_weights_with_their_checksum_and_code():
    assets = json.loads(write(CATALOG, [MODEL], "stac-mlm"))["assets"]
    weights = assets["model"]
    assert weights["href"] == "https://huggingface.co/someone/skyeye-b/resolve/abc123/model.safetensors"
    assert weights["mlm:artifact_type"] == "safetensors.torch.save_file"
    assert "mlm:model" in weights["roles"]
    assert weights["file:checksum"] == f"1220{DIGEST}"
    assert "mlm:model" not in assets["vocab.txt"]["roles"]
    assert assets["source_code"]["href"] == MODEL.code


def test_links_of_an_item_lead_to_paper_licence_project_and_training_data():
    links = {(link["rel"], link["href"]) for link in json.loads(write(CATALOG, [MODEL], "stac-mlm"))["links"]}
    assert links == {
        ("cite-as", "https://arxiv.org/abs/2403.01234"),
        ("license", "https://spdx.org/licenses/CC-BY-NC-4.0.html"),
        ("about", "https://skyeye.test/"),
        ("related", PAIRS.url),
        ("related", OFFHUB.url),
    }


def test_what_is_not_known_is_not_in_an_item():
    bare = change(
        MODEL,
        license_weights="unknown",
        total_parameters=None,
        framework=None,
        pretrained_source=None,
        description=None,
    )
    bare = change(bare, run=change(MODEL.run, mean=None, gsd_min=None, gsd_max=None, bands=("vv",)))
    said = json.loads(write(CATALOG, [bare], "stac-mlm"))["properties"]
    for key in (
        "license",
        "description",
        "gsd",
        "mlm:total_parameters",
        "mlm:framework",
        "mlm:pretrained",
        "mlm:pretrained_source",
    ):
        assert key not in said
    assert said["bands"] == [{"name": "vv"}], "no common name of the eo extension"
    assert "value_scaling" not in said["mlm:input"][0]
    assert said["mlm:input"][0]["input"]["data_type"] == "uint8", "chips as they are"


def test_one_resolution_is_the_gsd_of_an_item_and_a_range_is_not():
    one = change(MODEL, run=change(MODEL.run, gsd_min=10.0, gsd_max=10.0))
    assert json.loads(write(CATALOG, [one], "stac-mlm"))["properties"]["gsd"] == 10.0
    assert "gsd" not in json.loads(write(CATALOG, [MODEL], "stac-mlm"))["properties"]


def test_a_name_that_mlm_does_not_allow_gives_way_to_the_id():
    said = json.loads(write(CATALOG, [change(MODEL, name="Sky/Eye (B)")], "stac-mlm"))["properties"]
    assert (said["mlm:name"], said["title"]) == ("skyeye", "Sky/Eye (B)")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"run": None}, "run"),
        ({"architecture": None}, "architecture"),
        ({"tasks": ()}, "tasks"),
        ({"year": None}, "year"),
        ({"run": Run(backend="x", source="open_clip:a/b", weights={"notes.txt": DIGEST})}, "run.weights"),
        ({"name": "9", "id": "9"}, "name"),
    ],
)
def test_an_item_lacking_what_mlm_requires_is_refused(values, field):
    with pytest.raises(Refused) as error:
        write(CATALOG, [change(MODEL, **values)], "stac-mlm")
    (told,) = error.value.fields
    assert told.startswith(field)


def test_items_are_valid_stac_and_valid_mlm():
    needs("pystac", "stac_model", "jsonschema")
    import pystac
    from stac_model.schema import MLModelProperties

    for model in (
        MODEL,
        change(MODEL, paper="10.1109/XYZ.2024.1_2"),
        change(MODEL, code=None, license_weights="LicenseRef-Own"),
    ):
        text = write(CATALOG, [model], "stac-mlm")
        assert validate("stac-mlm", text) == []
        item = pystac.Item.from_dict(json.loads(text), migrate=False)
        read = MLModelProperties.model_validate(item.properties)
        assert read.name == "SkyEye"
        assert read.output[0].result.data_type == "float32"
    assert item.properties["license"] == "other"


# ---- croissant


def test_a_description_of_a_data_set_invents_no_people_and_no_files():
    found = json.loads(write(CATALOG, [PAIRS], "croissant"))
    assert found["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/geo/1.0"]
    assert found["license"] == ["https://spdx.org/licenses/Apache-2.0.html"]
    assert found["geocr:spatialResolution"] == {
        "@type": "sc:QuantitativeValue",
        "minValue": 0.3,
        "maxValue": 1.0,
        "unitText": "m",
    }
    assert found["creator"] == {
        "@type": "sc:Organization",
        "name": f"Authors of “{PAPER.name}”",
        "url": "https://arxiv.org/abs/2403.01234",
    }
    assert found["datePublished"] == "2023"
    assert found["citeAs"] == write(CATALOG, [PAPER], "bibtex")
    assert found["distribution"] == []
    assert "about 20" in found["description"]
    assert "after a form" in found["description"]


def test_without_resolution_a_description_does_not_claim_to_be_geographic():
    found = json.loads(write(CATALOG, [change(PAIRS, gsd=())], "croissant"))
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert "geocr" not in json.dumps(found)
    one = json.loads(write(CATALOG, [change(PAIRS, gsd=(0.5,))], "croissant"))
    assert one["geocr:spatialResolution"] == {"@type": "sc:QuantitativeValue", "value": 0.5, "unitText": "m"}


def test_licences_that_all_hold_stand_beside_each_other():
    catalog, dataset = without(OFFHUB, description="d", year=2020, paper="10.1/x")
    research = {"@type": "sc:CreativeWork", "name": "Research Use", "description": "Research only."}
    assert exports.license_parts("A OR B AND C") == ["A OR B AND C"]
    with pytest.raises(Refused, match="paper"):
        write(catalog, [dataset], "croissant")
    found = json.loads(write(catalog, [change(dataset, paper="10.1234/x")], "croissant"))
    assert found["license"] == [research, "https://spdx.org/licenses/ODbL-1.0.html"]
    assert found["creator"]["name"] == "Authors of the paper of Off the hub"
    assert found["citeAs"] == "https://doi.org/10.1234/x"


@pytest.mark.parametrize("field", ["description", "license", "url", "year", "paper"])
def test_a_data_set_lacking_what_croissant_requires_is_refused(field):
    record = change(PAIRS, id="other", **{field: "unknown" if field == "license" else None})
    with pytest.raises(Refused) as error:
        write(CATALOG, [record], "croissant")
    assert error.value.fields == (field,)


def test_descriptions_are_valid_croissant():
    needs("mlcroissant")
    import mlcroissant

    odd = change(
        PAIRS, name="Päirs “2”", description='{"@id": "x"}\n---', aliases=("P",), code="https://c.test/", gsd=(10.0,)
    )
    for record in (PAIRS, odd, change(PAIRS, gsd=(), license="LicenseRef-Research-Use")):
        text = write(CATALOG, [record], "croissant")
        assert validate("croissant", text) == []
        metadata = mlcroissant.Dataset(jsonld=json.loads(text)).metadata
        assert (metadata.name, metadata.url) == (record.name, PAIRS.url)
        assert metadata.date_published.year == 2023


# ---- validators


def broken(form):
    """A document that is wrong in a way that its validator must see, and a word of what it must say."""
    if form == "json":
        return (
            '{"geovl": "1", "models": [{"type": "model", "colour": 1}], "datasets": [], "papers": [], "tasks": [], "licenses": []}',
            "colour",
        )
    if form == "csv":
        return write(CATALOG, [MODEL], "csv") + "=1\r\n", "row 2"
    if form == "bibtex":
        return write(CATALOG, [PAPER], "bibtex").replace("{2024}", "{2024"), "line"
    if form == "hf-card":
        return write(CATALOG, [MODEL], "hf-card").replace("    results:\n", "    outcomes:\n"), "results"
    document = json.loads(write(CATALOG, [MODEL if form == "stac-mlm" else PAIRS], form))
    if form == "stac-mlm":
        document["properties"]["mlm:tasks"].append("divination")
        return json.dumps(document), "mlm:tasks"
    document["datePublished"] = "long ago"
    return json.dumps(document), "Date"


PACKAGES = {
    "bibtex": ("bibtexparser",),
    "hf-card": ("huggingface_hub", "yaml"),
    "stac-mlm": ("pystac", "stac_model"),
    "croissant": ("mlcroissant",),
}


@pytest.mark.parametrize("form", FORMATS)
def test_each_validator_sees_a_broken_document(form):
    needs(*PACKAGES.get(form, ()))
    document, word = broken(form)
    faults = validate(form, document)
    assert faults
    assert any(word in fault for fault in faults), faults


@pytest.mark.parametrize("form", FORMATS)
def test_each_validator_sees_that_a_document_is_no_such_thing(form):
    needs(*PACKAGES.get(form, ()))
    assert validate(form, "hello")


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("properties", "datetime"), "yesterday", "datetime"),
        (("geometry",), {"type": "Point", "coordinates": [0, 0]}, "given schemas"),
        (("properties", "mlm:architecture"), "", "architecture"),
        (("properties", "mlm:output", 0, "result", "data_type"), "float", "data_type"),
        (("properties", "mlm:input", 0, "input", "shape"), [-1], "input"),
        (("properties", "mlm:input", 0, "bands"), ["red", "nir"], "nir"),
        (("properties", "mlm:input", 0, "bands"), [], "dimension"),
        (("assets", "model", "roles"), ["data"], "mlm:model"),
        (("assets", "model", "bands"), None, "False schema"),
        (("stac_extensions",), [], "MLM"),
        (("stac_version",), "0.9", "0.9"),
        (("links",), None, "links"),
    ],
)
def test_the_validator_of_items_sees(path, value, word):
    needs("pystac", "stac_model", "jsonschema")
    document = json.loads(write(CATALOG, [MODEL], "stac-mlm"))
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    faults = validate("stac-mlm", json.dumps(document))
    assert any(word in fault for fault in faults), faults


@pytest.mark.parametrize("key", ["name", "description", "license", "url", "creator", "datePublished", "conformsTo"])
def test_the_validator_of_descriptions_misses_what_croissant_requires(key):
    needs("mlcroissant")
    document = json.loads(write(CATALOG, [PAIRS], "croissant"))
    del document[key]
    assert any(key in fault for fault in validate("croissant", json.dumps(document)))


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("license: cc-by-nc-4.0\n", "", "license"),
        ("datasets:\n", "datasets: x\nrest:\n", "datasets"),
        ("tags:\n", "tags: [\n", "Error"),
        ("---\n", "", "header"),
    ],
)
def test_the_validator_of_cards_sees(old, new, word):
    needs("huggingface_hub", "yaml")
    faults = validate("hf-card", write(CATALOG, [MODEL], "hf-card").replace(old, new, 1))
    assert any(word in fault for fault in faults), faults


@pytest.mark.parametrize(("form", "package"), [(form, names[0]) for form, names in PACKAGES.items()])
def test_a_validator_that_is_not_installed_is_named_with_the_way_to_get_it(form, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CatalogError) as error:
        validate(form, "{}")
    assert package in error.value.message
    assert 'pip install "geovl[standards]"' in error.value.hint


# ---- geovl's own catalog


@pytest.fixture(scope="module")
def real():
    return geovl.catalog.load()


@pytest.mark.parametrize("form", FORMATS)
def test_geovls_own_records_are_refused_or_valid(form, real):
    needs(*PACKAGES.get(form, ()))
    records = [record for record in real if record.type in FORMATS[form].takes]
    refused = {told.record_id for told in exports.refusals(real, records, form)}
    kept = [record for record in records if record.id not in refused]
    assert kept
    for document in [kept] if FORMATS[form].many else [[record] for record in kept]:
        assert validate(form, write(real, document, form)) == [], document[0].id


def test_geovls_own_models_that_run_have_items_and_cards(real):
    runnable = [model for model in real.models.values() if model.run]
    assert not list(exports.refusals(real, [real.models["nano"]], "stac-mlm"))
    assert not list(exports.refusals(real, [real.models["nano"]], "hf-card"))
    assert runnable
