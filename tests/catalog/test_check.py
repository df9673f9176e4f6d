"""``catalog check``: what records say of each other, and what they must not say."""

import pytest

from geovl import settings
from geovl.catalog import load
from geovl.catalog.check import check

DATASET = """
id = "{id}"
name = "{id}"
kind = "vqa"
description = "Questions of mine."
tasks = ["visual-question-answering"]
{more}
[sources]
entry = ["me/mine:README.md"]
"""


def dataset(folder, name, more=""):
    return folder.put(f"datasets/{name}.toml", DATASET.format(id=name, more=more))


def look(folder):
    return check(folder.path, load((settings.shipped_catalog(),)))


def one(folder):
    (fault,) = look(folder)
    return fault


def test_geovls_own_catalog_has_no_fault():
    assert check(settings.shipped_catalog()) == []


def test_a_sound_folder_over_geovls_has_none(folder):
    folder.model("mine", training_data='["rs5m"]')
    assert look(folder) == []


@pytest.mark.parametrize(
    ("key", "value", "place", "words"),
    [
        ("tasks", '["retrievel"]', "tasks.0", "retrieval"),
        ("training_data", '["rs5n"]', "training_data.0", "rs5m"),
        ("paper", '"arxiv 2306.11300"', "paper", "arXiv number"),
        ("code", '"github.com/me/mine"', "code", "URL"),
        ("weights", '["just a name"]', "weights.0", "owner/name"),
        ("weights", '["YourOrg/model"]', "weights.0", "YourOrg"),
        ("description", '"Numbers xxxx to come."', "description", "xxxx"),
        ("code", '"https://example.com/x"', "code", "example.com"),
        ("description", '""', "description", "empty"),
        ("license_code", '"mit"', "license_code", "MIT"),
        ("license_code", '"Apache2"', "license_code", "Apache-2.0"),
        ("year", "24", "year", "1990"),
        ("renamed_to", '"nothing-here"', "renamed_to", "id of another model"),
        ("aliases", '["GeoChat"]', "aliases.0", "geochat"),
        ("aliases", '["Mein", "mein"]', "aliases.1", "twice"),
        ("tasks", '["retrieval", "retrieval"]', "tasks.1", "twice"),
        ("modalities", '["rgb", "rgb"]', "modalities.1", "twice"),
        ("year", "2999", "year", "2999"),
        ("project", '"my page"', "project", "URL"),
        ("renamed_to", '"mine"', "renamed_to", "another model"),
        ("renamed_to", '"aid"', "renamed_to", "another model"),
        ("superseded_by", '"aid"', "superseded_by", "another model"),
        ("license_weights", '"Apache2"', "license_weights", "Apache-2.0"),
        ("license_code", '"MIT Apache-2.0"', "license_code", "AND or OR"),
        ("license_code", '"()"', "license_code", "licenses.toml"),
        ("paper", '"arXiv:2999.00001"', "paper", "expected 2999.00001"),
        ("paper", '"10.48550/arXiv.2999.00001"', "paper", "expected 2999.00001"),
        ("description", '"   "', "description", "placeholder"),
        ("description", '"N/A"', "description", "N/A"),
        ("description", '"By <name> of example.net"', "description", "placeholder"),
        ("venue", '"XXX"', "venue", "XXX"),
    ],
)
def test_a_fault_is_told_where_it_stands(folder, key, value, place, words):
    path = folder.model("mine", **{key: value})
    fault = one(folder)
    assert fault.path == path
    assert fault.field == place
    assert words in fault.message
    assert path.read_text().splitlines()[fault.line - 1].startswith(f"{key} =")


def test_a_licence_needs_a_source(folder):
    path = folder.model("mine")
    path.write_text(path.read_text().replace('license = ["me/mine:LICENSE"]\n', ""))
    assert "without a source" in one(folder).message


def test_an_unknown_licence_needs_none(folder):
    path = folder.model("mine", license_code='"unknown"')
    path.write_text(path.read_text().replace('license = ["me/mine:LICENSE"]\n', ""))
    assert look(folder) == []


def test_a_record_needs_a_source_of_a_form_that_can_be_followed(folder):
    path = folder.model("mine")
    text = path.read_text()
    path.write_text(text.replace('entry = ["me/mine:README.md"]\n', ""))
    assert "lacks entry" in one(folder).message
    path.write_text(text.replace("me/mine:README.md", "somewhere on the web"))
    assert one(folder).field == "sources.entry.0"


def test_results_name_a_data_set_and_a_source(folder):
    path = folder.model("mine")
    result = '\n[[results]]\nmetric = "accuracy"\nvalue = 1.0\n'
    path.write_text(path.read_text() + result)
    assert {fault.field for fault in look(folder)} == {"results.0"}
    path.write_text(path.read_text() + 'dataset = ["aid", "aids"]\nsource = "me/mine:README.md"\n')
    assert one(folder).field == "results.0.dataset.1"
    path.write_text(path.read_text().replace('["aid", "aids"]', '["aid"]'))
    assert look(folder) == []


def test_an_id_is_one_record_whatever_its_type(folder):
    folder.model("mine")
    dataset(folder, "mine")
    assert "is taken" in one(folder).message


def test_two_sets_with_the_same_exact_count_must_say_so(folder):
    dataset(folder, "one", "images = 17403\n")
    dataset(folder, "two", 'samples = 17403\nsamples_said = "17,403 questions"\n')
    told = look(folder)
    assert all("17403" in fault.message for fault in told)
    assert [(fault.path.name, fault.field) for fault in told] == [("one.toml", "images"), ("two.toml", "samples")]
    dataset(folder, "two", 'samples = 17403\noverlaps = ["one"]\n')
    assert look(folder) == []


def test_round_counts_may_meet(folder):
    dataset(folder, "one", "images = 20000\n")
    dataset(folder, "two", "images = 20000\n")
    assert look(folder) == []


def test_an_exact_number_is_no_text(folder):
    dataset(folder, "one", 'images = "17403"\n')
    assert "without quotes" in one(folder).message


def test_one_number_on_two_works_must_be_declared(folder):
    folder.model("one", paper='"2999.00001"')
    folder.model("two", paper='"2999.00001"')
    assert "add its paper" in one(folder).message
    paper = 'id = "p-both"\nname = "Both"\nkind = "model"\npaper = "2999.00001"\nentities = ["one", "two"]\n'
    paper += '[sources]\nentry = ["me/mine:README.md"]\n'
    folder.put("papers/p-both.toml", paper)
    assert look(folder) == []
    folder.put("papers/p-again.toml", paper.replace("p-both", "p-again"))
    assert any("same_as" in fault.message for fault in look(folder))
    folder.put(
        "papers/p-again.toml", paper.replace("p-both", "p-again").replace("entities", 'same_as = "p-both"\nentities')
    )
    assert look(folder) == []


def test_papers_and_what_they_present_name_each_other(folder):
    folder.model("one", paper='"2999.00001"')
    paper = folder.put(
        "papers/p-one.toml",
        'id = "p-one"\nname = "One"\nkind = "model"\npaper = "2999.00001"\n[sources]\nentry = ["me/mine:README.md"]\n',
    )
    assert {(fault.path.name, fault.field) for fault in look(folder)} == {
        ("one.toml", "paper"),
        ("p-one.toml", "entities"),
    }
    paper.write_text(paper.read_text().replace("[sources]", 'entities = ["one", "onne"]\n[sources]'))
    assert one(folder).field == "entities.1"


def test_what_geovl_runs_has_hashes_and_a_mean_for_each_band(folder):
    path = folder.model("mine")
    path.write_text(
        path.read_text() + '\n[run]\nbackend = "nano"\nsource = "bundled"\nmean = [0.5]\nweights = {"a" = "12"}\n'
    )
    assert {fault.field for fault in look(folder)} == {"run.mean", "run.weights.a"}


def test_faults_are_sorted_by_file_and_line(folder):
    folder.model("two", paper='"x"', code='"y"')
    folder.model("one", tasks='["z"]')
    found = look(folder)
    assert [fault.path.name for fault in found] == ["one.toml", "two.toml", "two.toml"]
    assert found[1].line < found[2].line


def test_a_description_is_wanted_and_real_words_are_no_placeholders(folder):
    path = folder.model("mine", description='"Makes a TODO list of tasks in XXL pictures; see exampleville."')
    assert look(folder) == []
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("description")))
    assert one(folder).field == "description"


@pytest.mark.parametrize(
    ("more", "field", "words"),
    [
        ('url = "nowhere"\n', "url", "URL"),
        ('license = "Apache2"\n', "license", "Apache-2.0"),
        ('license = "MIT"\n', "license", "without a source"),
        ("images = 0\n", "images", "1 or more"),
        ("gsd = [2.0, 1.0]\n", "gsd", "finest and coarsest"),
        ("gsd = [1.0, 2.0, 3.0]\n", "gsd", "finest and coarsest"),
        ('overlaps = ["aidd"]\n', "overlaps.0", "aid"),
        ('overlaps = ["mine"]\n', "overlaps.0", "another"),
    ],
)
def test_faults_of_data_sets(folder, more, field, words):
    dataset(folder, "mine", more)
    assert any(fault.field == field and words in fault.message for fault in look(folder))


def paper(folder, name, **keys):
    told = {"id": f'"{name}"', "name": '"A paper"', "kind": '"model"', **keys}
    lines = [f"{key} = {value}" for key, value in told.items()]
    return folder.put(f"papers/{name}.toml", "\n".join(lines) + '\n[sources]\nentry = ["me/mine:README.md"]\n')


def test_faults_of_papers(folder):
    paper(folder, "p-one", identifiers='["a number"]', same_as='"p-onne"', entities='["nobody"]')
    assert {fault.field for fault in look(folder)} == {"identifiers.0", "same_as", "entities.0"}
    paper(folder, "p-one", same_as='"p-one"')
    assert one(folder).field == "same_as"


def test_a_paper_presents_what_names_it(folder):
    folder.model("one", paper='"2999.00002"')
    paper(folder, "p-one", paper='"2999.00001"', entities='["one"]')
    assert "another paper, 2999.00002" in one(folder).message
    paper(folder, "p-one", paper='"2999.00001"', identifiers='["2999.00002"]', entities='["one"]')
    assert look(folder) == []


def test_ones_own_model_may_come_from_the_paper_of_another(folder):
    folder.model("mine", paper='"2306.11029"')
    assert look(folder) == []


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_an_alias_of_one_of_geovls_is_told_at_ones_own(folder, name):
    path = folder.model(name, aliases='["Falcon"]')
    fault = one(folder)
    assert fault.path == path
    assert "falcon-rs" in fault.message


def test_an_id_of_geovls_keeps_its_type(folder):
    folder.model("rs5m")
    assert any("of a dataset" in fault.message for fault in look(folder))
    folder.path.joinpath("models/rs5m.toml").unlink()
    folder.model("remoteclip", called="Mine over it")
    assert look(folder) == [], "one's own may stand over geovl's"


def test_two_of_one_name_and_renames_of_renames_are_told(folder):
    folder.model("one", called="Same")
    folder.model("two", called="Same")
    assert [fault.field for fault in look(folder)] == ["name", "name"]
    folder.model("one", renamed_to='"two"')
    folder.model("two", renamed_to='"three"')
    folder.model("three")
    assert "name that" in one(folder).message


def test_records_that_nobody_reads_are_told(folder):
    folder.model("mine")
    strays = {"model/other.toml", "stray.toml", "models/sub/deep.toml", "models/loud.TOML"}
    for name in strays:
        folder.put(name, "id = 1\n")
    assert {str(fault.path.relative_to(folder.path)) for fault in look(folder)} == strays


def test_a_folder_without_a_record_is_a_fault(folder):
    folder.path.joinpath("models").mkdir()
    assert "holds no record" in one(folder).message


def test_faults_of_form_do_not_hide_the_others_nor_make_false_ones(folder):
    dataset(folder, "my-set", 'colour = "red"\n')
    folder.model("mine", training_data='["my-set"]', year='"soon"', tasks='["retrievel"]')
    mine = {("mine.toml", "year"), ("mine.toml", "tasks.0")}
    assert {(fault.path.name, fault.field) for fault in look(folder)} == mine | {("my-set.toml", "colour")}
    folder.put("datasets/my-set.toml", "id = \n")
    assert {(fault.path.name, fault.field) for fault in look(folder)} == mine | {("my-set.toml", "file")}


def test_vocabularies_of_ones_own(folder):
    folder.model("mine", tasks='["seeing"]')
    folder.put("tasks.toml", '[seeing]\nmeaning = "To see."\nsynonyms = ["look"]\nmlm = "regression"\n')
    assert look(folder) == []
    folder.put(
        "tasks.toml",
        """
        [seeing]
        meaning = ""
        synonyms = ["look", "VQA"]
        mlm = "nonsense"

        [Foo_Bar]
        meaning = "Bad."
        """,
    )
    assert {(fault.field, fault.line) for fault in look(folder)} == {
        ("seeing.meaning", 2), ("seeing.synonyms", 3), ("seeing.mlm", 4), ("Foo_Bar.id", 6),
    }  # fmt: skip
    folder.put("tasks.toml", '[seeing]\nmeaning = "To see."\n')
    folder.put("licenses.toml", '[Mine]\nfamily = "custom"\nverdict = "Mine."\naliases = ["apache-2.0"]\n')
    assert "Apache-2.0 itself" in one(folder).message
    folder.put("licenses.toml", '[Mine]\nfamily = "odd"\nverdict = "Mine."\n')
    assert one(folder).field == "Mine.family"


def test_reliability_has_one_value_a_step(folder):
    path = folder.model("mine")
    path.write_text(path.read_text() + "\n[reliability]\nece = 0.1\nscore = [0.5]\nshare = [0.5, 0.6]\npixels = [1]\n")
    assert one(folder).field == "reliability"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_spans_of_resolution_begin_with_the_finest(folder, low, high):
    path = folder.model("mine")
    run = f'\n[run]\nbackend = "nano"\nsource = "bundled"\ngsd_min = {low}\ngsd_max = {high}\nstd = [1.0, 1.0]\n'
    path.write_text(path.read_text() + run)
    assert {fault.field for fault in look(folder)} == {"run.gsd_min", "run.std"}
