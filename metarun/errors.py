"""Exceptions that are told in one line: what cannot be, and what did not work out."""


class ConfigurationError(ValueError):
    """What the user asked for cannot be; `str()` is one clear line saying what must hold and which key to change."""


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite); `str()` says where, and the likely causes with their keys."""


class SweepError(RuntimeError):
    """Some jobs of a sweep gave no result; `str()` says how many, and what to do."""
