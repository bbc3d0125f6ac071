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

from convexdistill.errors import UnknownNameError
from convexdistill.report import entry
from convexdistill.report.drawing import NARROW, WIDE
from convexdistill.report.figures import plots_of
from convexdistill.report.figures.accuracy import accuracy
from convexdistill.report.figures.labels import heat_map
from convexdistill.report.images import png_uri


def accuracy_svg(rows, width=WIDE):
    return accuracy([("", rows)]).svg(width)


def heat_map_svg(distilled):
    return heat_map(distilled).svg()


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


def test_one_panel_for_each_way_of_training(distilled, rows, make_row, make_record):
    rows = [*rows, make_row("distilled", [[80.0], [81.0]], network="alexnet", learning_rate=0.1)]
    plots = plots_of([entry(distilled, make_record(distilled, rows))])
    found = texts(plots["accuracy"].svg())
    assert {"LeNet, Adam", "AlexNet, Adam 0.1"} <= set(found)
    assert found.count("nearest neighbour") == 2
    assert "flexibility" not in plots


def test_figures_follow_the_numbers(distilled, everything):
    plots = plots_of([entry(distilled, everything)])
    assert list(plots) == ["accuracy", "flexibility", "curves", "calibration", "confusion", "labels", "groups"]
    assert {"89.5 – 91.8", "one-hot"} <= set(texts(plots["flexibility"].svg()))
    assert "distilled: 91.8 % after 180 steps" in plots["curves"].svg()
    assert "ECE 0.055" in texts(plots["calibration"].svg())
    assert "“one” is taken for “two” (5.6 %)" in plots["confusion"].caption
    assert {"excess gap, points", "class"} <= set(texts(plots["groups"].svg()))


def test_lines_differ_in_more_than_colour(distilled, everything):
    svg = plots_of([entry(distilled, everything)])["curves"].svg()
    assert {"var(--line-0)", "var(--line-1)", "var(--line-2)"} <= set(re.findall(r"var\(--line-\d\)", svg))
    dashes = set(re.findall(r"stroke-dasharray: ([^;\"]*)", svg))
    assert len(dashes) >= 2  # and one line without


def test_what_is_not_recorded_is_not_drawn(distilled, numbers):
    assert list(plots_of([entry(distilled, numbers)])) == ["accuracy", "labels"]
    assert list(plots_of([entry(distilled, None)])) == ["labels"]


def test_a_network_that_takes_everything_for_one_class(make_set, make_row, make_record):
    distilled = make_set()
    row = make_row("distilled", [[33.0]], confusion=((9, 0, 0), (9, 0, 0), (0, 0, 0)))
    plot = plots_of([entry(distilled, make_record(distilled, [row]))])["confusion"]
    assert "“one” is taken for “zero” (100.0 %)" in plot.caption
    assert texts(plot.svg()).count("100") == 2


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_figures_are_written_into_files(distilled, everything, tmp_path, kind):
    for plot in plots_of([entry(distilled, everything)]).values():
        path = plot.save(tmp_path, kind)
        assert path == tmp_path / f"{plot.name}.{kind}"
        if kind == "png":
            with Image.open(path) as picture:
                assert min(picture.size) > 300
        else:
            svg = path.read_text("utf-8")
            assert "var(--" not in svg
            assert "#00000" not in svg.replace("#000000", "")
            assert texts(svg)
    first = path.read_bytes()
    assert plot.save(tmp_path, kind).read_bytes() == first


def test_no_other_format(distilled, tmp_path):
    with pytest.raises(UnknownNameError, match="svg, png"):
        heat_map(distilled).save(tmp_path, "gif")
    assert not list(tmp_path.iterdir())


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
