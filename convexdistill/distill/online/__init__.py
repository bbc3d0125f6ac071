"""The loop that the paper's two online methods share, and its parts: one idea a file."""

from convexdistill.distill.online.learned import Learned
from convexdistill.distill.online.learner import Learner
from convexdistill.distill.online.networks import NetworkLike, builder, dtype_of
from convexdistill.distill.online.restarts import RestartRule
from convexdistill.distill.online.result import distil_online, problem_of
from convexdistill.distill.online.schedule import Schedule, check_online_settings

__all__ = [
    "Learned",
    "Learner",
    "NetworkLike",
    "RestartRule",
    "Schedule",
    "builder",
    "check_online_settings",
    "distil_online",
    "dtype_of",
    "problem_of",
]
