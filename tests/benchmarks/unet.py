"""Compare nano with a plain U-Net trained on the same batches for the same CPU time.

    pip install segmentation_models_pytorch
    python tests/benchmarks/unet.py --data DATA --labels LABELS --weights WEIGHTS --minutes 20

Both see the same pictures in the same order, have the same loss, optimizer and moving
average, and stop after ``--minutes`` minutes of CPU time. The U-Net is what one gets
without downloads: an encoder from scratch, one output for each concept, no text; nano
starts from its ImageNet encoder, as it does when it is trained. Prints JSON: steps, and the
IoU on held-out places by the highest of five logits (Dubai) and at the threshold that was
best on training pictures (drawn masks, Kampala).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

import geovl.segmenters.nano
from geovl.learn.nano import calibrate, data, train
from geovl.learn.nano.concepts import CONCEPTS, INDEX
from geovl.learn.nano.evaluate import GROUPS, LAND_COVER, Tally

TEXT = Path(geovl.segmenters.nano.__file__).parent


class PlainUNet(nn.Module):
    """smp's U-Net with a ResNet-18 encoder from scratch, its output averaged to nano's grid."""

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.net = smp.Unet("resnet18", encoder_weights=None, classes=len(CONCEPTS))
        self.scale = nn.Parameter(torch.zeros(()))  # so that it looks like a Trainee
        nn.init.constant_(self.net.segmentation_head[0].bias, -4.0)

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        logits = functional.avg_pool2d(self.net(pixels.float() / 127.5 - 1), 4)
        others = logits.new_full((len(logits), len(text) - len(CONCEPTS), *logits.shape[2:]), -8.0)
        return torch.cat([logits, others], dim=1)


class PlainTraining(train.Training):
    """The same training of the other network."""

    def __init__(self, recipe: train.Recipe, weights: Path) -> None:
        super().__init__(recipe, weights)
        torch.manual_seed(recipe.seed)
        self.live, self.mean = (PlainUNet().to(self.device, memory_format=torch.channels_last) for _ in range(2))
        self.mean.load_state_dict(self.live.state_dict())
        self.optimizer = torch.optim.AdamW([{"params": list(self.live.parameters()), "share": 1.0}], weight_decay=1e-4)

    def finish(self) -> None:
        """Take over the statistics of the batch norms, which are no parameters."""
        for average, current in zip(self.mean.buffers(), self.live.buffers(), strict=True):
            average.copy_(current)


def spend(training: train.Training, lessons: train.Lessons, recipe: train.Recipe, minutes: float) -> None:
    """Train until the CPU time is spent; the time to make batches is the same for both and is left out."""
    spent = 0.0
    while spent < minutes * 60:
        batch = lessons.batch(recipe, training.step)
        started = time.process_time()
        training.advance(*batch, train.cosine(recipe.rate, training.step, spent / (minutes * 60)))
        spent += time.process_time() - started
        if training.step % 100 == 0:
            print(training.step, round(spent), flush=True)


def whole(net: nn.Module, text: Tensor, pixels: np.ndarray) -> np.ndarray:
    """Logits (concepts, h, w) of a picture (h, w, 3)."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 32), (0, -width % 32), (0, 0)), mode="edge").transpose(2, 0, 1)
    with torch.inference_mode():
        logits = net(torch.from_numpy(np.ascontiguousarray(padded))[None], text)
        full = functional.interpolate(logits.float(), scale_factor=4, mode="bilinear")[0]
    return full[: len(CONCEPTS), :height, :width].numpy()


def evaluate(net: nn.Module, lessons: train.Lessons, recipe: train.Recipe, root: Path, labels: Path) -> dict:
    """IoU on held-out places."""
    net.eval()
    text = train.text_batch(lessons.table, lessons.words, None)

    def drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return train.draw(lessons.sides["train"], recipe, rng)

    counts = calibrate.Counts.of(net, drawn, text, recipe.calibration, 1)
    middle = calibrate.fit(counts).middle
    found = {source.name: source.samples for source in data.sources(root, labels, "test")}
    cover = [INDEX[name] for name in LAND_COVER]
    confusion = np.zeros((5, 5), np.int64)
    for sample in found["dubai"]:
        told = sample.table[:, cover][sample.codes] == 1
        known = told.any(axis=2)
        guess = whole(net, text, sample.pixels)[cover].argmax(axis=0)
        np.add.at(confusion, (told.argmax(axis=2)[known], guess[known]), 1)
    iou = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    report: dict[str, object] = {"dubai": dict(zip(LAND_COVER, iou.round(3).tolist(), strict=True))}
    report["dubai mean"] = round(float(iou.mean()), 3)
    tallies: dict[str, Tally] = {}
    names = [name for group in GROUPS.values() for name in group]
    for place, wanted in (("ucm", names), ("buildings", ["building"])):
        for sample in found[place]:
            logits = whole(net, text, sample.pixels)
            for name in wanted:
                index = INDEX[name]
                score = 1 / (1 + np.exp(middle[index] - logits[index]))  # 0.5 at the threshold
                tally = tallies.setdefault("kampala" if place == "buildings" else name, Tally())
                tally.add(score, sample.table[:, index][sample.codes])
    single = {name: round(tally.iou, 3) for name, tally in tallies.items()}
    return report | {"single": single, "single mean": round(float(np.mean(list(single.values()))), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=data.MASKS)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20, help="CPU minutes for each network")
    options = parser.parse_args()
    recipe = train.Recipe(scenes=300, airfields=60, calibration=30)
    lessons = train.Lessons.read(options.data, options.labels, TEXT, recipe)
    report = {}
    for name, kind in (("nano", train.Training), ("unet", PlainTraining)):
        training = kind(recipe, options.weights)
        spend(training, lessons, recipe, options.minutes)
        if isinstance(training, PlainTraining):
            training.finish()
        found = evaluate(training.mean, lessons, recipe, options.data, options.labels)
        report[name] = {"steps": training.step} | found
        print(name, json.dumps(report[name]), flush=True)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
