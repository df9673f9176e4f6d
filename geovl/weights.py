"""From a model's record, or the words that name weights, to local files: found, or downloaded and checked.

| source | weights are |
| --- | --- |
| ``bundled`` | in the package, beside their backend |
| ``hf-hub:owner/name``, with ``@revision`` and ``/path/to/file`` behind it where wanted | in a repository of the Hub |
| ``open_clip:<model>/<tag>`` | where open_clip's own table says |
| ``https://...`` | one file on a server |
| a path | a file or folder here |

A file is looked for first in a plain folder, ``weights/<model>`` of :func:`geovl.settings.cache_dir`, where people can
put it by hand; then in huggingface_hub's ordinary cache. Files of the Hub are downloaded into that cache, files of
other servers into the plain folder. :func:`find` never uses the network; ``GEOVL_OFFLINE`` and ``HF_HUB_OFFLINE``
forbid it to :func:`fetch` too. Nothing here opens weights: they are only moved and hashed.
"""

import hashlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException, HTTPResponse
from importlib import import_module
from inspect import signature
from pathlib import Path
from socket import gaierror
from ssl import SSLError
from typing import Any, BinaryIO, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from geovl import settings
from geovl.errors import ModelError
from geovl.runs import sha256
from geovl.sources import offline, redacted
from geovl.types import ModelRecord
from geovl.work import alive

_PACKAGE = Path(__file__).resolve().parent
_PATH = "Check the path."
_EXTRA = 'pip install "geovl[torch]"'

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of open_clip's weights in a repository, safest first."""

Progress = Callable[[str, int, int | None], None]
"""Told the name of a file, its bytes so far, and its bytes in all where they are known."""

_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>.+))?")
_PIECE = 1 << 20  # bytes read from a server at once
_TRIES = 5  # of a download in a row that bring nothing new
_PAUSE = 0.5  # seconds before the second of them, twice that before the third, ...
_TIMEOUT = 30  # seconds without a byte


class NotThereError(ModelError):
    """A file that its source does not have, or that is not here while the network cannot be used."""


class LacksFileError(NotThereError):
    """A file that a repository does not have."""


WEIGHTS_INDEX = "model.safetensors.index.json"
"""Names the parts of weights that come in several files."""
WHOLE_MODEL = (
    ("config.json",), ("model.safetensors", WEIGHTS_INDEX), ("tokenizer.json", "tokenizer.model", "vocab.json"),
)  # fmt: skip
"""Files of a language model; of each tuple the first that is there."""
BESIDE_MODEL = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("chat_template.jinja", "chat_template.json", "generation_config.json"),
)
"""Files that it may lack."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where weights come from, and which of its files are needed."""

    kind: Literal["bundled", "hub", "url", "local"]
    place: str
    """Repository ``owner/name``, URL, or folder."""
    model: str
    """What messages and the plain folder call it: the id of its record where it has one."""
    needed: tuple[tuple[str, ...], ...]
    """Files; each as the names of which the first that is there is taken."""
    optional: tuple[str, ...] = ()
    """Files that it may lack."""
    revision: str = "main"
    """Branch, tag or commit of a repository."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File to its hex digest, or to at least the first 8 digits of it."""
    known: bool = False
    """Whether there is a record of it, so that ``geovl catalog fetch`` knows it."""

    def __post_init__(self) -> None:
        for name in (*(name for names in self.needed for name in names), *self.optional):
            parts = re.split(r"[/\\]", name)
            if "\0" in name or not name or {"", ".", ".."} & set(parts) or re.match(r"[A-Za-z]:", name):
                msg = f"{name!r} is no name of a file in {self.place}."
                raise ModelError(msg, "Give a path below the repository or folder, with / between its parts.")

    @property
    def plain(self) -> Path:
        """The folder in which files may be put by hand, and in which downloads from other servers end."""
        # no name may lead out of the folder
        return settings.cache_dir() / "weights" / re.sub(r"[^\w.-]+|^\.+", "--", self.model)


@dataclass(frozen=True, slots=True)
class File:
    """A file of weights that is here."""

    name: str
    """As its origin calls it."""
    path: Path
    checked: Literal["record", "hub", "nothing"]
    """What named the sha256 that it was checked against: the record or open_clip's table, the Hub, or nothing did."""


def folder(record: ModelRecord) -> Path:
    """Return the folder of a bundled model's weights."""
    return _PACKAGE / "segmenters" / record.backend.replace("-", "_")


def verify(record: ModelRecord, where: Path) -> None:
    """Check that every weights file is there and is the one that the record names.

    Raises:
        ModelError: A file is missing or differs.
    """
    for name, digest in record.weights.items():
        path = where / name
        if not path.is_file():
            msg = f"Model {record.id!r} lacks its file {name}."
            raise ModelError(msg, "Install geovl again: pip install --force-reinstall geovl")
        if sha256(path) != digest:
            msg = f"The file {name} of model {record.id!r} is not the one that its record names."
            raise ModelError(msg, "Install geovl again: pip install --force-reinstall geovl")


def of_record(record: ModelRecord) -> Origin:
    """Return the origin of a model's weights.

    The file is ``options["file"]``, or the files of ``weights``, or the usual ones of open_clip.

    Raises:
        ModelError: Its source means nothing.
    """
    if record.source == "bundled":
        names = _each(record.weights)
        return Origin("bundled", str(folder(record)), record.id, names, (), "main", dict(record.weights), known=True)
    if record.backend == "text-as-mask":
        return replace(whole_model(record.source, record.revision), model=record.id, known=True)
    file = record.options.get("file")
    files = _each([str(file)] if file else record.weights) or None
    if files is None and record.source.startswith("hf-hub:"):
        config = () if record.options.get("architecture") else ((OPEN_CLIP_CONFIG,),)
        files = (*config, OPEN_CLIP_WEIGHTS)
    found = origin(record.source, files, revision=record.revision, digests=record.weights)
    return replace(found, model=record.id.partition(" ")[0], known=True)  # without the method


def whole_model(source: str, revision: str | None = None) -> Origin:
    """Return the origin of a language model as transformers' ``save_pretrained`` writes it.

    Weights that come in parts are named by their index; see :func:`parts`.
    """
    found = origin(source, revision=revision)
    return replace(found, needed=WHOLE_MODEL, optional=BESIDE_MODEL)


def parts(index: Path) -> tuple[str, ...]:
    """Return the names of the files that an index of weights names.

    Raises:
        ModelError: It is no index.
    """
    try:
        told = json.loads(index.read_text("utf-8"))["weight_map"]
        found = tuple(sorted({str(name) for name in told.values()}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found = ()
    if not found or any(Path(name).name != name for name in found):
        msg = f"{index} does not name its parts in weight_map."
        raise ModelError(msg, "Get the file again.")
    return found


def origin(
    source: str | Path,
    files: Sequence[Sequence[str]] | None = None,
    *,
    optional: Sequence[str] = (),
    revision: str | None = None,
    digests: Mapping[str, str] | None = None,
) -> Origin:
    """Return what words name.

    Args:
        source: See the module; not ``bundled``.
        files: Each as the names of which the first is taken that is there. None means the one in ``source``, else for
            a repository open_clip's configuration and weights, and for a folder nothing.
        optional: Files that it may lack.
        revision: Branch, tag or commit, where ``source`` names none.
        digests: File to sha256.

    Raises:
        ModelError: It names nothing.
    """
    text, digests = str(source), digests or {}
    if text.startswith("hf-hub:"):
        return _hub_origin(text, files, tuple(optional), revision, digests)
    if text.startswith("open_clip:"):
        found = _table_origin(text, revision)
        return replace(found, sha256={**found.sha256, **digests})
    if re.match(r"https?://", text):
        name = Path(unquote(urlsplit(text).path)).name or "weights"
        model = f"{name.partition('.')[0]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return Origin("url", text, model, ((name,),), sha256={name: _sha256_in(text), **digests})
    if re.match(r"[a-z][a-z0-9_+.-]+:", text):  # two letters: not the drive of a path
        msg = f"{text!r} is no source of weights."
        raise ModelError(msg, "Name hf-hub:owner/name, open_clip:MODEL/TAG, an https URL, a file or a folder.")
    path = Path(text).expanduser()
    names = tuple(tuple(names) for names in files or ())
    if path.is_dir() or files is not None:
        return Origin("local", str(path), text, names, tuple(optional), sha256=dict(digests))
    return Origin("local", str(path.parent), text, ((path.name,),), sha256=dict(digests))


def _each(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


def _hub_origin(
    text: str,
    files: Sequence[Sequence[str]] | None,
    optional: tuple[str, ...],
    revision: str | None,
    digests: Mapping[str, str],
) -> Origin:
    found = _HUB.fullmatch(text.removeprefix("hf-hub:"))
    if found is None:
        msg = f"{text!r} names no repository; expected hf-hub:owner/name."
        raise ModelError(msg, "A file of it: hf-hub:owner/name/path/to/file; a commit: hf-hub:owner/name@commit.")
    if files is None:
        files = [(found["file"],)] if found["file"] else [(OPEN_CLIP_CONFIG,), OPEN_CLIP_WEIGHTS]
    names = tuple(tuple(names) for names in files)
    at = found["revision"] or revision or "main"
    model = found["name"] if at == "main" else f"{found['name']}@{at}"
    return Origin("hub", found["name"], model, names, optional, at, dict(digests))


def table(model: str, tag: str) -> Mapping[str, Any]:
    """Return what open_clip's table says of pretrained weights: ``hf_hub``, ``url``, ``mean``, ``std``, ``quick_gelu``.

    A tag stands for the same weights under ``ViT-B-16`` and ``ViT-B-16-quickgelu``.

    Raises:
        ModelError: open_clip is not installed, or has no such weights.
    """
    pretrained = _module("open_clip.pretrained", "The table of open_clip's weights")
    base = model.removesuffix("-quickgelu")
    for name in (base, f"{base}-quickgelu"):
        found: Mapping[str, Any] = pretrained.get_pretrained_cfg(name, tag)
        if found:
            return found
    tags = dict.fromkeys(pretrained.list_pretrained_tags_by_model(base))
    tags |= dict.fromkeys(pretrained.list_pretrained_tags_by_model(f"{base}-quickgelu"))
    msg = f"open_clip has no weights {tag!r} of a model {model!r}."
    hint = f"Tags of {base}: {', '.join(tags)}." if tags else "Write it as open_clip.list_pretrained() does."
    raise ModelError(msg, hint)


def _table_origin(text: str, revision: str | None) -> Origin:
    model, _, tag = text.removeprefix("open_clip:").rpartition("/")
    if not model:
        msg = f"{text!r} names no weights; expected open_clip:MODEL/TAG."
        raise ModelError(msg, "For example open_clip:ViT-B-16-quickgelu/openai.")
    entry = table(model, tag)
    name = f"{model.removesuffix('-quickgelu')}-{tag}"
    if entry.get("hf_hub"):
        repository, _, file = str(entry["hf_hub"]).rpartition("/")
        stem, dot, ending = file.rpartition(".")
        safe = (f"{stem}.safetensors",) if dot and ending in {"bin", "pth"} else ()
        names = (*safe, file) if file else OPEN_CLIP_WEIGHTS
        return Origin("hub", repository, name, (names,), revision=revision or "main")
    return replace(origin(str(entry["url"])), model=name)


def _sha256_in(url: str) -> str:
    """Return the digest that a URL of OpenAI or of open_clip's releases holds; empty for others."""
    parts = urlsplit(url).path.split("/")
    if len(parts) > 1 and re.fullmatch(r"[0-9a-f]{64}", parts[-2]):
        return parts[-2]
    found = re.search(r"-([0-9a-f]{8})\.[a-z]+$", parts[-1])
    return found[1] if found and "mlfoundations/open_clip" in url else ""


def find(what: Origin) -> tuple[File, ...] | None:
    """Return the files that are here, without the network; None if one that is needed is not.

    Raises:
        ModelError: A file is not the one that the record names, or huggingface_hub is not installed.
    """
    found = [_first(what, names) for names in what.needed]
    if any(name is None for name in found):
        return None
    extra = [name for name in what.optional if _here(what, name)]
    return tuple(_checked(what, name) for name in (*filter(None, found), *extra))


def fetch(what: Origin, progress: Progress | None = None) -> tuple[File, ...]:
    """Return the files, downloading those that are not here.

    A download that was broken off goes on where it stopped. A file appears under its name when it is whole and
    right, never before.

    Args:
        what: Its files.
        progress: Told of every piece of a download.

    Raises:
        NotThereError: The source does not have it, or the network cannot be used; says which files to put where.
        ModelError: What came is not what the record or the Hub names, or the source refuses.
    """
    found = []
    for names in what.needed:
        name = _first(what, names)
        found.append(_checked(what, name) if name else _downloaded(what, names, progress))
    for name in what.optional:
        if _here(what, name):
            found.append(_checked(what, name))
        elif not (what.kind == "hub" and _known_absent(what, name)):
            with suppress(NotThereError):
                found.append(_downloaded(what, (name,), progress))
    return tuple(found)


def remaining(what: Origin) -> dict[str, int | None]:
    """Return what :func:`fetch` would download: file to bytes, None where the server does not say. Asks the server.

    Raises:
        NotThereError: The network cannot be used, or the source does not have a file.
        ModelError: The source refuses.
    """
    out: dict[str, int | None] = {}
    for names in what.needed:
        if _first(what, names):
            continue
        _refuse_offline(what)
        if what.kind == "url":
            out[names[0]] = _url_size(what)
        else:
            name, size = _hub_size(what, names)
            out[name] = size
    return out


def digest(path: Path) -> str:
    """Return the sha256 of a file; one that was hashed before and not written since is not read again."""
    path = path.resolve()
    stat = path.stat()
    state = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    note = settings.cache_dir() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError):
        kept = json.loads(note.read_text("utf-8"))
        if isinstance(kept, list) and kept[:-1] == state:
            return str(kept[-1])
    found = sha256(path)
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_name(f".{note.name}.{secrets.token_hex(6)}")
        try:
            draft.write_text(json.dumps([*state, found]), "utf-8")
            draft.replace(note)
        finally:
            draft.unlink(missing_ok=True)
    return found


def _first(what: Origin, names: Sequence[str]) -> str | None:
    return next((name for name in names if _here(what, name)), None)


def _here(what: Origin, name: str) -> Path | None:
    """Return where a file is on this machine."""
    if what.kind in {"bundled", "local"}:
        places = [Path(what.place) / name]
    else:
        places = [what.plain / name, what.plain / Path(name).name]
    for path in places:
        if path.is_file():
            return path
    cached = _cached(what, name) if what.kind == "hub" else None
    return Path(cached) if isinstance(cached, str) else None


def _cached(what: Origin, name: str) -> object:
    """Return the path of a file in huggingface_hub's cache, None, or its word for a file that the repository lacks."""
    hub = _module("huggingface_hub", f"The Hub, where {what.place} is")
    found: object = hub.try_to_load_from_cache(what.place, name, revision=what.revision)
    return found


def _known_absent(what: Origin, name: str) -> bool:
    """Tell whether the Hub has said before that a repository lacks a file; so it is not asked at every start."""
    cached = _cached(what, name)
    return cached is not None and not isinstance(cached, str)


def _checked(what: Origin, name: str) -> File:
    """Return a file that is here, if it is what it should be."""
    path = _here(what, name)
    if path is None:
        raise _absent(what, "is not here")
    wanted = what.sha256.get(name)
    if wanted:
        found = digest(path)
        if not found.startswith(wanted):
            msg = (
                f"The file {path} is not the {name} that {what.model} needs: its sha256 is {found}, expected {wanted}."
            )
            raise ModelError(msg, f"Remove it{_again(what)}.")
        return File(name, path, "record")
    blob = path.resolve().name if what.kind == "hub" else ""
    if re.fullmatch(r"[0-9a-f]{64}", blob):  # the Hub's cache names a large file by its sha256
        if digest(path) != blob:
            msg = f"The file {path} is damaged: its sha256 is {digest(path)}, on the Hub it is {blob}."
            raise ModelError(msg, f"Remove {path.resolve()}{_again(what)}.")
        return File(name, path, "hub")
    return File(name, path, "nothing")


def _again(what: Origin) -> str:
    if what.kind == "bundled":
        return " and install geovl again: pip install --force-reinstall geovl"
    return f" and get it again: geovl catalog fetch {what.model}" if what.known else " and get it again"


def _downloaded(what: Origin, names: Sequence[str], progress: Progress | None) -> File:
    if what.kind in {"bundled", "local"}:
        raise _absent(what, "is not there")
    _refuse_offline(what)
    if what.kind == "url":
        _from_url(what, names[0], progress or _silent)
        return _checked(what, names[0])
    missing = []
    for name in names:
        try:
            path = _from_hub(what, name, progress or _silent)
        except LacksFileError as error:
            missing.append(error)
            continue
        try:
            return _checked(what, name)
        except ModelError:  # what was downloaded is no use to anyone
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
    raise missing[0]


def _silent(_name: str, _done: int, _total: int | None) -> None:
    pass


def _module(name: str, what: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        msg = f"{what} needs the package {name.partition('.')[0]}, which cannot be loaded: {error}."
        raise ModelError(msg, f"Install it: {_EXTRA}") from error


def _refuse_offline(what: Origin) -> None:
    why = "GEOVL_OFFLINE" if offline() else None
    if why is None and what.kind == "hub":
        told = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        hub = _module("huggingface_hub.constants", f"The Hub, where {what.place} is")
        why = "HF_HUB_OFFLINE" if told or hub.HF_HUB_OFFLINE else None
    if why:
        raise _absent(what, f"is not here, and {why} forbids the network")


def _absent(what: Origin, why: str) -> NotThereError:
    """Return the fault that says which files are missing, where they can be had, and where to put them."""
    missing = [names for names in what.needed if not _first(what, names)] or [what.optional[:1]]
    wanted = " and ".join(" or ".join(names) for names in missing)
    if what.kind in {"bundled", "local"}:
        again = "Install geovl again: pip install --force-reinstall geovl"
        return NotThereError(f"There is no {wanted} in {what.place}.", again if what.kind == "bundled" else _PATH)
    # those that it may lack belong to it: without them, means or a scale would be guessed in silence
    wished = [name for name in what.optional if (name,) not in missing and not _here(what, name)]
    asked = [*(names[0] for names in missing), *wished]
    files = [Path(name).name for name in asked]
    put = f"put it here: {what.plain / files[0]}" if len(files) == 1 else f"put them into {what.plain}"
    if what.kind == "url":
        hint = f"Download {redacted(what.place)} on another machine and {put}"
        return NotThereError(f"{what.model} needs {wanted}, which {why}.", hint)
    msg = f"{what.model} needs {wanted} of {what.place}, which {why}."
    at = "" if what.revision == "main" else f" --revision {what.revision}"
    constants = _module("huggingface_hub.constants", f"The Hub, where {what.place} is")
    cached = f"models--{what.place.replace('/', '--')}"
    commit = what.revision if re.fullmatch(r"[0-9a-f]{40}", what.revision) else "COMMIT"
    perhaps = f", {' and '.join(wished)} if there is one" if wished else ""
    hint = (
        f"On a machine with a network: hf download {what.place} {' '.join(asked)}{at}; then {put}{perhaps}"
        f" (or copy the folder {cached} of that machine's Hub cache into {constants.HF_HUB_CACHE}, where the file is"
        f" {cached}/snapshots/{commit}/{missing[0][0]})"
    )
    return NotThereError(msg, hint)


# The Hub


def _from_hub(what: Origin, name: str, progress: Progress) -> Path:
    """Download a file of a repository into huggingface_hub's cache."""
    hub = _module("huggingface_hub", f"The Hub, where {what.place} is")
    bars = {}
    if "tqdm_class" in signature(hub.hf_hub_download).parameters:  # since 1.0
        bars["tqdm_class"] = _bar(name, progress)
    with _hub_faults(what, name):
        return Path(hub.hf_hub_download(what.place, name, revision=what.revision, **bars))


def _hub_size(what: Origin, names: Sequence[str]) -> tuple[str, int | None]:
    hub = _module("huggingface_hub", f"The Hub, where {what.place} is")
    missing = []
    for name in names:
        try:
            with _hub_faults(what, name):
                url = hub.hf_hub_url(what.place, name, revision=what.revision)
                return name, hub.get_hf_file_metadata(url).size
        except LacksFileError as error:
            missing.append(error)
    raise missing[0]


@contextmanager
def _hub_faults(what: Origin, name: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into sentences."""
    errors = _module("huggingface_hub.errors", f"The Hub, where {what.place} is")
    transport = getattr(errors, "HTTPError", OSError)  # of the HTTP library that this version uses
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        raise _absent(what, "is not here, and the Hub cannot be reached") from error
    except errors.RevisionNotFoundError as error:
        msg = f"The repository {what.place} has no revision {what.revision!r}."
        raise ModelError(msg, "Leave the revision out, or name a commit.") from error
    except errors.EntryNotFoundError as error:
        msg = f"The repository {what.place} has no {name}."
        raise LacksFileError(msg, f"See its files: https://huggingface.co/{what.place}/tree/{what.revision}") from error
    except errors.GatedRepoError as error:
        msg = f"The repository {what.place} gives its files only to those who accepted its terms."
        hint = f"Accept them at https://huggingface.co/{what.place}, then log in: hf auth login"
        raise ModelError(msg, hint) from error
    except errors.RepositoryNotFoundError as error:
        msg = f"There is no repository {what.place} on the Hub, or it is private."
        raise ModelError(msg, "Check the name; for a private one log in: hf auth login") from error
    except (OSError, transport) as error:
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        msg = f"{name} of {what.place} cannot be downloaded: {told}"
        raise ModelError(msg, "Run the same command again: it goes on where it stopped.") from error


def _bar(name: str, progress: Progress) -> Any:
    """Return a class of progress bars that prints nothing and tells ``progress``."""
    base: Any = import_module("huggingface_hub.utils").tqdm

    def begin(self: Any, *args: Any, **options: Any) -> None:
        base.__init__(self, *args, **{**options, "disable": True})
        self.so_far, self.of = options.get("initial") or 0, options.get("total")
        progress(name, self.so_far, self.of)

    def update(self: Any, n: float | None = 1) -> None:
        self.so_far += n or 0
        progress(name, int(self.so_far), self.of)

    return type("Told", (base,), {"__init__": begin, "update": update})


# Other servers


_ONE = threading.Lock()
"""Held by the download of this process, as unfinished files are told apart by the process only."""


def _from_url(what: Origin, name: str, progress: Progress) -> None:
    """Download the file of a URL into the plain folder, under its name when it is whole and right."""
    target = what.plain / name
    with _ONE:
        part = _adopted(target)
        try:
            _receive_all(what, part, name, progress)
            found, wanted = sha256(part), what.sha256.get(name) or ""
            if not found.startswith(wanted):
                _forget(part)
                msg = f"{redacted(what.place)} is not what is wanted: its sha256 is {found}, expected {wanted}."
                raise ModelError(msg, "Get it from another place, or ask who publishes it.")
            _note(part).unlink(missing_ok=True)
            part.replace(target)
        except OSError as error:
            msg = f"{part} cannot be written: {error.strerror or error}."
            raise ModelError(msg, "Free disk space, or name another folder: GEOVL_CACHE=FOLDER") from error


def _adopted(target: Path) -> Path:
    """Return where this process puts the bytes of a download; what a process that is gone left behind becomes it."""
    mine = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for other in target.parent.glob(f".{target.name}.*.part"):
            pid = other.name.split(".")[-2]
            if other != mine and not mine.exists() and pid.isdigit() and not alive(int(pid)):
                with suppress(FileNotFoundError):  # another process was quicker
                    _note(other).replace(_note(mine))
                with suppress(FileNotFoundError):
                    other.replace(mine)
    except OSError as error:
        msg = f"The folder {target.parent} cannot be used: {error.strerror or error}."
        raise ModelError(msg, "Name another one: GEOVL_CACHE=FOLDER") from error
    return mine


def _note(part: Path) -> Path:
    """Return where the version of an unfinished file is kept: what its server called it."""
    return part.with_suffix(".version")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _receive_all(what: Origin, part: Path, name: str, progress: Progress) -> None:
    """Ask again, from where it stopped, until a file is whole."""
    idle, told = 0, ""
    while idle < _TRIES:
        before = _size(part)
        if idle:
            time.sleep(_PAUSE * 2 ** (idle - 1))
        try:
            with _answered(what, part) as answer:
                if _receive(answer, name, part, progress):
                    return
            told = "the connection was closed"
        except HTTPError as error:
            error.close()
            if error.code == 416:  # nothing after what is here: begin anew
                _forget(part)
            elif error.code not in {408, 429, 500, 502, 503, 504}:
                raise _refused(what, error) from error
            told = f"HTTP {error.code}"
        except _DISTURBED as error:
            reason = getattr(error, "reason", error)
            told = str(reason) or type(error).__name__
            if isinstance(reason, gaierror | ConnectionRefusedError):  # no network, or no server: it will not come back
                break
        idle = 0 if _size(part) > before else idle + 1
    if _size(part):
        msg = f"The download of {redacted(what.place)} stopped after {_size(part)} bytes: {told}."
        raise ModelError(msg, "Run the same command again: it goes on where it stopped.")
    raise _absent(what, f"cannot be downloaded: {told}")


def _refused(what: Origin, error: HTTPError) -> ModelError:
    if error.code in {404, 410}:
        msg = f"There is nothing at {redacted(what.place)} (HTTP {error.code})."
        return NotThereError(msg, "Check the URL, or ask who publishes it.")
    msg = f"{redacted(what.place)} refuses: HTTP {error.code} {error.reason}."
    return ModelError(msg, "Check the URL; it may need a login, or have expired.")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


_DISTURBED = (URLError, HTTPException, ConnectionError, TimeoutError, SSLError)
"""Faults of the network, which may be over in a moment."""


def _answered(what: Origin, part: Path) -> HTTPResponse:
    """Ask for what is not here yet."""
    have = _size(part)
    version = _note(part).read_text("utf-8") if have and _note(part).exists() else ""
    headers = {"User-Agent": "geovl", "Accept-Encoding": "identity"}
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    elif have:  # nothing says that it is still the same file
        _forget(part)
    return _asked(Request(what.place, headers=headers))  # noqa: S310 - http and https only, see origin()


def _asked(request: Request) -> HTTPResponse:
    answer: HTTPResponse = urlopen(request, timeout=_TIMEOUT)  # noqa: S310 - as above
    return answer


def _receive(answer: HTTPResponse, name: str, part: Path, progress: Progress) -> bool:
    """Write what a server sends behind what is here; True when the file is whole."""
    have = _size(part)
    goes_on = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
    length = answer.headers.get("Content-Length")
    have = have if goes_on else 0
    total = have + int(length) if length is not None else None
    tag = answer.headers.get("ETag") or ""
    version = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified") or ""
    if answer.status == 206 and (not goes_on or version not in {"", _note(part).read_text("utf-8")}):
        _forget(part)  # not what was asked for, or a part of another version
        return False
    with part.open("ab" if goes_on else "wb") as file:
        if not goes_on:
            _note(part).write_text(version, "utf-8")
        progress(name, have, total)
        for piece in _pieces(answer):
            file.write(piece)
            have += len(piece)
            progress(name, have, total)
    return total is None or have == total


def _pieces(answer: BinaryIO | HTTPResponse) -> Iterator[bytes]:
    while piece := answer.read(_PIECE):
        yield piece


def _url_size(what: Origin) -> int | None:
    request = Request(what.place, headers={"User-Agent": "geovl", "Accept-Encoding": "identity"}, method="HEAD")  # noqa: S310
    try:
        with _asked(request) as answer:
            length = answer.headers.get("Content-Length")
            return None if length is None else int(length)
    except HTTPError as error:
        error.close()
        if error.code in {404, 410}:
            raise _refused(what, error) from error
        return None  # some servers answer GET only
    except _DISTURBED as error:
        raise _absent(what, f"cannot be downloaded: {getattr(error, 'reason', error)}") from error
