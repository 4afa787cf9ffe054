"""A hundred damaged files: whatever is wrong in a run's folder, a command answers in words, and nothing is lost unsaid."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from ..report.made import configuration
from ..training.small import QUICK, metrics_of, only_folder, run_and_kill, run_here

COMMAND = (
    *QUICK,
    "schedule.steps=6",
    "schedule.eval_every=2",
    "schedule.checkpoint_every=2",
    "schedule.log_every=1",
)
FILES = (
    "config.json", "overrides.json", "environment.json", "status.json", "metrics.jsonl", "checkpoints/last.pt",
    "checkpoints/previous.pt", "checkpoints/best.pt", "log.txt", "result.json", "tasks.csv",
)  # fmt: skip


def flipped(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def without_a_line(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[random.randrange(len(lines))]
    return b"".join(lines)


def garbled(data: bytes, random: Random) -> bytes:
    place = random.randrange(len(data))
    return data[:place] + random.randbytes(20) + data[place:]


def other_value(data: bytes, random: Random) -> bytes:
    """One value of a JSON file is of another kind."""
    try:
        content = json.loads(data)
    except ValueError:
        return b"null"
    node = content
    while True:
        key = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], dict | list) and node[key] and random.random() < 0.8:
            node = node[key]
            continue
        node[key] = random.choice([None, True, -1, 10**30, 0.5, "x", [], {}, [[]], {"a": {}}, "\ud800", "[/x]"])
        return json.dumps(content).encode()


DAMAGES: tuple[Callable[[bytes, Random], bytes | None], ...] = (
    flipped, flipped, flipped, cut, cut, without_a_line, garbled, other_value, other_value,
    lambda data, random: None,
    lambda data, random: random.choice([b"", b"[]", b"{}", b"null", b"\xff\xfe{}", b'{"a":' * 5000, b"[" * 10**5]),
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The root of a finished run, and that of the same run killed in step 5."""
    roots = {name: tmp_path_factory.mktemp(name) for name in ("finished", "killed")}
    assert run_here(*COMMAND, f"run.root={roots['finished']}") == 0
    run_and_kill(6, *COMMAND, f"run.root={roots['killed']}")
    return roots


def numbers_of(folder: Path) -> dict:
    result = json.loads((folder / "result.json").read_text())
    return {key: result[key] for key in ("results", "validation", "protocol", "fingerprint", "seed", "score")}


def evaluated(folder: Path) -> list:
    (path,) = (folder / "evaluations").iterdir()
    return json.loads(path.read_text())["results"]


@pytest.fixture(scope="module")
def evaluation(folders, tmp_path_factory) -> list:
    """What `evaluate` measures of the whole run."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(only_folder(folders["finished"]), folder)
    assert run_here("evaluate", str(folder), "evaluation.tasks=5") == 0
    return evaluated(folder)


# A few in every suite; `.ci/run` makes the hundred.
@pytest.mark.parametrize("seed", [pytest.param(k, marks=[pytest.mark.scenario] * (k >= 4)) for k in range(100)])
def test_damage_is_told_or_costs_nothing(seed, folders, evaluation, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    random = Random(seed)
    kind = random.choice(["finished", "killed"])
    shutil.copytree(folders[kind], tmp_path / "runs")
    folder, whole = only_folder(tmp_path / "runs"), only_folder(folders["finished"])
    path = folder / random.choice([name for name in FILES if (folder / name).exists()])
    damaged = random.choice(DAMAGES)(path.read_bytes(), random)
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)

    def answered(*words: str) -> tuple[int, str]:
        """Status and output, after no more than one line of error."""
        status = run_here(*words)
        out, err = capsys.readouterr()
        errors = [line for line in err.splitlines() if not line.startswith("wrote ")]
        assert status in (0, 1, 2) and len(errors) == (status != 0), (status, err)
        return status, out + err

    status, out = answered("evaluate", str(folder), "evaluation.tasks=5")
    if kind == "finished":
        assert path.name in out or (status == 0 and evaluated(folder) == evaluation), out
    status, out = answered("ls", str(tmp_path / "runs"))
    assert status == 0 and folder.name in out
    status, out = answered("report", str(tmp_path / "runs"), "--html", str(tmp_path / "page.html"))
    assert status == 0 or path.name in out or kind == "killed", out

    status, out = answered(*COMMAND, f"run.root={tmp_path / 'runs'}")
    assert path.name in out or status == 0, out
    if status == 0:
        assert numbers_of(folder) == numbers_of(whole)
        if path.name == "metrics.jsonl" and kind == "killed":
            lost = json.loads((folder / "result.json").read_text())["lost"]
            assert metrics_of(folder) == metrics_of(whole) or (lost and path.name in out)


def test_a_damaged_manifest_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    sweep = tmp_path / "sweeps" / "a"
    job = {"index": 0, "overrides": ["seed=1"], "varied": ["seed=1"], "config": configuration("maml", 1)}
    jobs = [job | {"fingerprint": "f", "folder": str(tmp_path / "maml-seed1"), "log": "job-0.log"}]
    whole = json.dumps({"metarun": "0", "command": "metarun -m seed=1", "config_dirs": [], "git": None, "jobs": jobs})
    sweep.mkdir(parents=True)
    random = Random(0)
    for _ in range(100):
        damaged = random.choice(DAMAGES)(whole.encode(), random)
        if damaged is None:
            continue
        (sweep / "manifest.json").write_bytes(damaged)
        assert run_here("ls", str(tmp_path)) == 0
        assert run_here("status", str(sweep)) in (0, 2)
        err = capsys.readouterr().err
        assert not err or (len(err.splitlines()) == 1 and str(sweep / "manifest.json") in err), (err, damaged)
