"""`metarun gradients` from the command line: what it prints is what its JSON says, and bad input is one line."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch

from metarun.commands import gradients as command
from metarun.configuration.instantiate import make
from metarun.gradients.measure import estimators
from metarun.report.gradient_tables import answer, number
from metarun.run_folder.folder import fingerprint
from metarun.run_folder.state import load

from ..training.small import NAVIGATION, QUICK, configuration, only_folder, run_here

SMALL = (
    *QUICK,
    "model.hidden=[5]",
    "gradients.inner_steps=[1,4]",
    "gradients.cg_steps=[0,1,20]",
    "gradients.tasks=3",
    "gradients.solver_steps=50",
    "gradients.repeats=1",
)
SMOOTH = (*SMALL, "algorithm=imaml", "model.activation=tanh", "algorithm.proximal_weight=20.0")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def result_in(root: Path) -> tuple[Path, dict]:
    folder = only_folder(root / "gradients")
    return folder, json.loads((folder / "gradients.json").read_text())


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    """A finished comparison: what it printed, its folder, its JSON."""
    root = tmp_path_factory.mktemp("smooth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "300")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert run_here("gradients", *SMOOTH, f"run.root={root}") == 0
    return out.getvalue(), *result_in(root)


def rows_under(out: str, title: str) -> list[list[str]]:
    """The cells of the table below a title, without its head."""
    lines = out.partition(title)[2].splitlines()[1:]
    ruled = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    rows = []
    for line in lines[ruled + 1 :]:
        if not re.match(r"\s*(\d|Hessian|Gauss)", line):
            break
        rows.append(line.split())
    return rows


def test_the_tables_print_the_numbers_of_the_json(smooth):
    out, _, result = smooth

    def cells(steps: int, name: str, curvature: str | None = None) -> list[dict]:
        return [
            cell
            for cell in result["cells"]
            if (cell["inner_steps"], cell["name"], cell["curvature"]) == (steps, name, curvature)
        ]

    def expected(words, *, implicit_alone: bool = False, gradient: bool = False) -> list[list[str]]:
        rows = []
        for inner in result["inner"]:
            steps = inner["inner_steps"]
            first = [str(steps)] + ([number(inner["relative_gradient"])] if gradient else [])
            if not implicit_alone:
                first += [words(cells(steps, name)[0]) for name in ("unrolled", "first_order")]
            for index, (label, curvature) in enumerate((("Hessian", "hessian"), ("Gauss-N.", "gauss_newton"))):
                systems = [c for c in cells(steps, "implicit", curvature) if c["cg_steps"] or implicit_alone]
                rows.append([*(first if index == 0 else []), label, *map(words, systems)])
        return rows

    assert not any(cell.get("tasks_with_negative_curvature") for cell in result["cells"])
    enough = {(row["inner_steps"], row["curvature"]): row["cg_steps"] for row in result["enough"]}

    def system(cell: dict) -> str:
        mark = "✓" if enough[cell["inner_steps"], cell["curvature"]] == cell["cg_steps"] else ""
        return number(cell["system_error"]) + mark

    assert rows_under(out, "relative error of the meta-gradient") == expected(
        lambda cell: number(cell["error"]), gradient=True
    )
    assert rows_under(out, "what stopping CG early costs") == expected(system, implicit_alone=True)
    assert rows_under(out, "milliseconds") == expected(lambda cell: f"{cell['time_ms']:.1f}")
    assert rows_under(out, "most memory") == expected(lambda cell: f"{cell['memory_mib']:.2f}")


def test_the_answer_follows_from_the_cells(smooth):
    out, folder, result = smooth
    assert result["answer"] == answer(result)
    assert f"How many CG steps? {result['answer'][0].upper()}{result['answer'][1:]}" in out
    for row in result["enough"]:
        mine = [
            cell
            for cell in result["cells"]
            if (cell["inner_steps"], cell["curvature"]) == (row["inner_steps"], row["curvature"])
        ]
        good = [cell["cg_steps"] for cell in mine if cell["system_error"] <= 0.1]
        assert row["cg_steps"] == min(good)
    # Sixteen inner steps are the algorithm's own and were not measured: the answer is for the largest number that was.
    assert result["own_inner_steps"] == 16
    assert result["answer"].startswith("at 4 inner steps, ")
    assert str(folder / "gradients.json") in out
    assert str(folder / "gradients.png") in out


def test_the_exact_gradient_is_exact_here_and_says_so(smooth):
    out, _, result = smooth
    exact = result["exact"]
    assert exact["method"] == "dense"
    assert exact["solved"] == [True] * 3
    assert max(exact["residual"]) < 1e-13
    assert min(exact["min_curvature"]) > 0
    assert f"to a relative gradient of {number(max(exact['residual']))}; linear system factorised" in out
    assert "NOT exact" not in out
    # Twenty CG steps are more than there are support points: the Hessian's error is then the inner steps' alone.
    for steps in (1, 4):
        (cell,) = (
            c for c in result["cells"] if (c["inner_steps"], c["curvature"], c["cg_steps"]) == (steps, "hessian", 20)
        )
        assert cell["system_error"] < 1e-5  # algorithm.meta_gradient.solver.rtol is 1e-6


def test_the_folder_holds_the_figure_and_the_numbers_and_is_named_from_the_configuration(smooth, tmp_path):
    _, folder, result = smooth
    assert {path.name for path in folder.iterdir()} == {"gradients.json", "gradients.png"}
    assert (folder / "gradients.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert folder.name.startswith("sinusoid-10shot-imaml-seed0-")
    assert result["config"]["gradients"]["inner_steps"] == [1, 4]
    assert result["environment"]["dtype"] == "float32"


def test_the_folder_is_named_from_the_configuration(tmp_path):
    changes = ([], ["gradients.within=0.2"], ["seed=1"], [])
    configs = [configuration(*SMOOTH, f"run.root={tmp_path}", *more) for more in changes]
    first, within, seed, again = (command._folder(config) for config in configs)
    assert len({first, within, seed}) == 3
    assert first == again


def test_its_keys_change_no_run():
    plain, other = configuration(), configuration("gradients.tasks=7", "gradients.within=0.5")
    assert fingerprint(plain) == fingerprint(other)


def test_without_lambda_the_reference_is_the_unrolled_gradient(tmp_path, capsys):
    state = torch.get_rng_state()
    assert run_here("gradients", *SMALL, "algorithm=maml", f"run.root={tmp_path}") == 0
    out = capsys.readouterr().out
    _, result = result_in(tmp_path)
    assert result["exact"] is None
    assert result["enough"] == []
    assert "lambda is 0, so the exact meta-gradient after so many inner steps is the unrolled one itself" in out
    assert "How many CG steps? None: lambda is 0, there is no linear system." in out
    errors = {(c["inner_steps"], c["name"], c["curvature"]): c["error"] for c in result["cells"]}
    assert errors[1, "unrolled", None] == errors[4, "unrolled", None] == 0
    assert errors[4, "recursion", "hessian"] < 1e-13
    assert rows_under(out, "relative error")[0][0:3] == ["1", "0", number(errors[1, "first_order", None])]
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unsolved_inner_problem_is_said_to_be_one(tmp_path, capsys):
    """ReLU: the minimum of some task lies on a kink."""
    arguments = [word for word in SMOOTH if not word.startswith(("model.activation", "algorithm.proximal"))]
    assert run_here("gradients", *arguments, "gradients.tasks=6", f"run.root={tmp_path}") == 0
    out = capsys.readouterr().out
    _, result = result_in(tmp_path)
    unsolved = result["exact"]["solved"].count(False)
    assert unsolved > 0
    assert (
        f"NOT exact: 50 inner steps and up to 50 of Newton's do not solve the inner problem of {unsolved} of 6" in out
    )
    assert "relative to the implicit gradient at the best points found" in out


def test_theta_of_a_run(smooth, tmp_path, capsys):
    """`gradients.run` loads its selected state: other numbers than those of the start, and said in the header."""
    steps = ("schedule.steps=4", "schedule.eval_every=2", "schedule.checkpoint_every=2")
    assert run_here(*SMOOTH, *steps, f"run.root={tmp_path / 'runs'}", "optimizer.lr=0.1") == 0
    run = only_folder(tmp_path / "runs")
    step = load(run / "checkpoints" / "best.pt")["step"]
    capsys.readouterr()
    assert run_here("gradients", *SMOOTH, f"run.root={tmp_path / 'of'}", f"gradients.run={run}") == 0
    assert f"{run}, after step {step} (imaml on sinusoid)" in capsys.readouterr().out
    _, trained = result_in(tmp_path / "of")
    assert trained["theta"] == {
        "run": str(run), "step": step, "algorithm": "imaml", "dataset": "sinusoid", "model": "mlp",
    }  # fmt: skip
    assert smooth[2]["theta"] == {"run": None, "step": 0}
    first, start = (next(c["error"] for c in r["cells"] if c["name"] == "first_order") for r in (trained, smooth[2]))
    assert first != start
    assert run_here("gradients", *SMOOTH, f"gradients.run={run}", "model.hidden=[6]") == 2
    assert "the model must be the one that was trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta_sgd", {"unrolled", "first_order"}),
        ("anil", {"unrolled", "first_order", "recursion"}),
        ("imaml_hf", {"first_order", "implicit"}),
        ("imaml_official", {"unrolled", "first_order", "implicit"}),
    ],
)
def test_every_algorithm_is_compared_by_what_it_allows(name, expected):
    config = configuration(f"algorithm={name}")
    columns = estimators(make(config, "algorithm"), make(config, "gradients"))
    assert {column.name for column in columns} == expected


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Its one line of error without the prefix; nothing is computed or written."""

    def worked(*_arguments):
        raise AssertionError("work began")

    monkeypatch.setattr(command, "_measure", worked)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert run_here("gradients", *SMALL, f"run.root={tmp_path / 'runs'}", *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert not (tmp_path / "runs").exists()
        return line.removeprefix("metarun: error: ")

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gradients.inner_step=[1]"], "there is no key gradients.inner_step; did you mean gradients.inner_steps?"),
        (["algorithm=imalm"], "algorithm has no option 'imalm'; did you mean imaml?"),
        (["gradients.inner_steps=3"], "gradients: inner_steps must be a list of integers"),
        (["gradients.inner_steps=[0,1]"], "gradients: inner_steps must be an integer >= 1, got 0"),
        (["gradients.cg_steps=[-1]"], "gradients: cg_steps must be an integer >= 0, got -1"),
        (["gradients.curvatures=[fisher]"], "gradients: curvatures must be a list of one of hessian, "),
        (["gradients.curvatures=hessian"], "gradients: curvatures must be a list of one of hessian, "),
        (["gradients.dtype=float16"], "gradients: dtype must be one of float32, float64, got 'float16'"),
        (["gradients.tasks=0"], "gradients: tasks must be an integer >= 1, got 0"),
        (["gradients.tasks=1000000000000"], "drawing gradients.tasks=1000000000000 tasks at once takes at least 298,0"),
        (["gradients.within=0"], "gradients: within must be a number > 0, got 0"),
        (["gradients.newton_steps=x"], "gradients: newton_steps must be an integer, got 'x'"),
        (["gradients.run=3"], "gradients: run must be a string or null, got 3"),
        (
            ["gradients.run=nowhere"],
            "gradients.run must be the folder of a run (with a config.json), and nowhere is not.",
        ),
        (["gradients=null"], "gradients must have keys of its own (run, tasks, "),
        (["-m", "seed=0,1"], "metarun gradients takes one configuration at a time: leave out -m."),
        (
            ["algorithm=imaml", "algorithm/meta_gradient/solver=dense"],
            "the implicit system is solved with numbers of steps",
        ),
        (
            ["algorithm=fomaml", "algorithm/inner=newton_cg"],
            "without a proximal term the exact meta-gradient is the unrolled one, and NewtonCG cannot be differentiated. ",
        ),
        (["algorithm=imaml", "algorithm.proximal_weight=0"], "algorithm: proximal_weight must be > 0"),
    ],
)
def test_bad_input_is_one_line(arguments, message, refused):
    assert refused(*arguments).startswith(message)


def test_a_run_without_a_selected_state(refused, tmp_path):
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.json").write_text(json.dumps(configuration(*SMALL)))
    assert "best.pt is missing; let the run validate once." in refused(f"gradients.run={tmp_path / 'young'}")


def test_a_folder_that_cannot_be_written(capsys):
    assert run_here("gradients", *SMALL, "run.root=/proc") == 2
    assert "results must have a folder that can be written, and /proc/gradients/" in capsys.readouterr().err


def test_a_device_too_small_for_the_reference_is_said_in_one_line(capsys, monkeypatch, tmp_path):
    def full(*_arguments):
        raise torch.OutOfMemoryError("as on a GPU")

    monkeypatch.setattr(command, "solve", full)
    assert run_here("gradients", *SMALL, f"run.root={tmp_path}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("metarun: error: the device's memory does not suffice for the reference itself. Give fewer ")


# ---- data that are collected -----------------------------------------------------------------------------------------


def test_on_episodes_the_unrolled_gradient_is_the_reference(tmp_path, capsys):
    """All are of the same episodes: the recursion is the unrolled gradient to rounding, and the header counts episodes."""
    grid = ("gradients.inner_steps=[1,3]", "gradients.tasks=2", "gradients.repeats=1", f"run.root={tmp_path}")
    assert run_here("gradients", *QUICK, *NAVIGATION, "model.activation=tanh", *grid) == 0
    assert "2 training tasks, 3 episodes for each inner step, 3 to measure" in capsys.readouterr().out
    _, result = result_in(tmp_path)
    errors = {(cell["name"], cell["curvature"], cell["inner_steps"]): cell["error"] for cell in result["cells"]}
    for steps in (1, 3):
        assert errors["unrolled", None, steps] == 0
        assert errors["recursion", "hessian", steps] < 1e-13
        assert errors["first_order", None, steps] > 1e-3


def test_where_every_step_collects_there_is_no_inner_problem_to_solve(tmp_path, capsys):
    assert run_here("gradients", *QUICK, *NAVIGATION, "algorithm=imaml", f"run.root={tmp_path / 'runs'}") == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(
        "metarun: error: the implicit meta-gradient is held against that at the inner problem's solution"
    )
    assert "Choose algorithm=maml" in line and out == "" and not (tmp_path / "runs").exists()
