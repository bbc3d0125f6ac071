import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from threadpoolctl import ThreadpoolController
from torch import nn

from convexdistill import progress
from convexdistill.data import Preprocessing, load
from convexdistill.errors import (
    FileFormatError,
    InvalidInputError,
    NonFiniteInputError,
    OutputError,
    ParameterRangeError,
)
from convexdistill.features import ModuleSpec, pool
from convexdistill.files import read_tensors, write_tensors
from convexdistill.moments import Moments, accumulate

DIGITS = load("digits").subset(range(300))
PREPARE = Preprocessing.fit(DIGITS)
POOL = pool("convnet", count=2, width=4)
WHOLE = accumulate(POOL, DIGITS, preprocessing=PREPARE)


def part(*where, **options):
    return accumulate(POOL, DIGITS.subset(range(*where)), preprocessing=PREPARE, **options)


def assert_same(a, b, tolerance=0.0):
    assert torch.equal(a.counts, b.counts)
    for x, y in zip((*a.gram, *a.cross), (*b.gram, *b.cross), strict=True):
        assert x.dtype == y.dtype == torch.float64
        assert float((x - y).norm()) <= tolerance * float(y.norm())


def test_moments_are_the_sums_over_all_images():
    one_hot = nn.functional.one_hot(DIGITS.labels, 10).double()
    for k, spec in enumerate(POOL):
        features = spec.build(DIGITS.shape)(PREPARE(DIGITS.images)).double()
        features = torch.cat([features, torch.ones(300, 1, dtype=torch.float64)], 1)
        # The features are float32 of another batch size; the sums are float64.
        torch.testing.assert_close(WHOLE.gram[k], features.T @ features, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(WHOLE.cross[k], features.T @ one_hot, rtol=1e-5, atol=1e-4)


def test_sums_are_float64_whatever_the_features_are():
    # 2**24 + 1 is not a float32: sums that went through float32 would lose the ones.
    spec = ModuleSpec(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    spec.module[1].weight.data.zero_()
    spec.module[1].bias.data.fill_(4096.0)
    moments = accumulate([spec], DIGITS)
    assert moments.gram[0].tolist() == [[300 * 2.0**24, 300 * 4096.0], [300 * 4096.0, 300.0]]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_batches_make_no_difference(batch_size):
    # A linear map of bytes in float64 rounds nothing, so that only the sums can differ.
    spec = ModuleSpec(nn.Sequential(nn.Flatten()))
    at_once = accumulate([spec], DIGITS, preprocessing=PREPARE, batch_size=300)
    assert_same(accumulate([spec], DIGITS, preprocessing=PREPARE, batch_size=batch_size), at_once, 1e-12)


def test_the_ones_column_counts_images_and_sums_features():
    for gram, cross in zip(WHOLE.gram, WHOLE.cross, strict=True):
        assert float(gram[-1, -1]) == WHOLE.images == len(DIGITS)
        assert cross[-1].tolist() == WHOLE.counts.tolist() == list(DIGITS.counts)
        torch.testing.assert_close(cross.sum(1), gram[:, -1])


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 299))
def test_two_parts_make_the_whole_in_either_order(cut):
    first, second = part(0, cut), part(cut, 300)
    assert_same(first.merge(second), WHOLE, 1e-6)  # float32 features depend on the batch in the last digit
    assert_same(first.merge(second), second.merge(first))
    assert first.merge(second).target == second.merge(first).target


def test_parts_of_whole_batches_make_the_whole_to_float64():
    first, second = part(0, 128), part(128, 300)
    assert_same(first.merge(second), WHOLE, 1e-12)


def test_merging_changes_neither_part():
    first, second = part(0, 100), part(100, 300)
    before = [g.clone() for g in first.gram]
    first.merge(second)
    assert all(map(torch.equal, before, first.gram))
    assert first.images == 100


def test_shards_are_a_division_of_the_work():
    shards = [accumulate(POOL, DIGITS, shard=(i, 3)) for i in range(3)]
    assert shards[0].missing == [f"{DIGITS.fingerprint}#{i}/3" for i in (1, 2)]
    merged = shards[2].merge(shards[0])
    assert merged.missing == [f"{DIGITS.fingerprint}#1/3"]
    merged = merged.merge(shards[1])
    assert (merged.missing, WHOLE.missing) == ([], [])
    assert_same(merged, WHOLE, 1e-6)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0), (0, 301)])
def test_shards_that_cannot_be(shard):
    with pytest.raises(ParameterRangeError, match=f"shard {shard[0]}/{shard[1]}"):
        accumulate(POOL, DIGITS, shard=shard)


def test_no_image_is_counted_twice():
    def shard(i, m):
        return accumulate(POOL, DIGITS, shard=(i, m))

    for first, second in [(WHOLE, WHOLE), (shard(0, 2), shard(0, 2)), (shard(0, 2), shard(1, 3))]:
        with pytest.raises(InvalidInputError, match="counted twice"):
            first.merge(second)
    with pytest.raises(InvalidInputError, match="counted twice"):
        WHOLE.merge(shard(1, 2))
    with pytest.raises(InvalidInputError, match="counted twice"):
        shard(0, 2).merge(shard(1, 2)).merge(shard(1, 2))


def test_moments_that_do_not_belong_together_say_why():
    rest = DIGITS.subset(range(100, 300))
    first = part(0, 100)
    others = {
        "pool": accumulate(pool("convnet", count=2, width=4, seed=1), rest, preprocessing=PREPARE),
        "preprocessing": accumulate(POOL, rest, preprocessing=Preprocessing((0.5,), (0.5,))),
        "classes": accumulate(POOL, dataclasses.replace(rest, classes=tuple("abcdefghij")), preprocessing=PREPARE),
        "shape": accumulate(POOL, dataclasses.replace(rest, images=rest.images[..., :7]), preprocessing=PREPARE),
    }
    for key, other in others.items():
        with pytest.raises(InvalidInputError, match=rf"\({key}.* here, .* in the other(; and \d+ more)?\)$"):
            first.merge(other)
        with pytest.raises(InvalidInputError, match=rf"\({key}.* here, .* in the other(; and \d+ more)?\)$"):
            other.merge(first)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "digits.moments"
    WHOLE.save(path)
    return path


def test_moments_come_back_bit_by_bit_with_their_extractors(saved):
    loaded = Moments.load(saved)
    assert_same(loaded, WHOLE)
    assert (loaded.pool, loaded.preprocessing) == (WHOLE.pool, WHOLE.preprocessing)
    assert loaded.target == WHOLE.target
    images = PREPARE(DIGITS.images[:5])
    for ours, theirs in zip(WHOLE.extractors, loaded.extractors, strict=True):
        assert torch.equal(ours(images), theirs(images))
    loaded.save(again := saved.with_suffix(".again"))
    assert again.read_bytes() == saved.read_bytes()


def test_loaded_parts_merge_like_fresh_ones(tmp_path):
    first, second = part(0, 128), part(128, 300)
    first.save(tmp_path / "first")
    assert_same(Moments.load(tmp_path / "first").merge(second), first.merge(second))


def test_moments_of_a_users_module_load_with_that_module(tmp_path):
    torch.manual_seed(0)
    spec = ModuleSpec(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    moments = accumulate([spec], DIGITS)
    moments.save(tmp_path / "own")
    with pytest.raises(InvalidInputError, match="module/Sequential"):
        Moments.load(tmp_path / "own")
    assert_same(Moments.load(tmp_path / "own", pool=[spec]), moments)
    spec.module[1].weight.data += 1
    with pytest.raises(FileFormatError, match="another pool"):
        Moments.load(tmp_path / "own", pool=[spec])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_off_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match="not a whole safetensors file"):
        Moments.load(saved)


def test_foreign_files_are_refused(tmp_path):
    save_file({"gram.0": torch.zeros(2, 2)}, tmp_path / "foreign")
    with pytest.raises(FileFormatError, match="not written by convexdistill"):
        Moments.load(tmp_path / "foreign")


def without(key):
    return lambda tensors, manifest: (tensors.pop(key, None), manifest.pop(key, None))


def setting(key, change):
    return lambda tensors, manifest: tensors.update({key: change(tensors[key])})


DAMAGE = {
    "kind": lambda tensors, manifest: manifest.update(kind="distilled-set"),
    "newer": lambda tensors, manifest: manifest.update(format_version=99),
    "no gram": without("gram.1"),
    "no cross": without("cross.0"),
    "no counts": without("counts"),
    "no pool": without("pool"),
    "no target": without("target"),
    "no preprocessing": without("preprocessing"),
    "pool of another size": lambda tensors, manifest: manifest["pool"].pop(),
    "shape": setting("gram.0", lambda gram: gram[:-1]),
    "classes": setting("cross.0", lambda cross: cross[:, :-1].clone()),
    "float32": setting("gram.0", lambda gram: gram.float()),
    "nan": setting("cross.1", lambda cross: cross * float("nan")),
    "other count": setting("counts", lambda counts: counts + 1),
    "no parts": lambda tensors, manifest: manifest["target"].pop("parts"),
    "no classes": lambda tensors, manifest: manifest["target"].pop("classes"),
    "class names": lambda tensors, manifest: manifest["target"]["classes"].pop(),
    "image shape": lambda tensors, manifest: manifest["target"].update(shape=[1, 8]),
    "features": lambda tensors, manifest: manifest["target"].update(shape=[1, 16, 16]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(saved, damage):
    tensors, manifest = read_tensors(saved, kind="moments", version=1)
    DAMAGE[damage](tensors, manifest)
    write_tensors(saved, tensors, manifest)
    with pytest.raises(FileFormatError, match=r"digits\.moments"):
        Moments.load(saved)


def test_an_output_that_cannot_be_written(saved):
    with pytest.raises(OutputError, match="cannot write"):
        WHOLE.save(saved / "below")


def test_features_that_are_not_numbers_are_refused():
    spec = ModuleSpec(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    spec.module[1].bias.data[1] = float("nan")
    with pytest.raises(NonFiniteInputError, match="'module/Sequential' gives NaN or infinite features"):
        accumulate([spec], DIGITS)


def test_progress_counts_every_batch():
    seen = []

    class Listener(progress.PlainReporter):
        def task(self, description, total):
            seen.append(total)
            return super().task(description, total)

    with progress.reporting(Listener()):
        part(0, 100, batch_size=30)
    assert seen == [4]  # one read of the data for the whole pool


def test_passes_in_several_threads_leave_scipys_blas_as_it_was():
    blas = ThreadpoolController().select(user_api="blas")
    found = [library.num_threads for library in blas.lib_controllers]
    with blas.limit(limits=2):
        before = [library.num_threads for library in blas.lib_controllers]
        digits = load("digits").subset(range(200))
        specs = pool("convnet", count=2, width=4)
        with ThreadPoolExecutor(3) as executor:
            list(executor.map(lambda _: accumulate(specs, digits, batch_size=4), range(3)))
        assert [library.num_threads for library in blas.lib_controllers] == before
    assert [library.num_threads for library in blas.lib_controllers] == found
