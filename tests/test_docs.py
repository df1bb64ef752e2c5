"""Links of the documentation are valid: files, headings, and the names on the page of ten questions."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "eval/README.md", ROOT / "recipes/README.md"])
QUESTIONS = (ROOT / "docs/where_do_i_look.md").read_text(encoding="utf-8")


def headings(page):
    """Return the anchors of a page as GitHub generates them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_are_valid(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8"))
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in headings(target), f"{path}#{anchor}"


def names_in(path):
    """Return the functions, classes and methods that a file defines."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names |= {node.name}
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef)}
    return names


def test_the_ten_questions_have_answers_in_the_code():
    assert QUESTIONS.count("?** ") == 10
    pointers = re.findall(r"\]\(([^)]+\.py)\)\s+\(((?:`[\w.]+`[,\s]*)+)\)", QUESTIONS)
    assert len(pointers) == QUESTIONS.count(".py)")
    for path, names in pointers:
        missing = set(re.findall(r"`([\w.]+)`", names)) - names_in(ROOT / "docs" / path)
        assert not missing, f"{path}: {missing}"


def test_the_map_shows_every_package_and_the_layers_as_they_are_checked():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert " < ".join(reversed(layers)) in " ".join(page.split())
    tree = page[page.index("```\ntinyvid/") : page.index("\neval.py")]
    packages = {package.name for package in (ROOT / "tinyvid").iterdir() if (package / "__init__.py").is_file()}
    assert packages == set(re.findall(r"^  (\w+)/ ", tree, flags=re.MULTILINE)) - {"assets"}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_ten_questions_are_linked(page):
    assert "(docs/where_do_i_look.md)" in (ROOT / page).read_text(encoding="utf-8")
