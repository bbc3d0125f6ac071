"""The label solves: from a target set and base examples to a distilled set. One method a file.

A distiller takes ``base`` and ``validation``, and of the target what it needs under the names ``moments``,
``pool`` or ``target``, with options of its own. It returns a :class:`convexdistill.DistilledSet`, and is one line
in ``METHODS``, and one in ``CHECKS``: what can be known to be wrong with its options without any data.
"""

from collections.abc import Callable

from convexdistill.distill.alternate import alternate, best_pool
from convexdistill.distill.closed_form import check_settings, closed_form
from convexdistill.distill.cross_entropy import check_softmax_settings, cross_entropy
from convexdistill.distill.images import images
from convexdistill.distill.online import check_online_settings
from convexdistill.distill.online_ridge import online_ridge, train_ridge
from convexdistill.distill.second_order import second_order
from convexdistill.distill.target_features import TargetFeatures
from convexdistill.distill.trained import trained_pool
from convexdistill.distill.unrolled import check_unrolled_settings, unrolled
from convexdistill.distilled import DistilledSet

METHODS: dict[str, Callable[..., DistilledSet]] = {
    "closed-form": closed_form,
    "cross-entropy": cross_entropy,
    "alternate": alternate,
    "unrolled": unrolled,
    "online-ridge": online_ridge,
    "second-order": second_order,
    "images": images,
}
CHECKS: dict[str, Callable[..., None]] = {
    "closed-form": check_settings,
    "cross-entropy": check_softmax_settings,
    "alternate": check_softmax_settings,
    "unrolled": check_unrolled_settings,
    "online-ridge": check_online_settings,
    "second-order": check_online_settings,
    "images": check_online_settings,
}

__all__ = [
    "CHECKS",
    "METHODS",
    "TargetFeatures",
    "alternate",
    "best_pool",
    "closed_form",
    "cross_entropy",
    "images",
    "online_ridge",
    "second_order",
    "train_ridge",
    "trained_pool",
    "unrolled",
]
