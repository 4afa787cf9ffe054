"""How long do data take: to prepare, to open, to draw episodes from, and as a share of a training step?

    python scripts/how_long_do_data_take.py [--root DATA] [--threads 1] [--steps 20]

Omniglot's real archives are looked for in --root (METARUN_DATA). torchmeta's `BatchMetaDataLoader` is timed on the same
episodes where torchmeta is installed. The second part trains on 38 400 made-up images of 84x84 in colour, 775 MiB, gathered
on the host, and prints how much the resident memory of the process grows.
"""

import argparse
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from metarun import rng
from metarun.build import make_parts
from metarun.configuration.config_folder import config_folder
from metarun.tasks.episodes import Episodes
from metarun.tasks.packed_file import Originals, open_store, write_store
from metarun.tasks.sources.catalogue import CATALOGUE, complete, packed_path
from metarun.tasks.sources.named import named_set
from metarun.tasks.sources.torchmeta_compat import patched

TASKS, WAYS, SHOTS, QUERIES = 32, 5, 1, 15


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """The median time of a call, after two that are not counted."""
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[2:])


def omniglot(root: Path, cache: Path) -> None:
    """Prepare, open and draw from the real Omniglot; torchmeta beside it."""
    found = next(complete(CATALOGUE["omniglot"], root), None)
    if found is None:
        print(f"no Omniglot in {root}: left out")
        return
    started = time.perf_counter()
    store = named_set("omniglot", root, cache, 28)
    print(f"Omniglot, {len(store.items):,} drawings at 28x28")
    print(f"  prepare                              {time.perf_counter() - started:8.1f} s")
    path = packed_path(cache, "omniglot", 28)
    print(f"  open                                 {median_ms(lambda: open_store(path), 20):8.1f} ms")
    print(f"  {TASKS} tasks, {WAYS}-way {SHOTS}-shot, {QUERIES} queries")
    for words, turns in (("metarun", False), ("metarun, quarter turns", True)):
        episodes = Episodes(store=store, ways=WAYS, rotations=turns)
        first = iter(range(0, 10**9, TASKS))

        def draw(episodes: Episodes = episodes, first: Iterator[int] = first) -> object:
            start = next(first)
            return episodes.sample(0, "train", torch.arange(start, start + TASKS), SHOTS, QUERIES)

        print(f"    {words:<34} {median_ms(draw, 50):8.1f} ms")
    try:
        loader = torchmeta_loader(found[1], cache)
    except ImportError as error:
        print(f"    torchmeta is left out: {error}")
        return
    print(f"    {'torchmeta BatchMetaDataLoader':<34} {median_ms(lambda: next(loader), 10):8.1f} ms")


def torchmeta_loader(files: dict[str, Path], cache: Path) -> Iterator[object]:
    """torchmeta's batches of the same shape, quarter turns included; it converts the drawings first, untimed."""
    patched()
    from torchmeta.datasets.helpers import omniglot as helper
    from torchmeta.utils.data import BatchMetaDataLoader

    folder = cache / "torchmeta" / "omniglot"
    folder.mkdir(parents=True)
    for path in files.values():
        if path.suffix != ".zip":
            raise ImportError("it needs the two zips")
        os.symlink(path.resolve(), folder / path.name)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    dataset = helper(
        str(folder.parent), shots=SHOTS, ways=WAYS, test_shots=QUERIES, meta_train=True, download=True, shuffle=True
    )
    return iter(BatchMetaDataLoader(dataset, batch_size=TASKS, shuffle=True, num_workers=0))


def made_up(cache: Path) -> Path:
    """A packed file under mini-ImageNet's name: 64 classes of 600 images of noise."""

    def items() -> Iterator[Tensor]:
        for c in range(64):
            bits = rng.bits(rng.key(0, "noise", c), torch.arange(600), 84 * 84 * 3 // 8)
            yield bits.view(torch.uint8).view(600, 3, 84, 84)

    names = [f"{c:02d}" for c in range(64)]
    path = packed_path(cache, "miniimagenet", 84)
    write_store(
        path,
        Originals(
            classes=names,
            counts=[600] * 64,
            splits={"train": names[:40], "val": names[40:50], "test": names[50:]},
            shape=(3, 84, 84),
            items=items,
            source="noise",
            version="1",
        ),
    )
    return path


def resident_mib() -> float:
    """Memory of this process that lies in RAM, files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS in /proc/self/status")


def training(cache: Path, steps: int) -> None:
    """Train on a store larger than what is kept in memory."""
    started = time.perf_counter()
    path = made_up(cache)
    print(f"\n38,400 images of 84x84x3, {path.stat().st_size / 2**20:,.0f} MiB")
    print(f"  write and check                      {time.perf_counter() - started:8.1f} s")
    print(f"  open                                 {median_ms(lambda: open_store(path), 10):8.1f} ms")
    for kind in ("host", "device"):
        words = ["algorithm=maml", "dataset=miniimagenet", f"data.cache={cache}", f"data.residence={kind}"]
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = OmegaConf.to_container(compose("config", [*words, "device=cpu"]), resolve=True)
        config["choices"] = {}
        config["device"]["threads"] = torch.get_num_threads()
        parts = make_parts(config)
        theta = {name: leaf.requires_grad_() for name, leaf in parts.theta.items()}
        shots, queries, tasks = parts.schedule.shots, parts.schedule.queries, parts.schedule.tasks_per_step
        drawing, whole, memory = [], [], []
        for step in range(steps):
            started = time.perf_counter()
            indices = torch.arange(step * tasks, (step + 1) * tasks)
            batch = parts.source.sample(0, "train", indices, shots, queries).to(parts.device, parts.dtype)
            drawing.append(time.perf_counter() - started)
            parts.algorithm.meta_step(theta, parts.problem, batch, parts.task_chunk)
            whole.append(time.perf_counter() - started)
            memory.append(resident_mib())
        draw, step_s = statistics.median(drawing[2:]), statistics.median(whole[2:])
        print(f"  residence={kind}: {parts.source.whereabouts}")
        print(f"    {tasks} tasks drawn                      {1000 * draw:8.1f} ms of a step of {1000 * step_s:.0f} ms, "
              f"{100 * draw / step_s:.1f} %")  # fmt: skip
        print(f"    resident memory, steps 3 to {steps:<9} {memory[2]:8.0f} to {memory[-1]:.0f} MiB")
        # Drawing alone shows more clearly what drawing keeps.
        before = resident_mib()
        for step in range(500):
            parts.source.sample(0, "train", torch.arange(4 * step, 4 * step + 4), shots, queries)
        print(f"    and over 500 draws                 {before:8.0f} to {resident_mib():.0f} MiB")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("METARUN_DATA", "data")))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        omniglot(arguments.root, Path(folder))
        training(Path(folder), arguments.steps)


if __name__ == "__main__":
    main()
