"""Which parameters the inner loop adapts: a mask by names, and no class of its own."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

WORDS = ("all", "head", "body")


def adapted_names(choice: str | Sequence[str], names: Sequence[str], head: Sequence[str] = ()) -> list[str]:
    """The adapted ones of a model's parameter names, in their order.

    Args:
        choice: "all"; "head", the layer that makes the outputs (ANIL); "body", all but that (BOIL); or patterns of names, such
            as ["head.*", "*.bias"].
        names: of all parameters, as `named_parameters` gives them.
        head: names of the head's parameters, for the choices that mean it.
    Raises:
        ValueError: nothing would be adapted, or a pattern fits no name.
    Source: Raghu et al. 2020 (ANIL); Oh et al. 2021 (BOIL).
    """
    if choice == "all":
        return list(names)
    if choice in ("head", "body"):
        chosen = [name for name in names if (name in head) == (choice == "head")]
    elif isinstance(choice, str):
        raise ValueError(f"adapted must be one of {', '.join(WORDS)}, or a list of patterns of names, got {choice!r}")
    else:
        chosen = names_by_pattern("adapted", choice, names)
    if not chosen:
        raise ValueError(f"adapted={choice!r} leaves no parameter to adapt among {', '.join(names)}")
    return chosen


def names_by_pattern(key: str, patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that a pattern fits, in their order; `ValueError`, with the key, for a pattern that fits none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"{key} names {pattern!r}, which fits none of the parameters {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
