"""The page in a real browser: nothing is wider than the screen, nothing complains."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from convexdistill.report import render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (375, 1280)
LONG = ("supercalifragilisticexpialidocious_without_any_break", "a very long class name that goes on", "x")
# Sent to the page around it, since one file may not look into another.
MEASURE = """<script>
const trouble = [];
addEventListener("error", event => trouble.push(event.message));
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  parent.postMessage({width: innerWidth, content: document.documentElement.scrollWidth, trouble,
    broken: [...document.images].filter(i => i.complete && !i.naturalWidth).length,
    plots: [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width).length}, "*");
});
</script></head>"""


def measure(pages: list[str], folder: Path) -> tuple[list[dict], str]:
    """What the browser says of each page at each width, and its console."""
    frames = ""
    for number, page in enumerate(pages):
        (folder / f"{number}.html").write_text(page.replace("</head>", MEASURE, 1), "utf-8")
        frames += "".join(f'<iframe src="{number}.html" style="width:{w}px;border:0"></iframe>' for w in WIDTHS)
    (folder / "all.html").write_text(
        f"<!doctype html><body><script>const all = []; addEventListener('message', e => {{ all.push(e.data); "
        f"document.body.dataset.all = JSON.stringify(all); }});</script>{frames}</body>",
        "utf-8",
    )
    run = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1400,900",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "all.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = re.search(r'data-all="([^"]*)"', run.stdout)
    assert found, run.stderr
    return json.loads(html.unescape(found.group(1))), run.stderr


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_nothing_is_wider_than_the_screen(tmp_path, distilled, numbers, rows, make_set, make_record):
    awkward = make_set(
        130,
        LONG,
        shape=(3, 32, 32),
        target="/data/" + "a-very-long-file-name-" * 4 + ".npz",
        versions={"convexdistill": "0.1.0", "other": "1" * 60},
    )
    pages = [
        render_report(distilled, numbers),
        render_report(awkward, make_record(awkward, rows)),
        render_report(awkward, None),
    ]
    found, console = measure(pages, tmp_path)
    assert sorted(one["width"] for one in found) == sorted(WIDTHS * len(pages))
    for one in found:
        assert one["content"] <= one["width"], one
        assert not one["trouble"]
        assert not one["broken"]
        assert one["plots"] in (1, 2)  # of the two sizes of each figure, one is shown
    assert ":CONSOLE" not in console
