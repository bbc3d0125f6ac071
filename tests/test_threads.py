"""Pieces of work on threads: the same results, real concurrency, and an end when something goes wrong."""

import contextvars
import threading

import pytest
import torch

from convexdistill import threads
from convexdistill.data import Preprocessing, load
from convexdistill.features import extract, pool
from convexdistill.moments import accumulate
from convexdistill.threads import StoppedError, check, in_threads, workers

CPU = torch.device("cpu")


def test_results_come_in_the_order_of_the_pieces(two_cores):
    assert in_threads(lambda n: n * n, range(20), CPU) == [n * n for n in range(20)]
    assert in_threads(abs, [], CPU) == []


def test_pieces_run_at_the_same_time_with_a_core_each(two_cores):
    meeting = threading.Barrier(2, timeout=30)

    def work(piece):
        meeting.wait()  # passes only when both are here
        return torch.get_num_threads(), threading.current_thread()

    (first, one), (second, other) = in_threads(work, [0, 1], CPU)
    assert (first, second) == (1, 1)
    assert one is not other
    assert torch.get_num_threads() == 2


def test_one_core_or_another_device_needs_no_threads():
    here = threading.current_thread()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert in_threads(lambda _: threading.current_thread(), [0, 1], CPU) == [here, here]
    torch.set_num_threads(before)
    assert in_threads(lambda _: threading.current_thread(), [0, 1], torch.device("meta")) == [here, here]
    assert workers(torch.device("meta")) == 1


def test_a_piece_sees_the_callers_context_and_gradient_mode(two_cores):
    word = contextvars.ContextVar("word", default="other")
    word.set("mine")
    with torch.no_grad():
        assert in_threads(lambda _: (word.get(), torch.is_grad_enabled()), [0, 1], CPU) == [("mine", False)] * 2
    assert in_threads(lambda _: torch.is_grad_enabled(), [0, 1], CPU) == [True, True]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("failing", [0, 1])
def test_when_a_piece_fails_the_others_end_and_its_error_comes_out(two_cores, error, failing):
    begun, ended = threading.Event(), []

    def work(piece):
        if piece == failing:
            begun.wait(30)
            raise error("broken")
        begun.set()
        try:
            while True:
                check()
        except StoppedError:
            ended.append(piece)
            raise

    with pytest.raises(error, match="broken"):
        in_threads(work, range(5), CPU)
    assert ended == [1 - failing]  # 2, 3 and 4 did not begin
    assert torch.get_num_threads() == 2
    check()  # the caller's own thread is not stopped


def test_a_piece_is_cast_as_its_caller_is(two_cores):
    ones = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert in_threads(lambda _: (ones @ ones).dtype, [0, 1], CPU) == [torch.bfloat16] * 2
    assert in_threads(lambda _: (ones @ ones).dtype, [0, 1], CPU) == [torch.float32] * 2


def test_features_do_not_depend_on_the_number_of_cores(two_cores):
    digits = load("digits").subset(range(100))
    extractor, prepare = pool("convnet", count=1, width=4)[0].build(digits.shape), Preprocessing.fit(digits)
    several = extract(extractor, digits.images, prepare)
    torch.set_num_threads(1)
    assert torch.equal(several, extract(extractor, digits.images, prepare))


def test_moments_do_not_depend_on_the_number_of_cores(two_cores):
    digits = load("digits").subset(range(300))
    specs = pool("convnet", count=2, width=4)
    several = accumulate(specs, digits)
    torch.set_num_threads(1)
    alone = accumulate(specs, digits)
    assert all(torch.equal(a, b) for a, b in zip(several.gram, alone.gram, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(several.cross, alone.cross, strict=True))


def test_there_are_never_more_workers_than_pay(two_cores, monkeypatch):
    monkeypatch.setattr(threads, "MOST", 3)
    torch.set_num_threads(7)
    assert workers(CPU) == 3
    assert in_threads(lambda _: torch.get_num_threads(), range(3), CPU) == [2] * 3
