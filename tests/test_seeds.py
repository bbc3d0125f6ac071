import torch
from hypothesis import given
from hypothesis import strategies as st

from convexdistill.seeds import child_seed, generator, seeded


@given(st.integers(0, 2**63), st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=3))
def test_a_child_is_a_seed_that_torch_takes(seed, path):
    child = child_seed(seed, *path)
    assert 0 <= child < 2**63
    assert child == child_seed(seed, *path)
    torch.Generator().manual_seed(child)


def test_different_paths_and_seeds_are_different_streams():
    paths = [(), ("pool",), ("pool", 0), ("pool", 1), ("pool", "1"), ("order",), ("pool0",), (0, "pool")]
    seeds = {child_seed(seed, *path) for seed in (0, 1) for path in paths}
    assert len(seeds) == 2 * len(paths)


def test_a_stream_never_changes():
    # Published distilled sets name a seed: other streams would make them irreproducible.
    assert child_seed(0, "pool", 0) == 6859154068097942487


def test_generators_of_one_path_draw_the_same():
    first, again, other = (generator(0, "a", k) for k in (1, 1, 2))
    drawn = torch.rand(5, generator=first)
    assert torch.equal(drawn, torch.rand(5, generator=again))
    assert not torch.equal(drawn, torch.rand(5, generator=other))


def test_seeded_is_reproducible_and_leaves_the_callers_state():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with seeded(7):
        first = torch.rand(4)
    with seeded(7):
        assert torch.equal(first, torch.rand(4))
    assert torch.equal(before, torch.get_rng_state())
