"""The batch script, and what is said where there is no Slurm. The real one is in test_slurm_cluster.py."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from metarun.sweep import slurm

from ..training.small import run_here
from .small_sweeps import SHORT


@pytest.fixture
def no_slurm(monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)


def dry(capsys, *words: str) -> list[str]:
    assert run_here("submit", "--dry-run", *words, *SHORT) == 0
    return capsys.readouterr().out.splitlines()


def test_the_script_asks_for_what_was_given_and_nothing_else(no_slurm, tmp_path, capsys):
    lines = dry(
        capsys, f"run.root={tmp_path / 'runs'}", "seed=0,1,2", "hydra/launcher=slurm_gpu",
        "hydra.launcher.partition=short", "hydra.launcher.time='4:00:00'", "hydra.launcher.at_once=2",
        "hydra.launcher.extra=['--mail-type=END']", "hydra.launcher.setup=['module load cuda']",
    )  # fmt: skip
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    (name, output, chdir) = (options.pop(0), options.pop(1), options.pop(2))
    assert name.startswith("--job-name=seed_0_1_2-")
    assert output.startswith(f"--output={tmp_path}/runs/sweeps/seed_0_1_2-") and output.endswith("/job-%a.log")
    assert chdir.startswith("--chdir=/")
    assert options == [
        "--array=0,1,2%2", "--open-mode=append", "--ntasks=1", "--partition=short", "--time=4:00:00",
        "--cpus-per-task=4", "--gres=gpu:1", "--signal=USR2@120", "--requeue", "--mail-type=END",
    ]  # fmt: skip
    assert lines[0] == "#!/bin/bash"
    assert "module load cuda" in lines
    (run,) = [line for line in lines if line.startswith("srun ")]
    words = shlex.split(run)
    assert words[3:6] == [sys.executable, "-m", "metarun"]
    assert words[8] == "$SLURM_ARRAY_TASK_ID"
    assert not (tmp_path / "runs").exists(), "a dry run writes nothing"


@pytest.mark.parametrize(("nodes", "place"), [(1, "localhost"), (2, socket.gethostname())])
def test_ranks_are_tasks_of_one_step_that_meet_at_its_first_node(nodes, place, no_slurm, tmp_path, capsys):
    words = ("hydra.launcher.ranks=3", f"hydra.launcher.nodes={nodes}", f"run.root={tmp_path / 'runs'}", "seed=0,1")
    lines = dry(capsys, *words)
    assert {f"#SBATCH --nodes={nodes}", "#SBATCH --ntasks=3"} <= {*lines}
    start = next(index for index, line in enumerate(lines) if line.startswith("srun "))
    assert lines[start].startswith("srun --ntasks=3 ")
    # What a rank is told, with Slurm's variables for it and another program in place of the run.
    told = 'echo "$RANK $WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT"; echo "$@"'
    words = shlex.split(lines[start].partition(" & ")[0])
    words[words.index(sys.executable)] = f"{tmp_path}/told"
    (tmp_path / "told").write_text(f"#!/bin/bash\n{told}\n")
    (tmp_path / "told").chmod(0o755)
    meeting = next(line for line in lines if line.startswith("export MASTER_ADDR"))
    command = f"{meeting}\n{shlex.join(words[words.index('bash') :])}"
    environment = {"SLURM_JOB_ID": "12345", "SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_LOCALID": "0"}
    done = subprocess.run(["bash", "-c", command], env=os.environ | environment, capture_output=True, text=True)
    ranks, job = done.stdout.splitlines()
    assert ranks == f"2 3 0 {place} 22345"
    assert job.startswith("-m metarun _job ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ranks=0",), "ranks must be an integer >= 1, got 0"),
        (("nodes=2",), "nodes must be at most ranks (each node needs one), got nodes=2 ranks=1"),
        (
            ("ranks=4", "gpus=1", "nodes=2"),
            "every rank needs a GPU, and 4 ranks would share 2. Set gpus=2 (of each node)",
        ),
    ],
)
def test_ranks_that_cannot_be_are_refused(words, message, no_slurm, capsys):
    assert run_here("submit", "--dry-run", *(f"hydra.launcher.{word}" for word in words), *SHORT, "seed=0,1") == 2
    assert f"metarun: error: hydra.launcher: {message}" in capsys.readouterr().err


def test_the_script_is_shell(no_slurm, tmp_path, capsys):
    script = "\n".join(dry(capsys, f"run.root={tmp_path / 'a folder'}", "seed=0,1"))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_script_passes_on_the_exit_status_and_survives_a_signal(tmp_path):
    """Its last lines with another program in place of srun."""
    from metarun.sweep.launch import slurm as module

    settings = module.SlurmSettings(
        partition=None, account=None, qos=None, constraint=None, time=None, ranks=1, nodes=1, cpus=1, memory=None, gpus=None,
        at_once=None, warn_s=120, extra=[], setup=[], wait=True, dry_run=False,
    )  # fmt: skip
    text = module.script(settings, [], tmp_path)
    before, _, after = text.partition("srun --ntasks")
    stand_in = "bash -c 'trap \"echo told; exit 12\" USR2; touch ready; while :; do sleep 0.05; done' & run=$!\n"
    running = subprocess.Popen(
        ["bash", "-c", before + stand_in + after.partition("\n")[2]], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    while not (tmp_path / "ready").exists():
        assert running.poll() is None
    time.sleep(1)  # "run" has its value
    running.terminate()  # Slurm's own warning to the script: it stays
    time.sleep(0.5)  # bash may leave one of two signals of the same instant for later
    running.send_signal(signal.SIGUSR2)  # to the script alone: passed on
    out, _ = running.communicate(timeout=20)
    assert (running.returncode, out) == (12, "told\n")


def test_a_gpu_need_not_be_seen_from_where_it_is_submitted(no_slurm, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [word for word in SHORT if not word.startswith("device")]
    assert run_here("submit", "--dry-run", "device=cuda", *words, f"run.root={tmp_path}") == 0
    assert run_here("-m", "device=cuda", "seed=0,1", *words, f"run.root={tmp_path}") == 2
    assert "PyTorch sees no CUDA device here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("submit", "seed=0,1"), "need Slurm, and there is no sbatch here. Log in to the cluster"),
        (("-m", "hydra/launcher=slurm_gpu", "seed=0,1"), "need Slurm, and there is no sbatch here"),
        (("submit", "hydra/launcher=local", "seed=0,1"), "needs a launcher of Slurm's, got hydra/launcher=local"),
        (("submit", "seed=0,x"), "job #1 (seed=x): seed: the seed must be"),
        (("status", "nowhere"), "metarun status needs the folder of a sweep, and nowhere has no manifest.json"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(words, message, no_slurm, tmp_path, capsys):
    more = () if words[0] == "status" else (*SHORT, f"run.root={tmp_path / 'runs'}")
    assert run_here(*words, *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "runs").exists()
