"""Coarse masks are refined by SAM as its makers mean it to be asked, and kept where it goes astray."""

import json
import pickle
import re
import sys
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
transformers = pytest.importorskip("transformers", reason="needs the extra [torch]")
pytest.importorskip("torchvision", reason="needs the extra [torch]")
hub = pytest.importorskip("huggingface_hub", reason="needs the extra [torch]")

from PIL import Image  # noqa: E402 - after it is known that they are there
from safetensors.torch import load_file, save_file  # noqa: E402

from geovl.errors import ModelError, OutOfMemoryError, UsageError  # noqa: E402
from geovl.segmenters.promptable import models  # noqa: E402
from geovl.segmenters.promptable.models import Answer, Frame, load  # noqa: E402
from geovl.segmenters.promptable.prompts import (  # noqa: E402
    Key,
    Prompt,
    box_of,
    connected,
    first_cell,
    fitted,
    inner,
    mask_prompt,
    points,
    prompt_of,
)
from geovl.segmenters.promptable.refine import Options, least_agreement, refine  # noqa: E402
from geovl.segmenters.text_as_mask.grid import to_grid, to_pixels  # noqa: E402
from geovl.weights import NotThereError  # noqa: E402

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
SIZES = st.tuples(st.integers(9, 60), st.integers(9, 60))
SIDE = 64


def mask_of(*rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


def grid_of(*rows):
    return np.array([[int(cell.replace(".", "0")) for cell in row] for row in rows])


# --------------------------------------------------------------------------------------------------- connected parts


def flooded(mask):
    """Connected parts, the long way: each as a set of cells."""
    left, parts = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        queue, part = deque([left.pop()]), set()
        while queue:
            row, col = queue.popleft()
            part.add((row, col))
            near = {(row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        parts.append(part)
    return parts


@given(MASKS)
def test_parts_are_what_flooding_finds_in_the_order_of_their_first_cells(mask):
    found = connected(mask)
    cells = [set(zip(*np.nonzero(part), strict=True)) for part in found]
    assert sorted(map(sorted, cells)) == sorted(map(sorted, flooded(mask)))
    firsts = [first_cell(part) for part in found]
    assert firsts == sorted(firsts) == [min(part) for part in cells]


def test_a_long_winding_part_is_one_part():
    snake = np.zeros((33, 33), bool)
    snake[::2] = True
    snake[1::4, -1] = snake[3::4, 0] = True
    assert len(connected(snake)) == 1


# -------------------------------------------------------------------------------------------------------- inner pixels


@given(MASKS, SIZES)
def test_inner_pixels_are_pixels_of_the_mask_and_some_are_left(mask, size):
    found, whole = inner(mask, size), to_pixels(mask, size)
    assert not (found & ~whole).any()
    assert found.any() == whole.any()


@given(MASKS, st.integers(1, 3), st.integers(1, 3))
def test_inner_pixels_keep_half_a_cell_away_where_the_part_is_wide(mask, tall, wide):
    tall, wide = 4 * tall, 4 * wide
    whole = mask.repeat(tall, 0).repeat(wide, 1)
    found = inner(mask, whole.shape)
    expected = whole.copy()
    for row, col in zip(*np.nonzero(~whole), strict=True):
        expected[max(row - tall // 2, 0) : row + tall // 2 + 1, max(col - wide // 2, 0) : col + wide // 2 + 1] = False
    assume(expected.any())
    np.testing.assert_array_equal(found, expected)


def test_the_edge_of_the_picture_is_no_border_and_a_thin_part_has_a_middle():
    assert inner(np.ones((2, 2), bool), (16, 16)).all()
    thin = inner(mask_of(".....", "#####", "....."), (24, 40))
    assert set(np.flatnonzero(thin.any(axis=1))) == set(range(10, 14))
    assert thin.any(axis=0).all()


# -------------------------------------------------------------------------------------------------------------- points


def rows_of(found):
    return [tuple(point) for point in found.tolist()]


@given(MASKS, SIZES, st.integers(1, 12), st.integers(0, 2**31), st.text(max_size=3))
def test_points_lie_where_they_should_and_none_twice(mask, size, count, seed, tile):
    inside, outside = inner(mask, size), inner(~mask, size)
    for found, allowed in zip(points(inside, outside, count, Key(seed, tile)), (inside, outside), strict=True):
        assert len(set(rows_of(found))) == len(found) == min(count, np.count_nonzero(allowed))
        assert all(allowed[row, col] for col, row in rows_of(found))  # x first


def test_points_follow_from_the_key_and_from_nothing_else():
    mask = np.ones((40, 50), bool)
    found = points(mask, mask, 10, Key(1, "a", "2,3"))
    np.random.default_rng().random()
    again = points(mask, mask, 10, Key(1, "a", "2,3"))
    assert [rows_of(part) for part in found] == [rows_of(part) for part in again]
    keys = [Key(1, "a", "2,3"), Key(2, "a", "2,3"), Key(1, "b", "2,3"), Key(1, "a", "2,4"), Key(1, "a2", ",3")]
    drawn = {tuple(rows_of(points(mask, mask, 10, key)[0])) for key in keys}
    assert len(drawn) == len(keys)


def test_points_are_drawn_uniformly():
    mask = np.zeros((10, 10), bool)
    mask[2:6, 3:8] = True
    counts = np.zeros(mask.shape, int)
    for seed in range(400):
        for col, row in rows_of(points(mask, ~mask, 5, Key(seed, "t"))[0]):
            counts[row, col] += 1
    assert not counts[~mask].any()
    assert (abs(counts[mask] - 100) < 50).all()  # 5.8 standard deviations


# --------------------------------------------------------------------------------------------------------------- boxes


@given(MASKS, SIZES)
def test_a_box_holds_the_part_and_one_cell_around_it(mask, size):
    assume(mask.any())
    around = np.pad(mask, 1)
    spread = np.zeros_like(mask)
    for row in range(3):
        for col in range(3):
            spread |= around[row : row + mask.shape[0], col : col + mask.shape[1]]
    rows, cols = (np.flatnonzero(to_pixels(spread, size).any(axis=axis)) for axis in (1, 0))
    assert box_of(mask, size) == (cols[0], rows[0], cols[-1], rows[-1])


# --------------------------------------------------------------------------------------------------------- mask prompts


@given(MASKS, st.tuples(st.integers(8, 400), st.integers(8, 400)), st.sampled_from([64, 256, 288]))
def test_logits_of_a_picture_that_is_no_square_lie_in_the_corner_and_padding_says_nothing(mask, size, side):
    found = mask_prompt(mask, size, side)
    assert found.shape == (side, side)
    assert found.dtype == np.float32
    height, width = fitted(size, side)
    assert max(height, width) == side
    assert not found[height:].any()
    assert not found[:, width:].any()
    sure = torch.tensor(np.where(mask, 0.999, 0.001)).logit()[None, None]
    inside = torch.nn.functional.interpolate(sure, (height, width), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(found[:height, :width], inside, atol=2e-6)
    np.testing.assert_allclose(found.T, mask_prompt(mask.T, size[::-1], side), atol=2e-6)


def test_logits_of_a_stretched_picture_fill_the_canvas():
    mask = mask_of("#.", "..")
    np.testing.assert_array_equal(mask_prompt(mask, (20, 80), 64, padded=False), mask_prompt(mask, (50, 50), 64))


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (123, 512)])
def test_a_cell_lies_on_the_canvas_where_the_network_sees_it(size):
    """What is moved in the picture moves by as much on the canvas: points and logits agree on where a cell is."""
    frame = Frame(1024, 256, padded=True)
    for row, col in ((3, 12), (12, 3), (5, 5)):
        mask = np.zeros((16, 16), bool)
        mask[row, col] = True
        middle = np.array([[(col + 0.5) * size[1] / 16 - 0.5, (row + 0.5) * size[0] / 16 - 0.5]])
        # a pixel is where its middle is, in the input and on the canvas of logits, which is a quarter as fine
        seen = (middle + 0.5) * np.array(frame.content(size)[::-1]) / np.array(size[::-1])
        logits = mask_prompt(mask, size)
        rows, cols = np.nonzero(logits > 0)
        np.testing.assert_allclose([cols.mean() + 0.5, rows.mean() + 0.5], seen[0] / 4, atol=0.6)


# ------------------------------------------------------------------------------------------------------ tiny networks

DECODER = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
HIERA = {
    "model_type": "sam2_vision_model",
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [4, 2, 2, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    },
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 16,
}
PERCEPTION = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "pretrain_image_size": SIDE,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [0],
    },
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 16,
}
MEMORY = {
    "image_size": SIDE,
    "memory_attention_hidden_size": 16,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 16,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": 16,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": 16,
    "memory_fuser_embed_dim": 16,
    "memory_fuser_intermediate_dim": 16,
    "memory_fuser_num_layers": 1,
}


def prompt_config(patch):
    return {"hidden_size": 16, "image_size": SIDE, "patch_size": patch}


def tiny_sam():
    vision = {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [0],
        "num_pos_feats": 8,
        "mlp_dim": 16,
    }
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompt_config(8), mask_decoder_config=DECODER
    )
    return transformers.SamModel(config)


def tiny_sam2():
    config = transformers.Sam2Config(
        vision_config=HIERA, prompt_encoder_config=prompt_config(16), mask_decoder_config=DECODER
    )
    return transformers.Sam2Model(config)


def tiny_sam2_video():
    config = transformers.Sam2VideoConfig(
        vision_config=HIERA, prompt_encoder_config=prompt_config(16), mask_decoder_config=DECODER, **MEMORY
    )
    return transformers.Sam2VideoModel(config)


def tiny_sam3():
    config = transformers.Sam3TrackerConfig(
        vision_config=PERCEPTION, prompt_encoder_config=prompt_config(16), mask_decoder_config=DECODER
    )
    return transformers.Sam3TrackerModel(config)


TINY = {"sam": tiny_sam, "sam2": tiny_sam2, "sam2_video": tiny_sam2_video, "sam3_tracker": tiny_sam3}
ABSENT = [
    name
    for name, cls in (("sam2", "Sam2Model"), ("sam3_tracker", "Sam3TrackerModel"))
    if not hasattr(transformers, cls)
]
FAMILIES = [name for name in ("sam", "sam2", "sam3_tracker") if name not in ABSENT]


def saved(kind, folder):
    """A network of random weights that matter, as transformers saves it."""
    torch.manual_seed(5)
    network = TINY[kind]().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        kind: saved(kind, tmp_path_factory.mktemp(kind))
        for kind in (*FAMILIES, *([] if "sam2" in ABSENT else ["sam2_video"]))
    }


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """An empty cache of the Hub, and no network."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "cache"))


def picture_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8)


def prompts_of(segmenter, size, grid, count=3):
    frame = segmenter.frame
    return [
        prompt_of(
            part,
            inner(~grid, size),
            size,
            mask_prompt(part, size, frame.logits, padded=frame.padded),
            Key(0, "tile", str(index)),
            count,
        )
        for index, part in enumerate(connected(grid))
    ]


COARSE = mask_of("........", ".##.....", ".##...#.", "......#.", "........", "...#....", "........", "........")


def documented(kind, folder):
    """The network and its processor, as transformers' documentation has them."""
    if kind == "sam":
        made = transformers.SamImageProcessor(
            size={"longest_edge": SIDE},
            pad_size={"height": SIDE, "width": SIDE},
            mask_size={"longest_edge": 32},
            mask_pad_size={"height": 32, "width": 32},
        )
        return transformers.SamModel.from_pretrained(folder), transformers.SamProcessor(made)
    square = {"height": SIDE, "width": SIDE}
    if kind == "sam2":
        processor = transformers.Sam2Processor(transformers.Sam2ImageProcessor(size=square))
        return transformers.Sam2Model.from_pretrained(folder), processor
    from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

    processor = transformers.Sam3TrackerProcessor(Sam3ImageProcessor(size=square))
    return transformers.Sam3TrackerModel.from_pretrained(folder), processor


def asked_as_documented(kind, folder, pixels, prompt, rounds):
    """Low-resolution logits, predicted IoU and mask, each prompt by itself through processor and network."""
    network, processor = documented(kind, folder)
    places = [*map(list, prompt.positives.tolist()), *map(list, prompt.negatives.tolist())]
    labels = [1] * len(prompt.positives) + [0] * len(prompt.negatives)
    deeper = kind != "sam"
    inputs = processor(
        images=Image.fromarray(pixels.transpose(1, 2, 0)),
        input_points=[[places]] if deeper else [places],
        input_labels=[[labels]] if deeper else [labels],
        input_boxes=[[list(map(float, prompt.box))]],
        return_tensors="pt",
    )
    sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
    inputs = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
    logits = torch.tensor(prompt.logits)[None, None]
    with torch.no_grad():
        for _ in range(rounds):
            said = network(**inputs, input_masks=logits, multimask_output=False)
            logits = said.pred_masks[:, 0]
    (mask,) = processor.post_process_masks(said.pred_masks[0][None], *sizes)
    return inputs, said.pred_masks[0, 0, 0], float(said.iou_scores), mask[0, 0].numpy()


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("size", [(64, 64), (48, 90), (100, 37)])
def test_answers_are_those_of_transformers_own_way(folders, kind, size):
    segmenter = load(folders[kind])
    pixels = picture_of(*size)
    picture = segmenter.embed(pixels)
    prompts = prompts_of(segmenter, size, COARSE)
    assert len(prompts) == 3
    for rounds in (1, 3):
        answers = segmenter.predict(picture, prompts, rounds)
        for prompt, answer in zip(prompts, answers, strict=True):
            inputs, logits, iou, mask = asked_as_documented(kind, folders[kind], pixels, prompt, rounds)
            torch.testing.assert_close(segmenter._prepared(pixels), inputs["pixel_values"], rtol=0, atol=1e-5)
            torch.testing.assert_close(answer.logits, logits, rtol=1e-4, atol=1e-4)
            assert answer.predicted_iou == pytest.approx(iou, abs=1e-5)
            found = segmenter.enlarged(answer.logits, size)
            assert found.shape == mask.shape == size
            assert ((found > 0) == mask)[abs(found) > 1e-3].all()


@pytest.mark.parametrize("kind", FAMILIES)
def test_all_of_a_prompt_and_of_the_picture_matters(folders, kind):
    """Or the test above would show little."""
    segmenter = load(folders[kind])
    size = (48, 90)
    picture = segmenter.embed(picture_of(*size))
    (prompt, *_) = prompts_of(segmenter, size, COARSE)
    values = {name: getattr(prompt, name) for name in ("positives", "negatives", "box", "logits")}
    changed = {
        "positives": values["positives"][::-1] + 5,
        "negatives": values["negatives"] // 2,
        "box": (0, 0, 10, 10),
        "logits": -values["logits"],
    }
    others = [Prompt(**{**values, name: value}) for name, value in changed.items()]
    first, *rest = (answer.logits for answer in segmenter.predict(picture, [prompt, *others], 1))
    rest.append(segmenter.predict(picture, [prompt], 3)[0].logits)
    rest.append(segmenter.predict(segmenter.embed(picture_of(*size, seed=1)), [prompt], 1)[0].logits)
    assert all((other - first).abs().max() > 1e-2 for other in rest)


@pytest.mark.parametrize("kind", FAMILIES)
def test_answers_come_in_order_and_do_not_depend_on_what_else_is_asked(folders, kind, monkeypatch):
    segmenter = load(folders[kind])
    size = (64, 80)
    picture = segmenter.embed(picture_of(*size))
    one, two, three = prompts_of(segmenter, size, COARSE)
    fewer = Prompt(two.positives[:1], two.negatives, two.box, two.logits)
    monkeypatch.setattr(models, "_BATCH", 2)
    asked = [one, fewer, two, three, one]
    together = segmenter.predict(picture, asked)
    for prompt, answer in zip(asked, together, strict=True):
        (alone,) = segmenter.predict(picture, [prompt])
        torch.testing.assert_close(answer.logits, alone.logits, rtol=1e-4, atol=1e-4)
    assert segmenter.predict(picture, []) == []


def test_frames_are_those_of_the_networks(folders):
    for kind in FAMILIES:
        assert load(folders[kind]).frame == Frame(SIDE, 32 if kind == "sam" else 16, padded=kind == "sam")
    config = transformers.SamConfig()
    assert models._frame(config, models._SAM) == Frame(1024, 256, padded=True)
    if not ABSENT:
        assert models._frame(transformers.Sam2Config(), models._SAM2) == Frame(1024, 256, padded=False)
        assert models._frame(transformers.Sam3TrackerConfig(), models._SAM3) == Frame(1008, 288, padded=False)


@pytest.mark.skipif("sam2" in ABSENT, reason="transformers is too old")
def test_sam2_as_its_makers_publish_it_is_a_network_for_videos(folders):
    """facebook/sam2.1-hiera-* say sam2_video and have the weights of a memory, which is not needed."""
    expected = load_file(folders["sam2_video"] / "model.safetensors")
    found = load(folders["sam2_video"])._network.state_dict()
    assert len(found) < len(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.skipif("sam3_tracker" in ABSENT, reason="transformers is too old")
def test_sam3_as_its_makers_publish_it_has_a_tracker_within(folders, tmp_path):
    """facebook/sam3 says sam3_video, and keeps the parts under names of their own."""
    within = {
        "vision_encoder.backbone.": "detector_model.vision_encoder.backbone.",
        "vision_encoder.neck.": "tracker_neck.",
    }
    network = transformers.Sam3TrackerModel.from_pretrained(folders["sam3_tracker"])
    tensors = {"detector_model.text_projection.weight": torch.zeros(2, 2)}
    for name, value in network.state_dict().items():
        start = next((start for start in within if name.startswith(start)), None)
        tensors[name.replace(start, within[start]) if start else f"tracker_model.{name}"] = value.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    told = json.loads((folders["sam3_tracker"] / "config.json").read_text())
    config = {"model_type": "sam3_video", "tracker_config": {**told, "model_type": "sam3_tracker_video"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = load(tmp_path)
    assert found.frame == Frame(SIDE, 16, padded=False)
    for name, value in found._network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_means_are_those_of_the_files_where_they_tell_them(folders, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["sam"] / name).read_bytes())
    pixels = picture_of(SIDE, SIDE)
    usual = load(tmp_path)._prepared(pixels)
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    found = load(tmp_path)._prepared(pixels)
    expected = usual * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected += torch.tensor([0.485 - 0.1, 0.456 - 0.2, 0.406 - 0.3]).view(3, 1, 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", FAMILIES)
def test_half_the_precision_is_near(folders, kind):
    whole, half = load(folders[kind]), load(folders[kind], dtype=torch.bfloat16)
    size = (48, 90)
    prompts = prompts_of(whole, size, COARSE)
    given, found = (
        torch.stack([answer.logits for answer in one.predict(one.embed(picture_of(*size)), prompts, 1)])
        for one in (whole, half)
    )
    assert found.dtype == torch.float32
    assert 0 < (given - found).abs().mean() < 0.1 * given.abs().mean()


def test_pixels_must_be_pixels(folders):
    segmenter = load(folders["sam"])
    for wrong in (np.zeros((3, 4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((3, 0, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"Pixels must be uint8 \(3, height, width\)"):
            segmenter.embed(wrong)


def test_memory_that_is_short_is_told_in_words(folders, monkeypatch):
    segmenter = load(folders["sam"])

    def full(*_args, **_options):
        msg = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        raise RuntimeError(msg)

    monkeypatch.setattr(segmenter._network, "get_image_embeddings", full)
    with pytest.raises(OutOfMemoryError, match="does not fit into the memory") as raised:
        _ = segmenter.embed(picture_of(8, 8)).features
    assert "smaller SAM" in raised.value.hint


# ----------------------------------------------------------------------------------------------------------- refinement


class Painter:
    """Answers every prompt with the mask that a function gives of it, at the pixels of the picture."""

    frame = Frame(1024, 256, padded=True)

    def __init__(self, paint, iou=lambda _prompt: 0.9):
        self.paint, self.iou, self.asked, self.rounds = paint, iou, [], None

    def predict(self, picture, prompts, rounds):
        self.asked, self.rounds = list(prompts), rounds
        return [Answer(self.paint(prompt, picture.size), self.iou(prompt)) for prompt in prompts]

    def enlarged(self, logits, _size):
        return logits.astype(np.float32)


@dataclass
class Blank:
    """A picture whose features nobody may ask for."""

    size: tuple[int, int]

    @property
    def features(self):
        raise AssertionError


def boxed(prompt, size, cell=8):
    """The box of a prompt without the cell around the part: what fits the parts below."""
    logits = np.full(size, -4.0)
    left, top, right, bottom = prompt.box
    logits[top + cell : bottom - cell + 1, left + cell : right - cell + 1] = 4
    return logits


SIZE = (64, 64)
GRID = grid_of("........", ".11.....", ".11.....", "........", "........", "....222.", "....222.", "........")


def test_answers_take_the_place_of_coarse_masks():
    def smaller(prompt, size):
        logits = boxed(prompt, size)
        logits[:, prompt.box[0] + 8] = -4  # all but the first column of the part
        return logits

    painter = Painter(smaller)
    found = refine(painter, Blank(SIZE), GRID, (0, "t"))
    expected = to_pixels(GRID, SIZE)
    expected[:, 8] = expected[:, 32] = 0
    np.testing.assert_array_equal(found.labels, expected)
    assert found.labels.dtype == GRID.dtype
    assert [(part.label, part.cell, part.cells, part.status) for part in found.parts] == [
        (1, (1, 1), 4, "refined"),
        (2, (5, 4), 6, "refined"),
    ]
    assert [part.predicted_iou for part in found.parts] == [0.9, 0.9]
    assert [part.agreement for part in found.parts] == [15 / 16, 23 / 24]
    assert painter.rounds == 3
    assert {len(prompt.positives) for prompt in painter.asked} == {10}


@pytest.mark.parametrize("wrong", ["elsewhere", "nothing", "far too much", "no number"])
def test_an_answer_about_something_else_is_not_taken(wrong):
    def paint(prompt, size):
        logits = {"far too much": np.full(size, 4.0), "no number": np.full(size, np.nan)}.get(
            wrong, np.full(size, -4.0)
        )
        if wrong == "elsewhere":
            logits[:8, 40:] = 4
        return logits

    found = refine(Painter(paint), Blank(SIZE), GRID, (0, "t"))
    np.testing.assert_array_equal(found.labels, to_pixels(GRID, SIZE))
    assert all(part.flagged and part.status == "disagrees" for part in found.parts)
    assert all(part.agreement < 0.5 and part.predicted_iou == 0.9 for part in found.parts)


def test_each_part_is_asked_about_by_itself():
    grid = grid_of("11..", "....", "..11", "..11")
    painter = Painter(boxed)
    refine(painter, Blank(SIZE), grid, (0, "t"))
    parts = [to_pixels(part, SIZE) for part in connected(grid == 1)]
    assert len(painter.asked) == 2
    for prompt in painter.asked:
        (own,) = [part for part in parts if part[tuple(prompt.positives[0][::-1])]]
        assert all(own[row, col] for col, row in prompt.positives)
        # the other part may belong to the same object, and is not said not to
        assert not any(part[row, col] for part in parts for col, row in prompt.negatives)
        np.testing.assert_array_equal(prompt.logits, mask_prompt(to_grid(own, (4, 4)), SIZE))


def test_other_classes_are_no_part_of_an_object():
    grid = grid_of("1122", "1122")
    painter = Painter(boxed)
    refine(painter, Blank(SIZE), grid, (0, "t"))
    for prompt in painter.asked:
        (own,) = {to_pixels(grid, SIZE)[row, col] for col, row in prompt.positives}
        assert {to_pixels(grid, SIZE)[row, col] for col, row in prompt.negatives} == {3 - own}


@pytest.mark.parametrize("floor", [0, 0.5])
def test_an_empty_answer_is_never_taken(floor):
    found = refine(
        Painter(lambda _prompt, size: np.full(size, -4.0)), Blank(SIZE), GRID, (0, "t"), Options(floor=floor)
    )
    assert {part.status for part in found.parts} == {"disagrees"}


def test_points_of_a_part_do_not_depend_on_other_parts_or_on_numbers_of_classes():
    def asked(grid, key=(0, "t")):
        painter = Painter(boxed)
        refine(painter, Blank(SIZE), grid, key)
        return {prompt.box: rows_of(prompt.positives) for prompt in painter.asked}

    both = asked(GRID)
    assert len(both) == 2
    assert asked(np.where(GRID == 1, 7, GRID)) == both
    (alone,) = asked(np.where(GRID == 1, 1, 0)).items()
    assert alone in both.items()
    for key in ((1, "t"), (0, "u")):
        other = asked(GRID, key)
        assert all(other[box] != both[box] for box in both)


@pytest.mark.parametrize("grid", [np.zeros((8, 8), int), np.full((8, 8), 3)], ids=["empty", "whole"])
def test_without_a_border_nothing_is_asked(grid):
    painter = Painter(boxed)
    found = refine(painter, Blank((50, 70)), grid, (0, "t"))
    np.testing.assert_array_equal(found.labels, to_pixels(grid, (50, 70)))
    assert not painter.asked
    assert [(part.status, part.flagged) for part in found.parts] == ([("whole", False)] if grid.any() else [])


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_network_looks_at_a_picture_once_and_not_in_vain(folders, kind, monkeypatch):
    segmenter, looks = load(folders[kind]), []
    look = segmenter._network.get_image_embeddings
    monkeypatch.setattr(segmenter._network, "get_image_embeddings", lambda x: looks.append(1) or look(x))
    picture = segmenter.embed(picture_of(48, 64))
    refine(segmenter, picture, np.zeros((8, 8), int), (0, "t"))
    assert not looks
    first = refine(segmenter, picture, GRID, (0, "t"), Options(floor=0))
    refine(segmenter, picture, GRID.T, (0, "t"))
    assert len(looks) == 1
    again = refine(segmenter, segmenter.embed(picture_of(48, 64)), GRID, (0, "t"), Options(floor=0))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.parts == again.parts


def spread(prompt, size):
    """The box of a prompt, the cell around the part included: neighbours overlap."""
    logits = np.full(size, -4.0)
    left, top, right, bottom = prompt.box
    logits[top : bottom + 1, left : right + 1] = 2
    return logits


NEIGHBOURS = grid_of(*["........"] * 2, *["..1122.."] * 4, *["........"] * 2)


@pytest.mark.parametrize("first", [1, 2])
def test_the_surer_answer_has_what_both_claim_whatever_the_number_of_its_class(first):
    grid = NEIGHBOURS if first == 1 else np.array([0, 2, 1])[NEIGHBOURS]
    painter = Painter(spread, lambda prompt: 0.9 if prompt.box[0] == 8 else 0.8)  # the left one is surer
    found = refine(painter, Blank(SIZE), grid, (0, "t"), Options(floor=0.3))
    assert [part.status for part in found.parts] == ["refined", "refined"]
    assert (found.labels[8:56, 8:40] == first).all()
    assert (found.labels[8:56, 40:56] == 3 - first).all()


def test_the_probability_of_a_pixel_counts_too():
    def fading(prompt, size):
        logits = spread(prompt, size)
        middle = (prompt.box[0] + prompt.box[2]) / 2
        return np.where(logits > 0, 3 - abs(np.arange(size[1]) - middle) / 8, logits)

    found = refine(Painter(fading), Blank(SIZE), NEIGHBOURS, (0, "t"), Options(floor=0.3))
    assert (found.labels[8:56, 8:32] == 1).all()
    assert (found.labels[8:56, 32:56] == 2).all()


def test_of_equally_sure_answers_the_one_of_the_cell_has_the_pixel():
    found = refine(Painter(spread), Blank(SIZE), NEIGHBOURS, (0, "t"), Options(floor=0.3))
    coarse = to_pixels(NEIGHBOURS, SIZE)
    np.testing.assert_array_equal(found.labels[coarse > 0], coarse[coarse > 0])


def test_a_part_that_stays_coarse_gives_way_near_its_border_only():
    def paint(prompt, size):  # the left part grows over its neighbour, about which the answer is nonsense
        return spread(prompt, size) if prompt.box[0] == 8 else np.full(size, -4.0)

    found = refine(Painter(paint), Blank(SIZE), NEIGHBOURS, (0, "t"), Options(floor=0.3))
    assert [part.status for part in found.parts] == ["refined", "disagrees"]
    assert (found.labels[20:44, 32:36] == 1).all()  # half a cell
    assert (found.labels[20:44, 36:48] == 2).all()
    assert (found.labels[16:48, 40:48] == 2).all()  # which nobody else claims


def test_parts_that_are_too_small_or_too_many_stay_coarse():
    grid = grid_of("1.1.....", "....22..", "1...22..", "........", "..333...", "..333...", "..333...", "1.......")
    painter = Painter(boxed)
    found = refine(painter, Blank(SIZE), grid, (0, "t"), Options(smallest=2, most=1))
    assert len(painter.asked) == 1
    assert {(part.label, part.status, part.flagged) for part in found.parts} == {
        (1, "small", True),
        (2, "crowded", True),
        (3, "refined", False),
    }
    np.testing.assert_array_equal(found.labels, to_pixels(grid, SIZE))
    assert len(found.parts) == 6
    assert [part.cell for part in found.parts] == sorted(part.cell for part in found.parts)


def test_a_grid_finer_than_the_picture_has_cells_of_which_nothing_is_known():
    grid = np.zeros((9, 9), int)
    grid[1::3, 1::3] = 1
    found = refine(Painter(lambda _prompt, size: np.full(size, -1.0)), Blank((4, 4)), grid, (0, "t"))
    assert len(found.parts) == 9
    assert {part.status for part in found.parts} == {"small", "disagrees"}
    np.testing.assert_array_equal(found.labels, to_pixels(grid, (4, 4)))


def test_perfect_answers_are_taken():
    """The floor is low enough for what a grid can say of an object, whatever its size in cells."""
    rng = np.random.default_rng(3)
    size, count, taken = (256, 256), 0, 0
    rows, cols = np.mgrid[: size[0], : size[1]] + 0.5
    for _ in range(250):
        side, aspect, turn = rng.uniform(0.5, 4) * 16, rng.uniform(1, 3) ** 0.5, rng.uniform(0, np.pi)
        down, right = rows - rng.uniform(100, 156), cols - rng.uniform(100, 156)
        along, across = right * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - right * np.sin(turn)
        truth = (abs(along) < side * aspect / 2) & (abs(across) < side / aspect / 2)
        grid = to_grid(truth, (16, 16)).astype(int)
        if grid.any():
            painter = Painter(lambda _prompt, _size, truth=truth: np.where(truth, 4.0, -4.0))
            parts = refine(painter, Blank(size), grid, (0, "t")).parts
            count, taken = count + 1, taken + any(part.status == "refined" for part in parts)
    assert taken / count > 0.97


def test_the_floor_rises_with_the_cells_of_a_part():
    assert [least_agreement(cells) for cells in (1, 2, 3, 4, 5, 100)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert least_agreement(2, 0.8) == 0.4


@pytest.mark.parametrize("kind", FAMILIES)
@settings(max_examples=10)
@given(data=st.data())
def test_numbers_of_classes_decide_nothing(folders, kind, data):
    """Refining and renumbering give the same in either order, with a network that answers as it likes."""
    grid = data.draw(arrays(np.uint8, (5, 6), elements=st.integers(0, 3)))
    order = np.array([0, *data.draw(st.permutations([1, 2, 3]))], np.uint8)
    segmenter = load(folders[kind]) if kind not in LOADED else LOADED[kind]
    LOADED[kind] = segmenter
    picture = segmenter.embed(picture_of(40, 54))
    options = Options(floor=0, rounds=1)
    given_, renumbered = (refine(segmenter, picture, one, (0, "t"), options) for one in (grid, order[grid]))
    np.testing.assert_array_equal(order[given_.labels], renumbered.labels)
    assert [part.status for part in given_.parts] == [part.status for part in renumbered.parts]
    assert [part.cell for part in given_.parts] == [part.cell for part in renumbered.parts]


LOADED = {}


def test_what_is_no_grid_and_options_that_mean_nothing_are_refused():
    for wrong in (np.zeros((2, 2)), np.zeros((1, 2, 2), int), np.zeros((2, 2), bool)):
        with pytest.raises(ValueError, match=r"A grid must be whole numbers \(rows, columns\)"):
            refine(Painter(boxed), Blank(SIZE), wrong, (0, "t"))
    for name, value in {"points": 0, "rounds": 0, "floor": -0.1, "smallest": 0, "most": -1}.items():
        with pytest.raises(UsageError, match=f"{name}={value}; expected at least"):
            Options(**{name: value})
    with pytest.raises(UsageError, match=r"floor=1.5; expected 0 to 1"):
        Options(floor=1.5)


# -------------------------------------------------------------------------------------------------------------- loading


def copied(folder, target):
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((folder / name).read_bytes())
    return target


def refused(source, words):
    with pytest.raises(ModelError, match=words) as raised:
        load(source)
    assert raised.value.hint
    return raised.value


def test_nothing_is_said_beside_the_errors(folders, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity()
    load(folders["sam"])
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == before


def test_places_where_nothing_is(folders, tmp_path):
    assert "save_pretrained" in refused(tmp_path, r"There is no config.json in").hint
    assert "sam-vit-huge" in refused(tmp_path / "sam.pth", "is no folder and no hf-hub:owner/name").hint
    original = tmp_path / "sam_vit_h_4b8939.pth"
    original.write_bytes(b"weights")
    refused(original, "is no folder and no hf-hub:owner/name")
    (tmp_path / "config.json").write_bytes((folders["sam"] / "config.json").read_bytes())
    assert "config.json" in refused(tmp_path, r"There are no weights in .*; expected model.safetensors").hint


@pytest.mark.parametrize("name", ["facebook/sam-vit-tiny", "hf-hub:facebook/sam-vit-tiny"])
def test_a_repository_that_is_not_here_is_named_with_what_to_get(name):
    with pytest.raises(NotThereError, match=r"config.json .*of facebook/sam-vit-tiny.*HF_HUB_OFFLINE") as raised:
        load(name)
    assert "hf download facebook/sam-vit-tiny config.json model.safetensors" in raised.value.hint


def test_files_of_a_repository_may_be_put_by_hand(folders, tmp_path):
    from geovl import weights

    place = weights.origin("hf-hub:facebook/sam-vit-tiny").plain
    place.mkdir(parents=True)
    copied(folders["sam"], place)
    found, expected = (load(source)._network.state_dict() for source in ("facebook/sam-vit-tiny", folders["sam"]))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["sam3", "sam_hq", "vit", None])
def test_other_models_are_refused(folders, tmp_path, kind):
    copied(folders["sam"], tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "model_type": kind}))
    refused(tmp_path, f"is a model of type {kind!r}; expected sam, sam2, sam2_video, sam3_tracker, sam3_video")


def test_weights_that_run_code_are_refused(folders, tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    (tmp_path / "config.json").write_bytes((folders["sam"] / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Code()}, protocol=2))
    refused(tmp_path, "holds more than tensors|damaged")


def test_weights_without_code_may_be_of_the_old_format(folders, tmp_path):
    (tmp_path / "config.json").write_bytes((folders["sam"] / "config.json").read_bytes())
    torch.save(load_file(folders["sam"] / "model.safetensors"), tmp_path / "pytorch_model.bin")
    assert load(tmp_path).frame.side == SIDE


def test_weights_in_several_files(folders, tmp_path):
    network = transformers.SamModel.from_pretrained(folders["sam"])
    network.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert all(
        torch.equal(value, network.state_dict()[name]) for name, value in load(tmp_path)._network.state_dict().items()
    )


def test_weights_that_are_missing_are_not_made_up(folders, tmp_path):
    copied(folders["sam"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = tensors.pop("mask_decoder.iou_token.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, r"lacks 1 of the weights of a SamModel, mask_decoder.iou_token.weight among them")
    save_file({**tensors, "mask_decoder.iou_token.weight": lost[:, :8].contiguous()}, tmp_path / "model.safetensors")
    refused(tmp_path, "is damaged: its config.json and its weights do not make a SamModel")


@pytest.mark.parametrize(
    "change",
    [{"vision_config": {"hidden_size": "wide"}}, {"vision_config": 3}, {"mask_decoder_config": {"hidden_size": 15}}],
)
def test_a_configuration_that_makes_no_sense_is_told(folders, tmp_path, change):
    copied(folders["sam"], tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    for name, value in change.items():
        told[name] = {**told[name], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(told))
    refused(tmp_path, "is damaged: its config.json and its weights do not make a SamModel")


def test_a_missing_or_old_library_is_named(folders, monkeypatch):
    old = models._Family("Sam9Model", "99.0", padded=True, mean=(0, 0, 0), std=(1, 1, 1))
    monkeypatch.setitem(models._FAMILIES, "sam", old)
    found = refused(
        folders["sam"], re.escape(f"transformers {transformers.__version__} has no Sam9Model; expected 99.0")
    )
    assert "pip install" in found.hint
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "geovl[torch]" in refused(folders["sam"], "SAM needs the package transformers").hint
