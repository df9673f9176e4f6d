"""Every command says what it does, with examples that it understands, and shells can complete it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from geovl.cli.app import app

ROOT = typer.main.get_command(app)
LINE = 80
"""Characters of a line of help, as of most terminals."""


def commands(group=ROOT, path=()):
    """Yield every command's path, groups and the root included."""
    yield path
    for name, one in getattr(group, "commands", {}).items():
        yield from commands(one, (*path, name))


def found(path):
    one = ROOT
    for name in path:
        one = one.commands[name]
    return one


def helped(path):
    told = CliRunner().invoke(app, [*path, "--help"], terminal_width=LINE, prog_name="geovl")
    assert told.exit_code == 0
    return click.unstyle(told.stdout)


def examples(text):
    """Return the commands that a help shows: each a line of its own below ``Examples:``."""
    lines = iter(text.splitlines())
    if not any(line.strip() == "Examples:" for line in lines):  # leaves what stands below
        return []
    shown = []
    for line in lines:
        if line.endswith(":"):  # Options:
            break
        if line.strip():
            shown.append(line.strip())
    return shown


ALL = sorted(commands())
GROUPS = [path for path in ALL if hasattr(found(path), "commands")]
LEAVES = [path for path in ALL if path not in GROUPS]


def named(paths):
    return [pytest.param(path, id=" ".join(path) or "geovl") for path in paths]


def understood(words):
    """Parse a command line as geovl would; nothing is run."""
    one, args, context, name = ROOT, words, None, "geovl"
    while hasattr(one, "commands"):
        context = one.make_context(name, args, parent=context)
        name, one, args = one.resolve_command(context, [*context._protected_args, *context.args])
    one.make_context(name, args, parent=context)


@pytest.mark.parametrize("path", named(LEAVES))
def test_a_command_has_examples_that_it_understands(path):
    shown = examples(helped(path))
    assert shown
    assert any(line.startswith(" ".join(("geovl", *path))) for line in shown)
    for line in shown:
        assert line.startswith("geovl "), line
        words = shlex.split(line)[1:]
        ends = [at for at, word in enumerate(words) if word in {"|", ">", "<", "&&"} or word.startswith("(then")]
        understood(words[: min(ends, default=len(words))])


def test_what_is_no_example_is_not_understood():
    for words in (["segmnt"], ["export", "--no-such-option"], ["runs", "remove"], ["catalog", "list", "--limit", "x"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing|invalid"):
            understood(words)


@pytest.mark.parametrize("path", named(ALL))
def test_a_help_says_what_is_done_and_what_every_option_means(path):
    text = helped(path)
    assert text.startswith(f"Usage: {' '.join(('geovl', *path))} ")
    assert text.split("\n\n")[1].strip().endswith(".")
    for param in found(path).params:
        assert getattr(param, "help", "") or param.name in {"source", "prompts"}, param.name


def test_a_help_loads_nothing_that_takes_long():
    code = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from geovl.cli.app import app\n"
        "for path in json.load(sys.stdin):\n"
        "    assert CliRunner().invoke(app, [*path, '--help']).exit_code == 0\n"
        "heavy = {'numpy', 'rasterio', 'pandas', 'geopandas', 'matplotlib', 'PIL', 'pyproj', 'torch', 'rich',\n"
        "         'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(ALL), text=True, capture_output=True, check=True
    )
    assert told.stdout == "[]\n"


def completed(line, at, shell="bash"):
    told = CliRunner().invoke(
        app, [], prog_name="geovl",
        env={"_GEOVL_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(at)},
    )  # fmt: skip
    return told.stdout.split()


def test_shells_can_complete_names():
    assert completed("geovl vi", 1) == ["view"]
    assert completed("geovl runs s", 2) == ["show"]
    assert completed("geovl segment --re", 2) == ["--refine", "--regularize", "--resume"]
    assert completed("geovl nothing-of-the-kind", 1) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_a_shell_is_given_a_script_that_asks_geovl(shell):
    told = CliRunner().invoke(app, [], prog_name="geovl", env={"_GEOVL_COMPLETE": f"source_{shell}"})
    assert told.exit_code == 0
    assert "_GEOVL_COMPLETE" in told.stdout
    assert f"complete_{shell}" in told.stdout


def test_bash_itself_completes():
    """The script is loaded by bash, and its function called as bash calls it."""
    bash, folder = shutil.which("bash"), Path(sys.executable).parent
    if bash is None or not (folder / "geovl").is_file():
        pytest.skip("bash is not here, or geovl's command is not beside python")
    script = (
        'eval "$(_GEOVL_COMPLETE=source_bash geovl)"\n'
        "COMP_WORDS=(geovl cat) COMP_CWORD=1\n"
        '$(complete -p geovl | grep -o "[^ ]*_completion") geovl\n'
        'echo "${COMPREPLY[@]}"\n'
    )
    environ = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    told = subprocess.run([bash, "--norc", "-c", script], env=environ, text=True, capture_output=True, check=True)
    assert told.stdout.split() == ["catalog"]


def test_completion_installs_itself_into_bash(tmp_path):
    bash, geovl = shutil.which("bash"), Path(sys.executable).parent / "geovl"
    if bash is None or not geovl.is_file():
        pytest.skip("bash is not here, or geovl's command is not beside python")
    environ = os.environ | {"HOME": str(tmp_path)}
    line = f"{shlex.quote(str(geovl))} --install-completion; true"  # without true bash would not wait, but become geovl
    subprocess.run([bash, "--norc", "-c", line], env=environ, capture_output=True, check=True)
    sourced = shlex.split((tmp_path / ".bashrc").read_text())
    assert sourced[0] == "source"
    assert "complete_bash" in Path(sourced[1]).read_text()
