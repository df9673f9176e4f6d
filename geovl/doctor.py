"""What of this computer geovl depends on, and what of it is wrong, in plain words.

Each check stands alone and loads what it is about itself: one that fails in a way that nobody thought of, because a
package is broken or missing, is a finding too, never a traceback. No check uses the network.
"""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import geovl
from geovl import settings
from geovl.errors import GeovlError

if TYPE_CHECKING:
    from geovl.catalog.records import Model

State = Literal["ok", "note", "wrong"]
_GIGA = 1 << 30
_DRIVERS = ("GTiff", "COG", "VRT", "PNG", "WEBP", "JPEG")
_LAYERS = ("GPKG", "FlatGeobuf", "ESRI Shapefile", "KML")
_EXTRAS = {
    "torch": ("torch", "torchvision", "transformers", "open_clip", "timm", "huggingface_hub", "safetensors"),
    "train": ("onnx", "onnxscript", "cv2"),
    "dask": ("distributed",),
    "fast": ("numba",),
}
"""What shows that an extra is installed."""
_FOR = {"torch": "every other model", "train": "training", "dask": "many machines", "fast": "faster polygons"}
_ROOM = 2 * _GIGA


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    about: str
    state: State
    told: str
    hint: str = ""
    """What to do, where there is something to do."""


def examine(*, full: bool = False) -> Iterator[Finding]:
    """Yield what every check finds.

    Args:
        full: Also load torch and try its device, which takes seconds.
    """
    for about, check in (*_CHECKS, *(_FULL if full else ())):
        try:
            yield from check(about)
        except ImportError as error:
            told = f"{error.name or 'A package'} cannot be loaded: {_line(error)}"
            yield Finding(about, "wrong", told, f"pip install --force-reinstall {error.name or 'geovl'}")
        except Exception as error:  # noqa: BLE001 - see above
            yield Finding(about, "wrong", f"The check itself failed: {type(error).__name__}: {_line(error)}", _REPORT)


_REPORT = "Report it with the whole answer of: geovl doctor --json"


def _line(error: Exception) -> str:
    """Return the first line of an error, which may have a page of them."""
    return str(error).partition("\n")[0][:300]


def _system(about: str) -> Iterator[Finding]:
    yield Finding(about, "ok", f"geovl {geovl.__version__} in {Path(geovl.__file__).parent}")
    yield Finding(about, "ok", f"Python {platform.python_version()} ({sys.executable}), {platform.platform()}")
    named = [f"{name}={os.environ[name]}" for name in _SETTINGS if name in os.environ]
    if named:
        yield Finding(about, "ok", f"Set: {', '.join(named)}")


_SETTINGS = ("GEOVL_STORE", "GEOVL_CATALOG", "GEOVL_CACHE", "GEOVL_OFFLINE", "GEOVL_DEBUG", "GEOVL_PICTURE")
"""Variables that are told; GEOVL_ENDPOINT_KEY is a secret."""


def _packages(about: str) -> Iterator[Finding]:
    if _version("geovl") is None:
        yield Finding(about, "note", "geovl is not installed, only on Python's path.", "pip install -e . in its folder")
        return
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
            yield Finding(about, "note", f"[{extra}] lacks {', '.join(missing)}.", _extra(extra))
        else:
            told = f"[{extra}] is not installed; nano and nano-text need none of it."
            yield Finding(about, "note", told, f"For {_FOR[extra]}: {_extra(extra)}")


def _devices(about: str) -> Iterator[Finding]:
    yield from _cores(about)
    memory = _memory()
    if memory is not None:
        yield Finding(about, "ok", f"{memory / _GIGA:.1f} GB of memory")
        if memory < _ROOM:
            yield Finding(about, "note", "That is little memory.", "Use a smaller --window, and --batch 1.")
    yield from _networks(about)


def _cores(about: str) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(about, "ok", f"{cores} of {os.cpu_count()} cores")
    share = _share_of_cores()
    if share is not None and share < cores:
        told = f"This container has the time of {share:.1f} cores: more threads only wait."
        yield Finding(about, "note", told, "Allow it more, as with docker run --cpus.")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) < cores:
        told = f"OMP_NUM_THREADS is {threads}: torch uses no more threads than that."
        yield Finding(about, "note", told, "To use all: unset OMP_NUM_THREADS")


_GROUPS = Path("/sys/fs/cgroup")


def _numbers(*names: str) -> list[int] | None:
    """Return the numbers in files of the control group; None where there are none, or no limit."""
    try:
        words = " ".join((_GROUPS / name).read_text("ascii") for name in names).split()
    except (OSError, UnicodeDecodeError):
        return None
    return [int(word) for word in words] if all(word.isdecimal() for word in words) else None


def _share_of_cores() -> float | None:
    """Return how many cores' time the control group allows, in the second or first version of such groups."""
    found = _numbers("cpu.max") or _numbers("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
    return found[0] / found[1] if found and len(found) == 2 and found[1] else None


def _memory() -> int | None:
    """Return bytes of memory that this process may have: of the machine, or of its control group."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limits = _numbers("memory.max") or _numbers("memory/memory.limit_in_bytes") or []
    return min([whole, *limits])


def _networks(about: str) -> Iterator[Finding]:
    """Tell what runs networks: ONNX Runtime those of geovl itself, torch all others."""
    import onnxruntime  # noqa: PLC0415 - each check loads what it is about

    providers = onnxruntime.get_available_providers()
    fast = "CUDAExecutionProvider" in providers
    told = f"ONNX Runtime {onnxruntime.__version__}: {', '.join(providers)}"
    yield Finding(about, "ok", told + ("" if fast else "; no GPU for nano"))
    nvidia = _NVIDIA.exists()
    if nvidia and not fast:
        told = "There is an NVIDIA GPU, which this ONNX Runtime does not use: nano runs on the CPU."
        yield Finding(about, "note", told, "pip uninstall onnxruntime && pip install onnxruntime-gpu")
    torch = _version("torch")
    if torch is None:
        return
    if nvidia and torch.endswith("+cpu"):
        told = f"There is an NVIDIA GPU, and torch {torch} is built without it."
        yield Finding(about, "note", told, "Install torch for CUDA, as https://pytorch.org/get-started says.")
    else:
        yield Finding(about, "ok", f"torch {torch}; its devices are tried by: geovl doctor --full")


_NVIDIA = Path("/proc/driver/nvidia/version")
"""There where the driver is loaded."""


def _torch(about: str) -> Iterator[Finding]:
    if _version("torch") is None:
        yield Finding(about, "note", "torch is not installed; nano and nano-text need none.", _extra("torch"))
        return
    from geovl.segmenters.devices import torch_device  # noqa: PLC0415 - takes seconds

    yield Finding(about, "ok", f"torch is loaded; --device auto is {torch_device('auto')}.")


def _extra(name: str) -> str:
    return f'pip install "geovl[{name}]"'


def _gdal(about: str) -> Iterator[Finding]:
    import pyogrio  # noqa: PLC0415 - as above
    import rasterio  # noqa: PLC0415 - as above
    from rasterio.env import GDALDataFinder  # noqa: PLC0415 - as above

    vectors = _dotted(pyogrio.__gdal_version__)
    yield Finding(about, "ok", f"GDAL {rasterio.__gdal_version__} for rasters, {vectors} for vectors")
    places = [place for place in (GDALDataFinder().search(), pyogrio.get_gdal_data_path()) if place]
    yield Finding(about, "ok", f"Its data in {', '.join(dict.fromkeys(map(str, places))) or 'GDAL itself'}")
    with rasterio.Env() as env:
        lacking = [name for name in _DRIVERS if name not in env.drivers()]
    lacking += [name for name in _LAYERS if "w" not in pyogrio.list_drivers().get(name, "")]
    skipping = [name for name in ("GDAL_SKIP", "OGR_SKIP") if name in os.environ]
    if lacking:
        hint = f"unset {' '.join(skipping)}" if skipping else "pip install --force-reinstall rasterio pyogrio"
        yield Finding(about, "wrong", f"GDAL has no driver for {', '.join(lacking)}.", hint)
    yield from _variable(about, "GDAL_DATA", "gdalvrt.xsd")
    if "GDAL_DRIVER_PATH" in os.environ:
        told = (
            f"GDAL_DRIVER_PATH is set to {os.environ['GDAL_DRIVER_PATH']}: drivers of another GDAL may crash this one."
        )
        yield Finding(about, "note", told, "Where it crashes: unset GDAL_DRIVER_PATH")


def _dotted(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def _proj(about: str) -> Iterator[Finding]:
    import pyproj  # noqa: PLC0415 - as above
    from rasterio.crs import CRS  # noqa: PLC0415 - as above

    yield Finding(about, "ok", f"PROJ {pyproj.proj_version_str}, its data in {pyproj.datadir.get_data_dir()}")
    try:
        CRS.from_epsg(32632).to_wkt()
        moved = pyproj.Transformer.from_crs(4326, 32632, always_xy=True).transform(9, 0)
    except Exception as error:  # noqa: BLE001 - rasterio and pyproj have a class of their own each
        yield Finding(about, "wrong", f"The database of CRSs cannot be read: {_line(error)}", _UNSET)
    else:
        right = max(abs(moved[0] - 500_000), abs(moved[1])) < 0.001  # metres, on the central meridian
        yield (
            Finding(about, "ok", "EPSG codes are known.")
            if right
            else Finding(
                about, "wrong", f"PROJ computes wrongly: 9° E on the equator is {moved} in EPSG:32632.", _UNSET
            )
        )
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
    from geovl import catalog, weights  # noqa: PLC0415 - as above

    for name in ("nano", "nano-text"):
        record = catalog.model(name).record
        try:
            weights.verify(record, weights.folder(record))
        except GeovlError as error:
            yield Finding(about, "wrong", error.message, error.hint or "")
        else:
            yield Finding(about, "ok", f"{name} {record.version} is whole.")
    yield from _fetched(about)


def _fetched(about: str) -> Iterator[Finding]:
    """Tell which other models of the catalog have their weights here: by their names, as hashing takes minutes."""
    from geovl import catalog  # noqa: PLC0415 - as above

    hub, plain = _hub(), settings.cache_dir() / "weights"
    others = [model for model in catalog.load(types=("model",)).models.values() if _others(model)]
    here = sorted(model.id for model in others if _kept(model, hub, plain))
    if here:
        yield Finding(about, "ok", f"In {hub} or {plain}: {', '.join(here)}.", "Hash them: geovl catalog fetch MODEL")
    else:
        hint = f"Only the other {len(others)} models need any: geovl catalog fetch MODEL"
        yield Finding(about, "note", f"No weights of other models in {hub} or {plain}.", hint)
    broken = list(hub.glob("models--*/blobs/*.incomplete"))
    if broken:
        size = sum(path.stat().st_size for path in broken) / _GIGA
        told = f"{len(broken)} download{'s' * (len(broken) > 1)} broke off in {hub}, {size:.1f} GB."
        yield Finding(about, "note", told, "The same geovl catalog fetch goes on with it.")


def _others(model: "Model") -> bool:
    return model.run is not None and model.run.source != "bundled"


def _hub() -> Path:
    """Return the folder that huggingface_hub keeps files in, without loading it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(named or Path(home) / "hub").expanduser()


def _kept(model: "Model", hub: Path, plain: Path) -> bool:
    """Tell whether every repository of a model, and every file that its record names, is in one of two folders."""
    run = model.run
    if run is None:
        return False
    if _holds([plain / re.sub(r"[^\w.-]+|^\.+", "--", model.id)], tuple(run.weights)):
        return True
    named = re.match(r"hf-hub:([\w.-]+/[\w.-]+)", run.source)
    first = named[1] if named else None
    repositories = [name for name in (first, *model.weights) if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
    return bool(repositories) and all(
        _holds(list((hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*")),
               tuple(run.weights) if name == first else ())
        for name in repositories
    )  # fmt: skip


def _holds(folders: Sequence[Path], files: Sequence[str]) -> bool:
    """Tell whether one of the folders holds all files, or any file where none is named."""
    for folder in folders:
        if folder.is_dir() and (all((folder / name).is_file() for name in files) if files else any(folder.iterdir())):
            return True
    return False


def _folders(about: str) -> Iterator[Finding]:
    yield from _writable(about, "runs", settings.store_dir(), "Choose another folder: --store DIR, or GEOVL_STORE.")
    hint = "Only other models keep anything there. Choose another folder: GEOVL_CACHE."
    yield from _writable(about, "what can be made again", settings.cache_dir(), hint, fault="note")
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        yield Finding(about, "wrong", f"There is no folder of temporary files: {error}", "Choose one: TMPDIR.")
    else:
        yield from _writable(about, "temporary files", temporary, "Choose another folder: TMPDIR.")


def _writable(about: str, what: str, folder: Path, hint: str, fault: State = "wrong") -> Iterator[Finding]:
    """Write a file without a name where a folder is, or would be made."""
    there = folder.resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"geovl")
    except OSError as error:
        told = f"The folder of {what}, {folder}, is not writable: {error.strerror or error}."
        yield Finding(about, fault, told, hint)
        return
    free = shutil.disk_usage(there).free
    told = f"{what}: {folder}, {free / _GIGA:.1f} GB free"
    yield Finding(about, "note" if free < _ROOM else "ok", told, hint if free < _ROOM else "")


_CHECKS: tuple[tuple[str, Callable[[str], Iterator[Finding]]], ...] = (
    ("system", _system), ("packages", _packages), ("extras", _extras), ("devices", _devices), ("GDAL", _gdal),
    ("PROJ", _proj), ("weights", _weights), ("folders", _folders),
)  # fmt: skip
_FULL: tuple[tuple[str, Callable[[str], Iterator[Finding]]], ...] = (("torch", _torch),)
