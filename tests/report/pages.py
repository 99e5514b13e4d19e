"""Runs small enough for a test, and what stands on their pages."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.runs.companies import Companies
from vfl import cli

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


def play(companies: Companies, out: Path, *options: str) -> Path:
    """Run a scenario in this process; returns its directory, which has no page yet."""
    assert cli.execute(["run", str(companies.write()), "--out", str(out), "--in-process", *options]) == 0
    (out / "report.html").unlink(missing_ok=True)
    return out


def between_companies(run: Path, role: str, folder: Path) -> Path:
    """What a role would have in its own directory had the run been one between companies."""
    report = json.loads((run / "report.json").read_text())
    active = next(party["name"] for party in report["parties"] if party["role"] == "active")
    for party in report["parties"]:
        if party["name"] != role:
            party |= {"rows": None, "features": None}
    if role != active:
        report["metrics"] = {"joint": {}}
        report["training"]["loss"] = []
        for name in ("validation_loss", "label_inference", "gradient_noise"):
            report["training"].pop(name, None)
        for name in ("confidence", "comparison", "without"):
            report.pop(name, None)
        if "feature_importance" in report:
            report["feature_importance"] = own_importance(run, role)
    report["time"] = {name: spent for name, spent in report.get("time", {}).items() if name == role}
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report))
    shutil.copy(run / role / "ledger.jsonl", folder / "ledger.jsonl")
    if role != "coordinator":
        shutil.copytree(run / role, folder / role)
    return folder


def own_importance(run: Path, role: str) -> list[dict[str, Any]]:
    if role == "coordinator":
        return []
    lines: list[dict[str, Any]] = json.loads((run / role / "model.json").read_text())["importance"]
    return [line for line in lines if line["party"] == role]


class Page(HTMLParser):
    """Tags that open and close as they should, ids, links, text of headings, and everything that would be loaded."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.loads: list[str] = []
        self.headings: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert not self.open, self.open
        assert len(self.ids) == len(set(self.ids)), "ids are not unique"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(str(given["id"]))
        if given.get("role") == "img":
            self.images.append(given)
        self.loads += [tag] if tag in ("script", "img", "link", "iframe", "object", "embed", "base") else []
        for name in ("src", "href", "srcset", "data", "action"):
            value = given.get(name)
            if value is not None:
                self.targets.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)

    def says(self, text: str) -> bool:
        """Whether a reader finds this text, however it breaks."""
        return re.sub(r"\s+", " ", text) in re.sub(r"\s+", " ", self.text)


def check_alone(page: Page) -> None:
    """It loads nothing, runs nothing, links only within itself, and every link leads somewhere."""
    assert not page.loads
    assert all(target.startswith("#") for target in page.targets), page.targets
    assert {target[1:] for target in page.targets} <= set(page.ids)
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org)|javascript:|\son\w+\s*=\s*[\"']", page.html)
    assert all(image.get("aria-label") for image in page.images)
    assert "prefers-color-scheme: dark" in page.html and "@media print" in page.html
    assert len(page.html) < 1_500_000
