"""Metrics of referring segmentation, and of semantic segmentation as text-as-mask models report it.

For each expression ``I`` and ``U`` are the pixels of the intersection and the union of the predicted with the true
mask, and IoU is ``I / U``, or 1 where both are empty.

| here | RefCOCO, GRES | remote sensing |
| --- | --- | --- |
| cumulative: sum of ``I`` over sum of ``U`` | cIoU | oIoU |
| mean of IoU | gIoU | mIoU |
| share with IoU above ``t`` | Pr@t | Pr@t |
| share of expressions without target with an empty prediction | N-acc | N-acc |

Some papers exchange the names of the first two, so results carry both and say what they are. Sources: C. Liu, H. Ding,
X. Jiang, "GRES: Generalized Referring Expression Segmentation", CVPR 2023, section 3; thresholds as in RRSIS-D
(https://arxiv.org/abs/2312.12470).

Ratios are exact. Released code adds small numbers to denominators and works in single precision; ``published_...``
do the same, to compare with its figures to the last digit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_ | np.integer]
Box = tuple[int, int, int, int]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
CUMULATIVE = "cIoU = oIoU (cumulative)"
MEAN = "gIoU = mIoU (mean)"
NO_TARGET = "N-acc"
BOXES = "box accuracy, Acc@0.5"

_ONE = np.float32(1)


@dataclass(frozen=True, slots=True)
class Expression:
    """How well one expression was answered."""

    intersection: int
    """Pixels."""
    union: int
    """Pixels."""
    true_box: Box | None
    """First column, first row, last column, last row; None for an expression without target."""
    predicted_box: Box | None
    """None for an empty prediction."""

    @property
    def iou(self) -> float:
        """IoU, 0..1; 1 where both masks are empty."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def published_iou(self) -> np.float32:
        """IoU as released code computes it: with 1e-5 in the denominator, in single precision."""
        found = np.float32(self.intersection) / (np.float32(self.union) + np.float32(1e-5))
        return found if self.union else found + _ONE

    def box_iou(self, *, published: bool = False) -> float | None:
        """Return the IoU of the boxes of the masks.

        Args:
            published: Measure boxes from corner pixel to corner pixel, as released code does: a box one pixel wide
                then has no area. Otherwise boxes have all of their pixels.

        Returns:
            0..1, 0 where a mask is empty; None where no box has an area.
        """
        if self.true_box is None or self.predicted_box is None:
            return 0.0
        return _box_iou(self.true_box, self.predicted_box, 0 if published else 1)


@dataclass(slots=True)
class Referring:
    """Metrics over expressions, added one by one; masks are not kept."""

    expressions: list[Expression] = field(default_factory=list)

    def add(self, truth: Mask, predicted: Mask, valid: NDArray[np.bool_] | None = None) -> Expression:
        """Count the answer to an expression.

        Args:
            truth: (height, width); what is not 0 belongs to the target, however often it is covered. Empty for an
                expression without target.
            predicted: (height, width), likewise.
            valid: (height, width), True where pixels count; all where None.

        Raises:
            ValueError: Sizes differ.
        """
        true, found = (_counting(mask, truth.shape, valid) for mask in (truth, predicted))
        both, either = (int(np.count_nonzero(mask)) for mask in (true & found, true | found))
        added = Expression(both, either, _box(true), _box(found))
        self.expressions.append(added)
        return added

    def cumulative_iou(self) -> float | None:
        """Return cIoU, which remote sensing calls oIoU; None where there is nothing to divide by."""
        union = sum(entry.union for entry in self.expressions)
        return sum(entry.intersection for entry in self.expressions) / union if union else None

    def mean_iou(self) -> float | None:
        """Return gIoU, which remote sensing calls mIoU; None without expressions."""
        return _mean([entry.iou for entry in self.expressions])

    def precision(self, threshold: float) -> float | None:
        """Return Pr@threshold: the share of expressions with an IoU above it; None without expressions."""
        return _mean([entry.iou > threshold for entry in self.expressions])

    def no_target_accuracy(self) -> float | None:
        """Return N-acc: of the expressions without target, the share answered with nothing; None without such."""
        return _mean([entry.predicted_box is None for entry in self.expressions if entry.true_box is None])

    def box_accuracy(self, threshold: float = 0.5, *, published: bool = False) -> float | None:
        """Return the share of expressions whose boxes have an IoU above a threshold; see :meth:`Expression.box_iou`."""
        return _mean([(entry.box_iou(published=published) or 0) > threshold for entry in self.expressions])

    def published_mean_iou(self) -> float | None:
        """Return gIoU as released code computes it, see :attr:`Expression.published_iou`."""
        total = np.float32(0)
        for entry in self.expressions:  # one after the other: the order decides on the last digit
            total += entry.published_iou
        return float(total / np.float32(len(self.expressions))) if self.expressions else None

    def published_cumulative_iou(self) -> float | None:
        """Return cIoU as released code computes it: in single precision."""
        found = self.cumulative_iou()
        return None if found is None else float(np.float32(found))

    def summary(self) -> dict[str, float | None]:
        """Return all metrics under all of their names; None where a metric has nothing to count."""
        precision = {f"Pr@{threshold}": self.precision(threshold) for threshold in THRESHOLDS}
        first = {CUMULATIVE: self.cumulative_iou(), MEAN: self.mean_iou()}
        return first | precision | {NO_TARGET: self.no_target_accuracy(), BOXES: self.box_accuracy()}


def beside_oracle(model: Referring, oracle: Referring) -> dict[str, dict[str, float | None]]:
    """Set the metrics of a model beside those of its grid oracle, which no model on that grid can well exceed.

    Args:
        model: The model's masks against truth.
        oracle: Against the same truth, in the same order, truth itself sent through the descriptor grid and back.

    Returns:
        Name of a metric to ``model``, ``grid oracle`` and ``share``, the first of the second; None where there is
        nothing to count or divide by.

    Raises:
        ValueError: They are not of the same expressions.
    """
    if [entry.true_box for entry in model.expressions] != [entry.true_box for entry in oracle.expressions]:
        counts = f"{len(model.expressions)} and {len(oracle.expressions)}"
        msg = f"Model and oracle must be of the same expressions, got {counts} that are not"
        raise ValueError(msg)
    best = oracle.summary()
    return {
        name: {"model": value, "grid oracle": best[name], "share": _share(value, best[name])}
        for name, value in model.summary().items()
    }


@dataclass(slots=True)
class Semantic:
    """IoU of classes over pictures, added one by one. Class 0 is what truth leaves open: its pixels do not count.

    Raises:
        ValueError: Fewer than 2 classes.
    """

    classes: int
    """Class 0 included."""
    confusion: NDArray[np.int64] = field(init=False)
    """(classes, classes): pixels by true and predicted class; those of true class 0 count as predicted right."""

    def __post_init__(self) -> None:
        if self.classes < 2:
            msg = f"There must be at least 2 classes, got {self.classes}"
            raise ValueError(msg)
        self.confusion = np.zeros((self.classes, self.classes), np.int64)

    def add(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
        """Count a picture.

        Args:
            truth: (height, width), 0 to ``classes - 1``.
            predicted: (height, width), likewise.

        Raises:
            ValueError: Sizes differ, or there is a class that is none.
        """
        if truth.shape != predicted.shape:
            msg = f"Truth is {truth.shape}, the prediction {predicted.shape}; expected the same size"
            raise ValueError(msg)
        for name, labels in (("truth", truth), ("the prediction", predicted)):
            if labels.size and (labels.min() < 0 or labels.max() >= self.classes):
                msg = f"Labels of {name} must be 0 to {self.classes - 1}, got {labels.min()} to {labels.max()}"
                raise ValueError(msg)
        found = np.where(truth == 0, 0, predicted)
        pairs = truth.astype(np.int64).ravel() * self.classes + found.ravel()
        self.confusion += np.bincount(pairs, minlength=self.classes**2).reshape(self.confusion.shape)

    def iou(self) -> NDArray[np.float64]:
        """Return IoU by class, (classes); NaN for a class that is neither in truth nor predicted."""
        both = np.diag(self.confusion)
        either = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - both
        found = np.full(self.classes, np.nan)
        np.divide(both, either, out=found, where=either > 0)
        return found

    def mean_iou(self) -> float | None:
        """Return mIoU over the classes from 1 that occur; None where none does."""
        found = self.iou()[1:]
        return _mean(found[~np.isnan(found)].tolist())

    def published_mean_iou(self) -> float | None:
        """Return mIoU as released code computes it, in single precision and with class 0.

        Class 0 can only be predicted too often, never too seldom, so its IoU is high and lifts the mean.
        """
        found = self.iou().astype(np.float32)
        return float(found[~np.isnan(found)].mean()) if self.confusion.any() else None

    def summary(self) -> dict[str, float | None]:
        """Return both means; None where there is nothing to count."""
        return {"mIoU": self.mean_iou(), "mIoU with class 0 (as published)": self.published_mean_iou()}


def _counting(mask: Mask, shape: tuple[int, ...], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return a mask as True and False, where pixels count."""
    for other in (mask,) if valid is None else (mask, valid):
        if other.shape != shape:
            msg = f"Truth is {shape}, the prediction or the mask of valid pixels {other.shape}; expected the same size"
            raise ValueError(msg)
    return np.asarray(mask != 0 if valid is None else (mask != 0) & valid)


def _box(mask: NDArray[np.bool_]) -> Box | None:
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (int(cols[0]), int(rows[0]), int(cols[-1]), int(rows[-1])) if len(rows) else None


def _box_iou(first: Box, second: Box, pixel: int) -> float | None:
    """Return the IoU of boxes; ``pixel`` is what the last pixel adds to a side."""
    width = min(first[2], second[2]) - max(first[0], second[0]) + pixel
    height = min(first[3], second[3]) - max(first[1], second[1]) + pixel
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + pixel) * (box[3] - box[1] + pixel) for box in (first, second)]
    either = sum(areas) - both
    return both / either if either else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(value: float | None, of: float | None) -> float | None:
    return value / of if value is not None and of else None
