"""The figures: text stays text, colours come from the page, nothing global is touched."""

from __future__ import annotations

import base64
import io
import re
import warnings
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from convexdistill.report.images import png_uri
from convexdistill.report.plots import NARROW, WIDE, accuracy_svg, heat_map_svg


def texts(svg: str) -> list[str]:
    return [
        "".join(node.itertext()).strip()
        for node in ElementTree.fromstring(svg).iter()
        if node.tag.endswith("text")
    ]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_accuracy_plot_is_labelled(rows, width):
    svg = accuracy_svg(rows, width)
    found = texts(svg)
    assert "test accuracy, %" in found
    assert {"distilled", "teacher scores", "91.8"} <= set(found)
    assert 'role="img" aria-label="Plot of test accuracy' in svg


def test_rows_are_sorted_best_on_top(rows):
    svg = accuracy_svg(rows)
    names = [t for t in texts(svg) if t in ("distilled", "teacher scores", "one-hot", "nearest neighbour")]
    assert names == ["one-hot", "nearest neighbour", "teacher scores", "distilled"]  # from below


def test_a_wide_interval_does_not_squeeze_the_points(make_row):
    rows = [make_row("distilled", [[90.0, 92.0]]), make_row("teacher", [[88.0, 91.0]])]
    assert max(row.accuracy_ci95[1] - row.accuracy_ci95[0] for row in rows) > 20
    ticks = [float(t) for t in texts(accuracy_svg(rows)) if re.fullmatch(r"[\d.]+", t)]
    assert min(ticks) > 80


def test_equal_and_extreme_accuracies_can_be_drawn(make_row):
    for value in (0.0, 50.0, 100.0):
        assert texts(accuracy_svg([make_row("distilled", [[value, value]])]))


def test_one_panel_for_each_network_and_optimiser(rows, make_row):
    rows = [*rows, make_row("distilled", [[80.0], [81.0]], network="alexnet")]
    found = texts(accuracy_svg(rows))
    assert {"LeNet, Adam", "AlexNet, Adam"} <= set(found)
    assert found.count("nearest neighbour") == 2


@pytest.mark.parametrize("space", ["centred", "probability"])
def test_heat_map_names_classes(make_set, space):
    svg = heat_map_svg(make_set(space=space))
    assert {"zero", "one", "two", "class of the target", "soft label"} <= set(texts(svg))
    assert "12 base images against 3 classes" in svg
    has_negative_ticks = any(text.startswith("−") for text in texts(svg))
    assert has_negative_ticks == (space == "centred")


def test_heat_map_rows_are_sorted_by_class(make_set):
    distilled = make_set(6, ("a", "b"))
    distilled.labels[:] = torch.nn.functional.one_hot(distilled.base_labels, 2).float()
    uris = re.findall(r'href="data:image/png;base64,\s*([^"]*)"', heat_map_svg(distilled))
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]
    (labels,) = [picture for picture in pictures if picture.shape[:2] == (6, 2)]
    assert (labels[..., 3] == [[255, 0]] * 3 + [[0, 255]] * 3).all()


def test_colours_and_fonts_are_the_pages(rows):
    svg = accuracy_svg(rows)
    assert "var(--ink)" in svg
    assert "var(--accent)" in svg
    assert "#00000" not in svg
    assert "DejaVu" not in svg


def test_any_class_name_can_be_drawn(make_set):
    names = ("$\\frac", "あいう", "a\nb", "<b>&\"'", "-->", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = heat_map_svg(make_set(12, names))
    assert {"$\\frac", "あいう", "<b>&\"'", "-->"} <= set(texts(svg))


def test_global_state_of_matplotlib_stays(make_set):
    before = dict(matplotlib.rcParams)
    heat_map_svg(make_set())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(channels):
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    data = base64.b64decode(png_uri(image).partition(",")[2])
    read = np.asarray(Image.open(io.BytesIO(data))).reshape(5, 7, channels)
    assert (read == image.permute(1, 2, 0).numpy()).all()
