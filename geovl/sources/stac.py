"""STAC: items, from files or servers, and which asset of each is read."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from geovl.errors import SourceError
from geovl.sources.remote import checked_url, is_url, redacted, refuse_offline, request
from geovl.sources.source import Say, Source, from_file, from_gdal_path, from_url

_MOST_JSON = 64 << 20  # bytes of one STAC document
_MOST_ITEMS = 10_000  # of a static catalog
SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")


def from_stac(location: str, asset: str | None, pages: int, say: Say) -> list[Source]:
    """List the chosen assets of what a STAC document, a local path or a URL, holds."""
    found = [from_item(item, where, asset) for item, where in _items(location, pages, say)]
    if not found:
        msg = f"{redacted(location)} has no items."
        raise SourceError(msg, "Widen the search: its bbox, datetime and collections.")
    return found


def _items(location: str, pages: int, say: Say) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield STAC items, each with the path or URL that its hrefs are relative to."""
    document = _document(location)
    kind = document.get("type")
    if kind == "Feature":
        yield document, location
    elif kind == "FeatureCollection":
        yield from _paged(document, location, pages, say)
    elif kind in ("Collection", "Catalog"):
        yield from _catalog(document, location, pages, say)
    else:
        msg = f"{redacted(location)} is JSON, but no STAC Item or ItemCollection (its type is {kind!r})."
        raise SourceError(msg, "Give an Item, the items of a collection, or a search.")


def _paged(document: Mapping[str, Any], location: str, pages: int, say: Say) -> Iterator[tuple[Mapping[str, Any], str]]:
    asked: set[str] = set()
    count, following = 0, None
    for page in range(1, pages + 1):
        features = document.get("features")
        for item in features if isinstance(features, list) else ():
            if isinstance(item, dict):
                count += 1
                yield item, location
        # the pages after that of a file are not known to belong to it
        following = _link(document, "next") if is_url(location) else None
        if following is None:
            return
        location = _link_target(following, location)
        key = json.dumps([location, following.get("body")], sort_keys=True)
        if key in asked:
            say(f"{redacted(location)} names itself as its next page; {count} items were read.")
            return
        asked.add(key)
        if page < pages:
            posted = following.get("body", {}) if str(following.get("method", "GET")).upper() == "POST" else None
            document = _document(location, posted)
    say(f"Only the first {pages} pages ({count} items) were read; there are more. Narrow the search by its bbox.")


def _catalog(
    document: Mapping[str, Any], location: str, pages: int, say: Say
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield what a collection or catalog links to: the items page of an API, or single items; no children."""
    if (items := _link(document, "items")) is not None:
        yield from _items(_link_target(items, location), pages, say)
        return
    links = [link for link in _links(document) if link.get("rel") == "item"]
    if not links:
        msg = f"{redacted(location)} is a STAC {document['type']} without items of its own."
        raise SourceError(msg, "Give one of its collections, its items page or a search.")
    if len(links) > _MOST_ITEMS:
        say(f"Only the first {_MOST_ITEMS} of {len(links)} items of {redacted(location)} are used.")
    for link in links[:_MOST_ITEMS]:
        where = _link_target(link, location)
        yield _document(where), where


def _document(location: str, posted: Any = None) -> Mapping[str, Any]:
    """Read a JSON object from a path or URL; ``posted`` is sent as JSON.

    Raises:
        SourceError: Not JSON, not an object, or too large.
    """
    if is_url(location):
        headers = {"Accept": "application/geo+json, application/json"}
        if posted is not None:
            headers["Content-Type"] = "application/json"
        body = None if posted is None else json.dumps(posted).encode()
        content = request(location, headers=headers, body=body, most=_MOST_JSON).body
        hint = "Open the URL in a browser: it must show a STAC Item, ItemCollection or search result."
    else:
        try:
            content = Path(location).read_bytes()
        except OSError as error:
            msg = f"{location!r} cannot be read: {error.strerror}"
            raise SourceError(msg, "Check the path and who may read it.") from error
        hint = "Give a STAC Item or ItemCollection as JSON."
    try:
        loaded = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"{redacted(location)} is not JSON: {error}"
        raise SourceError(msg, hint) from error
    if not isinstance(loaded, dict):
        msg = f"{redacted(location)} is JSON, but not an object."
        raise SourceError(msg, hint)
    return loaded


def _links(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = document.get("links")
    return [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []


def _link(document: Mapping[str, Any], relation: str) -> Mapping[str, Any] | None:
    return next((link for link in _links(document) if link.get("rel") == relation and link.get("href")), None)


def _link_target(link: Mapping[str, Any], location: str) -> str:
    href = str(link["href"])
    if is_url(location):
        return checked_url(urljoin(location, href))
    if is_url(href):
        url = checked_url(href)
        refuse_offline(url)
        return url
    return os.path.normpath(Path(location).parent / href)


def from_item(item: Mapping[str, Any], location: str, asset: str | None) -> Source:
    """Return the raster of an item.

    Args:
        item: STAC, from anywhere.
        location: Path or URL that the item came from.
        asset: Key of the asset; chosen when None.

    Raises:
        SourceError: No item, no asset to choose, or one that may not be read.
    """
    assets = item.get("assets")
    name = str(item.get("id") or redacted(location))
    if not isinstance(assets, dict) or not all(isinstance(value, dict) for value in assets.values()):
        msg = f"{name!r} in {redacted(location)} is a Feature, but no STAC item: it has no assets."
        raise SourceError(msg, "Give a STAC Item or ItemCollection; to read a raster give its file or URL.")
    key = choose_asset(assets, name, asset)
    properties = item.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    taken = properties.get("datetime") or properties.get("start_datetime")
    more = {"name": name, "id": name, "datetime": None if taken is None else str(taken)}
    href = str(assets[key].get("href", ""))
    what = f"Asset {key!r} of {name!r}"
    if is_url(location):
        return from_url(_remote_href(href, item, location, what), **more)
    return _local_href(href, item, location, what, more)


def _remote_href(href: str, item: Mapping[str, Any], location: str, what: str) -> str:
    """Return the URL of an asset whose item came from a server.

    Raises:
        SourceError: The href is a path of this computer, or its scheme is not http or https.
    """
    if (
        not href
        or href.startswith(("/", "\\", "~"))
        or re.match(r"[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*:(?!//)", href)
    ):
        msg = (
            f"{what} has the href {redacted(href)!r}; an item from a server ({redacted(location)}) may name only URLs."
        )
        raise SourceError(msg, "Choose another asset with --asset, or tell the owner of the catalog.")
    base = location
    if (own := _link(item, "self")) is not None and is_url(str(own["href"])):
        base = str(own["href"])
    try:
        return checked_url(urljoin(base, href))
    except SourceError as error:
        msg = f"{what}: {error.message}"
        raise SourceError(msg, "Choose an asset that is served over https with --asset.") from error


def _local_href(href: str, item: Mapping[str, Any], location: str, what: str, more: dict[str, Any]) -> Source:
    """Return the asset of an item in a local file: a URL, or a file that exists."""
    if SCHEME.match(href):
        try:
            url = checked_url(href)
        except SourceError as error:
            msg = f"{what}: {error.message}"
            raise SourceError(msg, error.hint) from error
        refuse_offline(url)
        return from_url(url, **more)
    if href.startswith("/vsi"):
        return replace(from_gdal_path(href), **more)
    path = Path(os.path.normpath(Path(location).parent / href))
    if path.is_file():
        return replace(from_file(path), **more)
    own = _link(item, "self")
    if own is not None and is_url(str(own["href"])) and not Path(href).is_absolute():
        url = checked_url(urljoin(str(own["href"]), href))  # the item was saved here, its assets were not
        refuse_offline(url)
        return from_url(url, **more)
    msg = f"{what} is {redacted(href)!r}, and there is no file {str(path)!r}."
    raise SourceError(msg, f"Relative hrefs start from the folder of {location!r}.")


def choose_asset(assets: Mapping[str, Mapping[str, Any]], name: str, asset: str | None) -> str:
    """Return the key of the asset to read.

    Raises:
        SourceError: The one asked for is not there, or none or several would do.
    """
    if asset is not None:
        if asset in assets:
            return asset
        msg = f"{name!r} has no asset {asset!r}. It has:\n{_listed(assets)}"
        raise SourceError(msg, "Choose one with --asset KEY")
    tiffs = [key for key, value in assets.items() if _is_tiff(value)]
    shown = [key for key, value in assets.items() if "visual" in _roles(value)]
    if "visual" in assets:
        return "visual"
    for group in (
        [key for key in shown if key in tiffs],
        shown,
        [key for key in ("image", "data") if key in tiffs],
        [key for key in tiffs if {"data", "image"} & _roles(assets[key])],
        [key for key in tiffs if not {"thumbnail", "overview", "metadata"} & _roles(assets[key])],
    ):
        if len(group) == 1:
            return group[0]
    several = "several assets could be meant" if tiffs or shown else "no asset is a GeoTIFF by its media type"
    msg = f"{name!r}: {several}. It has:\n{_listed(assets)}"
    raise SourceError(msg, "Choose one with --asset KEY")


def _roles(asset: Mapping[str, Any]) -> set[str]:
    roles = asset.get("roles")
    return {str(role).lower() for role in roles} if isinstance(roles, list) else set()


def _is_tiff(asset: Mapping[str, Any]) -> bool:
    kind = str(asset.get("type", "")).lower()
    href = str(asset.get("href", "")).partition("?")[0].lower()
    return kind.startswith(("image/tiff", "image/vnd.stac.geotiff")) or (not kind and href.endswith((".tif", ".tiff")))


def _listed(assets: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for key, value in list(assets.items())[:40]:
        roles = ", ".join(sorted(_roles(value)))
        lines.append("  " + "  ".join(text for text in (key, str(value.get("type") or ""), roles) if text))
    more = len(assets) - len(lines)
    return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])
