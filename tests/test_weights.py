"""Weights are found where people put them, downloaded whole or not at all, and checked; what is missing is told exactly."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from geovl import settings, weights
from geovl.catalog import model
from geovl.catalog.records import Model, Run
from geovl.errors import ModelError
from geovl.types import ModelRecord
from tests.servers import Server

BODY = bytes(range(256)) * 4000  # 1 MB
SHA = hashlib.sha256(BODY).hexdigest()
ETAG = {"ETag": '"v1"'}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOVL_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "_PAUSE", 0)


@pytest.fixture
def server():
    with Server() as running:
        yield running


def left(folder):
    """Every file below a folder, but for the notes of what was hashed."""
    return sorted(
        str(path.relative_to(folder))
        for path in Path(folder).rglob("*")
        if path.is_file() and path.parent.name != "digests"
    )


def record(source="hf-hub:me/tiny", options=None, **run):
    return Model(
        id="tiny", name="Tiny", kind="contrastive", run=Run(backend="x", source=source, options=options or {}, **run)
    )


# What words mean


@pytest.mark.parametrize(
    ("source", "kind", "place", "needed", "revision"),
    [
        ("hf-hub:a/b", "hub", "a/b", (("open_clip_config.json",), weights.OPEN_CLIP_WEIGHTS), "main"),
        ("hf-hub:a/b@v1.2", "hub", "a/b", (("open_clip_config.json",), weights.OPEN_CLIP_WEIGHTS), "v1.2"),
        ("hf-hub:a/b/ckpt/x.pt", "hub", "a/b", (("ckpt/x.pt",),), "main"),
        ("hf-hub:a-1/b.c@0f/x.pt", "hub", "a-1/b.c", (("x.pt",),), "0f"),
        ("https://x.org/a/w.pt?key=1", "url", "https://x.org/a/w.pt?key=1", (("w.pt",),), "main"),
        ("/data/w.pt", "local", "/data", (("w.pt",),), "main"),
    ],
)
def test_a_source_means_one_thing(source, kind, place, needed, revision):
    found = weights.origin(source)
    assert (found.kind, found.place, found.needed, found.revision) == (kind, place, needed, revision)
    assert found.plain.parent == settings.cache_dir() / "weights", "one folder, whatever the source is called"


@pytest.mark.parametrize(
    "source", ["hf-hub:", "hf-hub:a", "hf-hub:a/", "hf-hub:/b", "s3://a/b", "gs:x", "hf-hub:a b/c"]
)
def test_a_source_that_means_nothing_is_refused(source):
    with pytest.raises(ModelError):
        weights.origin(source)


def test_urls_that_hold_a_digest_are_checked_by_it():
    full = "a" * 64
    urls = {
        f"https://openaipublic.azureedge.net/clip/models/{full}/ViT-B-32.pt": full,
        "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/vit_b_16-laion400m_e31-00efa78f.pt": "00efa78f",
        "https://example.net/vit-00efa78f.pt": "",
    }
    for url, digest in urls.items():
        assert list(weights.origin(url).sha256.values()) == [digest]


def test_the_table_of_open_clip_leads_to_repositories():
    pytest.importorskip("open_clip")
    found = weights.origin("open_clip:ViT-B-16/openai")
    assert (found.kind, found.place) == ("hub", "timm/vit_base_patch16_clip_224.openai")
    assert found.needed == (weights.OPEN_CLIP_WEIGHTS,)
    with pytest.raises(ModelError, match="no weights 'none'") as raised:
        weights.origin("open_clip:ViT-B-16/none")
    assert "openai" in raised.value.hint


def test_a_record_says_files_revision_and_digests():
    told = record(options={"file": "ckpt/x.pt", "architecture": "Tiny"}, revision="0f", weights={"ckpt/x.pt": SHA})
    found = weights.of_record(told.record)
    assert (found.needed, found.revision, found.sha256, found.known) == (
        (("ckpt/x.pt",),),
        "0f",
        {"ckpt/x.pt": SHA},
        True,
    )
    assert weights.of_record(record(options={"architecture": "Tiny"}).record).needed == (weights.OPEN_CLIP_WEIGHTS,)
    assert weights.of_record(record().record).needed == (("open_clip_config.json",), weights.OPEN_CLIP_WEIGHTS)


def test_the_bundled_model_is_found_and_checked():
    what = weights.of_record(model("nano").record)
    found = weights.find(what)
    assert {file.name for file in found} == set(model("nano").run.weights)
    assert {file.checked for file in found} == {"record"}
    assert weights.fetch(what) == found
    assert weights.remaining(what) == {}


def test_verify_names_what_is_missing_or_differs(tmp_path):
    entry = ModelRecord("m", "nano", {"w.onnx": SHA}, "1", None, "MIT")
    with pytest.raises(ModelError, match=r"lacks its file w\.onnx"):
        weights.verify(entry, tmp_path)
    (tmp_path / "w.onnx").write_bytes(b"other")
    with pytest.raises(ModelError, match="not the one"):
        weights.verify(entry, tmp_path)
    (tmp_path / "w.onnx").write_bytes(BODY)
    weights.verify(entry, tmp_path)


# Files here


def test_local_files_are_found_or_told(tmp_path):
    path = tmp_path / "w.pt"
    with pytest.raises(weights.NotThereError, match=r"There is no w\.pt"):
        weights.fetch(weights.origin(path))
    assert weights.find(weights.origin(path)) is None
    path.write_bytes(BODY)
    assert weights.find(weights.origin(path)) == (weights.File("w.pt", path, "nothing"),)
    assert weights.fetch(weights.origin(path, digests={"w.pt": SHA}))[0].checked == "record"
    with pytest.raises(ModelError, match="expected 00"):
        weights.find(weights.origin(path, digests={"w.pt": "0" * 64}))


def test_the_first_of_several_names_that_is_there_is_taken(tmp_path):
    (tmp_path / "b.bin").write_bytes(b"b")
    what = weights.origin(tmp_path, [("a.safetensors", "b.bin")], optional=("c.json",))
    assert [file.name for file in weights.find(what)] == ["b.bin"]
    (tmp_path / "a.safetensors").write_bytes(b"a")
    (tmp_path / "c.json").write_bytes(b"{}")
    assert [file.name for file in weights.find(what)] == ["a.safetensors", "c.json"]


def test_a_digest_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "w.bin"
    path.write_bytes(BODY)
    assert weights.digest(path) == SHA
    read = []
    monkeypatch.setattr(weights, "sha256", lambda p: read.append(p) or "read again")
    assert weights.digest(path) == SHA
    assert not read
    stat = path.stat()
    path.write_bytes(BODY[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time, as by cp -p
    assert weights.digest(path) == "read again"
    link = tmp_path / "link.bin"
    link.symlink_to(path)
    read.clear()
    assert weights.digest(link) == "read again"
    assert not read, "a link is the file that it leads to"


def test_digests_survive_a_damaged_note_and_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "w.bin"
    path.write_bytes(BODY)
    weights.digest(path)
    for note in (settings.cache_dir() / "digests").iterdir():
        note.write_text("{")
    assert weights.digest(path) == SHA
    monkeypatch.setenv("GEOVL_CACHE", str(path / "no-folder"))
    assert weights.digest(path) == SHA


# Downloads from any server


def test_a_download_is_whole_checked_and_told(tmp_path, server):
    url = server.put("/w.pt", BODY, headers=ETAG)
    what = weights.origin(url, digests={"w.pt": SHA})
    assert weights.find(what) is None
    assert weights.remaining(what) == {"w.pt": len(BODY)}
    told = []
    (file,) = weights.fetch(what, lambda *state: told.append(state))
    assert file.path.read_bytes() == BODY
    assert file.checked == "record"
    assert told[0] == ("w.pt", 0, len(BODY))
    assert told[-1] == ("w.pt", len(BODY), len(BODY))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert weights.find(what) == (file,)
    with server.counting() as during:
        weights.fetch(what)
    assert not during, "what is here is not asked for again"
    assert left(tmp_path / "cache") == [str(file.path.relative_to(tmp_path / "cache"))]


def test_without_a_digest_the_caller_is_told_that_nothing_was_checked(server):
    (file,) = weights.fetch(weights.origin(server.put("/w.pt", BODY)))
    assert file.checked == "nothing"


def test_a_wrong_file_leaves_nothing(tmp_path, server):
    what = weights.origin(server.put("/w.pt", BODY, headers=ETAG), digests={"w.pt": "0" * 64})
    with pytest.raises(ModelError, match=f"{SHA}, expected 000"):
        weights.fetch(what)
    assert left(tmp_path) == []


def broken_off(server, **how):
    """Begin a download that stops half-way and is given up, as by a user who loses patience."""
    what = weights.origin(server.put("/w.pt", BODY, keep=0.5, **how), digests={"w.pt": SHA})

    def impatient(what, part, name, progress):
        with weights._answered(what, part) as answer:
            assert not weights._receive(answer, name, part, progress)
        raise ModelError("given up")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ModelError, match="given up"):
        patch.setattr(weights, "_receive_all", impatient)
        weights.fetch(what)
    return what


def test_a_download_goes_on_where_it_stopped(tmp_path, server):
    what = broken_off(server, headers=ETAG)
    assert weights.find(what) is None, "half a file is none"
    assert not any(name.endswith("/w.pt") for name in left(tmp_path))
    server.put("/w.pt", BODY, headers=ETAG)
    with server.counting() as during:
        (file,) = weights.fetch(what)
    assert file.path.read_bytes() == BODY
    (request,) = during
    assert request.range == f"bytes={len(BODY) // 2}-"
    assert request.sent == len(BODY) - len(BODY) // 2
    assert left(tmp_path / "cache") == [str(file.path.relative_to(tmp_path / "cache"))]


@pytest.mark.parametrize("how", ["no-etag", "no-ranges", "new-version"])
def test_a_download_starts_anew_where_it_cannot_go_on(server, how):
    headers = {} if how == "no-etag" else ETAG
    what = broken_off(server, headers=headers)
    if how == "new-version":
        other = BODY[::-1]
        server.put("/w.pt", other, headers={"ETag": '"v2"'})
        what = weights.origin(what.place, digests={"w.pt": hashlib.sha256(other).hexdigest()})
    else:
        other = BODY
        server.put("/w.pt", BODY, headers=headers, ranges=how != "no-ranges")
    (file,) = weights.fetch(what)
    assert file.path.read_bytes() == other


def test_interruptions_and_faults_that_pass_are_lived_through(server):
    url = server.put("/w.pt", BODY, headers=ETAG, fail_first=2, reset_first=1)
    assert weights.fetch(weights.origin(url))[0].path.read_bytes() == BODY
    url = server.put("/v.pt", BODY, headers=ETAG, keep=0.9)  # of each answer; every one brings something
    with pytest.raises(ModelError, match="stopped after") as raised:
        weights.fetch(weights.origin(url))
    assert "goes on where it stopped" in raised.value.hint
    done = int(re.search(r"after (\d+) bytes", raised.value.message)[1])
    assert len(BODY) * 0.99 < done < len(BODY)


def test_what_a_process_left_behind_when_it_died_is_used(tmp_path, server):
    url = server.put("/w.pt", BODY, headers=ETAG)
    what = weights.origin(url, digests={"w.pt": SHA})
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    what.plain.mkdir(parents=True)
    part = what.plain / f".w.pt.{dead.stdout.strip()}.part"
    part.write_bytes(BODY[:1000])
    weights._note(part).write_text('"v1"')
    alive = what.plain / f".w.pt.{os.getppid()}.part"  # of a process that is still at it
    alive.write_bytes(b"x")
    with server.counting() as during:
        (file,) = weights.fetch(what)
    assert during[0].range == "bytes=1000-"
    assert file.path.read_bytes() == BODY
    assert alive.exists()
    assert not part.exists()


@pytest.mark.parametrize(("status", "match"), [(404, "nothing at"), (403, "refuses: HTTP 403"), (500, "HTTP 500")])
def test_what_a_server_answers_is_told_without_the_query(tmp_path, server, status, match):
    url = server.put("/w.pt", BODY, status=status) + "?signature=secret"
    with pytest.raises(ModelError, match=match) as raised:
        weights.fetch(weights.origin(url))
    assert "secret" not in f"{raised.value.message}{raised.value.hint}"
    assert left(tmp_path) == []


def test_a_server_that_is_not_there(tmp_path):
    with Server() as gone:
        url = f"{gone.root}/w.pt"
    with pytest.raises(weights.NotThereError, match="cannot be downloaded") as raised:
        weights.fetch(weights.origin(url))
    assert str(weights.origin(url).plain / "w.pt") in raised.value.hint
    with pytest.raises(weights.NotThereError):
        weights.remaining(weights.origin(url))


def test_a_disk_that_cannot_be_written(tmp_path, server, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be used") as raised:
        weights.fetch(weights.origin(server.put("/w.pt", BODY)))
    assert "GEOVL_CACHE" in raised.value.hint


def test_offline_says_where_to_put_the_file_and_finds_it_there(server, monkeypatch):
    monkeypatch.setenv("GEOVL_OFFLINE", "1")
    what = weights.origin(server.put("/w.pt", BODY))
    with server.counting() as during, pytest.raises(weights.NotThereError, match="GEOVL_OFFLINE") as raised:
        weights.fetch(what)
    assert not during
    path = Path(raised.value.hint.split(": ")[-1])
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert weights.fetch(what)[0].path == path
    monkeypatch.setenv("GEOVL_OFFLINE", "0")
    assert weights.find(what)[0].path == path


# The Hub


COMMIT = "c" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch, server):
    """The Hub, played by a server here, and its cache in an empty folder."""
    module = pytest.importorskip("huggingface_hub", reason="needs the extra [torch]")
    monkeypatch.setattr(module.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(module.constants, "ENDPOINT", server.root)
    template = module.constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        module.constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.root + template[template.index("/{repo_id}") :]
    )

    def put(name, body, etag=None, revision="main", **how):
        digest = etag or hashlib.sha256(body).hexdigest()
        headers = {
            "X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body)), "ETag": f'"{digest}"'
        }  # fmt: skip
        return server.put(f"/me/tiny/resolve/{revision}/{name}", body, headers=headers, **how)

    lacks = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "extra.json"):
        server.put(f"/me/tiny/resolve/main/{name}", b"", status=404, headers=lacks)
    return SimpleNamespace(put=put, root=tmp_path / "hub")


def test_files_of_the_hub_end_in_its_cache_checked_by_what_it_says(hub, server):
    hub.put("open_clip_config.json", b"{}", etag="9" * 40)
    hub.put("open_clip_pytorch_model.bin", BODY)
    what = weights.origin("hf-hub:me/tiny", optional=("extra.json",))
    assert weights.remaining(what) == {"open_clip_config.json": 2, "open_clip_pytorch_model.bin": len(BODY)}
    told = []
    config, file = weights.fetch(what, lambda *state: told.append(state))
    assert config.path.read_bytes() == b"{}"
    assert file.path == hub.root / "models--me--tiny" / "snapshots" / COMMIT / "open_clip_pytorch_model.bin"
    assert file.path.read_bytes() == BODY
    assert file.checked == "hub"
    assert ("open_clip_pytorch_model.bin", len(BODY), len(BODY)) in told
    with server.counting() as during:
        assert weights.find(what) == weights.fetch(what) == (config, file)
    assert not during, "not even for the file that the repository was found to lack"


def test_a_file_that_is_not_what_the_hub_says_leaves_nothing(hub):
    hub.put("w.pt", BODY, etag="a" * 64)
    with pytest.raises(ModelError, match="damaged"):
        weights.fetch(weights.origin("hf-hub:me/tiny/w.pt"))
    assert not [name for name in left(hub.root) if "/snapshots/" in name or "/blobs/" in name]


def test_a_file_that_is_not_what_the_record_says_leaves_nothing(hub):
    hub.put("w.pt", BODY, revision=COMMIT)
    entry = record(options={"file": "w.pt", "architecture": "Tiny"}, revision=COMMIT, weights={"w.pt": "b" * 64})
    with pytest.raises(ModelError, match=f"{SHA}, expected bbb") as raised:
        weights.fetch(weights.of_record(entry.record))
    assert "geovl catalog fetch tiny" in raised.value.hint
    assert not [name for name in left(hub.root) if "/snapshots/" in name or "/blobs/" in name]


@pytest.mark.parametrize(
    ("code", "status", "match"),
    [
        ("EntryNotFound", 404, r"has no w\.pt"),
        ("RepoNotFound", 404, "no repository me/tiny"),
        ("GatedRepo", 403, "accepted its terms"),
        ("RevisionNotFound", 404, "no revision 'main'"),
        ("", 403, "cannot be (downloaded|reached)"),
    ],
)
def test_what_the_hub_answers_is_told(hub, server, code, status, match):
    server.put("/me/tiny/resolve/main/w.pt", b"", status=status, headers={"X-Error-Code": code})
    with pytest.raises(ModelError, match=match) as raised:
        weights.fetch(weights.origin("hf-hub:me/tiny/w.pt"))
    assert raised.value.hint


def test_a_hub_that_cannot_be_reached(hub, server):
    server.put("/me/tiny/resolve/main/w.pt", b"", reset_first=99)
    with pytest.raises(ModelError, match=r"cannot be (reached|downloaded)"):
        weights.fetch(weights.origin("hf-hub:me/tiny/w.pt"))


@pytest.mark.parametrize("switch", ["GEOVL_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_names_every_file_and_both_places(hub, server, monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    what = weights.origin("hf-hub:me/tiny")
    with server.counting() as during, pytest.raises(weights.NotThereError, match=switch) as raised:
        weights.fetch(what)
    assert not during
    told = f"{raised.value.message} {raised.value.hint}"
    for part in (
        "open_clip_config.json",
        *weights.OPEN_CLIP_WEIGHTS,
        str(what.plain),
        str(hub.root),
        "models--me--tiny/snapshots",
    ):
        assert part in told, part
    what.plain.mkdir(parents=True)
    (what.plain / "open_clip_config.json").write_text("{}")
    with pytest.raises(weights.NotThereError) as raised:
        weights.fetch(what)
    assert "open_clip_config.json" not in raised.value.message, "what is here is not asked for"
    (what.plain / "open_clip_model.safetensors").write_bytes(BODY)
    assert [file.checked for file in weights.fetch(what)] == ["nothing", "nothing"]


def test_a_file_put_by_hand_needs_no_folder_of_the_repository(hub, monkeypatch):
    monkeypatch.setenv("GEOVL_OFFLINE", "1")
    what = weights.of_record(
        record(options={"file": "ckpt/w.pt", "architecture": "Tiny"}, weights={"ckpt/w.pt": SHA}).record
    )
    with pytest.raises(weights.NotThereError) as raised:
        weights.fetch(what)
    assert str(settings.cache_dir() / "weights" / "tiny" / "w.pt") in raised.value.hint
    what.plain.mkdir(parents=True)
    (what.plain / "w.pt").write_bytes(BODY)
    assert weights.fetch(what)[0].checked == "record"
    (what.plain / "w.pt").write_bytes(b"wrong")
    with pytest.raises(ModelError, match=r"not the ckpt/w\.pt that tiny needs"):
        weights.find(what)


def test_without_huggingface_hub_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (weights.find, weights.fetch):
        with pytest.raises(ModelError) as raised:
            call(weights.origin("hf-hub:me/tiny"))
        assert 'pip install "geovl[torch]"' in raised.value.hint


def test_nothing_heavy_is_loaded_for_what_is_here():
    code = "from geovl import weights, catalog\nassert weights.find(weights.of_record(catalog.model('nano').record))\n"
    code += "import sys, json\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "open_clip", "huggingface_hub", "transformers"} & set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "source",
    [
        "https://host.invalid/..%2F..%2Fescaped%2Frc", "https://host.invalid/a%2F..", "hf-hub:o/n/../../x", "hf-hub:o/n//etc/x",
        "https://host.invalid/%2e%2e", "https://host.invalid/a%00b",
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(source, tmp_path):
    try:
        what = weights.origin(source)
    except ModelError:
        return
    for name in (name for names in what.needed for name in names):
        assert (what.plain / name).resolve().is_relative_to((settings.cache_dir() / "weights").resolve()), name


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:x", "a\\..\\x", ""])
def test_names_of_files_are_names(name):
    with pytest.raises(ModelError):
        weights.origin("hf-hub:owner/name", [(name,)])


@pytest.mark.parametrize("model", ["..", ".", "../..", "...", "a/../../b"])
def test_the_plain_folder_is_below_its_own(model):
    what = weights.Origin("hub", "owner/name", model, (("w",),))
    assert what.plain.resolve().parent == (settings.cache_dir() / "weights").resolve()
