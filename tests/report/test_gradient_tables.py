"""metarun.report.gradient_tables: the same numbers at any width; what has no room side by side stands below one another."""

from typing import Any

from metarun.console.results import header
from metarun.report.gradient_tables import tables

from ..screens import WIDTHS, assert_screen, fits, no_broken_word, recorded, screen

STEPS, CG_STEPS, CURVATURES = (1, 4, 16), (0, 1, 2, 5, 10, 20), ("hessian", "gauss_newton")
FOLDER = "/home/somebody/outputs/gradients/sinusoid-10shot-imaml-seed0-03f7750c-562b4c1b"


def result_of(*, implicit: bool = True) -> dict[str, Any]:
    """Error e of k inner steps and n CG steps is 2^-k-n; no number of steps is enough for the Hessian after 16."""
    cells = []
    for steps in STEPS:
        costs = {"time_ms": 1.5 * steps, "memory_mib": 0.25 * steps}
        cells += [
            {"inner_steps": steps, "name": name, "curvature": None, "cg_steps": None, "error": 2.0**-steps, **costs}
            for name in ("unrolled", "first_order")
        ]
        for curvature in CURVATURES if implicit else ():
            cells += [
                {
                    "inner_steps": steps, "name": "implicit", "curvature": curvature, "cg_steps": count,
                    "error": 2.0 ** (-steps - count), "system_error": 2.0**-count,
                    "tasks_with_negative_curvature": [1] if (steps, count) == (16, 20) else [], **costs,
                }
                for count in CG_STEPS
            ]  # fmt: skip
    enough = [
        {"inner_steps": k, "curvature": c, "cg_steps": None if (k, c) == (16, "hessian") else 5}
        for k in STEPS
        for c in CURVATURES
    ]
    return {
        "grid": {"tasks": 4, "within": 0.1},
        "solver": "CG",
        "negative_curvature": "damp",
        "inner": [{"inner_steps": steps, "relative_gradient": 1.0 / (1 + steps)} for steps in STEPS],
        "cells": cells,
        "enough": enough if implicit else [],
    }


def drawn(width: int, result: dict[str, Any]) -> str:
    console = screen(width)
    tables(console, result)
    return recorded(console)


def test_the_tables_at_each_width():
    result = result_of()
    wide = drawn(300, result)
    for width in WIDTHS:
        console = screen(width)
        header(
            console,
            [("algorithm", "imaml"), ("theta", f"{FOLDER}, after step 1500 (imaml on sinusoid)"), ("results", FOLDER)],
        )
        tables(console, result)
        text = assert_screen(f"gradients-{width}", recorded(console))
        fits(text, width, FOLDER)
        no_broken_word(drawn(width, result), wide)


def test_a_narrow_table_holds_each_number_once():
    """2 estimators, the gradient left, and 5 + 6 + 5 + 5 CG steps for each curvature, with the inner steps before each row."""
    for implicit in (True, False):
        result = result_of(implicit=implicit)
        for width in (40, 60, 80, 120):
            text = drawn(width, result)
            for steps in STEPS:
                assert text.count(f" {1.5 * steps:.1f}\n") + text.count(f" {1.5 * steps:.1f} ") == (
                    12 if implicit else 2
                )
                assert text.count(f"{0.25 * steps:.2f}") >= (12 if implicit else 2)


def test_off_a_terminal_a_table_is_as_wide_as_it_needs_to_be(capsys):
    from metarun.console.terminal import terminal

    tables(terminal(width=40), result_of())
    heads = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("inner steps")]
    systems = [word for count in CG_STEPS for word in (str(count), "CG")]
    assert heads[0] == [
        "inner",
        "steps",
        "gradient",
        "left",
        "unrolled",
        "first",
        "order",
        "implicit",
        "by",
        *systems[2:],
    ]
    assert heads[1] == ["inner", "steps", "implicit", "by", *systems]
    assert heads[2] == heads[3] == ["inner", "steps", "unrolled", "first", "order", "implicit", "by", *systems[2:]]
