"""Measures the bundled nano-text on places that it was never trained on.

    python -m geovl.learn.nano_text.evaluate --data DATA

*Tiles*: crops of held-out pictures, and expressions about them that hold by the rules of expressions.py; the model reads
each whole. *Scenes*: whole held-out pictures in windows, where it is asked for the things and which are meant is settled
over all windows. Beside each figure stands the grid oracle: the truth itself, written as a descriptor and read back.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geovl import catalog, evaluate
from geovl.learn.nano import data
from geovl.learn.nano_text import truth
from geovl.learn.nano_text.data import crop, kept
from geovl.learn.nano_text.wording import say
from geovl.segmenters import registry
from geovl.segmenters.nano_text.segmenter import NanoTextSegmenter
from geovl.segmenters.text_as_mask.grid import to_grid, to_pixels
from geovl.types import Chip, Vocabulary, Window

Mask = NDArray[np.bool_]
"""bool (h, w)."""
