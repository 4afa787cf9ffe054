"""Processes that hold the environments of episodes side by side; they die with the process that started them."""

import atexit
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from metarun.errors import ConfigurationError, SimulationError
from metarun.tasks.environments.gymnasium_worker import Recipe, Spaces

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from metarun.tasks.environments.gymnasium_worker import main; main(int(sys.argv[2]))"
)


class WorkerProcess:
    """One worker, seen from here."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )

    def ask(self, request: str, *arguments: Any) -> None:
        """Send a request.

        Raises:
            SimulationError: the process has died.
        """
        assert self._process.stdin is not None
        try:
            pickle.dump((request, arguments), self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error

    def answer(self) -> Any:
        """What it answers.

        Raises:
            SimulationError: the process has died, or its environment does what none may.
        """
        assert self._process.stdout is not None
        try:
            is_good, answer = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._death() from error
        if not is_good:
            raise SimulationError(answer)
        return answer

    def close(self) -> None:
        """End it: by the end of its requests, or else by force."""
        for file in (self._process.stdin, self._process.stdout):
            assert file is not None
            with contextlib.suppress(OSError):
                file.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _death(self) -> SimulationError:
        try:
            status = self._process.wait(timeout=2)
            ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        except subprocess.TimeoutExpired:
            ended = "its connection"
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 4096))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        last = f"its last words: {lines[-1].strip()}" if lines else "it said nothing"
        return SimulationError(f"a worker process of {self._name} ended {ended}; {last}")


class Workers:
    """Worker processes for one recipe. Episodes are shared out in consecutive pieces, which changes no number."""

    def __init__(self, recipe: Recipe, number: int, parameters: dict[str, Any]) -> None:
        self._recipe, self._number, self._parameters = recipe, number, parameters
        self.turn = 0
        self._processes: list[WorkerProcess] = []
        self._bounds: list[int] = []
        self.spaces: Spaces = self._more(1)[0]

    def start(self, episodes: Sequence[tuple[dict[str, Any], int]]) -> np.ndarray:
        """First observations [n, *shape] of new episodes, of parameters and seed each; those before are given up."""
        self._more(min(self._number, len(episodes)))
        self._bounds = [len(episodes) * each // len(self._processes) for each in range(len(self._processes) + 1)]
        self.turn += 1
        with self._closed_on_error():
            for process, low, high in self._shares():
                process.ask("start", list(episodes[low:high]))
            return np.concatenate([process.answer() for process, _, _ in self._shares()])

    def step(self, running: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the episodes with the numbers `running`, in rising order: observations, rewards, whether they are over."""
        asked: list[WorkerProcess] = []
        with self._closed_on_error():
            for process, low, high in self._shares():
                first, last = np.searchsorted(running, [low, high])
                if first < last:
                    process.ask("step", running[first:last] - low, actions[first:last])
                    asked.append(process)
            parts = [process.answer() for process in asked]
        observations, rewards, over = zip(*parts, strict=True)
        return np.concatenate(observations), np.concatenate(rewards), np.concatenate(over)

    def close(self) -> None:
        """End all processes and their episodes; the next start begins new ones."""
        processes, self._processes = self._processes, []
        self.turn += 1
        for process in processes:
            process.close()

    def _more(self, number: int) -> list[Spaces]:
        """Start processes until there are `number`, together."""
        new = [WorkerProcess(self._recipe.name) for _ in range(number - len(self._processes))]
        self._processes += new
        with self._closed_on_error():
            for process in new:
                process.ask("make", self._recipe, self._parameters)
            return [process.answer() for process in new]

    def _shares(self) -> list[tuple[WorkerProcess, int, int]]:
        """Processes with episodes, and which: low <= number < high."""
        shares = zip(self._processes, self._bounds, self._bounds[1:], strict=False)
        return [(process, low, high) for process, low, high in shares if low < high]

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # a reply may be under way, and would be taken for the next one's
            self.close()
            raise


_OPEN: dict[tuple[int, bytes, int], Workers] = {}


def workers(recipe: Recipe, number: int, parameters: dict[str, Any]) -> Workers:
    """The workers of this process for a recipe; they are begun when first asked for, and hold nothing but running episodes.

    Args:
        number: of processes, at most.
        parameters: of some task, to try the environment with.
    Raises:
        ConfigurationError: the environment cannot be.
    """
    try:
        key = os.getpid(), pickle.dumps(recipe), number
    except Exception as error:  # whatever its parts raise
        raise ConfigurationError(
            f"{recipe.name} must be a class or function that another process can import, got {recipe.environment!r}"
        ) from error
    if key not in _OPEN:
        try:
            _OPEN[key] = Workers(recipe, number, parameters)
        except SimulationError as error:
            raise ConfigurationError(str(error)) from error
    return _OPEN[key]


@atexit.register
def close() -> None:
    """End all workers of this process."""
    for (process, _, _), each in [*_OPEN.items()]:
        if process == os.getpid():
            each.close()
    _OPEN.clear()
