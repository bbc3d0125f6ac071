"""The layers as ``nn.Module``: thin over the functions."""

from convexdistill.layers.modules.ridge import Ridge

__all__ = ["Ridge"]
