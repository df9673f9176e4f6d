"""Which rasters a SOURCE argument names, how remote ones are reached, and what identifies their content.

SOURCE is a file, a folder, a quoted glob (``**`` too), ``@list.txt``, a VRT, a ``/vsi...`` path, an http or https
URL of a raster, or STAC: an Item, an ItemCollection or an API search, as a local JSON file or a URL.

What comes from a server is not trusted: JSON from a URL can name http and https URLs only, never a file of this
computer, and a VRT from a URL is refused, since it could do the same.

A query of a URL may hold a signature. It is used, but never shown or kept: messages, names and fingerprints leave
it out.
"""

from geovl.sources.faults import explain, reading
from geovl.sources.find import PAGES, SUFFIXES, resolve
from geovl.sources.identity import fingerprint, same_content
from geovl.sources.merge import mosaic
from geovl.sources.remote import REMOTE_DRIVERS, RemoteError, check, environment, offline, redacted
from geovl.sources.source import Source

__all__ = [
    "PAGES",
    "REMOTE_DRIVERS",
    "SUFFIXES",
    "RemoteError",
    "Source",
    "check",
    "environment",
    "explain",
    "fingerprint",
    "mosaic",
    "offline",
    "reading",
    "redacted",
    "resolve",
    "same_content",
]
