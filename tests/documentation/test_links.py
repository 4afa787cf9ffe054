"""Links of README and docs/ lead somewhere: files and headings are there, addresses are well-formed."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from .pages import ROOT, Page, pages

PAGES = [pytest.param(page, id=page.path.stem) for page in pages()]


def links(page: Page) -> list[str]:
    """Targets of links and images, outside of code."""
    prose = re.sub(r"`[^`]*`", "`code`", page.prose)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"<(https?://[^>]+)>", prose)


def anchors(path: Path) -> set[str]:
    """What GitHub and mkdocs call the headings of a page: in small letters, blanks as hyphens, nothing but words."""
    prose = Page(name=path.relative_to(ROOT).as_posix(), text=path.read_text(encoding="utf-8")).prose
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    broken = []
    for target in links(page):
        split = urlsplit(target)
        if split.scheme:
            if split.scheme != "https" or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", split.netloc):
                broken.append(target)
            continue
        file = (page.path.parent / split.path).resolve() if split.path else page.path
        if (
            not file.is_file()
            or not file.is_relative_to(ROOT)
            or (split.fragment and split.fragment not in anchors(file))
        ):
            broken.append(target)
    assert broken == []


def test_links_are_found():
    found = {page.name: links(page) for page in pages()}
    assert "docs/results.md" in found["README.md"]
    assert "datasets.md#your-own-images" in found["docs/index.md"]
    assert "https://hydra.cc" in found["docs/configuration.md"]


def test_a_reader_gets_everywhere():
    """From the README, by links alone, to every page."""
    seen, left = set(), [ROOT / "README.md"]
    while left:
        path = left.pop()
        if path not in seen and path.suffix == ".md":
            seen.add(path)
            page = Page(name=path.relative_to(ROOT).as_posix(), text=path.read_text(encoding="utf-8"))
            left += [(path.parent / target.split("#")[0]).resolve() for target in links(page) if "://" not in target]
    assert {page.path for page in pages()} - seen == {ROOT / "docs/index.md"}  # the site's own front page
