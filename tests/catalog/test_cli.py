"""``geovl catalog`` on the command line: answers on stdout, the rest on stderr, faults in one sentence."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from geovl import settings
from geovl.cli import output
from geovl.cli.app import app


@pytest.fixture
def geovl(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments):
        return CliRunner().invoke(app, ["catalog", *(str(a) for a in arguments)])

    return call


def ids(done):
    return [line.split()[0] for line in done.stdout.splitlines()[1:]]


def test_list_shows_models_and_data_sets_of_a_task(geovl):
    done = geovl("list", "--task", "grounding")
    assert done.exit_code == 0, done.stderr
    assert {"geoground", "geochat", "dior-rsvg", "rsvg"} <= set(ids(done))
    assert "20 models, 26 datasets" in done.stderr
    assert ids(geovl("list", "--task", "REC")) == ids(done)


def test_list_as_json_and_csv_holds_the_same_records(geovl):
    listed = json.loads(geovl("list", "--kind", "contrastive", "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(geovl("list", "--kind", "contrastive", "--csv").stdout)))
    assert [row["id"] for row in rows] == [record["id"] for record in listed]
    assert len(listed) >= 20
    assert all(record["kind"] == "contrastive" for record in listed)


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 250])
def test_a_table_is_as_wide_as_the_terminal_and_never_breaks_an_id(geovl, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = geovl("list", "--kind", "vqa")
    assert max(map(len, done.stdout.splitlines())) <= columns
    known = {record["id"] for record in json.loads(geovl("list", "--kind", "vqa", "--json").stdout)}
    assert set(ids(done)) == known


def test_wider_terminals_show_more_columns(geovl, monkeypatch):
    heads = []
    for columns in (40, 80, 250):
        monkeypatch.setenv("COLUMNS", str(columns))
        heads.append(geovl("list").stdout.splitlines()[0].split())
    assert set(heads[0]) < set(heads[1]) < set(heads[2])


def test_a_list_without_a_record_says_so(geovl):
    done = geovl("list", "--task", "grounding", "--year", "1999")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "No record" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("list", "--task", "flying"), 1, "visual-question-answering"),
        (("list", "--kind", "thing"), 2, "contrastive"),
        (("list", "--modality", "smell"), 2, "hyperspectral"),
        (("list", "--license", "apach"), 1, "Apache-2.0"),
        (("list", "--year", "soon"), 2, "2022..2024"),
        (("list", "--sort", "beauty"), 2, "year"),
        (("list", "--trained-on", "rs5"), 1, "rs5m"),
        (("show", "geocht"), 1, "geochat"),
        (("search", "?!"), 2, "no word"),
        (("search", "zzzzqqq"), 1, "zzzzqqq"),
        (("compare", "geochat", "GeoChat"), 2, "geochat alone"),
        (("compare", "geochat", "aid"), 2, "dataset and a model"),
        (("compare", "geochat", "geocht"), 1, "geochat"),
        (("check", "nowhere"), 1, "nowhere"),
        (("export", "--format", "word"), 2, "croissant"),
        (("export", "geochat", "--format", "croissant"), 2, "dataset"),
        (("export", "geochat", "--task", "grounding"), 2, "either"),
        (("export", "--format", "hf-card"), 2, "-o DIR"),
        (("export", "aid", "--format", "croissant"), 1, "license"),
        (("list", "--catalog", "nowhere"), 1, "nowhere"),
        (("list", "--json", "--csv"), 2, "either"),
        (("list", "--kind", "vqa", "--open-weights"), 2, "no models"),
        (("list", "--kind", "nonsense", "--runnable"), 2, "contrastive"),
        (("show", "RES"), 1, "list --task referring-segmentation"),
        (("list", "--evaluated-on", "RRSIS"), 1, "referring-segmentation"),
        (("list", "--evaluated-on", "RSVQA"), 1, "rsvqa-lr"),
        (("fetch", "geochat"), 1, "cannot run it"),
        (("fetch", "nanoo"), 1, "nano"),
    ],
)
def test_mistakes_are_told_in_a_sentence_with_what_to_do(geovl, arguments, code, words):
    done = geovl(*arguments)
    assert done.exit_code == code, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_show_tells_what_people_ask(geovl):
    card = geovl("show", "geochat").stdout
    for words in ("GeoChat (geochat)", "https://arxiv.org/abs/2311.15826", "may I use it", "Apache-2.0", "84.43", "rsvqa-lr",
                  "sources disagree", "Vicuna-13B", "trained on: geochat-instruct", "@misc{", "does not run it"):  # fmt: skip
        assert words in card, words
    assert max(map(len, card.splitlines())) <= 120


def test_counts_are_shown_as_read_and_in_the_words_of_their_source(geovl):
    assert "samples        105,107\n" in geovl("show", "changechat-105k").stdout
    assert "samples        14320 captions\n" in geovl("show", "capera").stdout
    assert "more than 122000 question-answer pairs" in geovl("show", "cdvqa").stdout


def test_show_of_nano_says_how_to_run_it(geovl):
    card = geovl("show", "nano").stdout
    for words in (
        "geovl segment tile.tif PROMPT --model nano",
        "reliability",
        "experimental",
        "known failures",
        "made from",
    ):
        assert words in card, words
    assert json.loads(geovl("show", "nano", "--json").stdout)["run"]["backend"] == "nano"


def test_show_of_a_renamed_record_says_where_it_went(geovl):
    done = geovl("show", "H2RSVLM", "--json")
    assert json.loads(done.stdout)["id"] == "vhm"
    assert "VHM" in done.stderr
    assert json.loads(geovl("show", "COREval", "--json").stdout)["id"] == "choice"
    assert json.loads(geovl("show", "h2rsvlm", "--as-is", "--json").stdout)["id"] == "h2rsvlm"


@pytest.mark.parametrize("kind", ["models", "datasets", "papers"])
def test_every_record_has_a_card(kind):
    from geovl import catalog
    from geovl.cli import cards

    found = catalog.load()
    for record in getattr(found, kind).values():
        lines = list(cards.card(record, found, 100))
        assert lines[0] == f"{record.name} ({record.id})"
        assert not any("None" in line.split() for line in lines), record.id


def test_search_finds_misspelt_words_and_says_so(geovl):
    done = geovl("search", "remoteclp")
    assert ids(done)[0] == "remoteclip"
    assert "looked for remoteclip" in done.stderr
    assert json.loads(geovl("search", "remoteclp", "--json").stdout)[0]["id"] == "remoteclip"
    assert len(ids(geovl("search", "remote", "--limit", "3"))) == 3


def test_compare_puts_only_like_by_like(geovl):
    done = geovl("compare", "lgce", "rmsin", "geopixel").stdout
    assert "59.37" in done
    assert "67.3" in done
    assert "left out" in done
    sizes = next(line.split() for line in done.splitlines() if line.startswith("pixels a side"))
    assert sizes[:5] == ["pixels", "a", "side", "?", "480"], "what is not known is marked"
    told = json.loads(geovl("compare", "lgce", "rmsin", "--json").stdout)
    assert {row["metric"] for row in told["results"]} == {"mIoU", "oIoU"}
    assert [record["id"] for record in told["records"]] == ["lgce", "rmsin"]


def test_tasks_are_listed_with_synonyms(geovl):
    done = geovl("tasks")
    assert "referring-segmentation" in done.stdout
    assert any(
        task["id"] == "grounding" and "REC" in task["synonyms"] for task in json.loads(geovl("tasks", "--json").stdout)
    )


def test_records_of_ones_own(geovl, folder, monkeypatch):
    folder.model("mine")
    assert json.loads(geovl("show", "mine", "--catalog", folder.path, "--json").stdout)["name"] == "MINE"
    assert geovl("show", "mine").exit_code == 1, "the folder was for that call only"
    monkeypatch.setenv("GEOVL_CATALOG", str(folder.path))
    assert geovl("show", "mine").exit_code == 0
    checked = geovl("check", folder.path)
    assert checked.exit_code == 0, checked.stdout
    assert "1 records, no fault" in checked.stderr


def test_check_tells_file_line_field_and_fails(geovl, folder):
    path = folder.model("mine", kind='"contrastiv"')
    done = geovl("check", folder.path)
    assert done.exit_code == 1
    assert done.stdout.startswith(f"{path}:1: kind: expected 'contrastive'")
    assert "1 fault " in done.stderr
    (fault,) = json.loads(geovl("check", folder.path, "--json").stdout)
    assert (fault["file"], fault["line"], fault["field"]) == (str(path), 1, "kind")


def test_a_folder_without_records_is_no_sound_catalog(geovl, tmp_path):
    (tmp_path / "empty").mkdir()
    assert geovl("check", "empty").exit_code == 1


def test_export_is_one_object_that_keeps_its_names(geovl, tmp_path):
    done = geovl("export", "-o", "catalog.json")
    assert done.exit_code == 0, done.stderr
    told = json.loads((tmp_path / "catalog.json").read_text("utf-8"))
    assert set(told) >= {"models", "datasets", "papers", "tasks"}
    names = {"id", "name", "kind", "year", "venue", "tasks", "modalities", "paper", "code", "weights", "license_code",
             "license_weights", "description", "sources", "checked", "aliases"}  # fmt: skip
    assert {name for model in told["models"] for name in model} >= names
    sets = {name for entry in told["datasets"] for name in entry}
    assert sets >= {"license", "images", "samples", "gsd", "classes", "url"}
    assert geovl("export", "-o", "catalog.json").exit_code == 2, "a file is not replaced unasked"
    assert geovl("export", "-o", "catalog.json", "--overwrite").exit_code == 0


def test_export_to_stdout_and_to_a_folder(geovl, tmp_path):
    assert "@misc{" in geovl("export", "geochat", "rmsin", "--format", "bibtex").stdout
    assert geovl("export", "nano", "--format", "hf-card").stdout.startswith("---\n")
    done = geovl("export", "--format", "croissant", "--task", "grounding", "-o", "out")
    assert done.exit_code == 0, done.stderr
    written = sorted((tmp_path / "out").iterdir())
    assert written
    assert f"{len(written)} written" in done.stderr
    assert "refused" in done.stderr
    assert geovl("export", "--format", "croissant", "--task", "grounding", "-o", "out").exit_code == 2


def test_a_failed_write_leaves_nothing(geovl, tmp_path):
    (tmp_path / "file").write_text("x")
    done = geovl("export", "-o", "file/catalog.json")
    assert done.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_the_list_loads_no_torch_no_pandas_and_no_numpy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom geovl.cli.app import app\n"
        "assert CliRunner().invoke(app, ['catalog', 'list', '--task', 'grounding']).exit_code == 0\n"
        "print(sorted({'torch', 'pandas', 'transformers', 'numpy', 'rasterio', 'rich.console'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"


def test_columns_keep_the_first_and_cut_the_one_that_may_grow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "44")
    lines = list(output.columns(("id", "text", "more"), [("a" * 10, "b" * 100, "c" * 20)], grow="text"))
    assert lines[1] == "a" * 10 + "  " + "b" * 31 + "…"
    assert lines[0].split() == ["id", "text"]


def test_what_records_say_does_not_steer_the_terminal(geovl, folder):
    folder.model("mine", description=r'"Evil \u001b]0;title\u0007 \u001b[31mred\nnew line"', modalities='["rgb"]')
    for call in (("list", "--modality", "rgb", "--kind", "contrastive"), ("show", "mine"), ("search", "evil")):
        done = geovl(*call, "--catalog", folder.path)
        assert done.exit_code == 0, done.stderr
        assert "vil" in done.stdout
        assert not {"\x1b", "\x07"} & set(done.stdout)
        assert not any(line.startswith("new line") for line in done.stdout.splitlines())


def test_wide_letters_take_two_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("a", "遥感" * 20, "x"), ("b", "e\u0301" * 10, "y")]
    lines = list(output.columns(("id", "text", "more"), rows, grow="text"))
    assert all(output.wide(line) <= 40 for line in lines)
    places = [output.wide(line[: line.rindex(mark)]) for line, mark in zip(lines[1:], "xy", strict=True)]
    assert places[0] == places[1], "columns stand below each other"


def test_a_list_tells_how_many_have_no_known_licence(geovl):
    done = geovl("list", "--kind", "contrastive", "--license", "permissive")
    assert "nobody has read" in done.stderr
    assert "nobody has read" not in geovl("list", "--license", "unknown").stderr


def test_check_takes_the_catalog_of_a_checkout_here(geovl, tmp_path):
    shutil.copytree(settings.shipped_catalog(), tmp_path / "catalog")
    assert geovl("check").exit_code == 0
    (tmp_path / "catalog" / "datasets" / "rs5m.toml").unlink()
    done = geovl("check")
    assert done.exit_code == 1, "what others refer to is not taken from geovl's own"
    assert "rs5m" in done.stdout


def test_fetch_tells_what_is_here_and_what_is_not(geovl, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "cache"))
    path = folder.model("mine", license_weights='"MIT"')
    blob = tmp_path / "w.safetensors"
    blob.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    run = f'\n[run]\nbackend = "clearclip"\nsource = "{tmp_path}"\n\n[run.weights]\n"w.safetensors" = "{digest}"\n'
    path.write_text(path.read_text() + run)
    done = geovl("fetch", "mine", "--catalog", folder.path)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(blob)
    assert "MIT" in done.stderr
    told = json.loads(geovl("fetch", "mine", "--catalog", folder.path, "--json").stdout)
    assert told["files"] == [{"name": "w.safetensors", "path": str(blob), "sha256_from": "record"}]
    blob.write_bytes(b"other")
    wrong = geovl("fetch", "mine", "--catalog", folder.path)
    assert wrong.exit_code == 1
    assert "w.safetensors" in wrong.stderr
    assert len(geovl("fetch", "nano").stdout.splitlines()) == 4
