"""What cannot be is refused before the first job starts and before anything is written, and named."""

import json

import pytest

from ..training.small import run_here
from .small_sweeps import SHORT, only_sweep


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Run a sweep; give its one line of error. No job may start, nothing may be written."""

    def ran(*_):
        raise AssertionError("a job started")

    monkeypatch.setattr("metarun.sweep.launch.run_locally", ran)

    def run(*words: str) -> str:
        assert run_here("-m", *SHORT, f"run.root={tmp_path / 'runs'}", *words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert not (tmp_path / "runs").exists()
        (line,) = err.splitlines()
        return line.removeprefix("metarun: error: ")

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["algorithm=maml,imaml", "algorithm.proximal_weight=0,1"],
            "job #2 (algorithm=imaml algorithm.proximal_weight=0): algorithm: proximal_weight must be > 0",
        ),
        (["seed=0,x,y"], "job #1 (seed=x): seed: the seed must be an integer >= 0, got 'x' (1 more of the 3 jobs"),
        (["algorithm=maml,imamml"], "algorithm has no option 'imamml'; did you mean imaml?"),
        (["seed=0,1", "run.folder=x"], "its run folder "),
        (["seed=0,1", "tracker=wandb", "tracker.wandb.mode=foo"], "tracker.wandb: mode must be one of"),
        (
            ["optimizer.lr=interval(0.1,1)"],
            "optimizer.lr=interval(0.1,1) is a range and names no values: search it with",
        ),
        (["seed=0,1", "hydra/launcher=slrm"], "hydra/launcher has no option 'slrm'; did you mean slurm_"),
        (["seed=0,1", "hydra.launcher.jobs=0"], "hydra.launcher: jobs must be an integer >= 1, got 0"),
        (["seed=0,1", "hydra.launcher.gpus=2"], "hydra.launcher: gpus must be auto or a list of ids, got 2"),
        (["seed=0,1", "hydra/launcher=slurm_cpu", "hydra.launcher.cpus=0"], "hydra.launcher: cpus must be an integer"),
        (["seed=0,1", "hydra/launcher=slurm_cpu", "hydra.launcher.setup=x"], "hydra.launcher: setup must be a list"),
        (
            ["seed=0,1", "hydra/launcher=slurm_cpu", "hydra.launcher.ranks=5"],
            "job #0 (seed=0): every rank needs a task of each step, and 5 ranks share schedule.tasks_per_step=4. ",
        ),
        (
            [
                "seed=0,1",
                "hydra/launcher=slurm_cpu",
                "hydra.launcher.ranks=2",
                "algorithm=imaml_ng",
                "algorithm/direction/metric=fresh_tasks",
                "algorithm.direction.metric.num_fresh_tasks=1",
            ],
            "every rank needs a fresh task of each step, and 2 ranks share algorithm.direction.metric.num_fresh_tasks=1. ",
        ),
        (["hydra/sweeper=tpe", "seed=0", "hydra.sweeper.n_trials=0"], "hydra.sweeper: n_trials must be an integer"),
        (["hydra/sweeper=tpe", "seed=0", "hydra.sweeper.direction=up"], "hydra.sweeper: direction must be one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_sweep_that_cannot_be(words, message, refused):
    assert message in refused(*words)


def test_a_run_that_is_there_twice_is_run_once(tmp_path, monkeypatch, capsys):
    """`tracker` changes no number, so both are the same run."""
    from metarun.sweep.state import DONE, JobState

    ran = []

    def run(jobs, *_):
        ran.extend(jobs)
        return {job.index: JobState(state=DONE, value=1.0) for job in jobs}

    monkeypatch.setattr("metarun.sweep.launch.run_locally", run)
    words = [word for word in SHORT if not word.startswith("tracker")]
    assert run_here("-m", *words, f"run.root={tmp_path}", "tracker=none,wandb", "seed=1,1") == 0
    assert [job.index for job in ran] == [0]
    assert "4 done of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, trackers",
    [
        (["tracker=[tensorboard,mlflow]", "seed=0,1"], [["tensorboard", "mlflow"]] * 2),  # in each run
        (["tracker=[tensorboard,mlflow],none", "seed=0"], [["tensorboard", "mlflow"], "none"]),  # values
        (["tracker=tensorboard,none", "seed=0"], ["tensorboard", "none"]),
    ],
)
def test_several_trackers_are_told_from_values_of_a_sweep(tmp_path, monkeypatch, words, trackers):
    from metarun.sweep.manifest import read
    from metarun.sweep.state import DONE, JobState

    monkeypatch.setattr(
        "metarun.sweep.launch.run_locally", lambda jobs, *_: {j.index: JobState(state=DONE, value=1.0) for j in jobs}
    )
    short = [word for word in SHORT if not word.startswith("tracker")]
    assert run_here("-m", *short, f"run.root={tmp_path}", *words) == 0
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert [job.config["choices"]["tracker"] for job in read(sweep).jobs] == trackers


def test_overwrite_takes_the_old_run_away_once_and_not_at_each_start_of_the_job(tmp_path, monkeypatch):
    """A job that is requeued must find its own checkpoint, although the command said run.overwrite=true."""
    from metarun.sweep.state import JobState

    command = (*SHORT, f"run.root={tmp_path}")
    assert run_here(*command) == 0
    (folder,) = tmp_path.iterdir()
    seen = []

    def run(jobs, *_):
        seen.extend([jobs[0].folder, (folder / "result.json").exists(), (folder / "checkpoints" / "last.pt").exists()])
        return {0: JobState(state="failed")}

    monkeypatch.setattr("metarun.sweep.launch.run_locally", run)
    assert run_here("-m", *command, "run.overwrite=true") == 1
    assert seen == [folder, False, False]
    manifest = json.loads((only_sweep(tmp_path) / "manifest.json").read_text())
    assert manifest["jobs"][0]["config"]["run"]["overwrite"] is False


def test_an_edited_file_is_noticed_and_the_old_manifest_kept(tmp_path, monkeypatch, capsys):
    from metarun.sweep.state import JobState

    monkeypatch.setattr(
        "metarun.sweep.launch.run_locally", lambda jobs, *_: {j.index: JobState(state="failed") for j in jobs}
    )
    file = tmp_path / "conf" / "optimizer" / "mine.yaml"
    file.parent.mkdir(parents=True)
    command = (
        "-m",
        "--config-dir",
        str(tmp_path / "conf"),
        "optimizer=mine",
        "seed=0,1",
        *SHORT,
        f"run.root={tmp_path}",
    )
    for lr in (0.01, 0.02):
        file.write_text(f"_target_: torch.optim.SGD\n_partial_: true\nlr: {lr}\n")
        assert run_here(*command) == 1
    out = capsys.readouterr().out
    assert (
        "the configuration of 2 jobs has changed since this command was last given (optimizer.lr: 0.01 -> 0.02)" in out
    )
    sweep = only_sweep(tmp_path)
    rates = [
        [job["config"]["optimizer"]["lr"] for job in json.loads((sweep / name).read_text())["jobs"]]
        for name in ("manifest-1.json", "manifest.json")
    ]
    assert rates == [[0.01, 0.01], [0.02, 0.02]]
