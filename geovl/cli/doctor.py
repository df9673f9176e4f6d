"""``geovl doctor``: what is wrong here, in plain words."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from geovl.cli import options, output, pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geovl.doctor import Finding

_MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "wrong": ("✗", "red")}


def doctor(
    full: Annotated[bool, typer.Option("--full", help="Also load torch and try its device: takes seconds.")] = False,
    as_json: options.Json = False,
) -> None:
    """Tell what geovl finds on this computer: versions, devices, GDAL and PROJ, weights, folders.

    Exits 1 when something is wrong; each fault comes with what to do. Nothing is sent anywhere.

    \b
    Examples:
      geovl doctor
      geovl doctor --full
      geovl doctor --json > report.json
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from dataclasses import asdict

        from geovl.doctor import examine

        found = [*examine(full=full), _terminal()]
        if as_json:
            plain = [{key: _encodable(text, "utf-8") for key, text in asdict(one).items()} for one in found]
            output.answer_json(plain)
        else:
            _print(found)
        if any(one.state == "wrong" for one in found):
            raise typer.Exit(1)


def _terminal() -> "Finding":
    """Tell whether pictures are shown where this answer goes."""
    from geovl.doctor import Finding

    how = pictures.protocol(os.environ, sys.stdout)
    if how is not None:
        return Finding("terminal", "ok", f"Pictures are shown, by {how}.")
    if not sys.stdout.isatty():
        return Finding("terminal", "ok", "Nobody looks at a terminal: no pictures, no colours.")
    hint = "If yours does: GEOVL_PICTURE=kitty, iterm or sixel"
    return Finding("terminal", "ok", "No pictures: this terminal is not known to show any.", hint)


def _print(found: "Sequence[Finding]") -> None:
    from rich.text import Text

    console = output.stdout()
    utf = console.encoding.lower().startswith("utf")
    before = ""
    for one in found:
        mark, color = _MARKS[one.state] if utf else (f"{one.state:<5}", _MARKS[one.state][1])
        head = Text(f"{one.about if one.about != before else '':<9} ", style="bold")
        told = _encodable(one.told, console.encoding)
        console.print(Text.assemble(head, (mark, color), " ", told), soft_wrap=True)
        if one.hint:
            hint = f"{'':<{10 + len(mark)}} {_encodable(one.hint, console.encoding)}"
            console.print(Text(hint, style="dim"), soft_wrap=True)
        before = one.about
    faults = sum(one.state == "wrong" for one in found)
    mark = _MARKS["wrong"][0] if utf else "wrong"
    console.print(f"{faults} fault{'s' * (faults > 1)}: see {mark} above." if faults else "Nothing is wrong.")


def _encodable(text: str, encoding: str) -> str:
    """Return text as it may go to a terminal of an encoding: paths and errors may hold anything."""
    return output.shown(text).encode(encoding, "replace").decode(encoding)
