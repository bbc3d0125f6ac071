"""The page in a real browser: nothing is wider than the screen, nothing complains, tables can be sorted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from convexdistill.report import entry, render_page, render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no chromium on PATH", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

LONG = ("supercalifragilisticexpialidocious_without_any_break", "a very long class name that goes on", "x")
MEASURE = """() => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  return {
    width: innerWidth, content: document.documentElement.scrollWidth,
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
    twice: [...document.querySelectorAll(".plot")].filter(
      p => [...p.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width).length !== 1).length,
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    """The system's chromium; playwright brings none of its own."""
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=120_000)
        yield running
        running.close()


class Screen:
    """A page at one width, with whatever it complains about."""

    def __init__(self, browser, html: str, folder: Path, width: int, **options) -> None:
        file = folder / f"{len(list(folder.iterdir()))}.html"
        file.write_text(html, "utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        self.page = context.new_page()
        self.page.set_default_timeout(120_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request",
            lambda request: self.complaints.extend(
                [] if request.url.startswith(("file:", "data:")) else [request.url]
            ),
        )
        self.page.goto(file.as_uri())

    def column(self, table: str, number: int) -> list[str]:
        return self.page.locator(f"#{table} tbody tr > :nth-child({number})").all_inner_texts()


@pytest.fixture(scope="module")
def pages(make_set, make_row, make_record, make_everything, full_html) -> dict[str, str]:
    distilled = make_set()
    everything = make_everything(distilled)
    awkward = make_set(
        130,
        LONG,
        shape=(3, 32, 32),
        target="/data/" + "a-very-long-file-name-" * 4 + ".npz",
        versions={"convexdistill": "0.1.0", "other": "1" * 60},
    )
    other = make_set(8)
    numbers = make_record(other, [make_row("distilled", [[80.0, 81.0]]), make_row("one-hot", [[70.0, 72.5]])])
    two = [entry(distilled, everything, "first"), entry(other, numbers, LONG[0])]
    return {
        "everything": full_html,
        "awkward": render_report(awkward, make_everything(awkward)),
        "without numbers": render_report(other, None),
        "comparison": render_page(two),
    }


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_nothing_is_wider_than_the_screen(browser, pages, tmp_path, width, scheme):
    for name, html in pages.items():
        screen = Screen(browser, html, tmp_path, width, color_scheme=scheme)
        found = screen.page.evaluate(MEASURE)
        assert found["content"] <= found["width"] == width, name
        assert not found["broken"], name
        assert not found["twice"], name  # of the two sizes of each figure, one is shown
        assert (found["paper"] == "rgb(20, 23, 27)") == (scheme == "dark")
        assert screen.complaints == [], name
        screen.page.context.close()


def test_tables_are_sorted_by_click_and_by_keyboard(browser, pages, tmp_path):
    screen = Screen(browser, pages["everything"], tmp_path, 1280)
    written = screen.column("accuracy-table", 2)
    head = screen.page.locator("#accuracy-table thead th").nth(1)
    button = head.get_by_role("button", name="test %")
    assert head.get_attribute("aria-sort") is None

    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    largest = screen.column("accuracy-table", 2)
    values = [float(text.split()[0]) for text in largest if text != "diverged"]
    assert values == sorted(values, reverse=True)
    assert len(values) == len(largest) - 1
    assert largest[-1] == "diverged"

    button.focus()
    screen.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    smallest = screen.column("accuracy-table", 2)
    values = [float(text.split()[0]) for text in smallest[:-1]]
    assert values == sorted(values)
    assert smallest[-1] == "diverged"  # what has no value comes last, either way
    assert "ascending" in screen.page.locator("#results [role=status]").first.inner_text()

    screen.page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") is None
    assert screen.column("accuracy-table", 2) == written

    screen.page.keyboard.press("Shift+Tab")  # to the column before: names, from A
    screen.page.keyboard.press("Enter")
    names = screen.column("accuracy-table", 1)
    assert names == sorted(names)
    assert screen.page.locator("#accuracy-table [aria-sort]").count() == 1
    assert screen.complaints == []


def test_the_keyboard_reaches_everything(browser, pages, tmp_path):
    screen = Screen(browser, pages["everything"], tmp_path, 375)
    screen.page.keyboard.press("Tab")
    assert screen.page.evaluate("document.activeElement.className") == "skip"
    assert screen.page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    # Whatever scrolls sideways can be focused, and so scrolled by the arrow keys.
    stuck = screen.page.evaluate(
        """() => [...document.querySelectorAll("*")].filter(e =>
            e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(e).overflowX)
            && e.tabIndex < 0).length"""
    )
    assert stuck == 0


def test_the_page_is_whole_without_scripts(browser, pages, tmp_path):
    screen = Screen(browser, pages["comparison"], tmp_path, 1280, java_script_enabled=False)
    assert screen.page.get_by_role("button").count() == 0
    heads = screen.page.locator("#sets thead th").all_inner_texts()
    assert heads[:2] == ["set", "test\u00a0%"]
    assert len(screen.column("sets", 1)) == 2


def test_text_stands_out_from_the_page(browser, pages, tmp_path):
    for scheme in ("light", "dark"):
        screen = Screen(browser, pages["without numbers"], tmp_path, 1280, color_scheme=scheme)
        style = screen.page.evaluate(
            """() => Object.fromEntries(["paper", "ink", "muted", "accent", "line-0", "line-1", "line-2", "line-3",
                "line-4", "line-5", "line-6", "line-7"].map(name => [name,
                getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim()]))"""
        )
        for name, least in {"ink": 7, "muted": 4.5, "accent": 4.5, **{f"line-{k}": 3 for k in range(8)}}.items():
            assert contrast(style[name], style["paper"]) >= least, (scheme, name)
        screen.page.context.close()


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.1."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
