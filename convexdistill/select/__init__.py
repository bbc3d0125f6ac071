"""Which base examples to keep. A new rule is one file and one line in ``choosing.RULES``."""

from convexdistill.select.base import BaseExamples
from convexdistill.select.choosing import check, choose

__all__ = ["BaseExamples", "check", "choose"]
