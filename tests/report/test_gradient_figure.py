"""metarun.report.gradient_figure: its legend names the estimators that have a point somewhere."""

import pytest
from matplotlib.figure import Figure

from metarun.report import gradient_figure

CELLS = [
    # an error of zero is not drawn, a time is
    {"name": "unrolled", "curvature": None, "cg_steps": None, "error": 0.0, "memory_mib": 2.0, "time_ms": 3.0},
    {"name": "first_order", "curvature": None, "cg_steps": None, "error": 0.5, "memory_mib": 1.0, "time_ms": 1.0},
    {"name": "implicit", "curvature": "hessian", "cg_steps": 2, "error": 0.1, "memory_mib": 1.0, "time_ms": 2.0},
    # measured nowhere, as where memory gave out
    {"name": "implicit", "curvature": "hessian", "cg_steps": 5, "error": None, "memory_mib": None, "time_ms": None},
]


@pytest.fixture
def figure(monkeypatch):
    kept = []

    def made(**settings):
        kept.append(Figure(**settings))
        return kept[-1]

    monkeypatch.setattr(gradient_figure, "Figure", made)
    result = {
        "cells": [cell | {"inner_steps": steps} for steps in (1, 2) for cell in CELLS],
        "exact": {"solved": [True]},
        "solver": "CG steps",
        "choices": {"algorithm": "imaml", "dataset": "sinusoid"},
        "model_words": "a net",
    }
    assert gradient_figure.gradient_figure(result).startswith(b"\x89PNG")
    return kept[0]


def test_the_legend_has_what_is_drawn(figure):
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["unrolled", "first order", "Hessian, 2 CG steps"]
    drawn = [[line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes]
    assert drawn[0] == [[], [[1, 0.5], [2, 0.5]], [[1, 0.1], [2, 0.1]]]
    assert drawn[2] == [[[1, 3], [2, 3]], [[1, 1], [2, 1]], [[1, 2], [2, 2]]]
