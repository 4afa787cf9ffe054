"""Exceptions that are told in one line: what cannot be, and what did not work out."""

from pathlib import Path


class ConfigurationError(ValueError):
    """What the user asked for cannot be; `str()` is one clear line saying what must hold and which key to change."""


class DamagedFile(ConfigurationError):
    """A file that does not hold what metarun writes; `str()` names it, what is wrong with it, and the way out."""

    def __init__(self, path: Path, reason: str, way_out: str) -> None:
        super().__init__(f"{path} is damaged ({reason}). {way_out}")
        self.path, self.reason = path, reason


class FileError(OSError):
    """A file that the machine would not read, write or lock; `str()` names it and says what to do."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(number, message)

    def __str__(self) -> str:
        """The message alone, without Python's number."""
        return str(self.strerror)


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite); `str()` says where, and the likely causes with their keys."""


class SimulationError(TrainingError):
    """What data are collected from does what it may not; `str()` says what it is, and what it did."""


class SweepError(RuntimeError):
    """Some jobs of a sweep gave no result; `str()` says how many, and what to do."""
