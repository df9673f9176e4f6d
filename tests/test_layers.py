"""Imports point one way through the layers, and the front door stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "geovl"

LAYERS = (
    {"errors"},
    {"types", "settings", "palette", "work", "distributed"},
    {"raster", "windows", "stitch", "polygonize", "vectors", "sources", "catalog", "classes", "runs", "scenes"},
    {"export", "weights", "evaluate"},
    {"segmenters", "views"},
    {"inference", "finishing", "settling", "descriptors"},
    {"jobs"},
    {"pipeline", "learn"},
    {"api", "doctor"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TORCH_ALLOWED = {"segmenters", "learn"}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] != "_catalog":
            yield path, relative.parts[0].removesuffix(".py")


def imported(path):
    """Names of every module that a file imports, deferred and typing-only imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("path", "room"), list(modules()), ids=lambda v: str(v).removeprefix(str(PACKAGE)))
def test_a_module_imports_only_from_layers_below(path, room):
    if room == "__init__":
        return  # the package's own face loads geovl.api on first use
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "geovl" and len(parts) > 1 and parts[1] in LEVEL and parts[1] != room:
            assert LEVEL[parts[1]] < LEVEL[room], f"{path.name} ({room}) imports {name}"
        if parts[0] in {"torch", "torchvision", "transformers", "timm", "open_clip"}:
            assert room in TORCH_ALLOWED, f"{path.name} imports {name}"


def test_every_module_has_a_layer():
    assert {room for _, room in modules()} - {"__init__"} <= set(LEVEL)


def loaded(code):
    """Modules loaded after running code in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_loads_nothing_heavy():
    names = loaded(
        "from geovl.cli.app import app\nfrom typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0"
    )
    heavy = {"torch", "numpy", "rasterio", "geopandas", "pandas", "onnxruntime", "shapely", "pydantic", "pyarrow"}
    assert not heavy & names


def test_the_path_to_the_first_window_loads_no_torch_and_no_pandas():
    names = loaded("import geovl.pipeline")
    assert "rasterio" in names
    assert not {"torch", "pandas", "geopandas", "pyarrow", "pydantic"} & names
