"""metarun.device.settings: what is refused, and how many tasks at once."""

import pytest
import torch

from metarun.device.memory import saved_bytes
from metarun.device.settings import Device

from ..training.small import GLYPHS, QUICK, configuration, trainer_of


def device(**changes) -> Device:
    return Device(**{"kind": "cpu", "dtype": "float32", "threads": None, "task_chunk": "auto"} | changes)


@pytest.fixture(autouse=True)
def threads():
    """`open` sets the process's threads; put them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "tpu"}, "kind must be one of auto, cpu, cuda, got 'tpu'"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ({"threads": 0}, "threads must be an integer >= 1, got 0"),
        ({"threads": 1.5}, "threads must be an integer >= 1, got 1.5"),
        ({"task_chunk": 0}, "task_chunk must be an integer >= 1, got 0"),
        ({"tf32": "yes"}, "tf32 must be true or false, got 'yes'"),
        (
            {"tf32": True},
            "tf32 is for products on a GPU, and kind is cpu: this run is on the CPU. Leave tf32=false.",
        ),
        ({"task_chunk": "all"}, "task_chunk must be an integer >= 1, got 'all'"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError) as raised:
        device(**changes)
    assert str(raised.value) == message


def test_cuda_where_there_is_none_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError) as raised:
        device(kind="cuda")
    assert str(raised.value).startswith("kind is cuda, and PyTorch sees no CUDA device here. Choose device=cpu")
    assert device(kind="auto").open() == torch.device("cpu")


def test_tf32_is_refused_where_it_would_have_no_effect_or_a_wrong_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="kind is auto, and PyTorch sees no CUDA device here: this run is on the CPU"):
        device(kind="auto", tf32=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device(kind="auto", tf32=True)
    with pytest.raises(ValueError, match="multiply float32 numbers, got dtype=float64"):
        device(kind="auto", tf32=True, dtype="float64")


@pytest.mark.parametrize("tf32", [True, False])
def test_open_allows_tf32_where_it_is_asked_for(tf32, monkeypatch):
    """The flags are PyTorch's own, and a CPU takes no notice of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        assert device(kind="auto", tf32=tf32).open() == torch.device("cuda")
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
    finally:
        device().open()
    assert not (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)


@pytest.mark.gpu
def test_auto_takes_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device here")
    assert device(kind="auto").open() == torch.device("cuda")


def test_open_sets_threads_and_full_float32():
    device(threads=1).open()
    assert torch.get_num_threads() == 1
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_a_given_chunk_is_at_most_the_number_of_tasks():
    def never():
        raise AssertionError("nothing is measured when the chunk is given")

    assert device(task_chunk=None).chunk(25, never) == 25
    assert device(task_chunk=4).chunk(25, never) == 4
    assert device(task_chunk=40).chunk(25, never) == 25


def test_saved_bytes_counts_each_storage_once():
    x = torch.ones(1000, requires_grad=True)  # 4000 bytes
    assert saved_bytes(lambda: x.detach() * 2) == 0
    assert saved_bytes(lambda: x * x) == 4000  # x twice, one storage
    assert saved_bytes(lambda: x.exp().exp()) == 8000  # each result is needed for its own derivative


def test_auto_gives_what_fits_24_mib_and_at_least_one():
    x = torch.ones(2**18, requires_grad=True)  # 1 MiB
    assert device().chunk(100, lambda: saved_bytes(lambda: x * x)) == 24
    assert device().chunk(7, lambda: saved_bytes(lambda: x * x)) == 7
    y = torch.ones(2**23, requires_grad=True)  # 32 MiB
    assert device().chunk(7, lambda: saved_bytes(lambda: y * y)) == 1


def test_auto_is_a_function_of_shapes_alone(tmp_path):
    """A resumed run must choose the same chunk, whatever its parameters and data have become."""
    wide = (*QUICK, *GLYPHS, "model.width=32", "dataset.image_size=28", "schedule.tasks_per_step=500")
    chunks = {trainer_of(configuration(*wide, f"seed={s}"), tmp_path)[0].task_chunk for s in (0, 1)}
    assert len(chunks) == 1
    assert 1 < chunks.pop() < 500


def test_float64_from_the_command_line(tmp_path):
    trainer, parts = trainer_of(configuration(*QUICK, "device.dtype=float64", "schedule.steps=3"), tmp_path)
    state = trainer.run(trainer.start("f"))
    assert {leaf.dtype for leaf in state.theta.values()} == {torch.float64}
    moments = [
        moment for entry in state.optimizer["state"].values() for moment in (entry["exp_avg"], entry["exp_avg_sq"])
    ]
    assert {moment.dtype for moment in moments} == {torch.float64}
    # The parameters at the start are float32 draws, the same in either format.
    single = trainer_of(configuration(*QUICK), tmp_path)[1].theta
    assert all(torch.equal(parts.theta[name], leaf.double()) for name, leaf in single.items())
