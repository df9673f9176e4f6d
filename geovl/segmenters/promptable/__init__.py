"""Refinement of coarse masks by a promptable segmenter of the SAM family: points, a box and a mask in, borders out."""
