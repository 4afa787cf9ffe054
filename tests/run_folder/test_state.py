"""metarun.run_folder.state: a checkpoint file is the old one or the new one, and damage is named."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from metarun.errors import ConfigurationError
from metarun.files import write_atomically
from metarun.run_folder.state import TrainState, load, load_state, save, save_state

from ..training.small import ROOT, assert_equal_bits


def state(step: int) -> TrainState:
    leaf = torch.tensor([0.1, 1e-300, -0.0, 3.0], dtype=torch.float64)
    optimizer = torch.optim.Adam([leaf.clone().requires_grad_()])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(4, dtype=torch.float64)
    optimizer.step()
    return TrainState(
        step=step,
        theta={"weight": leaf.requires_grad_() * 1, "bias": torch.ones(2)},
        optimizer=optimizer.state_dict(),
        lr_schedule={"last_epoch": step},
        fingerprint="f",
        best_score=0.1 + 0.2,
        best_step=3,
        sums={"train/loss": 0.1 + 0.7},
        count=2,
        train_s=1.5,
    )


def test_a_state_comes_back_to_the_bit_and_without_its_graph(tmp_path):
    before = state(7)
    save_state(tmp_path / "last.pt", before)
    after = load_state(tmp_path / "last.pt")
    assert not any(leaf.requires_grad for leaf in after.theta.values())
    before.theta = {name: leaf.detach() for name, leaf in before.theta.items()}
    assert_equal_bits(vars(after), vars(before))
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_checkpoint_from_before_the_chunk_was_stored_is_read(tmp_path):
    content = vars(state(7)) | {"theta": {"weight": torch.ones(2)}}
    del content["task_chunk"]
    save(tmp_path / "last.pt", content)
    assert load_state(tmp_path / "last.pt").task_chunk is None


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(function, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_state(path, state(1))
    before = path.read_bytes()

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left on device"):
        save_state(path, state(2))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path):
    """The kernel's own refusal in the middle of the write, by a limit on the size of files."""
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    script = f"""
import resource, signal
from metarun.files import write_atomically
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
write_atomically(Path({str(path)!r}), bytes(5000))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_a_killed_write_leaves_the_old_file(number, tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    script = f"""
import os
from metarun.files import write_atomically
from pathlib import Path
os.fsync = lambda _file: os.kill(os.getpid(), {int(number)})
write_atomically(Path({str(path)!r}), bytes(5000))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert done.returncode == -number
    assert path.read_bytes() == b"old"


def test_write_atomically_replaces_the_content(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two, longer")
    assert path.read_bytes() == b"two, longer"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["empty", "half", "garbage", "text", "one byte changed"])
def test_a_damaged_checkpoint_is_named(kind, tmp_path):
    path = tmp_path / "last.pt"
    save_state(path, state(1))
    whole = path.read_bytes()
    weight = torch.tensor([0.1, 1e-300], dtype=torch.float64).numpy().tobytes()
    damaged = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "garbage": bytes(range(256)) * 8,
        "text": b"hello\n",
        "one byte changed": whole.replace(weight, b"\1" + weight[1:]),
    }[kind]
    assert damaged != whole
    path.write_bytes(damaged)
    with pytest.raises(ConfigurationError) as raised:
        load_state(path)
    reason = "a checksum is wrong" if kind == "one byte changed" else "it is cut short, or no checkpoint at all"
    assert str(raised.value) == f"{path} is damaged ({reason}). run.overwrite=true trains from the beginning."


def test_other_content_and_other_versions_are_refused(tmp_path):
    path = tmp_path / "last.pt"
    torch.save(torch.ones(2), path)
    with pytest.raises(ConfigurationError, match=r"last\.pt has format None, and this metarun reads formats 1 and 2\."):
        load(path)
    save(path, {"version": 3})
    with pytest.raises(ConfigurationError, match=r"last\.pt has format 3, and this metarun reads formats 1 and 2\."):
        load(path)


def test_a_missing_checkpoint_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last\.pt"):
        load(tmp_path / "last.pt")
