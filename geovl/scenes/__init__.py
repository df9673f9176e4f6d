"""Synthetic aerial scenes with exact truth: to train the bundled model, to test, and to show.

:func:`render` draws one scene of a kind; everything in it follows from the random
generator that it is given.
"""

from geovl.scenes.render import KINDS, render
from geovl.scenes.scene import CLASSES, Scene

__all__ = ["CLASSES", "KINDS", "Scene", "render"]
