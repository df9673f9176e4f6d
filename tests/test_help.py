"""Every command says what it does, with examples, and shells can complete it."""

import click
import pytest
import typer
from typer.testing import CliRunner

from geovl.cli.app import app


def commands(group, path=()):
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*path, name))
        else:
            yield (*path, name)


ALL = sorted(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_a_command_has_a_help_with_examples(path):
    told = CliRunner().invoke(app, [*path, "--help"], terminal_width=200)
    assert told.exit_code == 0
    text = click.unstyle(told.stdout)
    assert f"Usage: root {' '.join(path)}" in text or f"{' '.join(path)} [" in text
    assert "Example" in text
    assert f"geovl {' '.join(path)}" in text.partition("Example")[2]


def test_shells_can_complete_names(monkeypatch):
    monkeypatch.setenv("_GEOVL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "geovl vi")
    monkeypatch.setenv("COMP_CWORD", "1")
    told = CliRunner().invoke(app, [], prog_name="geovl")
    assert told.stdout.split() == ["view"]
