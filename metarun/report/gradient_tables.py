"""What `metarun gradients` says: the tables, how exact "exact" is, and how many CG steps are enough; from its result alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarun.console.columns import Column, blocks, is_fitting, ruled
from metarun.console.terminal import tell

LABELS = {
    "unrolled": "unrolled",
    "first_order": "first order",
    "recursion": "recursion",
    "hessian": "Hessian",
    "hessian_forward": "Hessian fw.",
    "gauss_newton": "Gauss-N.",
    "finite_difference": "differences",
}
_UNBOUNDED = 10_000
ENOUGH, NEGATIVE, KINKS = "✓", "!", "~"


def tables(console: Console, result: dict[str, Any]) -> None:
    """Errors, times and memory: a row for each number of inner steps, a column for each estimator."""
    num_tasks, solver = result["grid"]["tasks"], result["solver"]
    title = "relative error of the meta-gradient, median over tasks"
    _print(console, title, _grid(result, _errors, with_gradient=True))
    if result["enough"]:
        title = f"of this, what stopping {solver} early costs: relative to the same system solved to the end"
        _print(console, title, _grid(result, _system_errors(result), implicit_alone=True))
    for line in legend(result):
        tell(console, (line, "dim"))
    title = f"milliseconds for {num_tasks} task{'' if num_tasks == 1 else 's'} at once"
    _print(console, title, _grid(result, _costs("time_ms")))
    _print(console, "most memory held at once, MiB", _grid(result, _costs("memory_mib")))


def _errors(cell: dict[str, Any]) -> str:
    return number(cell["error"]) + _sign(cell)


def _system_errors(result: dict[str, Any]) -> Callable[[dict[str, Any]], str]:
    """Of errors against the same systems solved to the end; ✓ marks the smallest number of steps that is enough."""
    chosen = {(row["inner_steps"], row["curvature"]): row["cg_steps"] for row in result["enough"]}

    def words(cell: dict[str, Any]) -> str:
        is_enough = chosen[cell["inner_steps"], cell["curvature"]] == cell["cg_steps"]
        return number(cell.get("system_error")) + _sign(cell) + (ENOUGH if is_enough else "")

    return words


def _costs(key: str) -> Callable[[dict[str, Any]], str]:
    digits = 1 if key == "time_ms" else 2
    return lambda cell: "-" if cell[key] is None else f"{cell[key]:.{digits}f}"


def legend(result: dict[str, Any]) -> list[str]:
    """What the signs in the tables of errors mean, where there are any."""
    lines = []
    if result["enough"]:
        lines.append(
            "gradient left: that of the inner objective at phi over that at theta, 0 at its solution; median over tasks"
        )
        lines.append(
            f"{ENOUGH} enough: the smallest number of {result['solver']} steps within "
            f"{100 * result['grid']['within']:g} % of its system's solution"
        )
    if any(cell.get("tasks_with_negative_curvature") for cell in result["cells"]):
        policy = f" (solver.negative_curvature={result['negative_curvature']})" if result["negative_curvature"] else ""
        lines.append(f"{NEGATIVE} negative curvature met, so for at least one task another system was solved{policy}")
    if any(cell.get("tasks_with_kinks") for cell in result["cells"]):
        lines.append(
            f"{KINKS} differences of gradients ahead of and behind phi disagree for at least one task: kinks (ReLU, max-pool) or "
            "rounding are most of its curvature"
        )
    if any(cell["error"] is None for cell in result["cells"]):
        lines.append("- not a finite number (the inner steps diverge), or out of memory")
    return lines


def exactness(result: dict[str, Any]) -> str:
    """How exact the reference is, in words."""
    exact = result["exact"]
    if exact is None:
        return (
            "lambda is 0, so the exact meta-gradient after so many inner steps is the unrolled one itself; the others are held "
            "against it at the same number of inner steps"
        )
    system = {"dense": "factorised", "cg": "solved by long CG", "minres": "solved by long MINRES (it is indefinite)"}
    worst = max(exact["system_residual"])
    solved = (
        f"linear system {system[exact['method']]} to a relative residual of {number(worst)}, "
        f"smallest curvature of I + H/lambda {number(min(exact['min_curvature']))}"
    )
    unsolved = exact["solved"].count(False)
    effort = f"{exact['solver_steps']} inner steps and up to {exact['newton_steps']} of Newton's"
    saddles = sum(value <= 0 for value in exact["min_curvature"])
    saddle = (
        f" At {saddles} of {len(exact['solved'])} points found curvature is negative: no minimum." if saddles else ""
    )
    if not unsolved:
        return f"inner problem solved by {effort} to a relative gradient of {number(max(exact['residual']))}; {solved}.{saddle}"
    rest = [value for value, good in zip(exact["residual"], exact["solved"], strict=True) if not good]
    return (
        f"NOT exact: {effort} do not solve the inner problem of {unsolved} of {len(exact['solved'])} tasks to stationarity "
        f"(relative gradient {number(min(rest))} to {number(max(rest))}); {solved}.{saddle} The errors below are relative to "
        "the implicit gradient at the best points found. Likely causes: kinks (ReLU, max-pool; model.activation=tanh has none), "
        "or an objective that is not convex at this lambda (algorithm.proximal_weight)."
    )


def answer(result: dict[str, Any]) -> str:
    """To "how many CG steps do I need?", at the algorithm's own number of inner steps if that was measured, else the largest."""
    measured = sorted({cell["inner_steps"] for cell in result["cells"]})
    steps = result["own_inner_steps"] if result["own_inner_steps"] in measured else measured[-1]
    at = f"at {_count(steps, 'inner step')}"
    here = {(c["name"], c["curvature"]): c for c in result["cells"] if c["inner_steps"] == steps}
    if result["exact"] is None:
        first, unrolled = here["first_order", None], here["unrolled", None]
        words = f"none: lambda is 0, there is no linear system. First order is off by {number(first['error'])} {at}"
        recursion = here.get(("recursion", "finite_difference"))
        if recursion and recursion["memory_mib"] is not None and unrolled["memory_mib"] is not None:
            words += (
                f"; by differences of gradients the error is {number(recursion['error'])}, with {recursion['memory_mib']:.2f} MiB "
                f"in place of {unrolled['memory_mib']:.2f}"
            )
        return f"{words}. For the implicit gradient choose algorithm=imaml."
    parts = []
    for row in result["enough"]:
        if row["inner_steps"] != steps:
            continue
        curvature, needed = row["curvature"], row["cg_steps"]
        label = {"hessian": "the Hessian", "gauss_newton": "Gauss-Newton"}.get(curvature, LABELS[curvature])
        tried = [c for c in result["cells"] if c["inner_steps"] == steps and c["curvature"] == curvature]
        cell = next((c for c in tried if c["cg_steps"] == needed), tried[-1])
        if needed is None:
            negative = " (its curvature is negative)" if cell.get("tasks_with_negative_curvature") else ""
            parts.append(f"more than {cell['cg_steps']} with {label}{negative}")
        else:
            count = "none (first order)" if needed == 0 else str(needed)
            parts.append(f"{count} with {label} (meta-gradient's error then {number(cell['error'])})")
    left = next(row["relative_gradient"] for row in result["inner"] if row["inner_steps"] == steps)
    why = ""
    if left is None:
        why = " The inner steps diverge (algorithm.inner.step_size)."
    elif left > 0.01:
        why = (
            f" More CG steps than that gain little: phi is not yet the inner problem's solution (gradient left {number(left)}), "
            "which takes more or better inner steps."
        )
    return f"{at}, {', '.join(parts)}.{why}{_bias(result, steps)}"


def _bias(result: dict[str, Any], steps: int) -> str:
    """Where Gauss-Newton stays far behind the Hessian, that this is no matter of CG steps."""
    last: dict[str, float | None] = {}
    for cell in result["cells"]:
        if cell["inner_steps"] == steps and cell["name"] == "implicit":
            last[cell["curvature"]] = cell["error"]
    exact, other = last.get("hessian"), last.get("gauss_newton")
    if not all(result["exact"]["solved"]) or exact is None or other is None or other < 2 * exact:
        return ""
    return f" Gauss-Newton's error stays at {number(other)}, however many: it leaves out part of the Hessian."


def number(value: float | None) -> str:
    """Two digits, `0.031` or `1.2e-07`; a dash for what is not finite."""
    return "-" if value is None else f"{value:.2g}"


def _count(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}{'' if number_of == 1 else 's'}"


def _sign(cell: dict[str, Any]) -> str:
    negative = NEGATIVE if cell.get("tasks_with_negative_curvature") else ""
    return negative + (KINKS if cell.get("tasks_with_kinks") else "")


def _curvatures(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(cell["curvature"] for cell in result["cells"] if cell["name"] == "implicit"))


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """A table's columns: those that depend on no curvature, and after them those of the implicit systems.

    Attributes:
        plain: one cell for each number of inner steps, which the first column names.
        implicit: one cell for each number of inner steps and curvature; the first column names the curvature.
    """

    plain: list[Column]
    implicit: list[Column]

    def tables(self, width: int) -> list[Table]:
        """One table if it fits; else what depends on no curvature first and the implicit systems below it."""
        steps, *plain = self.plain
        if not self.implicit:
            return [ruled(part, width, box.SIMPLE_HEAD) for part in blocks(self.plain, width, 1, box.SIMPLE_HEAD)]
        repeats = len(self.implicit[0].cells) // len(steps.cells)
        rows = [replace(column, cells=_spread(column.cells, repeats)) for column in self.plain]
        whole = [*rows, *self.implicit]
        if is_fitting(whole, width, box.SIMPLE_HEAD):
            return [ruled(whole, width, box.SIMPLE_HEAD)]
        parts = blocks(self.plain, width, 1, box.SIMPLE_HEAD) if plain else []
        parts += blocks([rows[0], *self.implicit], width, 2, box.SIMPLE_HEAD)
        return [ruled(part, width, box.SIMPLE_HEAD) for part in parts]


def _spread(cells: Sequence[str | Text], repeats: int) -> list[str | Text]:
    """Each followed by empty ones, down to the next number of inner steps."""
    return [text for cell in cells for text in (cell, *[""] * (repeats - 1))]


def _grid(
    result: dict[str, Any],
    words: Callable[[dict[str, Any]], str],
    *,
    with_gradient: bool = False,
    implicit_alone: bool = False,
) -> _Grid:
    """The columns of a table whose cells are `words` of the measured ones."""
    curvatures = _curvatures(result)
    columns = columns_of(result["cells"])
    leading = [] if implicit_alone else [column for column in columns if column[0] != "implicit"]
    # No CG steps are first order, which has a column of its own.
    counts = dict.fromkeys(count for name, _, count in columns if name == "implicit")
    cells = {(c["inner_steps"], c["name"], c["curvature"], c["cg_steps"]): c for c in result["cells"]}
    inner = result["inner"]
    plain = [_column("inner steps", [str(row["inner_steps"]) for row in inner], style="bold")]
    if with_gradient and curvatures:
        plain.append(_column("gradient left", [number(row["relative_gradient"]) for row in inner]))
    for name, curvature, count in leading:
        heading = LABELS[name] if curvature is None else f"{LABELS[name]} {LABELS[curvature]}"
        plain.append(_column(heading, [words(cells[row["inner_steps"], name, curvature, count]) for row in inner]))
    if not curvatures:
        return _Grid(plain=plain, implicit=[])
    rows = [(row["inner_steps"], curvature) for row in inner for curvature in curvatures]
    implicit = [Column(heading="implicit by", cells=[LABELS[curvature] for _, curvature in rows])]
    for count in counts:
        if count or implicit_alone:
            systems = [words(cells[steps, "implicit", curvature, count]) for steps, curvature in rows]
            implicit.append(_column(f"{count} {result['solver']}", systems))
    return _Grid(plain=plain, implicit=implicit)


def _column(heading: str, cells: Sequence[str], style: str = "") -> Column:
    return Column(heading=heading, cells=cells, justify="right", style=style)


def _print(console: Console, title: str, grid: _Grid) -> None:
    tell(console, (f"\n{title}", "bold"))
    if not console.is_terminal:  # a pipe has no width: there a table is as wide as it needs to be
        (table,) = grid.tables(_UNBOUNDED)
        for line in console.render_lines(table, console.options.update(width=_UNBOUNDED), pad=False):
            console.print(Text("".join(part.text for part in line).rstrip()), soft_wrap=True)
        return
    for number_of, table in enumerate(grid.tables(console.width)):
        if number_of:
            console.print()
        console.print(table)


def columns_of(cells: Sequence[dict[str, Any]]) -> list[tuple[str, str | None, int | None]]:
    """The estimators measured, in their order: (name, curvature, cg_steps)."""
    return list(dict.fromkeys((cell["name"], cell["curvature"], cell["cg_steps"]) for cell in cells))
