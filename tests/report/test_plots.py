"""metarun.report.plots: the files that are drawn, and what tells their curves apart."""

import itertools

import pytest

from metarun.report.comparison import compare
from metarun.report.curves import Curve, Figure
from metarun.report.plots import draw, drawn, look
from metarun.report.runs import read_runs

from .made import sweep, write_run

SCORES = {0: [0.1, 0.3], 5: [0.5, 0.7]}
STARTS = {"png": b"\x89PNG\r\n", "pdf": b"%PDF-", "svg": b"<?xml"}


def curve(name="maml", seeds=1, y=(0.2, 0.4), selected=(), number=0) -> Curve:
    return Curve(name=name, number=number, seeds=seeds, x=(10.0, 20.0), y=y, low=y, high=y, selected=selected)


def figure(*curves: Curve, is_percent: bool = False) -> Figure:
    return Figure(file="f", title="Title", x_label="x", y_label="y", curves=curves, is_percent=is_percent)


def test_every_figure_is_a_file_of_each_kind(tmp_path):
    sweep(tmp_path / "runs")
    written = draw(compare(read_runs([tmp_path / "runs"])), tmp_path / "new" / "figures")
    assert [path.name for path in written] == [
        f"{name}.{suffix}"
        for name in ("learning_curves", "inner_steps", "wall_time")
        for suffix in ("png", "pdf", "svg")
    ]
    for path in written:
        assert path.read_bytes().startswith(STARTS[path.suffix[1:]])
    write_run(tmp_path / "runs", SCORES, name="b", **{"evaluation.tasks": 2})
    names = [path.name for path in draw(compare(read_runs([tmp_path / "runs"])), tmp_path)]
    # The newest run's protocol is first, and without validations it has one figure.
    assert [name for name in names if name.endswith("pdf")] == [
        "inner_steps-1.pdf", "learning_curves-2.pdf", "inner_steps-2.pdf", "wall_time-2.pdf",
    ]  # fmt: skip


def test_the_same_numbers_make_the_same_bytes_with_fonts_that_publishers_take(tmp_path):
    sweep(tmp_path / "runs")
    one, two = (draw(compare(read_runs([tmp_path / "runs"])), tmp_path / name) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert b"/Type3" not in a.read_bytes()


def test_sixteen_curves_differ_without_their_colours():
    def without_colour(number: int) -> tuple[str, str, bool]:
        seen = look(number)
        return seen["marker"], seen["linestyle"], seen["markerfacecolor"] == "white"

    assert len({without_colour(number) for number in range(16)}) == 16
    for one, other in itertools.combinations(range(16), 2):
        a, b = without_colour(one), without_colour(other)
        assert (a[0], a[2]) != (b[0], b[2])  # the marks alone do: a line may be hidden by others
    assert len({tuple(look(number).items()) for number in range(32)}) == 32


def test_the_legend_has_what_is_drawn_and_the_line_below_the_title_too():
    plain = drawn(figure(curve()), "glyphs", 1.0)
    assert [text.get_text() for text in plain.legends[0].get_texts()] == ["maml"]
    assert [text.get_text() for text in plain.axes[0].texts] == ["glyphs; 1 seed"]
    full = drawn(figure(curve(seeds=3, selected=(20.0,)), curve("fomaml")), "glyphs", 1.0)
    assert [text.get_text() for text in full.legends[0].get_texts()] == ["maml (3 seeds)", "fomaml (1 seed)"]
    assert [text.get_text() for text in full.axes[0].texts] == ["glyphs; bands span the seeds; rings: selected steps"]
    many = drawn(figure(*(curve(f"m{number}") for number in range(25))), "glyphs", 1.0)
    assert many.legends == []
    assert many.axes[0].texts[0].get_text() == "glyphs; 1 seed; 25 curves, too many for a legend"


def test_the_ring_is_at_the_selected_step():
    axes = drawn(figure(curve(selected=(20.0,))), "", 100.0).axes[0]
    line, ring = axes.lines
    assert (line.get_xydata().tolist(), ring.get_xydata().tolist()) == ([[10, 20], [20, 40]], [[20, 40]])
    assert ring.get_markerfacecolor() == "none"


@pytest.mark.parametrize(("y", "scale"), [((0.02, 0.9), "log"), ((0.04, 0.9), "linear")])
def test_axes_turn_logarithmic_by_themselves(y, scale):
    axes = drawn(figure(curve(y=y)), "", 1.0).axes[0]
    assert (axes.get_yscale(), axes.get_xscale()) == (scale, "linear")


def test_no_text_leaves_the_picture():
    """A long line below the title is broken, and a legend of long names has fewer columns."""
    names = [f"matching_networks, optimizer.lr 0.000{number}" for number in range(9)]
    canvas = drawn(figure(*map(curve, names)), "a protocol of many words, " * 8, 1.0)
    canvas.draw_without_rendering()
    width = canvas.bbox.width
    boxes = [text.get_window_extent() for text in (*canvas.axes[0].texts, *canvas.legends[0].get_texts())]
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)


def test_there_are_no_half_steps_and_a_row_looks_the_same_in_every_figure():
    one = Curve(name="maml", number=3, seeds=1, x=(0.0, 1.0), y=(0.2, 0.4), low=(0.2, 0.4), high=(0.2, 0.4))
    settings = {"file": "f", "title": "Title", "x_label": "x", "y_label": "y", "is_percent": False}
    canvas = drawn(Figure(**settings, curves=(one,), x_is_whole=True), "", 1.0)
    canvas.draw_without_rendering()
    assert [place for place in canvas.axes[0].get_xticks() if 0 <= place <= 1] == [0.0, 1.0]
    assert canvas.axes[0].lines[0].get_marker() == look(3)["marker"] != look(0)["marker"]
