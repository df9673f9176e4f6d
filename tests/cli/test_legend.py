"""The legend holds any name at any width, and is plain text where nobody wants colours."""

import io
import re
from itertools import pairwise

import pytest
from rich.console import Console

from geovl.cli import output
from geovl.cli.legend import legend

HOSTILE = (
    "<script>alert(1)</script>", "x" * 300, "\u202eevil\x1b[2J\x07\x9b31m 🏠 roof", "建物" * 40, "[red]a[/red]", "a\nb",
)  # fmt: skip


def classes(names=HOSTILE, **more):
    return [
        {"name": name, "polygons": 10**place, "area_m2": 1e6 * (place + 1), "score": 0.5, "color": "#3cb44b"} | more
        for place, name in enumerate(names)
    ]


def printed(found, *, width=80, encoding="utf-8", title="", **how):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=out, width=width, **how)
    console.print(legend({"classes": found}, console, title=title), soft_wrap=True, end="")
    out.flush()
    return out.buffer.getvalue().decode(encoding)


def unstyled(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("width", range(20, 130, 5))
def test_a_line_a_class_that_fits_the_terminal(width):
    text = unstyled(printed(classes(), width=width, force_terminal=True, color_system="256"))
    lines = text.splitlines()
    assert len(lines) == 1 + len(HOSTILE)
    assert max(map(output.wide, lines)) <= width
    assert all(part.isprintable() for line in lines for part in line)
    assert all(line.startswith("■ ") for line in lines[1:])


def test_numbers_stay_beside_long_names():
    for how in ({"force_terminal": True}, {"force_terminal": False}):
        lines = unstyled(printed(classes(), **how)).splitlines()
        for place, line in enumerate(lines[1:]):
            assert re.search(rf"\s{10**place}\s+{place + 1},000,000\s+0\.50", line)


def test_columns_go_from_the_right_where_room_is_short():
    def heads(width):
        return unstyled(printed(classes(), width=width, force_terminal=True)).splitlines()[0].split()

    found = [heads(width) for width in range(20, 101)]
    assert found[0] == ["class"]
    assert found[-1] == ["class", "polygons", "area", "m²", "score", "share"]
    assert all(shorter == longer[: len(shorter)] for shorter, longer in pairwise(found))


def test_files_get_names_whole():
    assert "x" * 300 in printed(classes(), force_terminal=False)


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_plain_text_gets_plain_text(monkeypatch, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    text = printed(classes(), force_terminal=True, title="scene.tif")
    assert text.startswith("scene.tif\nclass ")
    assert not set(text) & set("\x1b■█")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("terminal", [True, False])
def test_what_an_encoding_lacks_is_a_question_mark(encoding, terminal):
    text = printed(classes(), encoding=encoding, title="建物.tif", force_terminal=terminal)
    assert "<script>" in text
    assert ("??" in text) == (not encoding.startswith("utf"))


def test_a_bar_is_in_the_colour_of_its_class():
    # colours that no other test prints: rich keeps how it wrote a style first, in however many colours
    found = classes(["a"], color="#010203") + classes(["b"], color="#0000fe")
    first, second = printed(found, force_terminal=True, color_system="truecolor").splitlines()[1:]
    assert first.count("\x1b[38;2;1;2;3m") == 2
    assert second.count("\x1b[38;2;0;0;254m") == 2
    assert unstyled(first).endswith(" 50%")


def test_without_area_shares_are_of_polygons():
    lines = unstyled(printed(classes(["a", "b"], area_m2=None, score=None), force_terminal=True)).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["9%", "91%"]
    assert [line.split()[3:5] for line in lines[1:]] == [["-", "-"], ["-", "-"]]
