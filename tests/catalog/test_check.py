"""``catalog check``: what records say of each other, and what they must not say."""

import pytest

from geovl import settings
from geovl.catalog import load
from geovl.catalog.check import check

DATASET = """
id = "{id}"
name = "{id}"
kind = "vqa"
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
    dataset(folder, "two", 'samples = 17403\nsamples_said = "17403 questions"\n')
    fault = one(folder)
    assert "17403" in fault.message
    assert fault.path.name == "two.toml"
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


def test_what_geovl_runs_says_its_weights_licence_and_hashes(folder):
    path = folder.model("mine")
    path.write_text(
        path.read_text() + '\n[run]\nbackend = "nano"\nsource = "bundled"\nmean = [0.5]\nweights = {"a" = "12"}\n'
    )
    assert {fault.field for fault in look(folder)} == {"license_weights", "run.mean", "run.weights.a"}


def test_faults_are_sorted_by_file_and_line(folder):
    folder.model("two", paper='"x"', code='"y"')
    folder.model("one", tasks='["z"]')
    found = look(folder)
    assert [fault.path.name for fault in found] == ["one.toml", "two.toml", "two.toml"]
    assert found[1].line < found[2].line
