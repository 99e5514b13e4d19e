# ruff: noqa: E501 - the script is as wide as it is
"""The page as a browser lays it out, on a desk and on a telephone: nothing overlaps, is empty, cut or too wide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.pages import play
from tests.runs.companies import make_companies
from tests.silos.siloed import Siloed
from vfl import cli
from vfl.report.page import write_page

BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome")]
KINDS = ["binary", "boosting", "multiclass", "regression", "count", "five parties", "label alone"]
KINDS += ["no test rows", "binary of bank", "binary of biller", "binary of coordinator"]

MEASURE = """
<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><iframe></iframe><pre></pre><script>
const pages = PAGES, widths = WIDTHS, frame = document.querySelector("iframe"), found = {};
const box = one => one.getBoundingClientRect();
const name = one => one.tagName + "." + (one.getAttribute("class") || "") + "#" + one.id;
const flows = one => { for (; one; one = one.parentElement) if (one.matches(".scroll")) return true; return false; };
function overlap(a, b) { return a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1; }
function look(page, width) {
  const faults = [], all = [...page.querySelectorAll("main *, header *, nav *")];
  if (page.documentElement.scrollWidth > width) faults.push("page is " + page.documentElement.scrollWidth + " wide");
  for (const one of all) {
    const at = box(one), hidden = one.matches("caption, wbr, br, thead, thead *, .hub small") || one.closest("svg *");
    if (!hidden && !flows(one) && (at.right > width + 1 || at.left < -1)) faults.push(name(one) + " leaves the page");
    if (one.matches("svg, figure, .card, .plot") && (at.width < 40 || at.height < 20)) faults.push(name(one) + " is empty");
    const cut = one.clientWidth && one.scrollWidth > one.clientWidth + 1 && !one.matches(".scroll, caption, .cut, .bar-name");
    if (cut && !flows(one) && frame.contentWindow.getComputedStyle(one).overflowX !== "visible") faults.push(name(one) + " cuts its text");
  }
  for (const selector of ["figure, .card, section > .scroll, .hero", "h1, h2, h3, p, .legend, .plot, .tiles div", ".arrow span, .arrow small, .node, .hub",
                          ".dot-name, .dot-value, .bar-name, .bar-value, .funnel-name, .funnel b, .learnt-what, .learnt-count"]) {
    const boxes = [...page.querySelectorAll(selector)].filter(one => box(one).width).map(one => [one, box(one)]);
    boxes.forEach(([a, at], i) => boxes.slice(i + 1).forEach(([b, bt]) => {
      if (!a.contains(b) && !b.contains(a) && overlap(at, bt)) faults.push(name(a) + " overlaps " + name(b));
    }));
  }
  for (const svg of page.querySelectorAll("svg")) {
    const frame = box(svg), words = [...svg.querySelectorAll("text")].map(one => [one.textContent, box(one)]);
    if (!words.length) faults.push(name(svg) + " has no text");
    words.forEach(([text, at], i) => {
      if (at.left < frame.left - 12 || at.right > frame.right + 12 || at.top < frame.top - 4 || at.bottom > frame.bottom + 4) faults.push("'" + text + "' leaves its figure");
      const inner = {left: at.left + 1, right: at.right - 1, top: at.top + 3, bottom: at.bottom - 3};
      words.slice(i + 1).forEach(([other, bt]) => { if (overlap(inner, {left: bt.left + 1, right: bt.right - 1, top: bt.top + 3, bottom: bt.bottom - 3})) faults.push("'" + text + "' overlaps '" + other + "'"); });
      if (at.height < 7) faults.push("'" + text + "' is too small to read");
    });
  }
  return {faults, figures: page.querySelectorAll("svg").length, height: page.documentElement.scrollHeight};
}
(async () => {
  for (const [kind, html] of Object.entries(pages)) for (const width of widths) {
    frame.style = "border:0;height:900px;width:" + width + "px";
    await new Promise(done => { frame.onload = done; frame.srcdoc = html; });
    found[kind + " at " + width] = look(frame.contentDocument, width);
  }
  document.querySelector("pre").textContent = "FOUND" + JSON.stringify(found) + "END";
})();
</script>
"""


def measure(pages: dict[str, str], folder: Path, widths: tuple[int, ...] = (1280, 400)) -> dict[str, Any]:
    """What is wrong with each page at each width, as Chromium lays it out."""
    file = folder / "measure.html"
    text = json.dumps(pages).replace("</", "<\\/").replace("<!--", "<\\!--")
    file.write_text(MEASURE.replace("PAGES", text, 1).replace("WIDTHS", json.dumps(widths), 1))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'user'}"]
    command = [str(BROWSER), *options, "--virtual-time-budget=60000", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"FOUND(\{.*\})END", done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    measured: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return measured


def test_every_page_is_laid_out_well(runs: Callable[[str], Path], tmp_path: Path) -> None:
    pages = {kind: write_page(runs(kind)).read_text(encoding="utf-8") for kind in KINDS}
    measured = measure(pages, tmp_path)
    assert len(measured) == 2 * len(KINDS)
    assert {name: held["faults"] for name, held in measured.items() if held["faults"]} == {}
    assert measured["binary at 400"]["figures"] == measured["binary at 1280"]["figures"] == 9


def test_pages_of_silos_are_laid_out_well(tmp_path: Path) -> None:
    averaging: dict[str, object] = {"aggregation": "fedavg", "rounds": 3, "min_silos": 4}
    kinds = {
        "hybrid": Siloed(hospitals=3, insurer=2),
        "trees": Siloed(model="boosting", task="binary", hospitals=0, insurer=3),
        "three silos": Siloed(
            hospitals=3, insurer=None, privacy={"dp": "local", "dp_epsilon": 6.0}, training=averaging
        ),
        "nine silos": Siloed(hospitals=9, insurer=None, rows=600, training=averaging),
    }
    kinds["three silos"].training = averaging | {"min_silos": 2}
    pages = {}
    for kind, siloed in kinds.items():
        siloed.write(tmp_path / kind / "scenario")
        out = tmp_path / kind / "out"
        assert cli.execute(["run", str(tmp_path / kind / "scenario"), "--out", str(out), "--in-process"]) == 0
        pages[kind] = write_page(out).read_text(encoding="utf-8")
    measured = measure(pages, tmp_path)
    assert len(measured) == 2 * len(kinds)
    assert {name: held["faults"] for name, held in measured.items() if held["faults"]} == {}


def test_long_names_break_nothing(tmp_path: Path) -> None:
    companies = make_companies(tmp_path / "scenario", "softmax", passive=1, classes=("a" * 80, "b c " * 20, "ç"))
    bank = companies.tables["bank"]
    companies.tables["bank"] = bank.rename(columns={"x0": "x" * 300, "x1": "a_b=" * 60, "x2": "名" * 90})
    long = "a-name-of-sixty-four-letters-which-is-the-longest-that-is-allow"
    companies.parties[long] = companies.parties.pop("card-network")
    companies.tables[long] = companies.tables.pop("card-network")
    html = write_page(play(companies, tmp_path / "out")).read_text(encoding="utf-8")
    assert {name: held["faults"] for name, held in measure({"long": html}, tmp_path).items()} == {
        "long at 1280": [],
        "long at 400": [],
    }


def test_the_measure_finds_what_is_wrong(runs: Callable[[str], Path], tmp_path: Path) -> None:
    """Each fault, put into a good page."""
    page = write_page(runs("regression")).read_text(encoding="utf-8")
    faults = {
        "wide": "<div style='width:2000px;height:9px'></div>",
        "over": "<figure class='card' style='height:50px'></figure><figure class='card' style='margin-top:-90px;height:90px'></figure>",
        "empty": "<figure class='card' style='padding:0;border:0;margin:0;height:0'></figure>",
        "cut": "<div style='width:60px;overflow:hidden;white-space:nowrap'>a text that does not fit</div>",
    }
    pages = {name: page.replace("</main>", f"{text}</main>") for name, text in faults.items()}
    measured = measure(pages, tmp_path, (1280,))
    for name, said in {"wide": "wide", "over": "overlaps", "empty": "is empty", "cut": "cuts"}.items():
        assert any(said in fault for fault in measured[f"{name} at 1280"]["faults"]), name
