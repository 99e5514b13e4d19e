"""The pages in docs/ lead where they say: navigation, links, commands, and examples that parse and load."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
import typer.main

import vfl
from parties.identity import make_identity, write_identity
from parties.policy import Policy
from vfl.cli import app
from vfl.company_file import load_joining
from vfl.job_file import build_scenario

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
GUIDES = [page for page in PAGES if "/" not in page]
MKDOCS = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
NAV = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", MKDOCS, re.MULTILINE)


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of a language, without the fences."""
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def prose_of(page: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def anchors_of(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and mkdocs write them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def options_of_commands() -> dict[str, set[str]]:
    """Every command of ``vfl`` with its options."""
    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in group.commands.items()
    }


def test_every_page_stands_in_the_navigation_once() -> None:
    assert sorted(NAV) == PAGES, "mkdocs.yml's nav and the pages in docs/ differ"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_their_anchors_exist(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)", prose_of(page)):
        if "://" not in target:
            path = (DOCS / page).parent / target if target else DOCS / page
            assert path.exists(), target
            assert not anchor or anchor in anchors_of(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", GUIDES)
def test_examples_parse(page: str) -> None:
    for code in blocks(page, "python"):
        ast.parse(code)
    for code in blocks(page, "json"):
        json.loads(code)
    for code in blocks(page, "toml"):
        tomllib.loads(code)


def test_scenario_examples_load() -> None:
    documents = [tomllib.loads(code) for page in GUIDES for code in blocks(page, "toml")]
    scenarios = [document for document in documents if "party" in document and "coordinator" not in document]
    assert len(scenarios) >= 2
    for document in scenarios:
        assert build_scenario(document, ROOT, file="scenario.toml").job.active


def test_files_of_companies_load(tmp_path: Path) -> None:
    """The job and the party files of one page, with identities made for them."""
    titled = re.findall(
        r'^```toml title="(\w+\.toml)[^\n]*\n(.*?)^```$', text_of("from-fate.md"), re.DOTALL | re.MULTILINE
    )
    for name, code in titled:
        (tmp_path / name).write_text(code, encoding="utf-8")
    for name in ("guest", "host", "coordinator"):
        write_identity(make_identity(name), tmp_path)
    assert load_joining(tmp_path / "guest.toml").spec.policy.gradient_sampling
    assert load_joining(tmp_path / "host.toml").spec.role == "passive"


def test_policy_examples_load() -> None:
    policies = [tomllib.loads(code) for page in GUIDES for code in blocks(page, "toml") if "[policy]" in code]
    assert len(policies) >= 3
    for document in policies:
        assert msgspec.convert(document["policy"], Policy)


@pytest.mark.parametrize("page", GUIDES)
def test_commands_and_options_exist(page: str) -> None:
    """Whatever a page calls by ``vfl NAME`` in code, with its options on the same line."""
    known = options_of_commands()
    code = [
        *re.findall(r"^(?: {4}|.*\$ )(.*)$", text_of(page), re.MULTILINE),
        *re.findall(r"`([^`\n]+)`", text_of(page)),
    ]
    for line in code:
        for name, rest in re.findall(r"(?:^|/|\s)vfl ([a-z]+)\b([^#]*)", line):
            assert name in known, f"vfl {name}"
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest):
                assert option in known[name], f"vfl {name} {option}"


def test_python_reference_names_what_exists() -> None:
    """Each directive of mkdocstrings names a public object, and together they name all of ``vfl``."""
    named = re.findall(r"^::: (\S+)\.(\w+)$", text_of("python-api.md"), re.MULTILINE)
    for module, name in named:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    assert {name for _, name in named} == set(vfl.__all__)


def test_site_asks_for_no_network() -> None:
    assert re.search(r"^ +font: false$", MKDOCS, re.MULTILINE)
    assert "://" not in re.sub(r"^ *#.*$", "", MKDOCS, flags=re.MULTILINE)
