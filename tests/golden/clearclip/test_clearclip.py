"""Dense tokens, vectors of names and label maps are those of the released ClearCLIP, its defects aside."""

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file

from geovl import classes
from geovl.segmenters.open_vocabulary.attention import PAIRS, dense_tokens
from geovl.segmenters.open_vocabulary.dense import (
    Encoding,
    Options,
    Queries,
    finish,
    image_logits,
    normalise,
    reference_finish,
    reference_logits,
    segment_image,
)
from geovl.segmenters.open_vocabulary.templates import fill, templates
from geovl.segmenters.open_vocabulary.text import TextTower, embed_names
from geovl.segmenters.open_vocabulary.tower import Tower
from tests.golden import Vectors, folder

FILES = sorted(folder("clearclip").glob("*.json"))


def model(vectors, activation):
    config = vectors.about["clip_config"]
    quick = {"gelu": False, "quickgelu": True}[activation]
    found = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=quick)
    found.load_state_dict(load_file(vectors.path.with_name(vectors.about["model_file"])))
    return found.eval()


def tokens_of(tower, x, variant, kept):
    return dense_tokens(tower, x, variant, {"nores": False, "res": True}[kept])


def encoder(tower, variant):
    def encode(windows):
        tokens, whole = dense_tokens(tower, windows, variant)
        return Encoding(tokens, tower.grid(*windows.shape[2:]), whole)

    return encode


# ---------------------------------------------------------------------------------- one check for each kind of file


def check_features(vectors, pack):
    towers = {name: Tower(model(vectors, name), pack=pack) for name in ("gelu", "quickgelu")}
    assert towers["gelu"].patch == vectors.about["patch"]
    assert towers["gelu"].native == tuple(vectors.about["native_grid"])
    assert set(vectors.about["attention_variants"]) <= PAIRS.keys()
    grids = vectors.about["grids_batch_rows_cols"]
    for case, (batch, *grid) in grids.items():
        x = vectors[f"x.{case}"]
        assert (len(x), *towers["gelu"].grid(*x.shape[2:])) == (batch, *grid)
        vectors.compare(f"pos.{case}", towers["gelu"].positions(tuple(grid)))
        vectors.compare(f"pre.{case}", towers["gelu"].stream(x))
    for name in vectors.named("tok"):
        _, activation, variant, kept, case = name.split(".")
        vectors.compare(name, tokens_of(towers[activation], vectors[f"x.{case}"], variant, kept)[0])
    for name in vectors.named("defect"):
        _, _, variant, kept, case = name.split(".")
        found = tokens_of(towers["gelu"], vectors[f"x.{case}"], variant, kept)[0]
        assert (found - vectors[name]).abs().max() > 100 * vectors.tolerance(), "the defect is still there"


def check_segment(vectors, pack):
    check_names(vectors, pack)
    for case, about in vectors.about["cases"].items():
        tower = Tower(model(vectors, about["activation"]), pack=pack)
        assert not about["residual_and_ffn"]
        check_case(vectors, case, about, encoder(tower, about["attention"]))


def check_names(vectors, pack):
    found_classes = classes.parse(vectors.about["class_file_text"], vectors.about["separator"])
    names = [name for entry in found_classes for name in entry.phrases]
    assert names == [name.strip() for name in vectors.about["names_reference_verbatim"]]
    index = [number for number, entry in enumerate(found_classes) for _ in entry.phrases]
    assert index == vectors.about["class_index"] == vectors["text.query_idx"].tolist()

    tokens, sentences = vectors["text.tokens"].long(), templates()
    ids = {
        fill(s, n): row for n, rows in zip(names, tokens, strict=True) for s, row in zip(sentences, rows, strict=True)
    }

    def toy(texts):  # the order of the templates is the file's own, so that only their whole set counts
        return torch.stack([ids[text] for text in texts])

    tower = TextTower(model(vectors, "gelu"), pack=pack)
    assert tower.cuts
    vectors.compare("text.query_features", embed_names(tower, toy, names, sentences))
    some = vectors["text.template_embeddings_first12"]
    found = tower.embed(tokens[:, : some.shape[1]].flatten(0, 1)).view(some.shape)
    vectors.compare("text.template_embeddings_first12", found)


def check_case(vectors, case, about, encode):
    image = vectors[f"{case}.image_u8"].permute(2, 0, 1)
    assert list(image.shape[1:]) == about["image_hw"]
    if f"{case}.x" in vectors.arrays:
        vectors.compare(f"{case}.x", normalise(image)[None])
    queries = Queries(vectors[f"{case}.query_features"], tuple(vectors.about["class_index"]))
    options = Options(
        crop=about["crop"],
        stride=about["stride"],
        multiple=vectors.about["patch"],
        scale=about["logit_scale"],
        threshold=about["prob_threshold"],
        background=about["background_index"],
    )
    size = tuple(about["ori_shape"])
    for logits in (reference_logits, image_logits):
        vectors.compare(f"{case}.logits", logits(encode, queries, image, options, size))
    logits = vectors[f"{case}.logits"]
    expected = reference_finish(logits, queries, options)
    at_once = finish(logits.transpose(0, 1).clone(), queries.by_class(), options, class_scores=True)
    for band in (segment_image(encode, queries, image, options, size, class_scores=True), expected, at_once):
        vectors.compare(f"{case}.score", band.score, vectors.tolerance("on scores"))
        if f"{case}.prob" in vectors.arrays:
            vectors.compare(f"{case}.prob", band.classes, vectors.tolerance("on scores"))
        near = vectors.tolerance("below")
        first, second = expected.classes.topk(2, dim=0).values
        tied = first - second < near
        labels = band.classes.argmax(0)
        assert not ((labels != vectors[f"{case}.pred"]) & ~tied).any(), case
        tied |= (first - options.threshold).abs() < near
        assert not ((band.labels != vectors[f"{case}.pred_thd"]) & ~tied).any(), case


def check_segearth(vectors, pack):
    inputs = load_file(vectors.path.with_name(vectors.about["inputs_file"]))
    tower = Tower(model(vectors, vectors.about["activation"]), pack=pack)
    for name in vectors.named("tok", "cls"):
        what, variant, kept, case = name.split(".")
        tokens, whole = tokens_of(tower, inputs[f"x.{case}"], variant, kept)
        vectors.compare(name, {"tok": tokens, "cls": whole}[what])
    for name in vectors.named("logits"):
        image = inputs[f"x.{name.split('.')[1]}"][0]
        vectors_of_names = vectors["query_features"]
        queries = Queries(vectors_of_names, tuple(range(len(vectors_of_names))))
        for crop in (0, max(image.shape)):
            options = Options(crop, crop or 1, tower.patch, 50, bias=vectors.about["cls_token_lambda"])
            for logits in (reference_logits, image_logits):
                vectors.compare(name, logits(encoder(tower, "qq+kk+vv"), queries, image, options))
    for name in vectors.named("jbu"):  # see test_upsampler
        vectors.left.discard(name)


CHECKS = {"grids_batch_rows_cols": check_features, "cases": check_segment, "cls_token_lambda": check_segearth}


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_array_is_as_released(path, pack):
    vectors = Vectors(path)
    (check,) = (check for kind, check in CHECKS.items() if kind in vectors.about)
    check(vectors, pack)
    vectors.finish()


def test_there_are_vectors_of_every_kind_and_no_file_is_left_out():
    about = [Vectors(path).about for path in FILES]
    assert all(any(kind in told for told in about) for kind in CHECKS)
    told = {path.with_suffix(".safetensors").name for path in FILES} | {entry["model_file"] for entry in about}
    assert {path.name for path in folder("clearclip").glob("*.safetensors")} == told


@pytest.mark.skip(reason="SimFeatUp's trained weights come without a licence, so there is no upsampler to compare")
def test_upsampler():
    """The arrays of segearth that begin with ``jbu.``."""
