"""Records are read strictly, and a fault says file, line, field, what was there and what was expected."""

import os
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geovl import settings
from geovl.catalog import load, read
from geovl.catalog.records import Model, Task
from geovl.errors import CatalogError


def faults(path, cls=Model):
    found = read.checked(path, cls)
    assert isinstance(found, list), "no fault was found"
    return found


def test_a_sound_record_is_read(folder):
    record = read.checked(folder.model("mine", aliases='["Mein"]'), Model)
    assert isinstance(record, Model)
    assert record.aliases == ("Mein",)
    assert record.license_weights == "unknown", "what is not said is unknown, not free"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("kind", '"contrastiv"', "'contrastive'"),
        ("year", '"2024"', "integer"),
        ("year", "2024.5", "integer"),
        ("tasks", '"retrieval"', "array"),
        ("checked", '"yes"', "boolean"),
        ("modalities", '["rbg"]', "'rgb'"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(folder, key, value, expected):
    path = folder.model("mine", **{key: value})
    (fault,) = faults(path)
    assert fault.path == path
    assert fault.field.split(".")[0] == key
    assert fault.line == next(
        n for n, line in enumerate(path.read_text().splitlines(), 1) if line.startswith(f"{key} =")
    )
    assert expected in fault.message
    assert value.strip('[]"') in fault.message, "what was there is told"


def test_an_unknown_key_is_a_fault_so_that_a_typo_cannot_hide(folder):
    path = folder.model("mine", licence_code='"MIT"')
    (fault,) = faults(path)
    assert (fault.field, fault.line) == ("licence_code", 1)


def test_every_fault_of_a_record_is_told_not_only_the_first(folder):
    path = folder.model("mine", year='"2024"', kind='"nope"', colour="1")
    assert {fault.field for fault in faults(path)} == {"year", "kind", "colour"}


def test_missing_keys_are_named(folder):
    path = folder.put("models/mine.toml", 'id = "mine"\n')
    assert {fault.field for fault in faults(path)} == {"name", "kind"}
    assert all("missing" in fault.message for fault in faults(path))


def test_broken_toml_says_its_line(folder):
    path = folder.put("models/mine.toml", 'id = "mine"\nname = "x\nkind = 1\n')
    (fault,) = faults(path)
    assert fault.line == 2
    assert fault.field == "file"


def test_bytes_that_are_no_text_are_a_fault(folder):
    path = folder.model("mine")
    path.write_bytes(b'id = "\xff"')
    assert "UTF-8" in faults(path)[0].message


def test_the_id_is_the_files_name(folder):
    path = folder.model("mine", id='"other"')
    (fault,) = faults(path)
    assert fault.field == "id"
    assert "mine" in fault.message


@pytest.mark.parametrize("name", ["Mine", "my_model", "-mine", "my--model"])
def test_ids_are_lower_case_with_hyphens(folder, name):
    assert any(fault.field == "id" for fault in faults(folder.model(name)))


def test_a_fault_in_a_table_says_its_line(folder):
    path = folder.put(
        "models/mine.toml",
        """
        id = "mine"
        name = "Mine"
        kind = "contrastive"
        tasks = [
          "retrieval",
          3,
        ]

        [[results]]
        metric = "accuracy"
        value = 1.0
        dataset = ["aid"]

        [[results]]
        metric = "accuracy"
        value = "high"

        [run]
        backend = "nano"
        source = "bundled"

        [run.weights]
        "a.onnx" = 7
        """,
    )
    found = {fault.field: fault.line for fault in faults(path)}
    assert found == {"tasks.1": 6, "results.1.value": 16, "run.weights.a.onnx": 23}


def test_a_vocabulary_is_read_as_strictly(folder):
    good = folder.put("tasks.toml", '[seeing]\nmeaning = "To see."\nsynonyms = ["look"]\n')
    assert read.vocabulary(good, Task) == {"seeing": Task(id="seeing", meaning="To see.", synonyms=("look",))}
    bad = folder.put("tasks.toml", '[seeing]\nmeaning = "To see."\n\n[hearing]\nmeanin = "x"\n')
    found = {fault.field: fault.line for fault in read.vocabulary(bad, Task)}
    assert found == {"hearing.meanin": 5, "hearing.meaning": 4}


_KEYS = st.text("abcdefgh-_", min_size=1, max_size=8)
_VALUES = st.one_of(st.integers(), st.booleans(), st.text("abc[]{}=# \"'", max_size=12))


def _toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_TABLES = st.lists(
    st.tuples(_KEYS, st.dictionaries(_KEYS, st.one_of(_VALUES, st.lists(_VALUES, max_size=4)), max_size=4)),
    min_size=1, max_size=4, unique_by=lambda pair: pair[0],
)  # fmt: skip


@given(_TABLES, st.integers(0, 3))
def test_the_line_of_a_key_is_where_it_was_written(tables, repeated):
    """Whatever stands in strings and however arrays are broken into lines."""
    lines, places = [], {}
    for name, values in tables:
        lines += ["# comment = 1", f"[{name}]"]
        places[(name,)] = len(lines)
        for key, value in values.items():
            if isinstance(value, list):
                lines.append(f"{key} = [")
                places[(name, key)] = len(lines)
                for index, item in enumerate(value):
                    lines.append(f"  {_toml(item)},  # note")
                    places[(name, key, index)] = len(lines)
                lines.append("]")
            else:
                lines.append(f"{key} = {_toml(value)}")
                places[(name, key)] = len(lines)
    for index in range(repeated):
        lines += ["[[z]]", "a = 1", "[z.b]", '"c.d" = 2']
        places |= {
            ("z", index): len(lines) - 3,
            ("z", index, "a"): len(lines) - 2,
            ("z", index, "b", "c.d"): len(lines),
        }
    text = "\n".join(lines)
    tomllib.loads(text)
    assert {place: read.line_of(text, place) for place in places} == places


def test_records_of_ones_own_lie_over_geovls(folder, monkeypatch):
    folder.model("mine")
    folder.model("remoteclip", called="My RemoteCLIP")
    monkeypatch.setenv("GEOVL_CATALOG", str(folder.path))
    found = load()
    assert found.models["mine"].name == "MINE"
    assert found.models["remoteclip"].name == "My RemoteCLIP"
    assert "geochat" in found.models


def test_a_faulty_record_of_ones_own_is_told_not_passed_over(folder, monkeypatch):
    folder.model("mine", year='"soon"')
    monkeypatch.setenv("GEOVL_CATALOG", str(folder.path))
    with pytest.raises(CatalogError, match=r"mine\.toml:1: year"):
        load()


def test_a_folder_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOVL_CATALOG", str(tmp_path / "nowhere"))
    with pytest.raises(CatalogError, match="nowhere"):
        load()


def test_the_quick_reader_and_the_strict_one_agree_on_every_record():
    own = settings.shipped_catalog()
    for shelf, cls in read.SHELVES.items():
        for path in read.files(own, shelf):
            assert read.trusted(path, cls) == read.checked(path, cls), path


def test_mention_skips_nothing_that_holds_the_word():
    every, some = load(types=("model",)), load(types=("model",), mention=("grounding",))
    assert {m.id for m in every.models.values() if "grounding" in m.tasks} <= set(some.models)
    assert len(some.models) < len(every.models)


@pytest.mark.parametrize("value", ["2024-05-01", "2024-05-01T10:00:00", "10:00:00", "nan", "inf", "-inf"])
def test_dates_and_numbers_that_are_none_are_faults(folder, value):
    (fault,) = faults(folder.model("mine", venue=value))
    assert (fault.field, fault.line) == ("venue", 1)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_figure_is_a_number(folder, value):
    path = folder.model("mine")
    path.write_text(path.read_text() + f'\n[[results]]\nmetric = "OA"\nvalue = {value}\n')
    (fault,) = faults(path)
    assert fault.field == "results.0.value"
    assert value in fault.message


def test_a_mark_of_windows_editors_is_passed_over(folder):
    path = folder.model("mine")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert isinstance(read.checked(path, Model), Model)


def test_what_is_nested_without_end_is_a_fault(folder):
    path = folder.put("models/mine.toml", f"a = {'[' * 5000}{']' * 5000}\n")
    assert faults(path)


PLACES = r'''
# c
b.c = "x # y"
"q r" = [1, 2,
  3, # n
]
s = """
[no]
k = 1 \""" x
"""
t = {u = 1, v = [ {w = 2},
 {w = 3}], z = "}"}
["c]d"]
e = 1
["a\u0062"]
f = [ # note
  "x", "y"
]
g = """one line"""
h = 2
[[r]]
m = 1
[r.s]
n = 2
[[r]]
m = "@"
[[r.q]]
o = 1
[[r.q]]
o = 2024-01-01
'''.lstrip("\n").replace("@", "\u2028 \u0085")


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("b", "c"), 2), (("q r", 1), 3), (("q r", 2), 4), (("s",), 6), (("t", "v", 0, "w"), 10),
        (("t", "v", 1, "w"), 11), (("t", "z"), 11), (("c]d", "e"), 13), (("ab", "f", 1), 16), (("ab", "g"), 18),
        (("ab", "h"), 19), (("r", 0, "m"), 21), (("r", 0, "s", "n"), 23), (("r", 1, "m"), 25),
        (("r", 1, "q", 1, "o"), 29), (("r", 1, "lacking"), 24), (("nowhere",), 1),
    ],
)  # fmt: skip
def test_the_scanner_knows_all_of_toml(place, line):
    tomllib.loads(PLACES)
    assert read.line_of(PLACES, place) == line


def test_two_folders_of_ones_own_lie_over_each_other(folder, tmp_path, monkeypatch):
    path = folder.model("mine", called="First")
    second = tmp_path / "second" / "models" / "mine.toml"
    second.parent.mkdir(parents=True)
    second.write_text(path.read_text().replace("First", "Second"))
    for order, name in (((folder.path, tmp_path / "second"), "Second"), ((tmp_path / "second", folder.path), "First")):
        monkeypatch.setenv("GEOVL_CATALOG", os.pathsep.join(map(str, order)))
        assert load().models["mine"].name == name


def test_faulty_vocabularies_of_ones_own_are_told(folder, monkeypatch):
    folder.model("mine")
    folder.put("tasks.toml", "[seeing]\nmeanin = 1\n")
    monkeypatch.setenv("GEOVL_CATALOG", str(folder.path))
    with pytest.raises(CatalogError, match=r"tasks\.toml:\d: seeing"):
        load()
