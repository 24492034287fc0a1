"""The documentation: links lead somewhere, and what it repeats from elsewhere is still true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.import_graph import drawing, implied, in_rows
from helpers.imports import edges
from helpers.places import MODULE, REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def links(page: Path) -> list[str]:
    """What a page links to, and the pictures it shows; what is shown as code links to nothing."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> list[str]:
    """The names that the headings of a page have on GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_the_readme_is_short_and_shows_two_pictures() -> None:
    assert len(README.encode("utf-8")) <= 8000
    assert README.count("![") == 2


def test_the_readme_leads_to_every_page() -> None:
    found = {(REPOSITORY / link.partition("#")[0]).resolve() for link in links(REPOSITORY / "README.md")}
    assert {page for page in PAGES if page.name != "README.md"} <= found


def test_the_commands_of_make_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"make (\w+)", _code(page))}
    assert {"demo", "quick", "test"} <= named <= targets


def _code(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return "\n".join(re.findall(r"`[^`\n]+`|^    .+$", text, re.MULTILINE))


# The drawn graph


def test_the_drawn_graph_is_that_of_the_sources() -> None:
    drawn = (REPOSITORY / "docs" / "import-graph.svg").read_text(encoding="utf-8")
    assert {tuple(edge.split()) for edge in re.findall(r'data-edge="([^"]+)"', drawn)} == edges(), "run “make graph”"
    assert drawn == drawing(edges()), "run “make graph”"


def test_a_part_stands_above_those_that_it_imports() -> None:
    graph = {("panel", "scene"), ("scene", "engine"), ("panel", "engine"), ("cli", "engine")}
    assert in_rows(graph) == [["engine"], ["cli", "scene"], ["panel"]]
    assert [edge for edge in sorted(graph) if implied(edge, graph)] == [("panel", "engine")]


# How to cite


def test_the_citation_file_is_complete_and_of_this_version() -> None:
    yaml = pytest.importorskip("yaml", reason="the extra “train” is not installed")
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "date-released"} <= set(citation)
    assert f'version = "{citation["version"]}"' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for paper in citation["references"]:
        assert {"type", "title", "authors", "year", "url"} <= set(paper)
        assert all(set(author) == {"given-names", "family-names"} for author in paper["authors"])


def test_the_three_papers_are_cited_wherever_they_are_named() -> None:
    module = (MODULE / "DeepRegAttention.py").read_text(encoding="utf-8")
    papers = re.findall(r"\d{4}\.\d{5}", module)
    assert len(papers) == 3
    for name in ("CITATION.cff", "README.md", "docs/citing.md"):
        assert set(papers) <= set(re.findall(r"\d{4}\.\d{5}", (REPOSITORY / name).read_text(encoding="utf-8"))), name
