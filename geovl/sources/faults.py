"""Why a read over the network failed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import rasterio
from rasterio.errors import RasterioError

from geovl.errors import SourceError
from geovl.sources.remote import RemoteError, check, environment, redacted, refuse_offline, url_of
from geovl.sources.source import Source
from geovl.sources.vrt import all_vrt_parts


@contextmanager
def reading(source: Source) -> Iterator[None]:
    """Read a source within this: GDAL has the options for the network, and faults say what the server did.

    Local sources are left as they are. The server is asked about a fault only once there is one.

    Raises:
        RemoteError: In place of a SourceError or RasterioError, for an http source.
    """
    if not source.remote:
        yield
        return
    refuse_offline(source.path)
    with rasterio.Env(**environment(remote=True)):
        try:
            yield
        except (SourceError, RasterioError) as error:
            if isinstance(error, RemoteError):
                raise
            explained = explain(source.path, error)
            if explained is None:
                raise
            raise explained from error


def explain(path: str, error: Exception) -> RemoteError | None:
    """Ask the server why a read failed.

    Args:
        path: As GDAL opens it; of a VRT each remote part is looked at, 20 at most.
        error: What was raised.

    Returns:
        What is wrong, or None where no http URL has to do with it.
    """
    urls = [url for url in map(url_of, [path, *all_vrt_parts(path)]) if url is not None][:20]
    if not urls:
        return None
    detail = detail_of(error)
    for url in urls:
        try:
            check(url)
        except RemoteError as found:
            return found
    where = next((url for url in urls if url in detail), urls[0])
    shown = redacted(where)
    passing = re.search(r"HTTP response code: (429|5\d\d)|CURL error|timed out|reset", detail)
    if passing:
        msg = f"{shown} could not be read: {detail}. It answers now."
        return RemoteError(shown, "server", msg, "Run it again; GDAL_HTTP_MAX_RETRY sets how often it is tried.")
    msg = f"{shown} answers, but its pixels cannot be read: {detail}"
    return RemoteError(shown, "damaged", msg, "The file there may be incomplete; download it and check: rio info FILE")


def detail_of(error: Exception) -> str:
    """Return what GDAL said at the bottom of a chain of exceptions, without the query of a URL."""
    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    text = str(deepest).split("\n")[0].rstrip(".")
    return re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", r"\1", text)
