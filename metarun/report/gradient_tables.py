"""What `metarun gradients` says: the tables, how exact "exact" is, and how many CG steps are enough; from its result alone."""

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from metarun.console.terminal import say

LABELS = {
    "unrolled": "unrolled",
    "first_order": "first order",
    "recursion": "recursion",
    "hessian": "Hessian",
    "hessian_forward": "Hessian fw.",
    "gauss_newton": "Gauss-N.",
    "finite_difference": "differences",
}
ENOUGH, NEGATIVE, KINKS = "✓", "!", "~"


def tables(console: Console, result: dict[str, Any]) -> None:
    """Errors, times and memory: a row for each number of inner steps, a column for each estimator."""
    num_tasks, solver = result["grid"]["tasks"], result["solver"]
    _print(console, error_table(result), "relative error of the meta-gradient, median over tasks")
    if result["enough"]:
        title = f"of this, what stopping {solver} early costs: relative to the same system solved to the end"
        _print(console, system_table(result), title)
    for line in legend(result):
        say(console, (line, "dim"))
    _print(console, cost_table(result, "time_ms"), f"milliseconds for {num_tasks} task(s) at once")
    _print(console, cost_table(result, "memory_mib"), "most memory held at once, MiB")


def error_table(result: dict[str, Any]) -> Table:
    """Errors against the exact meta-gradient."""
    return _table(result, lambda cell: number(cell["error"]) + _sign(cell), with_gradient=True)


def system_table(result: dict[str, Any]) -> Table:
    """Errors against the same systems solved to the end; ✓ marks the smallest number of steps that is enough."""
    chosen = {(row["inner_steps"], row["curvature"]): row["cg_steps"] for row in result["enough"]}

    def words(cell: dict[str, Any]) -> str:
        is_enough = chosen[cell["inner_steps"], cell["curvature"]] == cell["cg_steps"]
        return number(cell.get("system_error")) + _sign(cell) + (ENOUGH if is_enough else "")

    return _table(result, words, implicit_alone=True)


def cost_table(result: dict[str, Any], key: str) -> Table:
    """`key` is "time_ms" or "memory_mib"."""
    return _table(result, lambda cell: "-" if cell[key] is None else f"{cell[key]:.{1 if key == 'time_ms' else 2}f}")


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


def _table(
    result: dict[str, Any],
    words: Callable[[dict[str, Any]], str],
    *,
    with_gradient: bool = False,
    implicit_alone: bool = False,
) -> Table:
    """One row for each number of inner steps and curvature; what depends on no curvature stands in the first of them."""
    curvatures = _curvatures(result)
    with_gradient = with_gradient and bool(curvatures)
    columns = columns_of(result["cells"])
    leading = [] if implicit_alone else [column for column in columns if column[0] != "implicit"]
    # No CG steps are first order, which has a column of its own.
    counts = dict.fromkeys(count for name, _, count in columns if name == "implicit")
    cg_steps = [count for count in counts if count or implicit_alone]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("inner\nsteps", justify="right", style="bold", overflow="fold")
    if with_gradient:
        table.add_column("gradient\nleft", justify="right", overflow="fold")
    for name, curvature, _ in leading:
        head = LABELS[name].replace(" ", "\n") if curvature is None else f"{LABELS[name]}\n{LABELS[curvature]}"
        table.add_column(head, justify="right", overflow="fold")
    if curvatures:
        table.add_column("implicit\nby", overflow="fold")
    for count in cg_steps:
        table.add_column(f"{count}\n{result['solver']}", justify="right", overflow="fold")
    for row in result["inner"]:
        here = {
            (cell["name"], cell["curvature"], cell["cg_steps"]): cell
            for cell in result["cells"]
            if cell["inner_steps"] == row["inner_steps"]
        }
        first = [str(row["inner_steps"])]
        if with_gradient:
            first.append(number(row["relative_gradient"]))
        first += [words(here[column]) for column in leading]
        for index, curvature in enumerate(curvatures or [None]):
            label = [] if curvature is None else [LABELS[curvature]]
            systems = [words(here["implicit", curvature, count]) for count in cg_steps]
            table.add_row(*(first if index == 0 else [""] * len(first)), *label, *systems)
    return table


def _print(console: Console, table: Table, title: str) -> None:
    say(console, (f"\n{title}", "bold"))
    # A pipe has no width: there a table is as wide as it needs to be.
    width = None if console.is_terminal else max(console.width, _natural_width(console, table))
    console.print(table, width=width, crop=False)


def _natural_width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def columns_of(cells: Sequence[dict[str, Any]]) -> list[tuple[str, str | None, int | None]]:
    """The estimators measured, in their order: (name, curvature, cg_steps)."""
    return list(dict.fromkeys((cell["name"], cell["curvature"], cell["cg_steps"]) for cell in cells))
