"""Data sets: sources, splits, and the way from bytes to what a network sees.

``load`` is the one door; a new named data set is one line in :mod:`convexdistill.data.known`.
"""

from convexdistill.data.images import ImageData
from convexdistill.data.known import names
from convexdistill.data.loading import load
from convexdistill.data.preprocessing import Preprocessing
from convexdistill.data.resize import match_shape

__all__ = ["ImageData", "Preprocessing", "load", "match_shape", "names"]
