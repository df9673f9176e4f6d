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
from geovl import pipeline  # noqa: E402
from geovl.learn.nano import augment, calibrate, concepts, data, evaluate, export, install, rendered, train, vocabulary  # noqa: E402
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
    samples = rendered.scenes(10, 3)
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


def test_stickers_bring_their_labels_and_leave_the_rest(monkeypatch):
    below = data.Sample("grass", np.full((300, 300, 3), 60, np.uint8), np.zeros((300, 300), np.uint16),
                        concepts.row("grass")[None])  # fmt: skip
    codes = np.zeros((300, 300), np.uint16)
    codes[60:240, 60:240] = 1
    over = data.Sample("ship", np.where(codes == 1, 250, 0).astype(np.uint8)[..., None].repeat(3, 2), codes,
                       np.stack([concepts.row("water"), concepts.row("ship")]))  # fmt: skip
    monkeypatch.setattr(augment, "colour", lambda pixels, rng: pixels)
    stickers = augment.Stickers([over], (1,), (1.0, 1.0))
    image, targets = augment.crop(below, (1.0, 1.0), 256, np.random.default_rng(0), stickers)
    ship = targets[INDEX["ship"]] == 1
    assert 0.2 < ship.mean() < 0.8
    assert (targets[INDEX["grass"]] == ~ship).all(), "no pixel is both, and none is water"
    assert (targets[INDEX["water"]] == 0).all()
    bright = image.mean(0)[2::4, 2::4] > 150
    assert (bright == ship).mean() > 0.98


def test_mixing_moves_pixels_and_targets_together():
    rng = np.random.default_rng(1)
    values = np.arange(1, 7, dtype=np.uint8)
    pixels = np.broadcast_to(values[:, None, None, None], (6, 3, 64, 64)).copy()
    targets = np.broadcast_to(values[:, None, None, None], (6, 2, 16, 16)).copy()
    augment.mix(pixels, targets, 1.0, rng)
    assert np.array_equal(pixels[:, 0, ::4, ::4], targets[:, 0])
    assert np.array_equal(pixels, pixels[:, :1].repeat(3, 1))
    for index in range(6):
        assert set(np.unique(targets[index])) == {values[index], values[(index + 1) % 6]}
    before = targets.copy()
    augment.mix(pixels, targets, 0.0, rng)
    assert np.array_equal(targets, before)


def test_what_shows_a_rare_concept_is_drawn_more_often():
    def sample(name):
        return data.Sample(name, np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint16), concepts.row(name)[None])

    source = data.Source("all", 1.0, (1.0, 1.0), [sample("road") for _ in range(16)] + [sample("ship")])
    assert source.chances.sum() == pytest.approx(1)
    assert source.chances[-1] == pytest.approx(4 * source.chances[0])
    rng = np.random.default_rng(0)
    drawn = [source.pick(rng).table[0, INDEX["ship"]] for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.2, abs=0.03)


# ----------------------------------------------------------------------------- calibration


def counted(logits, truth):
    """Counts of one concept from logits and booleans."""
    edges = np.concatenate([[-np.inf], calibrate.GRID, [np.inf]])
    yes, no = (np.histogram(logits[truth == side], edges)[0][None] for side in (True, False))
    return calibrate.Counts(yes, no)


def test_calibration_finds_the_best_overlap_and_honest_slopes():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2.5, 200_000)
    truth = rng.random(honest.size) < 1 / (1 + np.exp(-honest))
    boastful = honest * 3 + 2
    found = calibrate.fit(counted(boastful, truth))
    ious = np.array([(truth & (boastful >= t)).sum() / (truth | (boastful >= t)).sum() for t in calibrate.GRID])
    here = np.interp(found.middle[0], calibrate.GRID, ious)
    assert here >= 0.99 * ious.max()
    assert ious.max() > ious.min() + 0.2
    assert found.slope[0] == pytest.approx(1 / 3, rel=0.25)


def test_between_clear_sides_the_middle_is_taken():
    truth = np.arange(6000) % 3 == 0
    found = calibrate.fit(counted(np.where(truth, 4.0, -6.0), truth))
    assert found.middle[0] == pytest.approx(-1, abs=0.2)


def test_counts_of_two_sides_add_up_and_nothing_shown_changes_nothing():
    truth = np.arange(900) % 2 == 0
    low, high = (counted(np.where(truth, middle + 1.0, middle - 1.0), truth) for middle in (-3.0, 4.0))
    assert np.array_equal((low + high).yes, low.yes + high.yes)
    assert np.array_equal((low + high).no, low.no + high.no)
    empty = calibrate.Counts(0 * low.yes, low.no)
    nothing = calibrate.fit(empty)
    assert (nothing.slope[0], nothing.middle[0]) == (1, 0)


def test_reliability_and_overlap_are_counted_right():
    rng = np.random.default_rng(0)
    score = rng.random((300, 300)).astype(np.float32)
    truth = (rng.random(score.shape) < score).astype(np.uint8)
    tally = evaluate.Tally()
    tally.add(score, truth)
    assert tally.calibration_error < 0.02
    found = score >= 0.5
    assert tally.iou == pytest.approx((found & (truth == 1)).sum() / (found | (truth == 1)).sum())
    boastful = evaluate.Tally()
    boastful.add(np.sqrt(score), truth)
    assert boastful.calibration_error == pytest.approx(2 / 3 - 1 / 2, abs=0.02)
    hidden = evaluate.Tally()
    hidden.add(score, np.full_like(truth, UNKNOWN))
    assert (hidden.shown, hidden.union, int(hidden.pixels.sum())) == (0, 0, 0)


def test_held_out_prompts_are_held_out_and_meet_what_is_promised():
    told = json.loads(evaluate.PROMPTS.read_text("utf-8"))
    assert set(told["inside"]) <= set(CONCEPTS)
    assert len(set(told["outside"])) == len(told["outside"])
    assert not set(told["outside"]) & set(vocabulary.DISTRACTORS)
    listed = {word.lower() for words in vocabulary.phrases(TEXT / "lexicon.json").values() for word in words}
    assert not listed & {phrase for phrases in told["inside"].values() for phrase in phrases}
    found = evaluate.text(pipeline.load_segmenter("nano"))
    assert found["inside"] >= 100
    assert found["accepted"] >= 0.95
    assert found["right"] >= 0.70
    assert found["refused"] >= 0.90


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
    net = lively()
    export.round_weights(net)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, *size), dtype=np.uint8)
    text = rng.normal(size=(5, 128)).astype(np.float32)
    text *= (rng.uniform(0.5, 2, (5, 1)) / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    scale = torch.tensor(14.0)
    with torch.inference_mode():
        logits = class_logits(net(torch.from_numpy(pixels)), *map(torch.from_numpy, (text, bias)), scale)
        highest = torch.nn.functional.interpolate(logits.amax(1, keepdim=True), scale_factor=4, mode="bilinear")
        expected = torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear").sigmoid().numpy()
    export.export(net, float(scale), tmp_path / "net.onnx")
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    feed = {"pixels": pixels, "text": text, "bias": bias}
    (scores,) = session.run(["scores"], feed | {"merge": np.array(False)})
    assert scores.shape == (2, 5, *size)
    assert expected.std() > 0.1, "the scores must differ for the comparison to mean anything"
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    assert (scores.argmax(1) == expected.argmax(1)).mean() >= 0.999
    (merged,) = session.run(["scores"], feed | {"merge": np.array(True)})
    np.testing.assert_allclose(merged, highest.sigmoid().numpy(), atol=1e-3)


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
    cv2.imwrite(str(root / "scenes-ucm/forest/forest77.webp"), rng.integers(0, 90, (256, 256, 3), dtype=np.uint8))
    (root / "scenes-ucm/multilabels.tsv").write_text("IMAGE\\LABEL\tship\nforest01\t0\n")
    (labels / "part2/dense").mkdir(parents=True)
    (labels / "part2/dense/classes.json").write_text(json.dumps({"0": "building"}))
    weights = tmp_path / "start.safetensors"
    save_file({k: v for k, v in lively().state_dict().items() if k.startswith(("stem.", "blocks."))}, weights)
    return root, labels, weights


def test_a_run_from_folders_to_files_and_on_from_its_checkpoint(folders, tmp_path):
    root, labels, weights = folders
    out = tmp_path / "out"
    short = train.Recipe(steps=2, finish=0, size=64, batch=2, airfields=0, scenes=6, calibration=2)
    train.train(root, labels, weights, TEXT, out, short)
    first = torch.load(out / "checkpoint.pt", weights_only=True)
    assert first["step"] == 2
    train.train(root, labels, weights, TEXT, out, replace(short, finish=2))
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
    sides = ("train", "calibrate", "test")
    names = {side: {s.name for f in data.sources(root, labels, side) for s in f.samples} for side in sides}
    assert names["test"] == {"dubai/tile2/part1"}
    assert names["train"] == {"dubai/tile1/part1", "ucm/forest01"}
    assert names["calibrate"] == {"ucm/forest77"}


REPORT = {
    "dubai": {"building": 0.25, "mean": 0.5},
    "ucm: ship": {"iou": 0.125, "ece": 0.01, "pictures": 3, "concept": "ship"},
    "ucm: pool": {"refused": "not known"},
    "airports: airport runways": {"iou": 0.75, "ece": 0.02, "pictures": 2, "concept": "runway"},
    "choice: bridge": {"iou": 0.9, "ece": 0.02, "pictures": 2, "concept": "bridge"},
    "ucm: small": {"mean": 0.375},
    "reliability": {"ece": 0.03, "score": [0.1, 0.9], "share": [0.2, 0.8], "pixels": [5, 7]},
    "text": {"accepted": 0.975, "right": 0.8, "inside": 120, "refused": 0.9375, "outside": 160},
}


def test_installing_writes_what_was_measured_and_keeps_what_people_wrote():
    record = install.RECORD.read_text("utf-8")
    written = install.rewrite(record, {"a.onnx": "0" * 64}, 12, 34, install.results(REPORT), ["ship", "bridge"])
    told, before = tomllib.loads(written), tomllib.loads(record)
    assert told["run"]["weights"] == {"a.onnx": "0" * 64}
    assert (told["total_parameters"], told["memory_size"]) == (12, 34)
    assert [(r["metric"], r["value"]) for r in told["results"]] == [
        ("IoU building", 0.25), ("mean IoU", 0.5), ("IoU ship", 0.125), ("IoU airport runways", 0.75),
        ("IoU bridge", 0.9), ("mean IoU, small things", 0.375), ("prompts accepted", 0.975), ("prompts right", 0.8),
        ("prompts refused", 0.938),
    ]  # fmt: skip
    assert told["reliability"] == REPORT["reliability"]
    assert told["experimental"] == ["ship", "bridge"]
    for key in ("known_failures", "sources", "intended_use", "license_code", "license_weights"):
        assert told[key] == before[key]
    again = install.rewrite(written, {"a.onnx": "0" * 64}, 12, 34, install.results(REPORT), ["ship", "bridge"])
    assert again == written
    bare = tomllib.loads(install.rewrite(written, {}, 1, 2, ""))
    assert "results" not in bare
    assert "reliability" not in bare


def test_what_is_poor_or_never_measured_on_own_pictures_is_experimental():
    names = ["building", "ship", "runway", "bridge", "wind turbine"]
    assert install.experimental(REPORT, names) == ["ship", "bridge", "wind turbine"]


def test_every_picture_is_on_one_side_of_the_split():
    for scene in ("harbor", "runway"):
        sides = [data._ucm_side(scene, number) for number in range(100)]
        assert set(sides) == {"train", "calibrate", "test"}
    assert data._ucm_side("runway", 81) == "calibrate"
    assert data._ucm_side("runway", 82) == "test"
    assert data._ucm_side("harbor", 41) == "test"
    assert data._ucm_side("harbor", 45) == "calibrate"
    assert data._ucm_side("harbor", 99) == "train"


def test_drawn_masks_are_listed_whole_and_of_known_concepts():
    index = data._mask_index(data.MASKS)
    files = {path for entries in index.values() for _, path, _ in entries}
    assert files == set(data.MASKS.glob("part*/**/*.png"))
    for entries in index.values():
        for label, path, _ in entries:
            assert label == "dense" or concepts.canonical(label) in INDEX, path
            if label != "dense":
                assert set(np.unique(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))) <= {0, 1, UNKNOWN}, path
