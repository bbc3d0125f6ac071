"""Networks, and the frozen feature extractors made of them.

Example:
    >>> from convexdistill import data, features
    >>> digits = data.load("digits")
    >>> extractor = features.pool("convnet", count=1)[0].build(digits.shape)
    >>> features.extract(extractor, digits.images[:5], data.Preprocessing.fit(digits)).shape
    torch.Size([5, 128])
"""

from convexdistill.features.extractor import CPU_PIECE, FrozenExtractor, default_batch_size, extract
from convexdistill.features.network import Network, Shape
from convexdistill.features.pool import ExtractorSpec, ModuleSpec, Pool, pool, spec_from_dict
from convexdistill.features.registry import NETWORKS, build_network

__all__ = [
    "CPU_PIECE",
    "NETWORKS",
    "ExtractorSpec",
    "FrozenExtractor",
    "ModuleSpec",
    "Network",
    "Pool",
    "Shape",
    "build_network",
    "default_batch_size",
    "extract",
    "pool",
    "spec_from_dict",
]
