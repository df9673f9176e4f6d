"""What of this computer geovl depends on, and what of it is wrong, in plain words.

Each check stands alone: one that fails in a way that nobody thought of is itself a finding, never a traceback.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import geovl
from geovl import catalog, settings, weights
from geovl.errors import GeovlError

State = Literal["ok", "note", "wrong"]
_GIGA = 1 << 30
_DRIVERS = ("GTiff", "COG", "VRT", "PNG", "WEBP", "JPEG")
_LAYERS = ("GPKG", "FlatGeobuf", "ESRI Shapefile", "KML")
_EXTRAS = {
    "torch": ("torch", "torchvision", "transformers", "open_clip", "timm", "huggingface_hub", "safetensors"),
    "dask": ("distributed",),
    "fast": ("numba",),
}
"""What shows that an extra is installed."""
_ROOM = 2 * _GIGA


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    about: str
    state: State
    told: str
    hint: str = ""
    """What to do, where there is something to do."""


def examine() -> Iterator[Finding]:
    """Yield what every check finds."""
    for about, check in _CHECKS:
        try:
            yield from check(about)
        except Exception as error:  # noqa: BLE001 - see above
            yield Finding(about, "wrong", f"The check itself failed: {type(error).__name__}: {error}")


def _system(about: str) -> Iterator[Finding]:
    yield Finding(about, "ok", f"geovl {geovl.__version__} in {Path(geovl.__file__).parent}")
    yield Finding(about, "ok", f"Python {platform.python_version()} ({sys.executable}), {platform.platform()}")


def _packages(about: str) -> Iterator[Finding]:
    names = sorted({_name(line) for line in requires("geovl") or () if "extra ==" not in line})
    found = {name: _version(name) for name in names}
    missing = [name for name, told in found.items() if told is None]
    yield Finding(about, "ok", ", ".join(f"{name} {told}" for name, told in found.items() if told))
    if missing:
        yield Finding(about, "wrong", f"Missing: {', '.join(missing)}.", "pip install --upgrade geovl")


def _name(requirement: str) -> str:
    for at, letter in enumerate(requirement):
        if not (letter.isalnum() or letter in "-_."):
            return requirement[:at]
    return requirement


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _extras(about: str) -> Iterator[Finding]:
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        if not missing:
            yield Finding(about, "ok", f"[{extra}] is installed.")
        elif len(missing) < len(modules):
            yield Finding(about, "note", f"[{extra}] lacks {', '.join(missing)}.", f'pip install "geovl[{extra}]"')
        else:
            yield Finding(about, "note", f"[{extra}] is not installed; nano and nano-text need none of it.")


def _devices(about: str) -> Iterator[Finding]:
    import onnxruntime  # noqa: PLC0415 - each check loads what it is about

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory()
    room = "" if memory is None else f", {memory / _GIGA:.1f} GB of memory"
    yield Finding(about, "ok", f"{cores} of {os.cpu_count()} cores{room}")
    if memory is not None and memory < _ROOM:
        yield Finding(about, "note", "That is little memory.", "Use a smaller --window, and --batch 1.")
    providers = onnxruntime.get_available_providers()
    told = f"ONNX Runtime {onnxruntime.__version__}: {', '.join(providers)}"
    yield Finding(about, "ok", told + ("" if "CUDAExecutionProvider" in providers else "; no GPU for nano"))


def _memory() -> int | None:
    """Return bytes of memory that this process may have: of the machine, or of its control group."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole


def _gdal(about: str) -> Iterator[Finding]:
    import pyogrio  # noqa: PLC0415 - as above
    import rasterio  # noqa: PLC0415 - as above

    yield Finding(
        about, "ok", f"GDAL {rasterio.__gdal_version__} for rasters, {_dotted(pyogrio.__gdal_version__)} for vectors"
    )
    with rasterio.Env() as env:
        lacking = [name for name in _DRIVERS if name not in env.drivers()]
    lacking += [name for name in _LAYERS if "w" not in pyogrio.list_drivers().get(name, "")]
    if lacking:
        hint = "pip install --force-reinstall rasterio pyogrio"
        yield Finding(about, "wrong", f"GDAL has no driver for {', '.join(lacking)}.", hint)
    yield from _variable(about, "GDAL_DATA", "gdalvrt.xsd")


def _dotted(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def _proj(about: str) -> Iterator[Finding]:
    import pyproj  # noqa: PLC0415 - as above
    from rasterio.crs import CRS  # noqa: PLC0415 - as above

    yield Finding(about, "ok", f"PROJ {pyproj.proj_version_str}, its data in {pyproj.datadir.get_data_dir()}")
    try:
        for known in (CRS.from_epsg(32632), pyproj.CRS.from_epsg(32632)):
            known.to_wkt()
    except Exception as error:  # noqa: BLE001 - rasterio and pyproj have a class of their own each
        yield Finding(about, "wrong", f"The database of CRSs cannot be read: {error}", _UNSET)
    else:
        yield Finding(about, "ok", "EPSG codes are known.")
    for name in ("PROJ_DATA", "PROJ_LIB"):
        yield from _variable(about, name, "proj.db")


_UNSET = "Try without: env -u PROJ_DATA -u PROJ_LIB geovl doctor"


def _variable(about: str, name: str, file: str) -> Iterator[Finding]:
    """Tell of a variable that sends GDAL or PROJ to the data of another program."""
    if name not in os.environ:
        return
    there = any((Path(folder) / file).is_file() for folder in os.environ[name].split(os.pathsep))
    if there:
        told = f"{name} is set to {os.environ[name]}: data of another version there may be misread."
        yield Finding(about, "note", told, f"Where CRSs or rasters fail: unset {name}")
    else:
        yield Finding(about, "wrong", f"{name} is set to {os.environ[name]}, where no {file} is.", f"unset {name}")


def _weights(about: str) -> Iterator[Finding]:
    for name in ("nano", "nano-text"):
        record = catalog.model(name).record
        try:
            weights.verify(record, weights.folder(record))
        except GeovlError as error:
            yield Finding(about, "wrong", error.message, error.hint or "")
        else:
            yield Finding(about, "ok", f"{name} {record.version} is whole.")
    hub = Path(
        os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    ).expanduser()
    kept = sorted(hub.glob("models--*")) if hub.is_dir() else []
    if kept:
        names = [folder.name.removeprefix("models--").replace("--", "/") for folder in kept]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        yield Finding(about, "ok", f"From the hub, in {hub}: {', '.join(names[:8])}{more}.")
    else:
        hint = "Only other models need any: geovl catalog fetch MODEL"
        yield Finding(about, "note", f"No weights from the hub in {hub}.", hint)


def _folders(about: str) -> Iterator[Finding]:
    store = settings.store_dir()
    yield from _writable(about, "runs", store, "Choose another folder: --store DIR, or GEOVL_STORE.")
    yield from _writable(about, "temporary files", Path(tempfile.gettempdir()), "Choose another folder: TMPDIR.")


def _writable(about: str, what: str, folder: Path, hint: str) -> Iterator[Finding]:
    there = folder.resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield Finding(about, "wrong", f"The folder of {what}, {folder}, is not writable.", hint)
        return
    free = shutil.disk_usage(there).free
    told = f"{what}: {folder}, {free / _GIGA:.1f} GB free"
    yield Finding(about, "note" if free < _ROOM else "ok", told, hint if free < _ROOM else "")


_CHECKS: tuple[tuple[str, Callable[[str], Iterator[Finding]]], ...] = (
    ("system", _system), ("packages", _packages), ("extras", _extras), ("devices", _devices), ("GDAL", _gdal),
    ("PROJ", _proj), ("weights", _weights), ("folders", _folders),
)  # fmt: skip
