"""The catalog as it ships: all of the survey and its list, names that lead to records, choices, searches, comparisons."""

import collections
import dataclasses
import json
import re
from pathlib import Path

import pytest

from geovl.catalog import Catalog, licenses, load, model
from geovl.catalog.records import UNKNOWN, Dataset, Model, Paper, Record, Result
from geovl.catalog.related import compare, measured_on, paper_of, related
from geovl.catalog.search import search
from geovl.catalog.select import Choice, choose, ordered, span, types
from geovl.errors import CatalogError, ModelError, UsageError

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def catalog():
    return load()


def test_the_survey_and_its_list_are_whole(catalog):
    assert len(catalog.models) >= 128, "127 of the facts and nano"
    assert len(catalog.datasets) >= 154
    assert len(catalog.papers) >= 190
    rows = collections.Counter(paper.list_row.partition("#")[0] for paper in catalog.papers.values() if paper.list_row)
    assert sum(rows.values()) == 113
    assert rows["contrastive"] == 5
    assert rows["conversational"] == 26
    assert rows["generative"] == 4
    assert rows["datasets"] == 43
    numbered = [paper.list_row for paper in catalog.papers.values() if paper.list_row]
    assert len(set(numbered)) == 113, "no row twice"


def test_readme_counts_what_is_there(catalog):
    text = " ".join(README.read_text("utf-8").split())
    told = re.search(r"(\d+) models, (\d+) data sets, (\d+) papers, each", text)
    assert [int(number) for number in told.groups()] == [
        len(catalog.models),
        len(catalog.datasets),
        len(catalog.papers),
    ]
    unknown = re.search(
        r"`unknown`: (\d+) of \d+ models for their code, (\d+) for their weights, (\d+) of \d+ data", text
    )
    assert [int(number) for number in unknown.groups()] == [
        sum(entry.license_code == UNKNOWN for entry in catalog.models.values()),
        sum(entry.license_weights == UNKNOWN for entry in catalog.models.values()),
        sum(entry.license == UNKNOWN for entry in catalog.datasets.values()),
    ]
    results = sum(len(entry.results) for entry in catalog.models.values() if not entry.figures_from)
    assert f"of {results} published results" in text


def test_every_record_says_where_it_was_read_and_what_it_is(catalog):
    for record in catalog:
        assert record.sources["entry"], record.id
        assert record.name, record.id
        if record.type != "paper":
            assert record.description, record.id


def test_counts_keep_the_words_of_their_source(catalog):
    sets = catalog.datasets
    assert sets["rsicd"].images == 10921
    assert sets["levir-cc"].images == 10077
    assert sets["levir-cc"].images_said == "10077 pairs"
    assert sets["skyscript"].images == "5.2M", "a round number stays words"
    assert sets["satin"].images == "about 775000"
    assert sets["rsvqaxben"].samples == "about 15M question-answer pairs"
    for record in sets.values():
        for value, said in ((record.images, record.images_said), (record.samples, record.samples_said)):
            if isinstance(value, int) and said:
                assert said.startswith(str(value)), f"{record.id}: {said}"
            if isinstance(value, str):
                assert not value.isdigit(), record.id


def test_licences_are_never_blank_and_known_ones_have_a_source(catalog):
    for record in (*catalog.models.values(), *catalog.datasets.values()):
        for _, expression in licenses.of(record):
            assert expression, record.id
            if expression != UNKNOWN:
                assert record.sources.get("license"), record.id


def test_what_sources_disagree_on_is_recorded(catalog):
    named = {record.id for record in catalog if record.conflicts}
    assert {
        "skyscript", "rs5m", "versad", "rsicd", "floodnet", "earthvqa", "geochat-instruct", "fmow", "bigearthnet",
        "million-aid", "geochat", "rs-llava", "vhm", "change-agent", "unirs", "llama3-ms-clip", "xlrs-bench", "georsclip",
        "lhrs-bot", "remoteclip", "rsgpt", "geoground", "skyeyegpt", "remotesam", "capera", "crsvqa", "uav-captions", "rsitmd",
        "rs-gpt4v", "lhrs-bot-nova", "rsvg", "risbench", "naip-osm", "falcon-rs", "earthmarker", "sarchat", "geopix",
    } <= named  # fmt: skip


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("nano", "nano"), ("GeoChat", "geochat"), ("geo chat", "geochat"), ("COREval", "choice"), ("coreval", "choice"),
        ("H2RSVLM", "vhm"), ("h2rsvlm", "vhm"), ("GeoLangBind", "dofa-clip"), ("RSVGD", "dior-rsvg"),
        ("MBZUAI/geochat-7B", "geochat"), ("2311.15826", "p-geochat"), ("p-data-rs5m", "p-georsclip"),
        ("10.3390/rs16091477", "p-rs-llava"), ("https://doi.org/10.3390/RS16091477", "p-rs-llava"),
        ("arXiv:2311.15826", "p-geochat"), ("https://arxiv.org/abs/2311.15826v2", "p-geochat"),
        ("https://arxiv.org/pdf/2311.15826.pdf", "p-geochat"), ("10.48550/arXiv.2311.15826", "p-geochat"),
        ("https://huggingface.co/MBZUAI/geochat-7B", "geochat"), ("RSVG", "rsvg"), ("GeoText", "geotext-1652"),
        ("RSCLIP", "rsclip-rs"), ("RS-CLIP", "rs-clip"),
    ],
)  # fmt: skip
def test_names_lead_to_records(catalog, name, record):
    assert catalog.find(name).id == record


def test_a_renamed_record_is_there_for_who_asks_for_it(catalog):
    assert catalog.find("h2rsvlm", as_is=True).id == "h2rsvlm"


def test_every_id_name_and_alias_leads_to_its_record(catalog):
    for record in catalog:
        assert catalog.find(record.id, as_is=True) is record
    for record in (*catalog.models.values(), *catalog.datasets.values()):
        assert catalog.find(record.name, (record.type,), as_is=True) is record
        for alias in record.aliases:
            assert catalog.find(alias, (record.type,)) is catalog.current(record), alias
            assert catalog.find(alias.upper(), (record.type,)) is catalog.current(record), alias


def test_a_type_that_is_asked_for_is_looked_for():
    both = Catalog(
        models={"same": Model(id="same", name="Twin", kind="task")},
        datasets={"twin": Dataset(id="twin", name="Same", kind="vqa")},
    )
    assert both.find("Same", ("dataset",)).id == "twin"
    assert both.find("twin", ("model",)).id == "same"
    assert both.find("twin").id == "twin", "an id before a name"


@pytest.mark.parametrize(
    ("typed", "meant"), [("remoteclp", "remoteclip"), ("geocht", "geochat"), ("vrsbensh", "vrsbench")]
)
def test_a_near_miss_suggests(catalog, typed, meant):
    with pytest.raises(CatalogError) as told:
        catalog.find(typed)
    assert typed in told.value.message
    assert meant in told.value.hint


def test_a_name_that_means_two_records_is_asked_back():
    twins = {name: Model(id=name, name="Twin", kind="task") for name in ("one", "two")}
    with pytest.raises(CatalogError, match="means 2 records: one, two"):
        Catalog(models=twins).find("twin")


@pytest.mark.parametrize(
    ("word", "task"),
    [
        ("RES", "referring-segmentation"), ("RRSIS", "referring-segmentation"), ("VQA", "visual-question-answering"),
        ("rec", "grounding"), ("OVSS", "open-vocabulary-segmentation"), ("Visual Grounding", "grounding"),
        ("grounding", "grounding"),
    ],
)  # fmt: skip
def test_synonyms_of_tasks_resolve(catalog, word, task):
    assert catalog.task(word).id == task


def test_synonyms_are_of_one_task_only(catalog):
    words = [word.casefold() for task in catalog.tasks.values() for word in (task.id, *task.synonyms)]
    assert [word for word, count in collections.Counter(words).items() if count > 1] == []


def test_an_unknown_task_lists_the_vocabulary(catalog):
    with pytest.raises(CatalogError) as told:
        catalog.task("flying")
    assert all(task in told.value.hint for task in catalog.tasks)


def test_a_model_to_run_is_found_by_name_and_others_say_why_not():
    assert model("nano").run is not None
    assert model("Nano").id == "nano"
    with pytest.raises(ModelError, match="cannot run it"):
        model("geochat")
    with pytest.raises(ModelError) as told:
        model("nanoo")
    assert "nano" in told.value.hint
    with pytest.raises(ModelError):
        model("../models/nano")


# choosing


def ids(records):
    return {record.id for record in records}


def test_choices_narrow_and_alternatives_widen(catalog):
    grounding = choose(catalog, Choice(tasks=("grounding",)))
    assert grounding == choose(catalog, Choice(tasks=("REC",)))
    assert all("grounding" in record.tasks for record in grounding)
    assert ids(grounding) == {r.id for r in catalog if r.type != "paper" and "grounding" in r.tasks}
    both = choose(catalog, Choice(tasks=("grounding", "counting")))
    assert ids(both) > ids(grounding)
    assert ids(choose(catalog, Choice(tasks=("grounding",), kinds=("model",)))) < ids(grounding)


def test_kinds_are_types_or_kinds_of_a_type(catalog):
    assert all(isinstance(r, Model) for r in choose(catalog, Choice(kinds=("model",))))
    assert len(choose(catalog, Choice(kinds=("survey",)))) == 7
    mixed = choose(catalog, Choice(kinds=("change",)))
    assert {r.type for r in mixed} == {"model", "dataset"}
    with pytest.raises(UsageError, match="nothing"):
        types(Choice(kinds=("nothing",)))


def test_papers_take_their_tasks_from_what_they_present(catalog):
    assert "p-geoground" in ids(choose(catalog, Choice(kinds=("paper",), tasks=("grounding",))))


def test_licence_families(catalog):
    free = choose(catalog, Choice(licenses=("permissive",)))
    assert "nano" in ids(free)
    assert "georsclip" not in ids(free), "its weights are under some Creative Commons licence"
    assert "skyclip" not in ids(free), "nobody has read its weights' licence"
    assert "skyclip" in ids(choose(catalog, Choice(licenses=("unknown",))))
    assert "vhm" in ids(choose(catalog, Choice(licenses=("non-commercial",))))
    assert ids(choose(catalog, Choice(licenses=("apache-2.0",)))) >= {"nano", "remoteclip"}
    with pytest.raises(CatalogError, match="apach"):
        choose(catalog, Choice(licenses=("apach",)))


def test_the_family_of_an_expression_is_that_of_its_strictest_part(catalog):
    assert licenses.family("MIT AND CC-BY-4.0", catalog) == "permissive"
    assert licenses.family("MIT AND CC-BY-NC-4.0", catalog) == "non-commercial"
    assert licenses.family("never-heard-of", catalog) == "unknown"
    assert licenses.family("MIT OR AGPL-3.0-only", catalog) == "permissive", "one may choose"
    assert licenses.family("CC-BY-NC-4.0 OR MIT AND AGPL-3.0-only", catalog) == "copyleft", "AND binds closer"
    assert licenses.family("GPL-3.0-only WITH Classpath-exception-2.0", catalog) == "copyleft"


def test_what_may_be_used_commercially(catalog):
    found = choose(catalog, Choice(licenses=("commercial",)))
    assert {"nano", "terramesh"} <= ids(found)
    for record in found:
        assert licenses.families(record, catalog) <= {"permissive", "copyleft"}, record.id


def test_verdicts_are_of_all_parts_and_say_where_one_may_choose(catalog):
    mit, nc = (licenses.verdict(name, catalog) for name in ("MIT", "CC-BY-NC-4.0"))
    assert licenses.verdict("MIT AND CC-BY-NC-4.0", catalog) == f"{mit} {nc}"
    assert licenses.verdict("MIT OR CC-BY-NC-4.0", catalog) == f"Your choice. Either: {mit} Or: {nc}"
    assert licenses.short(catalog.get("georsclip")) == "MIT / CC"
    assert licenses.short(catalog.get("nano")) == "Apache-2.0"


@pytest.mark.parametrize("text", ["", " ", "MIT Apache-2.0", "AND MIT", "MIT AND", "MIT and Apache-2.0"])
def test_what_is_no_expression(text):
    assert not licenses.well_formed(text)


@pytest.mark.parametrize("text", ["MIT", "MIT AND Apache-2.0", "GPL-3.0-only WITH Classpath-exception-2.0 OR MIT"])
def test_what_is_one(text):
    assert licenses.well_formed(text)


def test_what_models_were_trained_and_measured_on(catalog):
    assert ids(choose(catalog, Choice(trained_on=("RS5M",)))) >= {"georsclip", "georssd"}
    assert ids(choose(catalog, Choice(trained_on=("RS5M",)))) == {
        m.id for m in catalog.models.values() if "rs5m" in m.training_data
    }
    assert ids(choose(catalog, Choice(evaluated_on=("RSVGD",)))) >= {"geoground", "mgvlf"}
    name = catalog.find("RSVGD", ("dataset",)).id
    assert ids(choose(catalog, Choice(evaluated_on=("RSVGD",)))) == {
        m.id for m in catalog.models.values() if any(name in result.dataset for result in m.results)
    }
    with pytest.raises(CatalogError):
        choose(catalog, Choice(trained_on=("rs5",)))


def test_weights_and_running(catalog):
    assert ids(choose(catalog, Choice(runnable=True))) == {m.id for m in catalog.models.values() if m.run}
    assert all(record.weights for record in choose(catalog, Choice(open_weights=True)))


@pytest.mark.parametrize(
    ("text", "years"),
    [("2024", (2024, 2024)), ("2024..", (2024, 9999)), ("..2022", (0, 2022)), ("2022..2024", (2022, 2024))],
)
def test_spans_of_years(catalog, text, years):
    assert span(text) == years
    found = choose(catalog, Choice(years=text))
    assert found
    assert all(years[0] <= record.year <= years[1] for record in found)


def test_modalities_kinds_and_papers(catalog):
    radar = choose(catalog, Choice(modalities=("SAR",)))
    assert radar
    assert all("sar" in record.modalities for record in radar)
    assert choose(catalog, Choice(modalities=("time series",))) == choose(catalog, Choice(modalities=("time-series",)))
    assert choose(catalog, Choice(kinds=("Survey",))) == choose(catalog, Choice(kinds=("survey",)))
    assert {record.kind for record in choose(catalog, Choice(kinds=("contrastive",), open_weights=True))} == {
        "contrastive"
    }


@pytest.mark.parametrize("text", ["", "..", "24", "2024-2025", "2024..2022", "20242025"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(UsageError):
        span(text)


def test_orders(catalog):
    sets = list(catalog.datasets.values())
    numbers = [r.images for r in ordered(sets, "images") if isinstance(r.images, int)]
    assert numbers == sorted(numbers, reverse=True)
    years = [r.year or 0 for r in ordered(sets, "year")]
    assert years == sorted(years, reverse=True)
    assert [r.name.casefold() for r in ordered(sets, "name")] == sorted(r.name.casefold() for r in sets)
    words = [licenses.short(r) for r in ordered(sets, "license")]
    assert words == sorted(words, key=lambda word: (word == "unknown", word))
    types_seen = [r.type for r in ordered([*sets, *catalog.models.values()], "kind")]
    assert types_seen == sorted(types_seen, reverse=True), "models before data sets"
    with pytest.raises(UsageError):
        ordered(sets, "beauty")


# searching


def best(catalog, words, count=3):
    return [hit.record.id for hit in search(catalog, words).hits[:count]]


@pytest.mark.parametrize("name", ["remoteclip", "GeoChat", "RSVQA-LR", "nano", "skyscript"])
def test_what_is_called_that_comes_first(catalog, name):
    assert best(catalog, name, 1) == [catalog.find(name).id]


def test_synonyms_and_misspelt_words_are_found(catalog):
    assert {hit.record.id for hit in search(catalog, "RES", limit=100).hits} >= {"rmsin", "fianet"}
    found = search(catalog, "referrring segmentaion")
    assert dict(found.corrected) == {"referrring": "referring", "segmentaion": "segmentation"}
    assert found.hits
    assert "«" in found.hits[0].excerpt


def test_numbers_data_stems_beginnings_and_insides_are_found(catalog):
    def found(words):
        return {hit.record.id for hit in search(catalog, words, limit=500).hits}

    assert "geopixel" in found("83.33"), "a figure"
    assert "georsclip" in found("RS5M"), "what it was trained on"
    assert found("captioned") >= found("captions"), "stems"
    assert "geochat" in found("geoch"), "beginnings"
    assert "remoteclip" in found("motecli"), "insides"
    assert "lae-dino" in found("jaychempan"), "whatever else the record says"


def test_what_a_paper_presents_comes_before_it_and_a_paper_once(catalog):
    order = [hit.record.id for hit in search(catalog, "skyscript", limit=50).hits]
    assert order.index("skyclip") < order.index("p-skyclip")
    assert "p-data-skyscript" not in order, "the same paper under another row"


def test_all_words_are_wanted_and_it_is_said_when_no_record_has_them(catalog):
    found = search(catalog, "sentinel-2 captions")
    assert found.all_words
    assert all(re.search("caption", json.dumps(hit.record.to_dict()), re.IGNORECASE) for hit in found.hits)
    some = search(catalog, "remoteclip floodnet hyperspectral")
    assert not some.all_words
    assert {"remoteclip", "floodnet"} <= {hit.record.id for hit in some.hits}, "those with some of the words"
    two = search(catalog, "remoteclip floodnet")
    assert not two.all_words
    assert {"remoteclip", "floodnet"} <= {hit.record.id for hit in two.hits}


@pytest.mark.parametrize("words", ['"', "a OR", "NEAR(", "x*", "-", "col:um", "' ; drop table found", "\u00e9t\u00e9"])
def test_signs_mean_nothing_to_the_search(catalog, words):
    try:
        search(catalog, words)
    except UsageError as error:
        assert "no word" in error.message  # noqa: PT017


def test_every_record_is_found_by_its_own_words(catalog):
    for record in [*list(catalog.models.values())[::12], *list(catalog.datasets.values())[::12]]:
        assert record.id in [hit.record.id for hit in search(catalog, record.description or "", limit=5).hits]


# beside each other


def test_related_records_point_both_ways(catalog):
    for entry in catalog.models.values():
        for name in entry.training_data:
            assert entry.id in related(catalog.datasets[name], catalog)["trains"]
    assert related(catalog.get("vhm"), catalog)["earlier name"] == ["h2rsvlm"]
    assert paper_of(catalog.get("geoground"), catalog).id == "p-geoground"


def test_overlaps_are_shown_from_both_sides_and_through_a_third(catalog):
    assert "vrsbench" in related(catalog.get("dior"), catalog)["overlaps with"]
    seen = related(catalog.get("vrsbench"), catalog)
    assert {"dior", "dota", "risbench"} <= set(seen["overlaps with"])
    assert "dior-rsvg" in seen["may overlap through dior"]


def test_versions_and_rows_of_a_paper_are_related(catalog):
    assert related(catalog.get("versad"), catalog)["supersedes"] == ["hqdc-1.4m"]
    assert related(catalog.get("hqdc-1.4m"), catalog)["superseded by"] == ["versad"]
    assert related(catalog.get("georsclip"), catalog)["also listed as"] == ["p-data-rs5m"]
    assert related(catalog.get("h2rsvlm"), catalog)["now"] == ["vhm"]


def test_what_a_paper_presents_is_named_from_both(catalog):
    seen = related(catalog.get("p-remoteclip"), catalog)
    assert "remoteclip" in seen["presents"]
    assert "presented with" not in seen
    assert "presents" not in related(catalog.get("remoteclip"), catalog)


def test_of_two_papers_on_a_model_the_one_whose_number_it_gives_is_its_own():
    def paper(name, number):
        return Paper(id=name, name=name, kind="method", paper=number, entities=("one",))

    later = paper("p-b", "2402.00002")
    both = Catalog(
        models={"one": Model(id="one", name="One", kind="task", paper="2402.00002")},
        papers={"p-a": paper("p-a", "2401.00001"), "p-b": later},
    )
    assert paper_of(both.models["one"], both) is later
    neither = Catalog(models={"one": Model(id="one", name="One", kind="task")}, papers=both.papers)
    assert paper_of(neither.models["one"], neither).id == "p-a", "the first, where none is named"


def test_the_figures_on_a_data_set_are_all_there(catalog):
    figures = measured_on(catalog.get("rrsis-d"), catalog)
    assert {model.id for model, _ in figures} == set(related(catalog.get("rrsis-d"), catalog)["measures"])
    best_first = [result.value for _, result in figures if result.metric == "mIoU" and result.split == "test"]
    assert best_first == sorted(best_first, reverse=True)


def _measured(name, *results):
    rows = tuple(Result(metric=m, value=v, dataset=(d,), split=s, setting=how) for m, v, d, s, how in results)
    return Model(id=name, name=name, kind="task", results=rows)


def test_only_what_was_measured_alike_is_compared():
    one = _measured(
        "one", ("mIoU", 1.0, "a", "test", "zero-shot"), ("mIoU", 2.0, "b", "test", None), ("OA", 9.0, "c", None, None)
    )
    two = _measured("two", ("mIoU", 3.0, "a", "test", "zero-shot"), ("mIoU", 4.0, "b", "val", None))
    found = compare([one, two])
    (row,) = found.rows
    assert (row.dataset, row.metric, row.stated) == ("a", "mIoU", True)
    assert [[r.value for r in values] for values in row.values] == [[1.0], [3.0]]
    assert found.left_out == 2, "the same set, another split"
    assert found.alone == 1, "a set of one alone"


def test_agreeing_in_saying_nothing_is_marked():
    for split, how in ((None, None), ("test", None), (None, "zero-shot")):
        rows = compare([_measured(name, ("OA", 1.0, "a", split, how)) for name in ("one", "two")]).rows
        assert [row.stated for row in rows] == [False]


# values


def test_records_are_plain_without_blanks(catalog):
    def walk(value):
        if isinstance(value, dict):
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)
        else:
            yield value

    for record in catalog:
        told = record.to_dict()
        assert json.loads(json.dumps(told)) == told
        assert all(value not in ("", None) for value in walk(told)), record.id


def test_plain_values_make_the_record_again(catalog):
    for record in catalog:
        values = record.to_dict()
        del values["type"]
        assert type(record).make(values) == record


def test_records_cannot_be_changed(catalog):
    record: Record = next(iter(catalog))
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.name = "other"
    assert isinstance(catalog.datasets["aid"], Dataset)
