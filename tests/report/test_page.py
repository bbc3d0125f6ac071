"""The page: one file, everything escaped, every number there, and honest."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser

import pytest
import torch

from convexdistill.errors import FileFormatError, OutputError
from convexdistill.report import render_report, write_report
from convexdistill.training import Recipe

NASTY = ("<script>alert(1)</script>", 'a "quoted" & <b>bold</b> name', "$x_1$ あ", "x" * 80)


class Page(HTMLParser):
    """Tags with their attributes, and the text of every cell of the first table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._table, self._in_cell = 0, False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._table += 1
        if self._table == 1 and tag == "tr":
            self.rows.append([])
        if self._table == 1 and tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.rows[-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def headline(html: str) -> str:
    return unescape(re.search(r'<p class="headline">(.*?)</p>', html).group(1)).replace("\u00a0", " ")


def certainty(html: str) -> str:
    found = re.search(r'<p class="certainty">(.*?)</p>', html)
    return unescape(found.group(1)) if found else ""


def test_it_is_one_file_that_asks_for_nothing(distilled, numbers, tmp_path):
    write_report(tmp_path / "page.html", distilled, numbers)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    html = (tmp_path / "page.html").read_text("utf-8")
    page = Page(html)
    assert page.named("script") == [{}]  # the page's own, inline
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "xlink:href"):
            if (value := attributes.get(name)) is not None:
                assert value.startswith(("data:", "#")), (tag, value)
    assert "@import" not in html
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", html))
    loading = re.findall(r"https?://[^\s\"'<]*", html)
    assert all(url.startswith("http://www.w3.org/") for url in loading), loading  # names of namespaces


def test_it_has_the_bones_of_a_good_page(html):
    page = Page(html)
    counts = Counter(tag for tag, _ in page.tags)
    assert counts["h1"] == counts["main"] == counts["header"] == 1
    assert counts["section"] == counts["h2"] == 5
    assert all(attributes.get("alt") for attributes in page.named("img"))
    assert all(attributes.get("aria-label") for attributes in page.named("svg"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.named("th"))
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for attributes in page.named("a")}
    assert {link[1:] for link in links if link} <= set(ids)
    regions = [a for _, a in page.tags if a.get("role") == "region"]
    assert all(a.get("tabindex") == "0" and (a.get("aria-label") or a.get("aria-labelledby")) for a in regions)


@pytest.mark.parametrize("across", [False, True])
def test_names_are_escaped(make_set, make_row, make_record, across):
    distilled = make_set(
        8,
        NASTY,
        target="/data/<img src=x onerror=alert(1)>.npz",
        source="<script>alert(2)</script>" if across else None,
        selection={"method": "<i>rule</i>"},
        versions={"convexdistill": "<b>1</b>"},
    )
    rows = [make_row(name, [[90.0, 91.0]], network="<u>net</u>") for name in ("distilled", "<em>mine</em>")]
    html = render_report(distilled, make_record(distilled, rows))
    assert Page(html).named("script") == [{}]
    html = html.replace("<script>", "", 1)
    for bad in ("<script", "<img src=x", "<i>", "<b>1", "<b>bold", "<u>", "<em>"):
        assert bad not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_every_number_stands_once_in_the_table(numbers, html):
    cells = Page(html).rows
    assert len(cells) == 1 + len(numbers["results"])
    names = cells[0]
    for found, row in zip(cells[1:], numbers["results"], strict=True):
        shown = dict(zip(names, found, strict=True))
        low, high = row["accuracy_ci95"]
        trainings = len(row["runs"]) // row["base_sets"]
        expected = {
            "valid.\u00a0%": f"{row['validation_mean']:.1f}",
            "test\u00a0%": f"{row['accuracy_mean']:.1f} ± {row['accuracy_std']:.1f}",
            "95\u00a0% interval": f"{low:.1f} – {high:.1f}",
            "std, sets": f"{row['std_base_sets']:.1f}",
            "std, trainings": "–" if row["std_training"] is None else f"{row['std_training']:.1f}",
            "runs": f"{row['base_sets']} × {trainings}",
            "steps": ", ".join(map(str, row["steps"])) or "–",
        }
        assert {name: shown[name] for name in expected} == expected


def test_what_is_missing_is_a_dash(distilled, make_row, make_record):
    rows = [make_row("distilled", [[90.0]]), make_row("nearest-neighbour", [[80.0]])]
    cells = Page(render_report(distilled, make_record(distilled, rows))).rows
    shown = dict(zip(cells[0], cells[1], strict=True))
    assert (shown["test\u00a0%"], shown["95\u00a0% interval"], shown["runs"]) == ("90.0", "–", "1 × 1")
    assert cells[2].count("–") >= 5


def test_the_distilled_row_is_marked(html):
    assert re.search(r'<tr class="chosen">\s*<th scope="row">distilled</th>', html)


def test_headline_names_the_number_and_the_stronger_one_hot(html):
    said = headline(html)
    assert said == (
        "12 images of digits with learned labels train a LeNet to 91.8 % — one-hot labels on the same "
        "images: 82.0 %, the best baseline (teacher scores): 88.9 %."
    )


def test_headline_says_when_a_baseline_wins(distilled, make_row, make_record):
    rows = [
        make_row("distilled", [[80.0, 81.0], [82.0, 83.0]]),
        make_row("one-hot", [[70.0, 71.0], [72.0, 73.0]]),
        make_row("teacher", [[84.0, 85.0], [86.0, 87.1]]),
    ]
    html = render_report(distilled, make_record(distilled, rows))
    assert "to 81.5 % — less than a baseline: teacher scores reach 85.5 %." in headline(html)
    assert "difference is −4.0 points" in certainty(html)
    assert "too few" not in certainty(html)


def test_headline_says_when_nothing_is_won(distilled, make_row, make_record):
    rows = [make_row("distilled", [[80.0, 81.0]]), make_row("nearest-neighbour", [[80.52]])]
    html = render_report(distilled, make_record(distilled, rows))
    assert headline(html).endswith("to 80.5 % — no more than the best baseline, a nearest-neighbour search.")
    assert "difference is 0.0 points" in certainty(html)


def test_a_difference_within_the_noise_is_called_that(distilled, make_row, make_record):
    rows = [make_row("distilled", [[80.0, 85.0]]), make_row("teacher", [[81.0, 83.0]])]
    html = render_report(distilled, make_record(distilled, rows))
    assert "too few trainings to tell the two apart" in certainty(html)


def test_headline_compares_like_with_like(distilled, make_row, make_record):
    rows = [
        make_row("distilled", [[80.0, 81.0]]),
        make_row("teacher", [[70.0, 71.0]]),
        make_row("teacher", [[95.0, 96.0]], network="alexnet"),
    ]
    assert "reaches 70.5 %" in headline(render_report(distilled, make_record(distilled, rows)))


def test_across_data_sets(make_set, make_row, make_record):
    distilled = make_set(target="/far/away/kmnist.npz", source="/far/away/letters.npz", source_classes="ABCD")
    rows = [make_row("distilled", [[58.0, 57.0]]), make_row("transferred", [[32.0, 33.0]])]
    html = render_report(distilled, make_record(distilled, rows))
    assert headline(html) == (
        "12 images of letters.npz with learned labels train a LeNet to 57.5 % on kmnist.npz — the best "
        "baseline, transferred labels, reaches 32.5 %."
    )
    assert 'title="/far/away/letters.npz"' in html
    assert ">/far/away" not in html
    assert "image of class D, from letters.npz" in html


def test_without_numbers_it_says_how_to_get_them(distilled, make_record):
    for numbers in (None, make_record(distilled, [])):
        html = render_report(distilled, numbers)
        assert "convexdistill evaluate FILE" in html
        assert headline(html) == ("12 images of digits with learned labels for its 3 classes. Not evaluated yet.")
        assert 'id="accuracy-table"' not in html
        assert "Soft labels" in html


def test_a_record_read_from_json_makes_the_same_page(distilled, numbers, html):
    again = json.loads(json.dumps(numbers))
    assert render_report(distilled, again) == html


def test_the_same_input_makes_the_same_page(distilled, numbers, html):
    assert render_report(distilled, numbers) == html


def test_numbers_of_another_set_are_refused(distilled, numbers):
    with pytest.raises(FileFormatError, match=r"another distilled set .*base_size"):
        render_report(distilled, {**numbers, "base_size": 50})


def test_a_damaged_row_is_refused(distilled, numbers):
    row = {key: value for key, value in numbers["results"][0].items() if key != "accuracy_ci95"}
    with pytest.raises(FileFormatError, match=r"accuracy_ci95.*convexdistill evaluate"):
        render_report(distilled, {**numbers, "results": [row]})


def test_an_unwritable_place_leaves_nothing_behind(distilled, numbers, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        write_report(tmp_path / "file" / "page.html", distilled, numbers)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_page(distilled, numbers, tmp_path):
    path = tmp_path / "page.html"
    write_report(path, distilled, None)
    before = path.read_bytes()
    with pytest.raises(FileFormatError):
        write_report(path, distilled, {**numbers, "base_size": 50})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_the_gallery_shows_at_most_a_hundred(make_set):
    html = render_report(make_set(130), None)
    assert len(Page(html).named("img")) == 100
    assert "Showing 100 of 130" in html
    assert len(Page(render_report(make_set(100), None)).named("img")) == 100


def test_bars_start_at_the_zero_line(make_set):
    distilled = make_set(2, ("a", "b"), space="centred")
    distilled.labels[:] = torch.tensor([[0.75, -0.25], [-0.1, 0.3]])
    html = render_report(distilled, None)
    assert "left: 25.0%; width: 75.0%" in html
    assert 'class="negative" style="left: 0.0%; width: 25.0%"' in html
    assert html.count('<b style="left: 25.0%">') == 4
    assert "+0.75" in html
    assert "−0.25" in html


@pytest.mark.parametrize(
    ("space", "loss", "shape", "augmentation"),
    [("centred", "mse", (1, 8, 8), "none"), ("probability", "soft-cross-entropy", (3, 32, 32), "mirror")],
)
def test_snippets_run_as_printed(make_set, tmp_path, monkeypatch, space, loss, shape, augmentation):
    scale = 8.0 if loss == "mse" else 1.0
    recipe = Recipe(loss, scale, steps=3, batch_size=5, optimizer="sgd", augmentation=augmentation)
    distilled = make_set(space=space, shape=shape, recipe=recipe)
    distilled.save(tmp_path / "distilled.safetensors")
    html = render_report(distilled, None)
    snippets = [unescape(text) for text in re.findall(r"<pre[^>]*><code>(.*?)</code>", html, re.DOTALL)]
    assert len(snippets) == 2
    monkeypatch.chdir(tmp_path)
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(snippet, names)
        assert names["predicted"].shape == (12,)
    assert ("mse_loss" if loss == "mse" else "cross_entropy") in snippets[1]
    assert ("augment" in snippets[1]) == (augmentation != "none") == (">mirror<" in html)


def test_provenance_tells_everything(html):
    html = unescape(html)
    for fact in (
        "sha256:abababababab…",
        'title="sha256:' + "ab" * 32,
        "2 × ConvNet (width 8)",
        "seeds 7, 8",
        "8.7 × 10⁻¹⁶",
        "1.6 × 10⁻¹²",
        "torch/primal/cholesky",
        "2 min 10 s",
        "balanced over the classes",
    ):
        assert fact in html


def test_a_cross_check_that_was_not_done_says_why(make_set):
    distilled = make_set(certificate={"outer_loss": 0.3, "residual": 1e-15, "cross_check": None})
    assert "not done: Φ has more than 20,000 entries" in render_report(distilled, None)


def test_the_setting_that_was_taken_is_marked(distilled):
    html = render_report(distilled, None)
    table = html[html.index("Settings that were tried;") :]
    assert table.count('<tr class="chosen">') == 1
    assert re.search(r'<tr class="chosen">.*?>0\.1<', table, re.DOTALL)


def test_without_settings_to_choose_from(make_set):
    assert "Nothing: the settings were given." in render_report(make_set(chosen_from=[]), None)


def test_no_template_leftovers(html):
    assert "{{" not in html
    assert "{%" not in html
    assert ">None<" not in html


def test_only_the_pages_own_script_may_run(html):
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html).group(1))
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "onclick" not in html


def test_everything_an_evaluation_records_is_shown(full_html):
    html = unescape(full_html)
    for section in ("behaviour", "groups", "cost"):
        assert f'<section id="{section}"' in html
        assert f'href="#{section}"' in html
    for text in ("worst class", "ECE", "Brier", "bootstrap", "learning rate", "diverged", "two: 83.5", "KL at 2"):
        assert f">{text}<" in html or text in html
    assert "one training on everything (extrapolated)" in html
    assert "0.21 Wh" in html
    assert "1.5 kWh" in html
    assert "paid for itself after 1 training on" in html
    assert "class: two" in html
    assert "+2.9 (+1.2 to +4.6)" in html or "+2.9 (+1.3 to +4.6)" in html
    for name in ("accuracy", "flexibility", "curves", "calibration", "confusion", "labels", "groups"):
        assert f'id="{name}-7.6-' in html, name


def test_a_way_of_training_that_diverged_is_called_that(full_html):
    cells = Page(full_html).rows
    (lost,) = [dict(zip(cells[0], found, strict=True)) for found in cells[1:] if "diverged" in found]
    assert lost["test\u00a0%"] == "diverged"
    assert lost["diverged"] == "4"
    assert lost["valid.\u00a0%"] == "–"


def test_a_main_way_that_diverged_wins_nothing(distilled, everything):
    lost = [row for row in everything["results"] if row["diverged"]]
    html = render_report(distilled, {**everything, "results": lost})
    assert "every training diverged" in headline(html)


def test_energy_that_is_not_known_says_why(distilled, everything):
    cost = {**everything["cost"], "energy_kwh": None, "energy_why_not": "no meter", "pays_off_after": None}
    html = unescape(render_report(distilled, {**everything, "cost": cost}))
    assert "Energy is not known: no meter." in html
    assert "does not pay for itself" in html
    assert "kWh" not in html


def test_records_of_older_programs_are_still_shown(distilled, numbers):
    added = {"curve", "ece", "brier", "nll", "calibration", "confusion", "differences", "trainings", "diverged"}
    old = [{key: value for key, value in row.items() if key not in added} for row in numbers["results"]]
    html = render_report(distilled, {**numbers, "results": old})
    assert "91.8" in html
    assert "behaviour" not in {a.get("id") for a in Page(html).named("section")}


def test_labels_that_were_compressed_after_the_evaluation_are_another_set(distilled, numbers):
    with pytest.raises(FileFormatError, match=r"another distilled set .*bytes"):
        render_report(distilled.compress(4), numbers)
