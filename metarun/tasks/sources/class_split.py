"""Which classes of a person's own data are for training, validation and the test."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from metarun.tasks.sources.image_files import some
from metarun.tasks.types import SPLITS, Split


def split_of(
    classes: Sequence[str], file: str | None, fractions: Sequence[float], seed: int, of_a_class: str
) -> dict[Split, list[str]]:
    """The split of a file, or shares of the classes in an order by a seed: a class that is added moves few others.

    Args:
        classes: their names.
        file: JSON {"train": [classes], "val": [...], "test": [...]}; classes that it does not name are in no split.
        fractions: without a file, shares of train, val and test.
        seed: of that order.
        of_a_class: what a class must have to be there, for the words where a file names another: "a folder".
    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is no split of the classes, or the shares do not add up to 1.
    """
    if file is not None:
        return _split_of_file(Path(file).expanduser(), classes, of_a_class)
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"split_fractions must be three shares (train, val, test) that add up to 1, got {list(fractions)}. "
            "Set dataset.split_fractions."
        )
    order = sorted(classes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
    ends = [round(len(order) * sum(fractions[: i + 1])) for i in range(3)]
    return {split: order[start:end] for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False)}


def _split_of_file(path: Path, classes: Sequence[str], of_a_class: str) -> dict[Split, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"the split file {path} is not there. Set dataset.split_file to a JSON file, or to null."
        )
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the split file {path} is not JSON: {error}") from error
    is_lists = isinstance(splits, dict) and all(isinstance(names, list) for names in splits.values())
    if not is_lists or set(splits) != set(SPLITS):
        raise ValueError(f'the split file {path} must be {{"train": [classes], "val": [classes], "test": [classes]}}.')
    for split in SPLITS:
        unknown = [name for name in splits[split] if name not in classes]
        if unknown:
            raise ValueError(
                f"the split file {path} names {len(unknown)} {split} classes without {of_a_class}: {some(unknown)}"
            )
    return {split: list(splits[split]) for split in SPLITS}
