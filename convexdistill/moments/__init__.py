"""Moments of the target set: all that the squared-loss label solve needs to know of it.

For each extractor φ_k of a pool, with Φ_T the N×(d_k+1) matrix of target features and a last column of ones,
and T the N×C one-hot labels::

    gram.k  = Φ_Tᵀ Φ_T      (d_k+1, d_k+1)  float64
    cross.k = Φ_Tᵀ T        (d_k+1, C)      float64

They are plain sums over images: one pass makes them, memory does not depend on N, and the moments of two
parts of a data set add up to those of the whole. Centring and scaling are algebra on them afterwards.
"""

from convexdistill.moments.one_pass import accumulate
from convexdistill.moments.record import KIND, Moments, Spec
from convexdistill.moments.tasks import accumulate_tasks
from convexdistill.moments.workers import accumulate_together

__all__ = ["KIND", "Moments", "Spec", "accumulate", "accumulate_tasks", "accumulate_together"]
