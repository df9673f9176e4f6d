"""The legend in the terminal: colours and bars for people, plain text for files."""

import io

import pytest
from rich.console import Console

from geovl.cli import output
from geovl.cli.legend import bar, legend, shares

CLASSES = [
    {"name": "roof\x1b[31m\u202e", "polygons": 3, "area_m2": 300.0, "score": 0.9, "color": "#e7184c"},
    {"name": "sea", "polygons": 1, "area_m2": 100.0, "score": None, "color": "#4363d8"},
]


def printed(classes=CLASSES, **how):
    out = io.TextIOWrapper(io.BytesIO(), encoding=how.pop("encoding", "utf-8"))
    console = Console(file=out, width=100, **how)
    console.print(legend({"classes": classes}, console, title=""))
    out.flush()
    return out.buffer.getvalue().decode(out.encoding)


def test_a_terminal_has_swatches_and_bars():
    text = printed(force_terminal=True, color_system="truecolor")
    assert "\x1b[38;2;231;24;76m■" in text
    assert "75%" in text
    assert "25%" in text
    assert text.count("█") > 10
    assert "\u202e" not in text
    assert "\x1b[31m" not in text


@pytest.mark.parametrize("how", [{"force_terminal": False}, {"force_terminal": True, "encoding": "latin-1"}])
def test_anything_else_has_plain_text(how):
    text = printed(**how)
    assert "■" not in text
    assert "█" not in text
    if not how["force_terminal"]:
        assert "\x1b" not in text
    assert "300" in text


def test_a_table_takes_no_markup_from_names():
    console = Console(file=io.StringIO(), width=60)
    console.print(output.table(("a", "b"), [("roof[/b]", "[red]x"), ("\x1b[31m", "y")], title="[/i]"))
    told = console.file.getvalue()
    assert "roof[/b]  [red]x" in told
    assert "[/i]" in told
    assert "\x1b" not in told


def test_bars_are_as_long_as_shares():
    assert bar(0) == ""
    assert bar(1, 10) == "█" * 10
    assert bar(0.5, 10) == "█" * 5
    assert bar(1e-9, 10) == "▏"
    lengths = [len(bar(k / 100)) for k in range(101)]
    assert lengths == sorted(lengths)


def test_shares_are_of_area_else_of_polygons():
    assert shares(CLASSES) == [0.75, 0.25]
    assert shares([entry | {"area_m2": None} for entry in CLASSES]) == [0.75, 0.25]
    assert shares([entry | {"area_m2": 0.0} for entry in CLASSES]) == [0.0, 0.0]
    assert printed([]).split() == ["class", "polygons", "area", "m²", "score"]
