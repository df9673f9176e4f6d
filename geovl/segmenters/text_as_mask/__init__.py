"""Segmentation as text: a language model writes the mask row by row."""
