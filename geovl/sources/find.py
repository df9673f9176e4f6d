"""Which rasters a SOURCE argument names."""

import glob
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from geovl.errors import SourceError, UsageError
from geovl.sources.remote import RemoteError, checked_url, is_json, redacted, refuse_offline
from geovl.sources.source import Say, Source, from_file, from_gdal_path, from_url, silent
from geovl.sources.stac import SCHEME, from_stac

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg", ".webp")
"""What counts as a raster when a folder, or a glob that names no ending, is given."""
PAGES = 20
"""Pages of a STAC API that are read unless more are asked for."""
DRIVER = re.compile(r"[A-Z][A-Z0-9_]{2,}:")  # NETCDF:"file.nc":band and the like: a part of a container
_STAC_PATH = re.compile(r"\.(geo)?json$|/search/?$|/collections/[^/]+(/items(/[^/]+)?)?/?$", re.IGNORECASE)


def resolve(source: str, *, asset: str | None = None, pages: int = PAGES, say: Say = silent) -> list[Source]:
    """List the rasters that a SOURCE argument names.

    Args:
        source: See the module.
        asset: Key of the asset to take from each STAC item; chosen when None.
        pages: Most pages of a STAC API to read, from 1.
        say: Told what a user should know: files that were skipped, duplicates, pages that were not read.

    Returns:
        At least one source, none twice. Folders and globs are sorted; lists and STAC keep their order.

    Raises:
        SourceError: Nothing there, or not a source.
        RemoteError: A server does not answer as it should, or GEOVL_OFFLINE forbids to ask it.
        UsageError: ``pages`` is below 1.
    """
    if pages < 1:
        msg = f"Pages is {pages}; it must be 1 or more."
        raise UsageError(msg)
    if source.startswith("@") and not Path(source).exists():
        found = _from_list(source, asset, pages, say)
    else:
        found = _resolve(source, "", asset, pages, say)
    return _without_duplicates(found, source, say)


def _resolve(source: str, base: str, asset: str | None, pages: int, say: Say) -> list[Source]:
    """List the rasters of anything but a list; ``base`` is the folder that relative paths start from."""
    if scheme := SCHEME.match(source):
        return _from_web(source, scheme["scheme"].lower(), asset, pages, say)
    if source.startswith("/vsi"):
        return [from_gdal_path(source)]
    path = Path(base, source).expanduser() if base else Path(source).expanduser()
    if path.is_dir():
        return _from_folder(source, path, say)
    if not path.exists():
        return _from_what_is_no_path(source, str(path), say)
    if path.suffix.lower() in (".json", ".geojson"):
        return from_stac(str(path), asset, pages, say)
    if asset is not None:
        msg = f"An asset ({asset!r}) was asked for, but {source!r} is not STAC."
        raise SourceError(msg, "Leave --asset out.")
    return [from_file(path)]


def _from_what_is_no_path(source: str, pattern: str, say: Say) -> list[Source]:
    if re.search(r"[*?\[]", source):
        return _from_glob(source, pattern, say)
    if DRIVER.match(source):
        return [from_gdal_path(source)]
    msg = f"{source!r} does not exist."
    raise SourceError(msg, "Give a GeoTIFF (or anything GDAL reads), a folder, a glob, a VRT or a URL.")


def _from_folder(source: str, folder: Path, say: Say) -> list[Source]:
    files = [path for path in folder.iterdir() if path.is_file()]
    found = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
    if not found:
        msg = f"Folder {source!r} holds no raster ({', '.join(SUFFIXES)})."
        raise SourceError(msg, "Give a file, or a glob such as 'tiles/*.tif'.")
    _say_skipped(len(files) - len(found), len(files), f"folder {source!r}", say)
    return [from_file(path) for path in found]


def _from_glob(source: str, pattern: str, say: Say) -> list[Source]:
    files = sorted({Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()})  # noqa: PTH207 - Path.glob takes no absolute pattern
    ending = Path(pattern).suffix
    names_ending = bool(ending) and not re.search(r"[*?]", ending)
    found = files if names_ending else [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        what = f"No file matches {source!r}." if not files else f"No file that matches {source!r} is a raster."
        raise SourceError(what, "Quote the glob, and check it with: ls " + source)
    _say_skipped(len(files) - len(found), len(files), f"files that match {source!r}", say)
    return [from_file(path) for path in found]


def _say_skipped(skipped: int, total: int, where: str, say: Say) -> None:
    if skipped:
        say(f"{skipped} of {total} files skipped in {where}: no raster by their names ({', '.join(SUFFIXES)}).")


def _from_list(source: str, asset: str | None, pages: int, say: Say) -> list[Source]:
    path = Path(source[1:]).expanduser()
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"The list {source!r} cannot be read: {error}"
        raise SourceError(msg, "Give @FILE, a text file that names one raster a line.") from error
    found: list[Source] = []
    for number, text in enumerate(lines, 1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        try:
            if line.startswith("@"):
                msg = f"{line!r} is a list within a list."
                raise SourceError(msg, "Put its lines into the first list.")
            found += _resolve(line, str(path.parent), asset, pages, say)
        except RemoteError:
            raise
        except SourceError as error:
            msg = f"Line {number} of {str(path)!r}: {error.message}"
            raise SourceError(msg, error.hint or "Paths in a list start from the folder of the list.") from error
    if not found:
        msg = f"The list {str(path)!r} names no raster."
        raise SourceError(msg, "Write one path or URL a line; lines that begin with # are comments.")
    return found


def _without_duplicates(found: list[Source], source: str, say: Say) -> list[Source]:
    kept: dict[str, Source] = {}
    twice: dict[str, None] = {}
    for entry in found:
        key = entry.path if entry.remote else os.path.normpath(entry.path)
        if key in kept:
            twice[entry.name] = None
        else:
            kept[key] = entry
    if twice:
        say(f"{source!r} names some rasters more than once; each is used once: {', '.join(twice)}")
    return list(kept.values())


def _from_web(source: str, scheme: str, asset: str | None, pages: int, say: Say) -> list[Source]:
    url, stac = (source[5:], True) if scheme.startswith("stac+") else (source, False)
    url = checked_url(url)
    refuse_offline(url)
    path = unquote(urlsplit(url).path)
    if not stac and not path.lower().endswith(SUFFIXES):
        stac = bool(_STAC_PATH.search(path)) or is_json(url)
    if stac:
        return from_stac(url, asset, pages, say)
    if asset is not None:
        msg = f"An asset ({asset!r}) was asked for, but {redacted(url)} is not STAC."
        raise SourceError(msg, "Leave --asset out, or put stac+ before the URL.")
    return [from_url(url)]
