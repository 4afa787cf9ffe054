"""The one exception that means "the user asked for something that cannot be"."""


class ConfigurationError(ValueError):
    """What the user asked for cannot be; `str()` is one clear line saying what must hold and which key to change."""


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite); `str()` says where, and the likely causes with their keys."""
