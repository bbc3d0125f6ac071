"""Data sets: sources, splits, and the way from bytes to what a network sees.

``load`` is the one door to what fits into memory, ``stream`` to what does not; a new named data set is one line
in :mod:`convexdistill.data.known`.
"""

from convexdistill.data.images import ImageData
from convexdistill.data.known import names
from convexdistill.data.loading import load
from convexdistill.data.preprocessing import Preprocessing
from convexdistill.data.resize import match_shape
from convexdistill.data.stream import ImageStream
from convexdistill.data.streaming import stream

__all__ = ["ImageData", "ImageStream", "Preprocessing", "load", "match_shape", "names", "stream"]
