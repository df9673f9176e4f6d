"""``geovl doctor``: what is wrong here, in plain words."""

import typer

from geovl.cli import options, output

_MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "wrong": ("✗", "red")}


def doctor(as_json: options.Json = False) -> None:
    """Tell what geovl finds on this computer: versions, devices, GDAL and PROJ, weights, folders.

    Exits 1 when something is wrong; each fault comes with what to do. Nothing is sent anywhere.

    \b
    Examples:
      geovl doctor
      geovl doctor --json > report.json
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from dataclasses import asdict

        from geovl.doctor import examine

        found = list(examine())
        if as_json:
            output.answer_json([asdict(one) for one in found])
        else:
            _print([(one.about, one.state, one.told, one.hint) for one in found])
        if any(one.state == "wrong" for one in found):
            raise typer.Exit(1)


def _print(found: list[tuple[str, str, str, str]]) -> None:
    from rich.text import Text

    console = output.stdout()
    utf = console.encoding.lower().startswith("utf")
    before = ""
    for about, state, told, hint in found:
        mark, color = _MARKS[state]
        head = Text(f"{about if about != before else '':<9} ", style="bold")
        line = Text.assemble(head, (mark if utf else state, color), " ", output.shown(told))
        console.print(line, soft_wrap=True)
        if hint:
            console.print(Text(f"{'':<11} {output.shown(hint)}", style="dim"), soft_wrap=True)
        before = about
    faults = sum(state == "wrong" for _, state, _, _ in found)
    console.print("Nothing is wrong." if not faults else f"{faults} fault{'s' if faults > 1 else ''}: see ✗ above.")
