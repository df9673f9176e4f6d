"""The text table: read back by what ships, fitted without what it is measured on, the same every time."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra [train]")
transformers = pytest.importorskip("transformers", reason="training needs the extra [train]")

from geovl.errors import ModelError  # noqa: E402
from geovl.learn.nano import distil  # noqa: E402
from geovl.segmenters.nano.text import WIDTH, TextTable  # noqa: E402

LEXICON = {
    "concepts": {
        "building": ["houses", "shed", "red roof", "villa"],
        "water": ["lake", "pond", "open sea"],
        "road": ["street", "lane", "dirt track"],
    },
    "phrases": ["bridge", "farm", "pond edge", "garden", "roof"],
    "adjectives": ["old", "red", "open", "dirt"],
    "outside": ["pizza", "music"],
}
RECIPE = distil.Recipe(steps=6, compositions=60, batch=32, strangers=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A BERT with random weights and a vocabulary in the true order: special, unused, letters, words."""
    folder = tmp_path_factory.mktemp("model")
    phrases = [*LEXICON["concepts"], *(s for known in LEXICON["concepts"].values() for s in known)]
    phrases += (
        LEXICON["phrases"] + LEXICON["adjectives"] + LEXICON["outside"] + ["near next to and beside", "in front of"]
    )
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split() if word not in {"villa", "houses"})
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    fillers = [f"{a}{b}{c}" for a in "bdfg" for b in "aeiou" for c in "lmnrst"]
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    pieces = list(dict.fromkeys([*pieces, *words, *fillers, "house", "##s"]))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(pieces), hidden_size=136, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory):
    path = tmp_path_factory.mktemp("lexicon") / "lexicon.json"
    path.write_text(json.dumps(LEXICON), "utf-8")
    return path


@pytest.fixture(scope="module")
def encoder(model):
    return distil.Encoder.load(model)


@pytest.fixture(scope="module")
def plain(encoder):
    return distil.plain_table(encoder.alone(), distil.usable(encoder.pieces))


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["distil", *map(str, options)])
    distil.main()


# ------------------------------------------------------------------------------- the files


def test_the_command_writes_what_text_table_reads_and_the_same_again(model, lexicon, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distil, "Recipe", lambda **options: replace(RECIPE, **options))
    given = ("--model", model, "--lexicon", lexicon, "--folds", 2)
    run(monkeypatch, *given, "--out", tmp_path / "one")
    first = capsys.readouterr().out
    run(monkeypatch, *given, "--out", tmp_path / "two")
    assert capsys.readouterr().out == first
    for name in ("text-table.npz", "vocab.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    report = json.loads(first)
    assert report.keys() == {"plain", "refined"}
    for rows in report.values():
        assert [row["tested"] for row in rows] == [5, 5, 10]
        assert all(0 <= row[name] <= 1 for row in rows for name in ("top1", "top3", "auroc"))

    text = TextTable.load(tmp_path / "one")
    assert text.table.dtype == np.int8
    assert text.table.shape == (len(text.pieces), WIDTH)
    assert text.scale.dtype == np.float16
    assert text.scale.shape == (len(text.pieces),)
    assert np.linalg.norm(text.embed("old houses near a villa")) == pytest.approx(1, abs=1e-5)
    for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"):
        assert not text.table[text.pieces[piece]].any()


def test_another_seed_gives_another_table(encoder, plain):
    one, again, other = (distil.fit(encoder, plain, parsed(), replace(RECIPE, seed=seed)) for seed in (0, 0, 1))
    assert np.allclose(one, again, atol=1e-4)  # sums of several threads differ in their last bits
    assert not np.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("phrase", ["red roof", "Houses, villas", "dirt-track near the pond", "shed s"])
def test_the_encoder_cuts_phrases_as_the_shipped_table_does(encoder, plain, phrase):
    text = TextTable(encoder.pieces, *distil.quantise(plain))
    rows = torch.tensor([encoder.rows(phrase)])
    ours = distil.embed(torch.from_numpy(plain), rows)[0].numpy()
    assert ours @ text.embed(phrase) > 0.999


def test_a_number_is_off_by_at_most_half_its_rows_scale():
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(500, WIDTH)) * np.geomspace(1e-5, 3, 500)[:, None]).astype(np.float32)
    table[7] = 0
    numbers, scale = distil.quantise(table)
    error = np.abs(numbers * scale.astype(np.float32)[:, None] - table)
    assert (error <= scale.astype(np.float32)[:, None] * 0.5001).all()
    assert not numbers[7].any()
    assert scale[7] == 0
    assert np.abs(numbers.astype(int)).max() == 127


# ------------------------------------------------------------------------------- the two steps


def test_the_plain_table_keeps_the_distances_of_its_axes_and_weighs_rare_words_more(encoder, plain):
    alone, used = encoder.alone(), distil.usable(encoder.pieces)
    centred = alone[used] - alone[used].mean(axis=0)
    weight = np.log(np.arange(len(alone)) + 2)[used][:, None]
    rows = plain[used] / weight
    # the axes are those of the largest variance: what is left over is least
    kept = (rows**2).sum() / (rows[0] ** 2).sum() * (centred[0] ** 2).sum() / (centred**2).sum()
    assert kept == pytest.approx(1, abs=0.05)
    assert (plain[used] ** 2).sum(axis=1).mean() == pytest.approx(1, abs=1e-5)
    spread = np.cov(rows.T)
    assert np.all(np.diff(np.diag(spread)) <= 1e-9)
    assert np.abs(spread - np.diag(np.diag(spread))).max() < 1e-4 * spread.max()


def test_refining_moves_only_the_pieces_that_phrases_use_and_lowers_the_loss(encoder, plain):
    recipe = replace(RECIPE, steps=40)
    start = torch.from_numpy(plain)
    problem = distil.pose(encoder, start, parsed(), recipe)
    refined = distil.refine(start, problem, recipe)
    still = np.ones(len(plain), bool)
    still[problem.moved.numpy()] = False
    assert np.array_equal(refined[still], plain[still])
    assert not np.array_equal(refined, plain)
    assert still[encoder.pieces["[PAD]"]]
    assert still[encoder.pieces["pizza"]]
    before, after = (
        distil.loss_of(t, problem, recipe, torch.Generator().manual_seed(9)) for t in (start, torch.from_numpy(refined))
    )
    assert after < before


def test_a_strong_pull_keeps_the_plain_table(encoder, plain):
    loose, tight = (distil.fit(encoder, plain, parsed(), replace(RECIPE, pull=pull)) for pull in (0, 1e6))
    assert np.abs(tight - plain).max() < np.abs(loose - plain).max()


# ------------------------------------------------------------------------------- nothing leaks


def parsed(told=LEXICON):
    concepts = {name: tuple(known) for name, known in told["concepts"].items()}
    return distil.Lexicon(concepts, *(tuple(told[key]) for key in ("phrases", "adjectives", "outside")))


def test_held_out_synonyms_never_reach_the_fit(encoder, plain, monkeypatch):
    """Watches everything that the fit encodes or cuts, for each fold of a cross-validation."""
    seen, folds = [], []
    encode, cut, fit = distil.Encoder.phrases, distil.Encoder.rows, distil.fit

    def watched(encoder, plain, lexicon, recipe):
        seen.clear()
        table = fit(encoder, plain, lexicon, recipe)
        folds.append((lexicon, list(seen)))
        return table

    monkeypatch.setattr(distil.Encoder, "phrases", lambda self, phrases: seen.extend(phrases) or encode(self, phrases))
    monkeypatch.setattr(distil.Encoder, "rows", lambda self, phrase: seen.append(phrase) or cut(self, phrase))
    monkeypatch.setattr(distil, "fit", watched)
    recipe = replace(RECIPE, compositions=300)  # enough that "red" and "roof" would meet
    distil.cross_validate(encoder, plain, parsed(), 3, recipe)

    everything = {phrase for phrase, _ in parsed().synonyms}
    dealt = distil.folds_of(parsed(), 3, recipe.seed)
    assert sorted(s for held in dealt for s in held) == sorted(everything)
    for held, (lexicon, phrases) in zip(dealt, folds, strict=True):
        assert {phrase for phrase, _ in lexicon.synonyms} == everything - held
        assert len(phrases) > 100
        for phrase in phrases:
            assert not [s for s in held if f" {s} " in f" {phrase} "], phrase
            assert not [word for word in LEXICON["outside"] if word in phrase.split()]


def test_the_concept_of_a_held_out_synonym_does_not_matter_to_the_fit(encoder, plain):
    told = json.loads(json.dumps(LEXICON))
    told["concepts"]["building"].remove("red roof")
    told["concepts"]["water"].append("red roof")
    held = {"red roof", "lake"}
    one, other = (distil.fit(encoder, plain, parsed(t).without(held), RECIPE) for t in (LEXICON, told))
    assert np.allclose(one, other, atol=1e-4)
    leaked, moved = (distil.fit(encoder, plain, parsed(t).without({"lake"}), RECIPE) for t in (LEXICON, told))
    assert not np.allclose(leaked, moved, atol=1e-2)  # it would show


def test_words_that_are_measured_are_no_strangers(encoder, plain):
    held = frozenset({"lake", "shed"})
    assert parsed().without(held).words >= held | set(LEXICON["outside"])
    problem = distil.pose(encoder, torch.from_numpy(plain), parsed().without(held), RECIPE)
    names = {row: piece for piece, row in encoder.pieces.items()}
    strangers = {names[row] for row in problem.strangers.tolist()}
    assert strangers
    assert not strangers & (held | set(LEXICON["outside"]))


def test_a_phrase_mentions_another_by_whole_words():
    assert distil.mentions("old Red roof", ["red roof"])
    assert not distil.mentions("red roofs", ["red roof"])
    assert parsed().without({"pond"}).phrases == ("bridge", "farm", "garden", "roof")


# ------------------------------------------------------------------------------- figures and faults


def test_figures_of_a_table_made_by_hand():
    pieces = {name: i for i, name in enumerate(["river", "house", "creek", "hut", "dog"])}
    table = np.zeros((5, WIDTH), np.float32)
    table[0, 0] = table[1, 1] = table[4, 2] = 1
    table[2, :2] = 0.9, 0.1
    table[3, :2] = 0.9, 0.2  # nearer to the wrong one
    lexicon = distil.Lexicon({"river": ("creek",), "house": ("hut",)}, (), (), ("dog",))
    found = distil.measure(TextTable(pieces, *distil.quantise(table)), lexicon, lexicon.synonyms)
    assert found == {"top1": 0.5, "top3": 1.0, "auroc": 1.0, "tested": 2}


@pytest.mark.parametrize("fault", ["empty", "kind", "weights", "vocabulary"])
def test_a_folder_that_is_no_model_is_told_clearly(model, tmp_path, fault):
    config = json.loads((model / "config.json").read_text())
    vocabulary = (model / "vocab.txt").read_text()
    expected = {
        "empty": "no config.json",
        "kind": "type clip",
        "weights": "cannot be read",
        "vocabulary": "word pieces",
    }
    if fault == "kind":
        config["model_type"] = "clip"
    if fault == "vocabulary":
        (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
        vocabulary += "surplus\n"
    if fault != "empty":
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "vocab.txt").write_text(vocabulary)
    with pytest.raises(ModelError, match=expected[fault]) as caught:
        distil.Encoder.load(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint
