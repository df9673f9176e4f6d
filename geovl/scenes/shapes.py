"""Rings of points: the shapes of which scenes are made.

A ring is float64 (n, 2) of x (to the right) and y (down), in metres, not closed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable

Ring = NDArray[np.float64]


def points(*pairs: tuple[float, float]) -> Ring:
    """Return a ring through the given (x, y) pairs."""
    return np.array(pairs, dtype=np.float64)


def rect(x: float, y: float, length: float, width: float, angle: float = 0.0) -> Ring:
    """Return a rectangle centred on (x, y), ``length`` along ``angle`` (radians) and ``width`` across."""
    half_l, half_w = length / 2, width / 2
    corners = points((-half_l, -half_w), (half_l, -half_w), (half_l, half_w), (-half_l, half_w))
    return corners @ rotation(angle) + (x, y)


def rotation(angle: float) -> "NDArray[np.float64]":
    """Return the matrix that turns row vectors by ``angle`` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def disc(x: float, y: float, radius: float, corners: int = 16) -> Ring:
    """Return a regular polygon that stands for a circle."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1)


def blob(rng: np.random.Generator, x: float, y: float, radius: float, rough: float = 0.25, corners: int = 9) -> Ring:
    """Return a rough circle; ``rough`` is the spread of its radius as a share."""
    ring = disc(0, 0, radius, corners)
    scale = 1 + rough * rng.uniform(-1, 1, (corners, 1))
    return ring * scale @ rotation(rng.uniform(0, 6.3)) + (x, y)


def lake_ring(rng: np.random.Generator, x: float, y: float, radius: float) -> Ring:
    """Return a smooth, irregular closed shore."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    size = 1 + sum(rng.uniform(-0.4, 0.4) / k * np.cos(k * turn + rng.uniform(0, 6.3)) for k in (2, 3, 4, 6))
    flat = rng.uniform(0.5, 1)
    ring = np.stack([radius * size * np.cos(turn), flat * radius * size * np.sin(turn)], 1)
    return ring @ rotation(rng.uniform(0, 6.3)) + (x, y)


def strip(line: Ring, width: "float | NDArray[np.float64]") -> Ring:
    """Return the band of ``width`` metres (one, or one for each point) along an open line of points."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-9)
    aside = np.stack([-along[:, 1], along[:, 0]], 1) * np.reshape(np.asarray(width) / 2, (-1, 1))
    return np.concatenate([line + aside, (line - aside)[::-1]])


def shifted(line: Ring, aside: float) -> Ring:
    """Return an open line moved sideways by ``aside`` metres."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-9)
    return line + aside * np.stack([-along[:, 1], along[:, 0]], 1)


def wave(rng: np.random.Generator, length: float, swing: float, count: int = 60) -> Ring:
    """Return a winding line along x, from ``-length / 2`` to ``length / 2``, that swings by about ``swing`` metres."""
    x = np.linspace(-length / 2, length / 2, count)
    y = np.zeros(count)
    for k in (1, 2, 3.3):
        period = rng.uniform(250, 500) / k
        y += swing / k * rng.uniform(0.4, 1) * np.sin(2 * np.pi * x / period + rng.uniform(0, 6.3))
    return np.stack([x, y], 1)


def dashes(line: Ring, dash: float, gap: float, width: float) -> "Iterable[Ring]":
    """Yield dashes of ``dash`` metres with gaps of ``gap`` along an open line."""
    steps = np.hypot(*np.diff(line, axis=0).T)
    far = np.concatenate([[0.0], np.cumsum(steps)])
    for start in np.arange(0, far[-1] - dash, dash + gap):
        ends = np.array([start, start + dash])
        pair = np.stack([np.interp(ends, far, line[:, 0]), np.interp(ends, far, line[:, 1])], 1)
        yield strip(pair, width)


@dataclass(frozen=True, slots=True)
class Frame:
    """A local system of coordinates on the ground."""

    x: float
    y: float
    """Where the local origin lies in the scene, metres."""
    angle: float
    """Turn of the local x axis, radians."""

    def __call__(self, ring: Ring) -> Ring:
        """Return local points in the coordinates of the scene."""
        return ring @ rotation(self.angle) + (self.x, self.y)

    def inner(self, x: float, y: float, angle: float = 0.0) -> "Frame":
        """Return the frame at a local place, turned by ``angle`` against this one."""
        at = self(points((x, y)))[0]
        return Frame(float(at[0]), float(at[1]), self.angle + angle)

    def local(self, x: float, y: float) -> tuple[float, float]:
        """Return a place of the scene in local coordinates."""
        at = (np.array([x, y]) - (self.x, self.y)) @ rotation(-self.angle)
        return float(at[0]), float(at[1])
