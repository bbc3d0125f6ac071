"""The label solves: from moments and base examples to a distilled set. One method a file.

A distiller takes moments and base examples, with the options of :func:`closed_form`, returns a
:class:`convexdistill.DistilledSet`, and is one line in ``METHODS``.
"""

from convexdistill.distill.closed_form import check_settings, closed_form

METHODS = {"closed-form": closed_form}

__all__ = ["METHODS", "check_settings", "closed_form"]
