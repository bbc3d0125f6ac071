"""Several sets on one page: names, what may be compared, and how certain differences are."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch
from scipy import stats

from convexdistill.errors import FileFormatError, InvalidInputError
from convexdistill.files import write_json
from convexdistill.report import entry, read_entries, record, render_page
from convexdistill.report.compare import standing
from convexdistill.report.entries import against, check_comparable
from convexdistill.report.result_tables import differences


@pytest.fixture
def pair(tmp_path, make_set, make_row, make_record):
    """Two sets of twelve and eight images, each with its numbers, on disk."""
    files = []
    for name, n, top in (("large", 12, 91.0), ("small", 8, 85.0)):
        made = make_set(n)
        rows = [
            make_row("distilled", [[top, top + 1.5], [top + 0.5, top + 2.5]]),
            make_row("teacher", [[top - 2, top - 1], [top - 1.5, top - 1]]),
        ]
        made.save(tmp_path / f"{name}.safetensors")
        write_json(tmp_path / f"{name}.json", make_record(made, rows))
        files.append(tmp_path / f"{name}.safetensors")
    return files


def test_one_page_compares_several_sets(pair):
    html = unescape(render_page(read_entries(pair)))
    assert "2 distilled sets for digits" in html
    assert (
        "large (12 images) trains a LeNet to 92.1\u00a0%, small (8 images) trains a LeNet to 86.1\u00a0%." in html
    )
    assert html.count('id="sets"') == 1
    for name in ("large", "small"):
        assert f"<summary>{name}: " in html
    assert 'id="labels-1-7.6-' in html
    assert 'id="labels-2-7.6-' in html


def test_the_record_is_plain_json(pair):
    numbers = record(read_entries(pair))
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert [one["name"] for one in numbers["sets"]] == ["large", "small"]
    assert numbers["sets"][1]["against_first"]["mean"] == pytest.approx(-6.0)
    assert numbers["sets"][0]["main"]["best_baseline"] == "teacher"


def test_different_base_images_are_compared_without_pairs(pair):
    first, other = read_entries(pair)
    found = against(first, other)
    ours, theirs = ([np.mean(r) for r in np.array_split(e.rows[0].runs, 2)] for e in (other, first))
    ends = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.over == "unpaired"


def test_the_same_base_images_are_compared_in_pairs(distilled, make_row, make_record):
    a = entry(distilled, make_record(distilled, [make_row("distilled", [[90.0, 91.0], [94.0, 95.0]])]), "a")
    b = entry(distilled, make_record(distilled, [make_row("distilled", [[91.0, 92.2], [95.0, 96.1]])]), "b")
    found = against(a, b)
    assert (found.over, found.pairs) == ("base sets", 2)
    assert found.mean == pytest.approx(1.075)
    assert found.high - found.low < 1.0  # the base sets differ by four points, but in both alike


@pytest.mark.parametrize("other", [{"seed": 1}, {}, {"learning_rate": 0.1}, {"order": "fixed"}], ids=str)
def test_trainings_of_another_seed_or_way_are_no_pairs(distilled, make_row, make_record, other):
    seed = {"seed": other.get("seed")} if not other or "seed" in other else {"seed": 0}
    way = {key: value for key, value in other.items() if key != "seed"}
    ours, theirs = (make_row("distilled", [[90.0, 91.0, top]], **how) for top, how in ((92.0, {}), (93.0, way)))
    a = entry(distilled, make_record(distilled, [ours]) | {"evaluation": {"seed": 0}}, "a")
    b = entry(distilled, make_record(distilled, [theirs]) | {"evaluation": seed}, "b")
    assert against(a, b).over == "unpaired"


def test_a_file_of_several_base_sets_counts_by_them_beside_one_of_a_single_one(make_set, make_row, make_record):
    several, single = make_set(12), make_set(8)
    a = entry(several, make_record(several, [make_row("distilled", [[80.0, 80.1], [90.0, 90.1]])]), "a")
    b = entry(single, make_record(single, [make_row("distilled", [[85.0, 85.1, 85.2]])]), "b")
    found = against(a, b)
    assert (found.pairs, found.high - found.low > 60) == (2, True)


def test_the_caption_says_which_baselines_share_what(distilled, make_row, make_record):
    gap = {"mean": 1.0, "low": 0.5, "high": 1.5, "pairs": 2, "over": "trainings"}

    def caption(*names):
        row = make_row("distilled", [[90.0, 91.0]], differences=dict.fromkeys(names, gap))
        return differences([entry(distilled, make_record(distilled, [row]))]).caption

    assert caption("one-hot").endswith("paired: the same base images, the same seeds.")
    assert "“more images, one-hot” shares the seeds alone" in caption("one-hot", "random-subset")
    assert "no training shares the base images alone" in caption("nearest-mean")
    assert "the full data shares neither, and is not paired." in caption("full-data")


def test_sets_without_numbers_can_be_compared(pair):
    for file in pair:
        file.with_suffix(".json").unlink()
    entries = read_entries(pair)
    html = unescape(render_page(entries))
    assert "2 sets, none of them evaluated yet." in html
    assert record(entries)["sets"][0]["metrics"] is None


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"classes": ("zero", "one", "three")}, "classes"),
        ({"shape": (1, 9, 9)}, "image sizes: 1×8×8 and 1×9×9"),
        ({"target": "mnist", "parts": True}, "target data"),
    ],
)
def test_different_targets_are_refused(distilled, make_set, facts, what):
    parts = facts.pop("parts", False)
    other = make_set(**facts)
    if parts:
        manifest = {**other.manifest, "target": {**other.manifest["target"], "parts": ["sha256:" + "ef" * 32]}}
        other = replace(other, manifest=manifest)
    with pytest.raises(InvalidInputError, match=f"cannot be compared, they have different {what}"):
        check_comparable([entry(distilled, None, "a"), entry(other, None, "b")])


def test_numbers_lie_beside_each_file(pair, tmp_path, distilled, numbers):
    pair[0].with_suffix(".json").rename(tmp_path / "metrics.json")
    assert len(read_entries(pair[:1])[0].rows) == 2
    pair[1].with_suffix(".json").unlink()
    with pytest.raises(FileFormatError, match=r"metrics.json, beside .*small.*another distilled set"):
        read_entries(pair)
    with pytest.raises(InvalidInputError, match="1 files of metrics for 2"):
        read_entries(pair, [tmp_path / "metrics.json"])


def test_the_full_data_is_no_rival(make_row):
    rows = [make_row("distilled", [[90.0]]), make_row("full-data", [[99.0]]), make_row("one-hot", [[80.0]])]
    found = standing(rows)
    assert found.best.labels == "one-hot"
    assert [row.labels for row in found.panel] == ["distilled", "full-data", "one-hot"]


def test_rivals_were_trained_in_the_same_way(make_row):
    rows = [
        make_row("distilled", [[90.0]], learning_rate=0.01),
        make_row("one-hot", [[95.0]], learning_rate=0.1),
        make_row("one-hot", [[80.0]], learning_rate=0.01),
        make_row("nearest-neighbour", [[70.0]]),
    ]
    assert standing(rows).best.accuracy_mean == 80.0


def test_a_page_of_labels_alone_has_no_signs(make_set):
    made = make_set(4, space="probability")
    assert torch.all(made.labels >= 0)
    assert "orange bars" not in render_page([entry(made, None)])
