"""The site that mkdocs makes of docs/: it builds strictly, asks nothing of the network, and its search works from the disk."""

import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from .pages import ROOT, pages

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    pytest.importorskip("material", reason="needs mkdocs-material: pip install 'metarun[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("INFO")] == []
    return folder


class Reader(HTMLParser):
    """Of a page: what is loaded with it, what it links to, and the names in it that a link may end with."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found[name] for name in ("id", "name") if found.get(name)}
        self.loads += [found[name] for name in ("src", "srcset", "poster", "data") if found.get(name)]
        if tag == "link" and "canonical" not in (found.get("rel") or ""):
            self.loads.append(found["href"])
        elif tag == "a" and found.get("href"):
            self.links.append(found["href"])


def test_every_page_is_built(site):
    built = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert built - {"404.md"} == {page.path.name for page in pages() if page.name != "README.md"}


def test_nothing_is_fetched_from_the_network(site):
    for path in site.rglob("*.html"):
        read = Reader(path)
        assert len(read.loads) > 3
        assert [load for load in read.loads if urlsplit(load).scheme or urlsplit(load).netloc] == []
        assert [
            load
            for load in read.loads
            if path.name != "404.html" and not (path.parent / unquote(urlsplit(load).path)).is_file()
        ] == []
    for path in site.rglob("*.css"):
        assert "url(http" not in path.read_text(encoding="utf-8"), path


def test_every_link_of_the_site_ends_at_a_file_and_a_name_in_it(site):
    read = {path.resolve(): Reader(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(read) == len(pages()) - 1
    broken = []
    for path, page in read.items():
        for link in page.links:
            split = urlsplit(link)
            if split.scheme or split.netloc:
                continue
            file = (path.parent / unquote(split.path)).resolve() if split.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file() or (split.fragment and unquote(split.fragment) not in read[file].names | {"__toc"}):
                broken.append((path.name, link))
    assert broken == []


@pytest.mark.browser
def test_the_search_works_from_the_disk(site):
    """In the system's Chromium, by the file's address; nothing but files of the site is asked for."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium: apt-get install --no-install-recommends chromium")
    requests: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM)
        window = browser.new_page(viewport={"width": 1280, "height": 900})
        window.on("request", lambda request: requests.append(request.url))
        window.goto((site / "index.html").as_uri())
        window.locator("input.md-search__input").fill("Kronecker factors")
        first = window.locator("a.md-search-result__link").first
        first.wait_for(state="visible")
        found = {link.get_attribute("href") for link in window.locator("a.md-search-result__link").all()}
        browser.close()
    assert any("natural_gradient.html" in link for link in found)
    assert [request for request in requests if not request.startswith(("file:", "data:", "about:", "blob:"))] == []
