"""Files, and the reports of progress on the way to them."""

import io
import os
import pickle
import threading

import pytest
import torch
from safetensors.torch import save_file

from convexdistill import progress
from convexdistill.device import resolve_device
from convexdistill.errors import DeviceError, FileFormatError, OutputError, UnknownNameError
from convexdistill.files import read_json, read_tensors, write_atomically, write_json, write_tensors

MANIFEST = {"kind": "toy", "format_version": 1, "names": ["α", "b"]}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "below" / "toy.safetensors"
    write_tensors(path, {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor([1, 2])}, MANIFEST)
    return path


def test_tensors_and_manifest_come_back_as_they_were(written):
    tensors, manifest = read_tensors(written, kind="toy", version=1)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3).T)
    assert torch.equal(tensors["b"], torch.tensor([1, 2]))
    assert manifest == MANIFEST


def test_the_same_content_gives_the_same_bytes(written, tmp_path):
    again = tmp_path / "again"
    shuffled = dict(reversed(MANIFEST.items()))
    write_tensors(again, {"b": torch.tensor([1, 2]), "a": torch.arange(6.0).view(2, 3).T}, shuffled)
    assert again.read_bytes() == written.read_bytes()


def test_a_file_is_readable_by_whom_any_new_file_is(written, tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert written.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_cut_off_anywhere_is_refused(written, share):
    content = written.read_bytes()
    written.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match=r"toy\.safetensors is not a whole safetensors file"):
        read_tensors(written, kind="toy", version=1)


def test_other_files_are_refused(written, tmp_path):
    with pytest.raises(FileFormatError, match="there is no file"):
        read_tensors(tmp_path / "nowhere", kind="toy", version=1)
    with pytest.raises(FileFormatError, match="there is no file"):
        read_tensors(tmp_path, kind="toy", version=1)
    foreign = tmp_path / "foreign"
    save_file({"a": torch.zeros(2)}, foreign, metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match="was not written by convexdistill"):
        read_tensors(foreign, kind="toy", version=1)
    with pytest.raises(FileFormatError, match="holds 'toy', not 'moments'"):
        read_tensors(written, kind="moments", version=1)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileFormatError):
        read_tensors(path, kind="toy", version=1)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5])
def test_impossible_versions_are_refused(tmp_path, version):
    path = tmp_path / "toy"
    write_tensors(path, {"a": torch.zeros(1)}, {"kind": "toy", "format_version": version})
    with pytest.raises(FileFormatError, match="impossible format version"):
        read_tensors(path, kind="toy", version=1)


def test_a_newer_version_says_to_upgrade(tmp_path):
    path = tmp_path / "toy"
    write_tensors(path, {"a": torch.zeros(1)}, {"kind": "toy", "format_version": 2})
    with pytest.raises(FileFormatError, match=r"format version 2.*reads up to 1.*upgrade"):
        read_tensors(path, kind="toy", version=1)
    assert read_tensors(path, kind="toy", version=2)[1]["format_version"] == 2


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("as before")
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "file" / "below", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "folder", b"new")
    assert {p.name for p in tmp_path.rglob("*")} == {"file", "folder"}
    assert (tmp_path / "file").read_text() == "as before"


def test_a_write_that_breaks_off_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_comes_back_and_anything_else_is_refused(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": [1, 2.5, None], "b": "ü"})
    assert read_json(path) == {"a": [1, 2.5, None], "b": "ü"}
    path.write_text("[1, 2]")
    with pytest.raises(FileFormatError, match="holds no JSON object"):
        read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(FileFormatError, match="cannot be read as JSON"):
        read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="cannot be read as JSON"):
        read_json(path)


class Recorder:
    """Keeps what is reported."""

    def __init__(self):
        self.steps = {}

    def task(self, description, total):
        self.steps[description] = [0, total]
        return self

    def __enter__(self):
        (name,) = list(self.steps)[-1:]
        return lambda steps: self.steps[name].__setitem__(0, self.steps[name][0] + steps)

    def __exit__(self, *error):
        return False


def test_progress_goes_to_whoever_listens_and_to_nobody_after():
    recorder = Recorder()
    with progress.reporting(recorder), progress.task("work", total=3) as advance:
        advance(2)
        advance(1)
    with progress.task("unseen", total=1) as advance:
        advance(1)
    assert recorder.steps == {"work": [3, 3]}


def test_another_thread_does_not_report_here():
    recorder = Recorder()

    def elsewhere():
        with progress.task("elsewhere", total=1) as advance:
            advance(1)

    with progress.reporting(recorder):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert recorder.steps == {}


def test_plain_lines_say_what_starts_and_ends():
    stream = io.StringIO()
    with progress.reporting(progress.PlainReporter(stream)), progress.task("train", total=2) as advance:
        advance(2)
    start, end = stream.getvalue().splitlines()
    assert start == "train ..."
    assert end.startswith("train: done in ")


def test_devices_by_name():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("meta")) == torch.device("meta")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(UnknownNameError, match="unknown device 'gpu'; known are auto, cpu"):
        resolve_device("gpu")


def test_an_absent_device_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="'cuda:1' is not available here"):
        resolve_device("cuda:1")


def test_a_log_says_how_long_a_task_still_takes(monkeypatch):
    clock = iter(range(0, 600, 30))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    stream = io.StringIO()
    with progress.PlainReporter(stream).task("distil", 10) as advance:
        for steps in (4, 1, 1, 1):  # four of an earlier sitting, then one each 30 seconds
            advance(steps)
    lines = ["distil ...", "distil: 5/10, 2 min left", "distil: 7/10, 2 min left", "distil: done in 150.0 s"]
    assert stream.getvalue().splitlines() == lines
