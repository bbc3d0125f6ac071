"""Which base examples to keep. A new rule is one file and one line in ``choosing.RULES``."""

from convexdistill.select.base import BaseExamples
from convexdistill.select.choosing import USES_MOMENTS, check, choose

__all__ = ["USES_MOMENTS", "BaseExamples", "check", "choose"]
