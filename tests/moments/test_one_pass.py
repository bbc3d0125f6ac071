"""The pass itself: sources, memory, devices that run out of it, and the quick extractors."""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from convexdistill.data import load, stream
from convexdistill.errors import DataError, DeviceError, ParameterRangeError, PerformanceWarning
from convexdistill.features import ModuleSpec, pool
from convexdistill.features.fused import ConvReLU, fused
from convexdistill.moments import accumulate
from convexdistill.moments.sums import Sums

DIGITS = load("digits").subset(range(300))
POOL = pool("convnet", count=2, width=4)
WHOLE = accumulate(POOL, DIGITS)


def difference(a, b):
    pairs = zip((*a.gram, *a.cross), (*b.gram, *b.cross), strict=True)
    return max(float((x - y).norm() / y.norm()) for x, y in pairs)


def batches(size=37):
    return list(zip(DIGITS.images.split(size), DIGITS.labels.split(size), strict=True))


def test_a_stream_gives_the_moments_of_the_images_in_memory():
    moments = accumulate(POOL, stream(batches(), classes=DIGITS.classes, name="digits"))
    assert difference(moments, WHOLE) == 0
    assert torch.equal(moments.counts, WHOLE.counts)
    assert moments.missing == []


def test_anything_that_can_be_streamed_is_a_target():
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(DIGITS.images.float() / 255, DIGITS.labels), batch_size=50
    )
    loader.dataset.classes = list(DIGITS.classes)
    assert difference(accumulate(POOL, loader), WHOLE) == 0


def test_every_image_meets_the_same_kernels_whatever_its_batch():
    shards = [accumulate(POOL, DIGITS, shard=(i, 4)) for i in range(4)]
    merged = shards[3].merge(shards[1]).merge(shards[0]).merge(shards[2])
    assert difference(merged, WHOLE) < 1e-12
    assert merged.target == WHOLE.target


def test_the_data_is_read_once_for_the_whole_pool():
    reads = []

    def make():
        reads.append(1)
        return iter(batches())

    source = stream(make, classes=10)
    reads.clear()
    accumulate(pool("convnet", count=4, width=4), source, preprocessing=WHOLE.preprocessing)
    assert reads == [1]


def test_sums_are_those_of_plain_products():
    draw = torch.Generator().manual_seed(0)
    sums = Sums([5, 3], 4, torch.device("cpu"))
    features = [torch.randn(50, d, generator=draw) for d in (5, 3)]
    labels = torch.randint(0, 4, (50,), generator=draw)
    for start in (0, 20, 27):
        rows = slice(start, {0: 20, 20: 27, 27: 50}[start])
        sums.add([values[rows] for values in features], labels[rows])
    one_hot = nn.functional.one_hot(labels, 4).double()
    for k, values in enumerate(features):
        wide = torch.cat([values.double(), torch.ones(50, 1, dtype=torch.float64)], 1)
        torch.testing.assert_close(sums.gram()[k], wide.T @ wide, rtol=1e-13, atol=1e-13)
        assert torch.equal(sums.gram()[k], sums.gram()[k].T)
        torch.testing.assert_close(sums.cross()[k], wide.T @ one_hot, rtol=1e-13, atol=1e-13)
    assert sums.counts.tolist() == torch.bincount(labels, minlength=4).tolist()


def highest_memory(run):
    """Resident bytes at the highest while something ran."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        pytest.skip("only Linux tells the peak of a part of a process")
    clear.write_text("5")
    run()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_memory_does_not_depend_on_the_number_of_images():
    tiny = [ModuleSpec(nn.Sequential(nn.AvgPool2d(8), nn.Flatten()))]

    def synthetic(count):
        def make():
            for i in range(count):
                yield torch.full((500, 3, 32, 32), i % 251, dtype=torch.uint8), torch.arange(500) % 10

        return lambda: accumulate(tiny, stream(make, classes=10), batch_size=500)

    synthetic(20)()
    few = highest_memory(synthetic(20))
    many = highest_memory(synthetic(200))  # 300 MB of images
    assert many < 1.1 * few


class Hungry(nn.Module):
    """Runs out of memory as a device does, above so many images at a time."""

    def __init__(self, most):
        super().__init__()
        self.most, self.weight = most, nn.Parameter(torch.ones(1))

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return x.flatten(1) * self.weight


def test_out_of_memory_halves_the_batch_and_says_so():
    with pytest.warns(PerformanceWarning) as told:
        moments = accumulate([ModuleSpec(Hungry(10))], DIGITS, batch_size=64)
    # A CPU's core takes 32 of the 64 at a time to begin with.
    messages = [str(w.message) for w in told if w.category is PerformanceWarning]
    assert [m.split(";")[0].rpartition(": ")[2] for m in messages] == [
        "going on with 16 images at a time instead of 32",
        "going on with 8 images at a time instead of 16",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calm = accumulate([ModuleSpec(Hungry(1000))], DIGITS, batch_size=64)
    assert difference(moments, calm) == 0


class Starving(Hungry):
    """Has room for what looks at its shape, and for no batch."""

    calls = 0

    def forward(self, x):
        Starving.calls += 1
        if Starving.calls > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.flatten(1) * self.weight


def test_a_device_too_small_for_one_image_says_so():
    with pytest.warns(PerformanceWarning), pytest.raises(DeviceError, match="too little memory for a single"):
        accumulate([ModuleSpec(Starving(1))], DIGITS, batch_size=4)


def test_half_precision_features_are_near_and_sums_float64():
    moments = accumulate(POOL, DIGITS, autocast=True)
    assert 0 < difference(moments, WHOLE) < 1e-2
    assert all(g.dtype == torch.float64 for g in moments.gram)
    assert float(moments.gram[0][-1, -1]) == len(DIGITS)


def test_an_empty_shard_of_a_stream_is_an_error():
    source = stream(batches(150), classes=10)
    with pytest.raises(DataError, match="holds no images"):
        accumulate(POOL, source, shard=(300, 301))
    with pytest.raises(ParameterRangeError, match="batch_size"):
        accumulate(POOL, DIGITS, batch_size=0)


def test_reading_and_networks_overlap():
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.02)
            return x.flatten(1)

    def make():
        for images, labels in batches(50):
            time.sleep(0.05)
            yield images, labels

    source = stream(make, classes=10)
    spec = [ModuleSpec(Slow())]
    start = time.perf_counter()
    accumulate(spec, source, batch_size=25, preprocessing=WHOLE.preprocessing)
    # Six reads of 50 ms and twelve batches of 20 ms: 540 ms one after the other, 320 ms side by side.
    assert time.perf_counter() - start < 0.5


CONV = nn.Conv2d(3, 8, 3, padding=1)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (nn.Sequential(nn.Sequential(CONV, nn.ReLU(), nn.AvgPool2d(2)), nn.Flatten()), 1),
        (nn.Sequential(nn.Sequential(CONV, nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU()), nn.Flatten()), 2),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU()), nn.Flatten()), 0),
        (nn.Sequential(nn.Sequential(CONV, nn.Tanh()), nn.Flatten()), 0),
        (nn.Sequential(nn.Flatten()), 0),
    ],
)
def test_fused_extractors_give_the_same_features(network, count):
    quick = fused(network.requires_grad_(False), (3, 8, 8), batch_size=4)
    assert sum(isinstance(m, ConvReLU) for m in quick.modules()) == count
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(quick(images), network(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, ConvReLU) for m in network.modules())


def test_a_module_that_is_not_the_sum_of_its_layers_is_left_alone():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())

        def forward(self, x):
            return self.layers[1](x + self.layers[0](x)).flatten(1)

    module = Skips()
    assert fused(module, (3, 8, 8), batch_size=4) is module


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++")
def test_compiled_extractors_give_the_same_moments_on_several_cores(two_cores):
    few = DIGITS.subset(range(100))
    compiled = accumulate(POOL, few, compiled=True)
    assert difference(compiled, accumulate(POOL, few)) < 1e-6
