"""Files of classes: names, synonyms, colours; and what is wrong with them is told with the line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geovl.classes import parse, read
from geovl.errors import PromptError
from geovl.palette import class_colors
from geovl.types import Vocabulary

WORDS = st.text("abcdefgh ", min_size=1, max_size=10).map(lambda word: " ".join(word.split())).filter(bool)


def test_names_synonyms_colours_and_remarks():
    found = parse("\ufeffbuilding, house,  roof  #E41A1C\n\n# a remark\nroad\r\nwater,river\n")
    assert [(entry.name, entry.phrases, entry.color) for entry in found] == [
        ("building", ("building", "house", "roof"), "#e41a1c"),
        ("road", ("road",), None),
        ("water", ("water", "river"), None),
    ]


@given(st.lists(WORDS, min_size=1, max_size=12, unique_by=str.casefold), st.data())
def test_what_is_written_is_read(words, data):
    lines = []
    rest = list(words)
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        lines.append((rest[:count], data.draw(st.sampled_from([None, "#00ff7f"]))))
        rest = rest[count:]
    text = "\n".join(", ".join(names) + (f"  {color}" if color else "") for names, color in lines)
    assert [(list(entry.phrases), entry.color) for entry in parse(text)] == lines


def test_another_separator_leaves_commas_alone():
    (entry,) = parse("bench, wooden; seat", "; ")
    assert entry.phrases == ("bench, wooden", "seat")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "No class"),
        ("# nothing\n\n", "No class"),
        ("a,,b", "Line 1"),
        ("a\nb, A", "Line 2"),
        ("a\n , b", "Line 2"),
        ("a,", "empty"),
        ("road #fff", "sign"),
        ("a#e41a1c", "sign"),
        ("a;b", "sign"),
        ("#a", "sign"),
    ],
)
def test_faults_name_their_line(text, words):
    with pytest.raises(PromptError, match=words):
        parse(text)


def test_files_that_are_none(tmp_path):
    with pytest.raises(PromptError, match="cannot be read"):
        read(tmp_path / "nowhere.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptError, match="UTF-8"):
        read(tmp_path / "bytes.txt")
    (tmp_path / "bad.txt").write_text("a\na\n")
    with pytest.raises(PromptError, match=r"bad\.txt: Line 2"):
        read(tmp_path / "bad.txt")


def test_own_colours_are_kept_and_others_chosen_as_before():
    vocabulary = Vocabulary(parse("a\nb  #010203\nc"))
    plain = class_colors(["a", "b", "c"])
    assert class_colors(vocabulary.names, vocabulary.own_colors) == {**plain, "b": "#010203"}
