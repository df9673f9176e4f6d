"""Training of nano-text: true expressions, their words, the network, its graphs, and a run from pictures to files."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

cv2 = pytest.importorskip("cv2", reason="training needs the extra [train]")
torch = pytest.importorskip("torch", reason="training needs the extra [train]")
pytest.importorskip("onnx", reason="training needs the extra [train]")
pytest.importorskip("onnxscript", reason="training needs the extra [train]")

from geovl.learn.nano import data as pictures  # noqa: E402
from geovl.learn.nano import rendered, vocabulary  # noqa: E402
from geovl.learn.nano.concepts import CONCEPTS, INDEX, UNKNOWN  # noqa: E402
from geovl.learn.nano_text import calibrate, data, evaluate, export, install, train, truth  # noqa: E402
from geovl.learn.nano_text.model import lasting  # noqa: E402
from geovl.learn.nano_text.wording import say  # noqa: E402
from geovl.segmenters.nano_text import tokens  # noqa: E402
from geovl.segmenters.nano_text.writer import Networks  # noqa: E402
from geovl.segmenters.text_as_mask.expressions import NEAR, Expression, parse  # noqa: E402

# ------------------------------------------------------------------------------ expressions


def targets(**boxes):
    """uint8 (100, 100, concepts): boxes (row, col, height, width) of concepts, everything else absent."""
    told = np.zeros((100, 100, len(CONCEPTS)), np.uint8)
    for name, some in boxes.items():
        for row, col, height, width in some:
            told[row : row + height, col : col + width, INDEX[name]] = 1
    return told


def found(told):
    return {(one.kind, one.expression): one.mask for one in truth.truths(told)}


def boxed(row, col, height, width):
    mask = np.zeros((100, 100), bool)
    mask[row : row + height, col : col + width] = True
    return mask


def test_expressions_mean_what_they_say():
    told = targets(building=[(10, 10, 20, 20), (60, 70, 10, 10)], water=[(10, 34, 20, 10)])
    known = found(told)
    large, small = boxed(10, 10, 20, 20), boxed(60, 70, 10, 10)
    for (kind, expression), expected in {
        ("class", Expression("building")): large | small,
        ("size", Expression("building", "largest")): large,
        ("size", Expression("building", "smallest")): small,
        ("place", Expression("building", "rightmost")): small,
        ("place", Expression("building", None, ("left",))): large,
        ("place", Expression("building", None, ("bottom", "right"))): small,
        ("absent", Expression("building", None, ("bottom", "left"))): boxed(0, 0, 0, 0),
        ("relation", Expression("building", None, (), "water")): large,
        ("relation", Expression("building", "nearest", (), "water")): large,
        ("absent", Expression("ship")): boxed(0, 0, 0, 0),
        ("absent", Expression("building", None, (), "ship")): boxed(0, 0, 0, 0),
    }.items():
        assert np.array_equal(known[kind, expression], expected), expression


def test_nothing_is_said_where_the_truth_is_not_plain():
    told = targets(building=[(10, 10, 20, 20), (60, 45, 20, 19)], water=[(10, 38, 20, 10)])
    known = {expression for _, expression in found(told)}
    assert Expression("building", "largest") not in known, "nearly equal"
    assert Expression("building", None, ("left",)) not in known, "one straddles the middle"
    assert NEAR < 0.08
    assert Expression("building", None, (), "water") not in known, "neither near nor far"
    told[..., INDEX["ship"]] = UNKNOWN
    told[:30, :, INDEX["car"]] = UNKNOWN
    assert not {one.expression.head for one in truth.truths(told)} & {"ship", "car"}, "not told enough"


expressions = st.builds(
    Expression,
    st.sampled_from(CONCEPTS),
    st.sampled_from([None, "largest", "smallest", "leftmost", "rightmost", "topmost", "bottommost"]),
    st.sampled_from([(), *truth._PLACES]),
    st.none() | st.sampled_from(CONCEPTS),
)


@given(expression=expressions, seed=st.integers(0, 2**31))
def test_what_is_said_is_read_back(expression, seed):
    assert parse(say(expression, {}, np.random.default_rng(seed))) == expression
    nearest = replace(expression, pick="nearest", other=expression.other or "water")
    assert parse(say(nearest, {}, np.random.default_rng(seed))) == nearest


def test_synonyms_are_said_and_can_all_be_read():
    phrases = vocabulary.phrases(train.FOLDER / "lexicon.json")
    rng, heads = np.random.default_rng(0), set()
    for concept in CONCEPTS:
        for _ in range(30):
            heads.add(parse(say(Expression(concept, "largest"), phrases, rng)).head)
    assert {"houses", "landing strip", "building"} <= heads


# ------------------------------------------------------------------------------- the network


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    source = pictures.Source("rendered", 1.0, (0.6, 1.5), rendered.scenes(6, 3))
    data.build([source], 8, 0, folder)
    return folder


def lively(seed=0):
    """A network whose odds differ from answer to answer."""
    net = train.initial(train.Recipe(seed=seed))
    torch.manual_seed(seed)
    for value in net.parameters():
        if value.requires_grad:
            value.data += torch.randn_like(value) * 0.05
    return net


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A lively network, and the folder that it was exported to."""
    folder, net = tmp_path_factory.mktemp("graphs"), lively()
    export.export(net, folder)
    return net, folder


def test_a_cache_holds_crops_and_true_grids(cache):
    kept = data.Cache(cache)
    assert kept.features.shape == (8, 128, 32, 32)
    assert kept.crop.max() == 7
    kinds = {told["kind"] for told in kept.told}
    assert {"class", "place", "absent"} <= kinds
    for index, told in enumerate(kept.told):
        grid = kept.grid(index)
        assert grid.shape == (32, 32)
        assert told["kind"] != "absent" or not grid.any()
        assert parse(say(kept.expression(index), {}, np.random.default_rng(0))) == kept.expression(index)


def test_steps_are_drawn_by_their_number(cache):
    drawer = train.Drawer(data.Cache(cache), train.Recipe(batch=3))
    first, again, other = drawer.draw(5), drawer.draw(5), drawer.draw(6)
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.tokens, again.tokens)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


@pytest.mark.parametrize("side", [32, 16])
def test_the_exported_graphs_write_what_the_network_would(cache, exported, side):
    """The oracle is one pass over the whole answer: each choice must be the one its odds make."""
    net, folder = exported
    drawer = train.Drawer(data.Cache(cache), train.Recipe())
    batch = drawer.batch([0, 5, 9], ["the largest building", "water", "all trees near the road on the left"], side)
    networks = Networks(["CPUExecutionProvider"], 1, folder)
    cells = networks.fuse(batch.features.numpy(), batch.words.numpy(), batch.there.numpy())
    together = networks.write(cells)
    alone = [networks.write(cells[i : i + 1])[0] for i in range(3)]
    assert [a.tokens for a in together] == [a.tokens for a in alone], "whatever is written beside"
    with torch.no_grad():
        fused = net.fusion(batch.features, batch.words, batch.there)
    for index, answer in enumerate(together):
        written = tokens.write(answer.grid)
        assert tuple(written.tokens[1:].tolist()) == answer.tokens
        assert answer.steps == written.decided.sum(), "a run of the network for each choice, none for what is forced"
        rows = [torch.from_numpy(np.asarray(part))[None] for part in (written.tokens, written.row, written.col)]
        with torch.no_grad():
            mine = fused[index : index + 1]
            odds = net.writer(*rows, mine, net.fusion.logits(mine))[0]
        for place in np.flatnonzero(written.decided):
            follows = int(written.tokens[place + 1])
            if written.tokens[place] in {tokens.OTHERS, tokens.TARGET}:
                left = side - int(written.col[place])
                lasting = odds[place, tokens.COUNT + 1 : tokens.COUNT + 1 + left].softmax(0).flip(0).cumsum(0).flip(0)
                near = (lasting - 0.5).abs().min() < 1e-4
                assert near or max(int((lasting >= 0.5).sum()), 1) == follows - tokens.COUNT
            else:
                apart = float(odds[place, tokens.TARGET] - odds[place, tokens.OTHERS])
                assert abs(apart) < 1e-4 or (apart > 0) == (follows == tokens.TARGET)


def test_padding_of_phrases_changes_nothing(cache):
    net, kept = lively().eval(), train.Drawer(data.Cache(cache), train.Recipe())
    short = kept.batch([0], ["ship"], 32)
    both = kept.batch([0, 0], ["ship", "the largest swimming pool next to the building"], 32)
    with torch.no_grad():
        alone = net.fusion(short.features, short.words, short.there)
        padded = net.fusion(both.features, both.words, both.there)[:1]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-4)


def test_runs_last_as_long_as_their_cells_do():
    cells = torch.tensor([[9.0, 9.0, -9.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    found = lasting(cells, torch.tensor([0, 1]))
    assert found.argmax(1).tolist() == [1, 2], "two cells, then another; three cells up to the border"
    share = torch.rand(6)
    odds = lasting(share.logit()[None], torch.tensor([2]))[0, :4].exp()
    expected = [float(share[2 : 2 + n].prod() * (1 - share[2 + n] if 2 + n < 6 else 1)) for n in range(1, 5)]
    np.testing.assert_allclose(odds.numpy(), expected, rtol=1e-4)


def test_no_choice_looks_at_what_comes_after_it(cache):
    net, drawer = lively().eval(), train.Drawer(data.Cache(cache), train.Recipe(batch=2))
    batch = drawer.draw(1)
    with torch.no_grad():
        fused = net.fusion(batch.features, batch.words, batch.there)
        scores = net.fusion.logits(fused)
        whole = net.writer(batch.tokens, batch.row, batch.col, fused, scores)
        part = net.writer(batch.tokens[:, :20], batch.row[:, :20], batch.col[:, :20], fused, scores)
    torch.testing.assert_close(whole[:, :20], part, atol=1e-5, rtol=1e-4)


@given(grid=st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).integers(0, 2, (5, 7))))
def test_tokens_tell_what_is_free_to_choose(grid):
    written = tokens.write(grid)
    batch = [torch.from_numpy(np.asarray(part))[None] for part in (written.tokens, written.col)]
    may = train.allowed(*batch, 7)[0]
    for place, token in enumerate(written.tokens[1:]):
        if written.decided[place]:
            assert may[place, token]
            assert may[place].sum() > 1 or written.col[place] == 6
    runs = [(label, count) for row in tokens.runs(written.tokens.tolist()) for label, count in row]
    assert np.concatenate([[label] * count for label, count in runs]).tolist() == grid.ravel().tolist()


def test_training_learns_and_goes_on_from_its_checkpoint(cache, tmp_path):
    recipe = train.Recipe(steps=14, batch=2, warm=2, coarse=1.0)
    net = train.train(cache, tmp_path / "out", recipe, 1)
    kept = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 14
    batch = train.Drawer(data.Cache(cache), recipe).draw(1000)
    before = sum(float(x.detach()) for x in train.losses(train.initial(recipe), batch, recipe))
    after = sum(float(x.detach()) for x in train.losses(net, batch, recipe))
    assert after < 0.9 * before
    train.train(cache, tmp_path / "out", replace(recipe, steps=15), 1)
    assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] == 15
    halves = tmp_path / "halves"
    train.train(cache, halves, replace(recipe, steps=2), 1)
    first = torch.load(halves / "checkpoint.pt", weights_only=True)["net"]
    train.train(cache, tmp_path / "again", replace(recipe, steps=2), 1)
    second = torch.load(tmp_path / "again" / "checkpoint.pt", weights_only=True)["net"]
    assert all(torch.equal(first[key], second[key]) for key in first), "seeded"


def test_the_network_fits_beside_nano(exported):
    package = Path(train.FOLDER)
    nano = sum(
        (package / name).stat().st_size for name in ("nano.onnx", "concepts.json", "text-table.npz", "vocab.txt")
    )
    assert nano + sum(path.stat().st_size for path in exported[1].iterdir()) <= 12_000_000


# ------------------------------------------------------------------------------- evaluation


def test_tallies_tell_model_and_oracle_apart():
    tally = evaluate.Tally()
    mask = boxed(0, 0, 50, 50)
    grid = np.zeros((32, 32), np.uint8)
    grid[:16, :16] = 1
    tally.add(mask, mask, grid)
    tally.add(mask, ~mask, 1 - grid)
    tally.add(boxed(0, 0, 0, 0), boxed(0, 0, 0, 0), grid * 0)
    told = tally.report()
    assert (told["expressions"], told["with target"], told["N-acc"]) == (3, 2, 1.0)
    mean = told["gIoU = mIoU (mean)"]
    assert mean["model"] == 0.5
    assert mean["grid oracle"] > 0.99
    assert told["named right"] == 1.0


REPORT = {
    "tiles": {
        "expressions": 12, "with target": 10, "gIoU = mIoU (mean)": {"model": 0.5, "grid oracle": 0.8, "share": 0.625},
        "Pr@0.5": {"model": 0.4, "grid oracle": 0.9, "share": 0.44}, "unfiltered": 0.45, "N-acc": 0.75,
        "named right": 0.9,
    },
    "tiles, ucm: size": {"expressions": 3, "with target": 3, "N-acc": 0.5, "named right": 1.0},
    "scenes": {"expressions": 5, "with target": 5, "named right": 1.0},
}  # fmt: skip


def test_installing_writes_what_was_measured_and_keeps_what_people_wrote():
    record = install.RECORD.read_text("utf-8")
    written = install.rewrite(record, {"a.onnx": "0" * 64}, 12, 34, install.results(REPORT))
    told, before = tomllib.loads(written), tomllib.loads(record)
    assert [(row["metric"], row["value"]) for row in told["results"]][:4] == [
        ("gIoU = mIoU (mean)", 0.5), ("gIoU = mIoU (mean), grid oracle", 0.8), ("Pr@0.5", 0.4),
        ("gIoU = mIoU (mean), without guided filter", 0.45),
    ]  # fmt: skip
    assert told["results"][-1]["split"].endswith("settled over all windows")
    for key in ("known_failures", "sources", "intended_use", "license_code", "license_weights", "made_from"):
        assert told[key] == before[key]
    assert json.dumps(told["run"]["weights"]) == json.dumps({"a.onnx": "0" * 64})


def test_the_command_asks_for_pictures_where_there_is_no_cache(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "--cache", str(tmp_path / "none"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        train.main()
    assert "--data" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["train", "--cache", str(cache), "--out", str(tmp_path / "out"), "--steps", "0"])
    train.main()
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["steps"] == 0


def test_rendered_scenes_stand_beside_the_pictures(monkeypatch):
    dubai = pictures.Source("dubai", 0.5, (0.4, 2.2), rendered.scenes(1, 0))
    monkeypatch.setattr(data, "sources", lambda *_: [dubai])
    found = data.training_sources(Path(), Path(), 2, 5)
    assert [(source.name, source.share, len(source.samples)) for source in found] == [
        ("dubai", data.SHARES["dubai"], 1), ("rendered", data.SHARES["rendered"], 2),
    ]  # fmt: skip


def test_the_threshold_is_kept_with_the_graphs_and_decides_how_much_is_written(cache, exported, tmp_path):
    import shutil

    _, folder = exported
    for name in export.FILES:
        shutil.copy(folder / name, tmp_path / name)
    batch = train.Drawer(data.Cache(cache), train.Recipe()).batch([0, 5, 9, 12], ["building"] * 4, 32)
    written = []
    for threshold in (0.8, 0.5, 0.2):
        export.set_threshold(tmp_path / export.FILES[1], threshold)
        networks = Networks(["CPUExecutionProvider"], 1, tmp_path)
        assert networks.threshold == threshold
        cells = networks.fuse(batch.features.numpy(), batch.words.numpy(), batch.there.numpy())
        answers = networks.write(cells)
        written.append(sum(int(answer.grid.sum()) for answer in answers))
        for answer in answers:
            assert (answer.chances[answer.grid == 1] >= 0.5).all()
            assert (answer.chances[answer.grid == 0] <= 0.5).all()
    assert written == sorted(written)
    assert written[0] < written[-1]


def test_the_threshold_with_the_best_overlap_is_taken(cache, exported, monkeypatch):
    seen = []

    def overlap(networks, _drawer, index):
        seen.append(networks.threshold)
        return 1 - abs(networks.threshold - 0.28)

    monkeypatch.setattr(calibrate, "overlap", overlap)
    assert calibrate.fit(exported[1], cache, 3) == 0.28
    assert seen == list(calibrate.THRESHOLDS)


def test_an_answer_over_one_window_is_settled_as_a_run_would_be():
    chances = np.full((40, 60), 0.1, np.float32)
    chances[2:10, 2:10], chances[20:38, 30:58], chances[10, 10] = 0.9, 0.6, 0.9
    large = chances == np.float32(0.6)
    said = {"building": chances, "water": np.where(np.arange(60) < 12, 0.8, 0.0).astype(np.float32) * np.ones((40, 1))}
    said["water"][:12] = 0
    assert (evaluate.settled("building", said) == (chances > 0.5)).all()
    assert (evaluate.settled("the largest building", said) == large).all()
    # the pixel that touches by its corner only is a thing of its own
    assert evaluate.settled("the smallest building", said).sum() == 1
    assert (evaluate.settled("building at the bottom", said) == large).all()
    near = evaluate.settled("building next to water", said)
    assert near[2:10, 2:10].all()
    assert not near[large].any()


def test_thresholds_are_judged_by_settled_answers(cache, exported):
    networks, drawer = (
        Networks(["CPUExecutionProvider"], 1, exported[1]),
        train.Drawer(data.Cache(cache), train.Recipe()),
    )
    index = [0, 5, 9, 12, 20]
    found = []
    for threshold in (0.999, 0.5, 0.001):
        networks.threshold = threshold
        found.append(calibrate.overlap(networks, drawer, index))
    assert all(0 <= value <= 1 for value in found)
    assert len(set(found)) > 1


def test_the_bundled_model_is_measured_on_tiles_and_on_scenes():
    model = evaluate.NanoTextSegmenter(evaluate.catalog.model("nano-text").record, "cpu", 1)
    sample = rendered.scenes(1, 4)[0]
    source = pictures.Source("dubai", 1.0, (0.6, 1.0), [sample])
    told = evaluate.tiles(model, [source], 1)
    assert {"tiles", "tiles, dubai", "tiles, read whole", "tiles: class"} <= set(told)
    assert told["tiles"]["expressions"] == told["tiles, dubai"]["expressions"] > 0
    over = evaluate.scenes(model, [sample])
    assert 0 < over["scenes"]["with target"] <= 8
    oracle = over["scenes"]["gIoU = mIoU (mean)"]["grid oracle"]
    assert 0 < oracle <= 1
    rows = tomllib.loads(install.results(told | over))["results"]
    assert all(0 <= row["value"] <= 1 for row in rows)
    assert {row["dataset_name"] for row in rows if "read whole" in row["setting"]} == {"Dubai and UC Merced"}
