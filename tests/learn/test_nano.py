"""Training of nano: labels, crops, losses, the exported graph, and a run from folders to files."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="training needs the extra [train]")
torch = pytest.importorskip("torch", reason="training needs the extra [train]")
pytest.importorskip("onnx", reason="training needs the extra [train]")
pytest.importorskip("safetensors", reason="training needs the extra [train]")

import onnxruntime as ort  # noqa: E402

import geovl.segmenters.nano  # noqa: E402
from geovl.learn.nano import augment, concepts, data, export, install, rendered, train  # noqa: E402
from geovl.learn.nano.concepts import CONCEPTS, INDEX, UNKNOWN  # noqa: E402
from geovl.learn.nano.model import NanoNet, class_logits, load_encoder  # noqa: E402
from geovl.segmenters.nano.text import TextTable  # noqa: E402

TEXT = Path(geovl.segmenters.nano.__file__).parent


def lively(seed: int = 0) -> NanoNet:
    """A network whose activations stay in range, so that differences would show."""
    torch.manual_seed(seed)
    net = NanoNet().eval()
    for value in net.parameters():
        if value.ndim == 4:
            torch.nn.init.kaiming_normal_(value)
    return net


# ---------------------------------------------------------------------------------- labels


def test_every_concept_has_a_rule_of_its_own_and_a_vector():
    table = TextTable.load(TEXT)
    for name in CONCEPTS:
        assert table.embed(name) is not None
        if name not in {"vegetation", "land"}:  # only coarse maps tell these alone
            assert concepts.row(name)[INDEX[name]] == 1


def test_a_label_tells_what_it_implies_what_it_excludes_and_what_it_leaves_open():
    row = concepts.row("tree")
    assert row[INDEX["tree"]] == row[INDEX["vegetation"]] == 1
    assert row[INDEX["forest"]] == UNKNOWN
    assert row[INDEX["water"]] == 0
    assert (concepts.row("a label without a rule") == UNKNOWN).all()
    assert np.array_equal(concepts.row("boat"), concepts.row("ship"))


def test_packing_keeps_every_target():
    rng = np.random.default_rng(0)
    targets = rng.choice([0, 1, UNKNOWN], (9, 7, len(CONCEPTS))).astype(np.uint8)
    codes, table = data.pack(targets)
    assert np.array_equal(table[codes], targets)


def test_rendered_scenes_say_that_a_runway_is_a_runway():
    samples = list(rendered.scenes(10, 3))
    runway = INDEX["runway"]
    told = [sample.table[:, runway][sample.codes] for sample in samples]
    assert any((t == 1).sum() > 500 for t in told)
    assert all(sample.pixels.shape[:2] == sample.codes.shape for sample in samples)


# ----------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("seed", range(12))
def test_a_crop_keeps_picture_and_labels_together(seed):
    """Bright stripes are labelled; after any zoom, turn and flip the bright locations are the labelled ones."""
    stripe = (np.arange(400) // 40 % 2).astype(np.uint16)
    codes = np.broadcast_to(stripe, (400, 400)).copy()
    pixels = np.repeat((codes * 200 + 20).astype(np.uint8)[..., None], 3, axis=2)
    table = np.stack([concepts.row("water"), concepts.row("road")])
    sample = data.Sample("stripes", pixels, codes, table)
    image, targets = augment.crop(sample, (0.5, 1.5), 128, np.random.default_rng(seed))
    assert image.shape == (3, 128, 128)
    assert targets.shape == (len(CONCEPTS), 32, 32)
    light = image.mean(0).reshape(32, 4, 32, 4).mean((1, 3))
    bright = light > (light.max() + light.min()) / 2
    road = targets[INDEX["road"]] == 1
    inner = cv2.erode(road.astype(np.uint8), np.ones((3, 3))) + cv2.erode((~road).astype(np.uint8), np.ones((3, 3))) > 0
    assert inner.any()
    assert (bright == road)[inner].mean() > 0.97


# ---------------------------------------------------------------------------------- losses


def test_what_nobody_knows_teaches_nothing():
    torch.manual_seed(0)
    logits = torch.randn(2, len(CONCEPTS), 8, 8)
    targets = torch.from_numpy(np.random.default_rng(0).choice([0, 1, UNKNOWN], logits.shape).astype(np.uint8))
    moved = torch.where(targets == UNKNOWN, logits + 5, logits)
    assert float(train.loss_of(moved, targets)) == pytest.approx(float(train.loss_of(logits, targets)), abs=1e-6)


def test_the_truth_costs_less_than_anything_else():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, (2, 16, 16))
    table = np.stack([concepts.row("water"), concepts.row("road")])
    targets = torch.from_numpy(table[codes].transpose(0, 3, 1, 2).copy())
    right = torch.where(targets == 1, 8.0, -8.0)
    costs = [float(train.loss_of(logits, targets)) for logits in (right, torch.zeros_like(right), -right)]
    assert costs[0] < 0.05 < costs[1] < costs[2]


# ---------------------------------------------------------------------------------- export


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_onnx_gives_what_torch_gives(tmp_path, size):
    """Scores within 1e-3, and the same label at 99.9 % of the pixels."""
    net, scale = lively(), 14.0
    export.round_weights(net)
    export.export(net, scale, tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, *size), dtype=np.uint8)
    text = rng.normal(size=(5, 128)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    bias = rng.normal(size=5).astype(np.float32)
    with torch.inference_mode():
        logits = class_logits(net(torch.from_numpy(pixels)), *map(torch.from_numpy, (text, bias)), torch.tensor(scale))
        logits = torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")
        expected = logits.sigmoid().numpy()
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"pixels": pixels, "text": text, "bias": bias})
    assert scores.shape == (2, 5, *size)
    assert expected.std() > 0.1, "the scores must differ for the comparison to mean anything"
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    assert (scores.argmax(1) == expected.argmax(1)).mean() >= 0.999


def test_an_encoder_file_is_loaded_or_named(tmp_path):
    from safetensors.torch import save_file

    source, target = lively(1), lively(2)
    state = {k: v for k, v in source.state_dict().items() if k.startswith(("stem.", "blocks."))}
    save_file(state | {"head.conv.bias": torch.zeros(3)}, tmp_path / "whole.safetensors")
    load_encoder(target, tmp_path / "whole.safetensors")
    assert torch.equal(target.blocks[3].project.conv.weight, source.blocks[3].project.conv.weight)
    assert not torch.equal(target.embed.conv.weight, source.embed.conv.weight)
    state.pop("stem.conv.weight")
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"part\.safetensors does not hold the encoder: missing \['stem\.conv"):
        load_encoder(target, tmp_path / "part.safetensors")


# ------------------------------------------------------------------------------- whole run


@pytest.fixture
def folders(tmp_path):
    """Data, labels and start weights in their true layout, a picture or two each."""
    from safetensors.torch import save_file

    rng = np.random.default_rng(0)
    root, labels = tmp_path / "data", tmp_path / "labels"
    for tile in ("tile1", "tile2"):
        for part in ("images", "masks"):
            (root / "landcover-dubai" / tile / part).mkdir(parents=True)
        blue = rng.integers(0, 2, (6, 6), dtype=np.uint8).repeat(40, 0).repeat(40, 1)[..., None]
        picture = np.where(blue == 1, (160, 90, 20), (90, 130, 190)).astype(np.uint8)  # BGR: water, land
        mask = np.where(blue == 1, (0x29, 0xA9, 0xE2), (0xF6, 0x29, 0x84)).astype(np.uint8)
        cv2.imwrite(str(root / "landcover-dubai" / tile / "images" / "part1.jpg"), picture)
        cv2.imwrite(str(root / "landcover-dubai" / tile / "masks" / "part1.png"), mask)
    (root / "scenes-ucm" / "forest").mkdir(parents=True)
    cv2.imwrite(str(root / "scenes-ucm/forest/forest01.webp"), rng.integers(0, 90, (256, 256, 3), dtype=np.uint8))
    (root / "scenes-ucm/multilabels.tsv").write_text("IMAGE\\LABEL\tship\nforest01\t0\n")
    (labels / "part2/dense").mkdir(parents=True)
    (labels / "part2/dense/classes.json").write_text(json.dumps({"0": "building"}))
    weights = tmp_path / "start.safetensors"
    save_file({k: v for k, v in lively().state_dict().items() if k.startswith(("stem.", "blocks."))}, weights)
    return root, labels, weights


def test_a_run_from_folders_to_files_and_on_from_its_checkpoint(folders, tmp_path):
    root, labels, weights = folders
    out = tmp_path / "out"
    short = train.Recipe(steps=2, size=64, batch=2, airfields=0, scenes=6, calibration=2)
    train.train(root, labels, weights, TEXT, out, short)
    first = torch.load(out / "checkpoint.pt", weights_only=True)
    assert first["step"] == 2
    train.train(root, labels, weights, TEXT, out, replace(short, steps=4))
    second = torch.load(out / "checkpoint.pt", weights_only=True)
    assert second["step"] == 4
    assert any(not torch.equal(first["live"][key], second["live"][key]) for key in first["live"])
    assert (out / "nano.onnx").stat().st_size < 6e6
    offered = json.loads((out / "concepts.json").read_text())
    assert set(offered) <= set(CONCEPTS)
    for entry in offered.values():
        assert np.isfinite(entry["bias"])
        assert entry["phrases"]


def test_held_out_places_are_never_drawn_from(folders):
    root, labels, _ = folders
    names = {
        held: {s.name for source in data.sources(root, labels, held_out=held) for s in source.samples}
        for held in (True, False)
    }
    assert names[True] == {"dubai/tile2/part1"}
    assert names[False] == {"dubai/tile1/part1", "ucm/forest01"}


def test_installing_writes_what_was_measured_and_keeps_what_people_wrote():
    record = install.RECORD.read_text("utf-8")
    report = {
        "dubai": {"building": 0.25, "mean": 0.5},
        "ucm: ship": {"iou": 0.125, "pictures": 3},
        "ucm: pool": {"refused": "not known"},
    }
    written = install.rewrite(record, {"a.onnx": "0" * 64}, 12, 34, install.results(report))
    told, before = tomllib.loads(written), tomllib.loads(record)
    assert told["run"]["weights"] == {"a.onnx": "0" * 64}
    assert (told["total_parameters"], told["memory_size"]) == (12, 34)
    assert [(r["metric"], r["value"]) for r in told["results"]] == [
        ("IoU building", 0.25), ("mean IoU", 0.5), ("IoU ship", 0.125),
    ]  # fmt: skip
    for key in ("known_failures", "sources", "intended_use", "license"):
        assert told[key] == before[key]
    again = install.rewrite(written, {"a.onnx": "0" * 64}, 12, 34, install.results(report))
    assert again == written
