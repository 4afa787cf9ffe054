"""metarun.report.page: one file that asks for nothing, tells the whole comparison, and works in a real browser."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from metarun.report.comparison import compare
from metarun.report.evaluations import evaluations_of
from metarun.report.page import page
from metarun.report.runs import read_runs

from .made import ALGORITHMS, sweep, write_evaluation, write_run

SCORES = {0: [0.1, 0.2, 0.3, 0.4], 5: [0.5, 0.6, 0.7, 0.8]}
EVIL = """</script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;'"""
VOID = {"meta", "link", "line", "circle", "path"}


class Reader(HTMLParser):
    """The tags with their attributes, and the text outside of scripts and styles; asserts that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open or self._open[-1] != "style":
            self.words.append(data)


def written(root: Path, file: Path, **options) -> str:
    text = page(compare(read_runs([root]), **options), file.parent, "metarun report runs")
    file.write_text(text, encoding="utf-8")
    return text


def test_the_page_asks_for_nothing(tmp_path):
    sweep(tmp_path / "runs")
    text = written(tmp_path / "runs", tmp_path / "page.html")
    read = Reader(text)
    for tag, attributes in read.tags:
        for name in ("src", "srcset", "data", "action", "poster", "xlink:href"):
            assert name not in attributes, (tag, attributes)
        if tag == "link":
            assert attributes == {"rel": "icon", "href": "data:,"}
    policy = next(attributes["content"] for tag, attributes in read.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; ")
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"@import|url\((?!#)", text.replace("url(#${clip})", ""))


def test_the_page_links_to_the_run_folders_from_where_it_lies(tmp_path):
    sweep(tmp_path / "some runs" / "é#1?")
    (tmp_path / "pages").mkdir()
    read = Reader(written(tmp_path / "some runs", tmp_path / "pages" / "page.html"))
    links = [attributes["href"] for tag, attributes in read.tags if tag == "a"]
    assert len(links) == 5
    for link in links:
        assert link.startswith("../some%20runs/%C3%A9%231%3F/")
        assert (tmp_path / "pages" / unquote(link) / "result.json").exists()


def test_the_page_tells_the_whole_comparison(tmp_path):
    sweep(tmp_path)
    (write_run(tmp_path, {}, seed=5) / "log.txt").write_text("x ERROR the run ended by OSError: full\n")
    words = " ".join(Reader(written(tmp_path, tmp_path / "page.html", baseline="fomaml")).words)
    for said in ("51.5", "24.8", "2 of 4", "seed 5 failed (OSError: full)", "4 tasks, seeds 0 2", "+11.5", "± over seeds",
                 "± over tasks", "Cost of a run", "Configuration differences (1 key)", "algorithm.meta_gradient._target_",
                 "metarun algorithm=maml seed=2", "metarun report runs"):  # fmt: skip
        assert said in words, said


def test_what_a_column_varies_is_not_in_the_heading(tmp_path):
    for shots in (1, 5):
        write_run(tmp_path, SCORES, **{"dataset.shots": shots, "evaluation.shots": shots})
    words = Reader(written(tmp_path, tmp_path / "page.html", columns=["dataset.shots"])).words
    assert "glyphs test, 5-way, 4 tasks, 15 queries per class, batch norm transductive" in words
    assert not [text for text in words if "-shot" in text]


def test_what_a_run_is_called_stays_text(tmp_path):
    sweep(tmp_path / "runs")
    write_run(tmp_path / "runs", SCORES, name="evil", **{"choices.optimizer": EVIL, "optimizer.lr": 0.5})
    read = Reader(written(tmp_path / "runs", tmp_path / "page.html", rows=["algorithm", "optimizer"]))
    assert EVIL in "".join(read.words)
    assert "img" not in {tag for tag, _ in read.tags}
    names = {curve["name"] for script in read.scripts[:-1] for curve in json.loads(script)["curves"]}
    assert f"maml, {EVIL}" in names
    assert len(read.scripts) == 4  # three figures' data and ours


def test_what_is_no_number_is_null_in_the_data(tmp_path):
    write_run(tmp_path, {0: [1.0] * 4, 5: [1.0, float("nan"), 1.0, 1.0]}, score="mse")
    read = Reader(written(tmp_path, tmp_path / "page.html"))
    (curve,) = json.loads(read.scripts[0])["curves"]
    assert (curve["x"], curve["y"]) == ([0.0, 5.0], [1.0, None])


def test_below_the_intervals_stands_their_scale(tmp_path):
    """Of the results and of the differences; keys and words of what is drawn, and of nothing else."""
    sweep(tmp_path / "runs")
    text = written(tmp_path / "runs", tmp_path / "page.html", baseline="fomaml")
    results, differences = re.findall(r"<tfoot>.*?</tfoot>", text)
    assert re.findall(r">([-\d.]+)</text>", results) == ["40", "60", "80"]
    assert "0" in re.findall(r">([-\d.]+)</text>", differences)
    assert "Figures: bands span the seeds, rings are selected steps. Drag" in text
    write_run(tmp_path / "one", SCORES)
    text = written(tmp_path / "one", tmp_path / "page.html")
    assert re.findall(r"</g></svg> (\w+)", text.partition("<tbody>")[0]) == ["tasks"]
    assert "bands" not in text.partition("<script>")[0] and "rings" not in text.partition("<script>")[0]


def test_the_page_of_evaluations_is_named_by_what_they_were_tested_on(tmp_path):
    folder = write_run(tmp_path / "runs", SCORES)
    write_evaluation(folder, SCORES, "cub")
    runs = read_runs([tmp_path / "runs"])
    text = page(compare([*runs, *evaluations_of(runs[0])]), tmp_path, "")
    read = Reader(text)
    assert "cub test · glyphs test" in read.words
    assert "Comparison of 1 run and 1 evaluation, made " in " ".join(read.words)
    assert sorted(words for words in read.words if words.startswith("maml-seed0")) == [
        "maml-seed0", "maml-seed0, dataset=cub",
    ]  # fmt: skip


def test_without_a_finished_run_there_is_a_page_too(tmp_path):
    write_run(tmp_path, {})
    assert "unfinished" in " ".join(Reader(written(tmp_path, tmp_path / "page.html")).words)


# --- in a browser ----------------------------------------------------------------------------------------------------


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, headless; Playwright would download one of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium: apt-get install --no-install-recommends chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens files, each in a window without a past; at the end nothing was complained of and nothing else was asked for."""
    complaints: list[str] = []
    requests: list[str] = []
    windows: list[Any] = []

    def note(message: Any) -> None:
        if message.type in ("error", "warning", "assert"):
            complaints.append(message.text)

    def open_page(file: Path, *, scheme: str = "light", width: int = 1280, height: int = 900) -> Any:
        window = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
        windows.append((window, file))
        window.on("console", note)
        window.on("pageerror", lambda error: complaints.append(str(error)))
        window.on("request", lambda request: requests.append(request.url))
        window.goto(file.as_uri())
        window.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # drawn
        return window

    yield open_page
    for window, _ in windows:
        window.close()
    assert complaints == []
    assert requests == [file.as_uri() for _, file in windows]


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(251, 251, 250)"), ("dark", "rgb(20, 23, 28)")])
def test_the_page_renders_without_a_complaint(open_page, tmp_path, scheme, paper):
    sweep(tmp_path / "runs")
    write_run(tmp_path / "runs", SCORES, name="evil", **{"choices.optimizer": EVIL, "optimizer.lr": 0.5})
    file = tmp_path / "page.html"
    written(tmp_path / "runs", file, rows=["algorithm", "optimizer"])
    window = open_page(file, scheme=scheme)
    assert window.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    # Every figure has a curve for each row that has one, inside of its frame, and a name for each in its legend.
    drawn = """[...document.querySelectorAll('figure')].map(
        (f) => [f.querySelectorAll('.curve').length, f.querySelectorAll('.legend button').length])"""
    assert window.evaluate(drawn) == [[2, 2], [3, 3], [2, 2]]
    assert window.evaluate("[...document.querySelectorAll('.curve')].every(c => c.getBoundingClientRect().width > 20)")
    assert window.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if keep := os.environ.get("METARUN_SCREENSHOTS"):
        window.screenshot(path=Path(keep) / f"page-{scheme}.png", full_page=True)


@pytest.mark.browser
def test_text_has_contrast_in_light_and_dark(open_page, tmp_path):
    """WCAG 2: 4.5 to 1 for every colour that text is set in, on the paper, cards and notes alike."""
    sweep(tmp_path / "runs")
    written(tmp_path / "runs", tmp_path / "page.html")
    script = """(() => {
      const probe = document.body.appendChild(document.createElement('i'));
      const luminance = (name) => {
        probe.style.color = `var(--${name})`;
        const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255);
        const [r, g, b] = parts.map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const worst = [];
      for (const ink of ['ink', 'soft', 'accent', 'good', 'warn', 'bad'])
        for (const paper of ['paper', 'card', 'hover', 'warn-paper']) {
          const [a, b] = [luminance(ink), luminance(paper)].sort((x, y) => y - x);
          worst.push([(a + 0.05) / (b + 0.05), ink, paper]);
        }
      return worst.sort((x, y) => x[0] - y[0])[0];
    })()"""
    for scheme in ("light", "dark"):
        worst = open_page(tmp_path / "page.html", scheme=scheme).evaluate(script)
        assert worst[0] >= 4.5, (scheme, worst)


@pytest.mark.browser
def test_a_figure_zooms_pans_resets_and_hides(open_page, tmp_path):
    sweep(tmp_path / "runs")
    written(tmp_path / "runs", tmp_path / "page.html")
    window = open_page(tmp_path / "page.html", height=1400)
    figure = window.locator("figure").first
    chart, curves, texts = (figure.locator(f"svg.chart{inside}") for inside in ("", " .curve", " text"))

    def shape() -> str:
        return curves.first.get_attribute("points")

    def across(x: float, y: float) -> tuple[float, float]:
        box = chart.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    whole, whole_ticks = shape(), texts.all_text_contents()
    window.mouse.move(*across(0.4, 0.2))
    window.mouse.down()
    window.mouse.move(*across(0.7, 0.6))
    window.mouse.up()
    assert shape() != whole and texts.all_text_contents() != whole_ticks
    figure.locator("[data-tool=reset]").click()
    assert (shape(), texts.all_text_contents()) == (whole, whole_ticks)
    figure.locator("[data-tool=in]").click()
    figure.locator("[data-tool=out]").click()  # 0.7 and back: rounding alone
    near = [float(number) for number in shape().replace(",", " ").split()]
    assert near == pytest.approx([float(number) for number in whole.replace(",", " ").split()], abs=1e-6)
    chart.press("ArrowRight")
    assert shape() != whole
    chart.press("0")
    assert shape() == whole
    name = figure.locator(".legend button").first
    name.click()
    assert curves.count() == 1
    name.click()
    assert curves.count() == 2
    # Under the pointer the nearest step's values, of both curves.
    window.mouse.move(*across(0.95, 0.5))
    tip = window.locator(".tip").first.locator("> *").all_text_contents()
    assert tip == ["outer step 20", "fomaml: 55  (50 to 60)", "maml: 65  (60 to 70)"]


@pytest.mark.browser
def test_on_a_telephone_nothing_sticks_out(open_page, tmp_path):
    sweep(tmp_path / "runs")
    written(tmp_path / "runs", tmp_path / "page.html")
    window = open_page(tmp_path / "page.html", scheme="dark", width=390)
    assert window.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.browser
@pytest.mark.parametrize("rows", [["algorithm"], ["algorithm", "optimizer.lr"]])
def test_at_480_pixels_the_score_and_the_name_stay_in_sight(open_page, tmp_path, rows):
    """However far a table is scrolled, and neither covers the other."""
    sweep(tmp_path / "runs")
    written(tmp_path / "runs", tmp_path / "page.html", baseline="fomaml" + ", 0.001" * (len(rows) - 1), rows=rows)
    window = open_page(tmp_path / "page.html", width=480)
    script = """(part) => [...document.querySelectorAll('.scroll')].filter((s) => s.querySelector('.score')).flatMap((s) => {
        s.scrollLeft = part * (s.scrollWidth - s.clientWidth);
        return [...s.querySelectorAll('tbody tr')].map((row) => {
            const [name, score, box] = [row.cells[0], row.querySelector('.score'), s].map((n) => n.getBoundingClientRect());
            const seen = document.elementFromPoint(score.left + score.width / 2, score.top + score.height / 2);
            return [name.left >= box.left - 0.5, score.left >= name.right - 0.5, score.right <= box.right + 0.5,
                seen === null || seen.closest('.score') !== null, s.scrollWidth > s.clientWidth];
        });
    })"""
    for part in (0, 0.3, 0.6, 1):
        assert window.evaluate(script, part) == [[True] * 5] * 3


@pytest.mark.browser
def test_fifteen_curves_have_fifteen_marks_and_the_legend_has_the_same(open_page, tmp_path, monkeypatch):
    for number in range(15):
        monkeypatch.setitem(ALGORITHMS, f"a{number:02d}", ALGORITHMS["maml"] | {"proximal_weight": float(number)})
        write_run(tmp_path / "runs", SCORES, algorithm=f"a{number:02d}", validations={10: 0.2, 20: 0.4 + 0.01 * number})
    written(tmp_path / "runs", tmp_path / "page.html")
    window = open_page(tmp_path / "page.html")
    looks = """(where) => [...document.querySelectorAll(where)].map(
        (m) => m.getAttribute('d') + (m.style.fill === 'var(--card)' ? ' hollow' : ''))"""
    drawn = window.evaluate(looks, "#learning_curves-0 svg.chart .mark")
    assert drawn[::2] == drawn[1::2] == window.evaluate(looks, "#learning_curves-0 .legend .mark")
    assert len({*drawn}) == 15
    assert window.evaluate("document.querySelectorAll('#learning_curves-0 .selected').length") == 15


@pytest.mark.browser
def test_a_logarithmic_axis_has_powers_of_ten_and_the_pointer_finds_its_values(open_page, tmp_path):
    for algorithm, scale in (("maml", 1.0), ("fomaml", 1000.0)):
        validations = {10: 3 * scale, 20: scale}
        write_run(tmp_path / "runs", SCORES, algorithm=algorithm, score="mse", validations=validations, step_s=scale)
    written(tmp_path / "runs", tmp_path / "page.html")
    window = open_page(tmp_path / "page.html", height=1400)
    texts = window.locator("#learning_curves-0 svg.chart text").all_text_contents()
    assert texts[:8] == ["1", "3", "10", "30", "100", "300", "1000", "3000"]
    ys = [
        float(y)
        for y in window.locator("#learning_curves-0 .grid").evaluate_all("l => l.map((g) => g.getAttribute('y1'))")
    ]
    assert ys[0] - ys[2] == pytest.approx(ys[2] - ys[4], abs=1e-6)  # equal ratios, equal distances
    # Seconds: maml ends at 20, fomaml at 20 000.
    assert "1000" in window.locator("#wall_time-0 svg.chart text").all_text_contents()
    chart = window.locator("#wall_time-0 svg.chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    window.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + 100)
    tip = window.locator("#wall_time-0 .tip > *").all_text_contents()
    assert tip == ["seconds spent in training steps 20000", "fomaml: 1000"]


@pytest.mark.browser
def test_there_are_no_half_steps_and_a_row_looks_the_same_in_every_figure(open_page, tmp_path):
    """fomaml comes first in the table and has no validations: maml is the second everywhere."""
    write_run(tmp_path / "runs", {0: [0.2] * 4, 1: [0.5] * 4}, algorithm="fomaml")
    write_run(tmp_path / "runs", {0: [0.2] * 4, 1: [0.6] * 4}, validations={1: 0.3, 2: 0.4})
    written(tmp_path / "runs", tmp_path / "page.html")
    window = open_page(tmp_path / "page.html")
    colours = "(f) => [...document.querySelectorAll(`#${f}-0 .curve`)].map((c) => c.style.stroke)"
    assert window.evaluate(colours, "learning_curves") == ["var(--s1)"]
    assert window.evaluate(colours, "inner_steps") == ["var(--s0)", "var(--s1)"]
    for figure, steps in (("inner_steps", ["0", "1"]), ("learning_curves", ["1", "2"])):
        across = "(f) => [...document.querySelectorAll(`#${f}-0 svg.chart text[text-anchor=middle]`)].map((t) => t.textContent)"
        assert window.evaluate(across, figure)[:2] == steps
