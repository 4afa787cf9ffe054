"""Arrays in a NumPy file: X and y, and what says which examples go together."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metarun.tasks.class_store import ClassStore
from metarun.tasks.sources.rows import Choices, Rows, require_finite, store_of


def arrays(
    path: str | None,
    split_file: str | None,
    split_fractions: Sequence[float],
    split_seed: int,
    min_examples: int | None,
    standardise: bool,
) -> ClassStore:
    """The store of `X` [n, ...] and the classes `y` [n]; `split` has train, val or test for each example or each class.

    Classes, where `split` is for each of them, are in the order of `numpy.unique(y)`.

    Args:
        path: a file of `numpy.savez`.
        split_file, split_fractions, split_seed, min_examples, standardise: `Choices`.
    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is none of NumPy's, an array is missing or has another length, or a number is not finite.
    """
    file, found = _read(path, "arrays", ("X", "y"))
    classes = _labels(file, "y", found["y"], len(found["X"]))
    choices = Choices(
        split_file=split_file,
        split_fractions=split_fractions,
        split_seed=split_seed,
        min_examples=min_examples,
        standardise=standardise,
    )
    return store_of(_rows(file, found, groups=classes, targets=None), choices)


def regression_arrays(
    path: str | None,
    split_file: str | None,
    split_fractions: Sequence[float],
    split_seed: int,
    min_examples: int | None,
    standardise: bool,
    standardise_target: bool,
) -> ClassStore:
    """The store of `X` [n, ...], the numbers `y` [n] or [n, outputs], and `task` [n], which says which task each is of.

    `split` has train, val or test for each example or each task, tasks in the order of `numpy.unique(task)`.

    Args:
        path: a file of `numpy.savez`.
        split_file, split_fractions, split_seed, min_examples, standardise, standardise_target: `Choices`.
    Raises:
        FileNotFoundError, ValueError: as `arrays`.
    """
    file, found = _read(path, "arrays_regression", ("X", "y", "task"))
    targets = _numbers(file, "y", found["y"])
    targets = targets[:, None] if targets.ndim == 1 else targets
    if targets.ndim != 2 or len(targets) != len(found["X"]):
        raise ValueError(
            f"{_source(file)}: y must be [{len(found['X'])}] or [{len(found['X'])}, outputs], as X has so many examples, and is "
            f"{list(found['y'].shape)}."
        )
    require_finite(targets, lambda row: f"row {row} of y", _source(file), ())
    tasks = _labels(file, "task", found["task"], len(found["X"]))
    choices = Choices(
        split_file=split_file,
        split_fractions=split_fractions,
        split_seed=split_seed,
        min_examples=min_examples,
        standardise=standardise,
        standardise_target=standardise_target,
    )
    return store_of(_rows(file, found, groups=tasks, targets=targets), choices)


def _read(path: str | None, option: str, needed: Sequence[str]) -> tuple[Path, dict[str, np.ndarray]]:
    if path is None:
        raise ValueError(f"dataset={option} needs the file of your arrays. Set dataset.path=FILE.npz.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"dataset.path must be a file of numpy.savez, and {file} is not there.")
    names = ", ".join(needed)
    try:
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError(
                f"{_source(file)} holds one array without a name. Save it with numpy.savez and the names {names}."
            )
        with loaded:
            missing = [name for name in needed if name not in loaded.files]
            if missing:
                raise ValueError(
                    f"{_source(file)} must hold {names}, and has no {missing[0]}: it holds {', '.join(loaded.files) or 'nothing'}."
                )
            found = {name: loaded[name] for name in (*needed, "split") if name in loaded.files}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{_source(file)} is damaged, or no file of numpy.savez: {error}") from error
    except ValueError as error:
        if "pickle" not in str(error).lower():
            raise
        raise ValueError(
            f"{_source(file)} holds Python objects, or is no file of numpy.savez. Save plain numbers and texts: "
            "numpy.savez(FILE, X=X.astype(float), y=y.astype(str))."
        ) from error
    return file, found


def _rows(file: Path, found: dict[str, np.ndarray], *, groups: list[str], targets: np.ndarray | None) -> Rows:
    inputs = _numbers(file, "X", found["X"])
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    require_finite(inputs, lambda row: f"row {row} of X", _source(file), ())
    by = found["y"] if targets is None else found["task"]
    return Rows(
        source=_source(file),
        inputs=inputs,
        groups=groups,
        targets=targets,
        splits=_splits(file, found["split"], by, "y" if targets is None else "task") if "split" in found else None,
        place=lambda row: f"row {row}",
    )


def _splits(file: Path, split: np.ndarray, by: np.ndarray, name: str) -> list[str]:
    """The split of each example."""
    unique, position = np.unique(by, return_inverse=True)
    texts = [_text(each) for each in split.tolist()] if split.ndim == 1 else []
    if len(texts) == len(by):
        return texts
    if len(texts) == len(unique):
        return [texts[i] for i in position]
    raise ValueError(
        f"{_source(file)}: split must have one entry for each of the {len(by)} examples, or for each of the {len(unique)} values "
        f"of {name}, and is {list(split.shape)}."
    )


def _labels(file: Path, name: str, values: np.ndarray, number: int) -> list[str]:
    """Names of classes or tasks: texts, or whole numbers."""
    if values.ndim != 1 or len(values) != number:
        raise ValueError(
            f"{_source(file)}: {name} must be [{number}], as X has so many examples, and is {list(values.shape)}."
        )
    if values.dtype.kind == "f":
        require_finite(values, lambda row: f"row {row} of {name}", _source(file), ())
        fractions = np.flatnonzero(values != np.floor(values))
        if len(fractions):
            row = int(fractions[0])
            hint = " For numbers to predict: dataset=arrays_regression." if name == "y" else ""
            raise ValueError(
                f"{_source(file)}: {name} must be whole numbers or texts, and row {row} is {values[row]}.{hint}"
            )
        values = values.astype(np.int64)
    return [_text(each) for each in values.tolist()]


def _numbers(file: Path, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        raise ValueError(
            f"{_source(file)}: {name} must be an array of numbers, and is {list(values.shape)} of {values.dtype}."
        )
    return values.astype(np.float64)


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _source(file: Path) -> str:
    return f"arrays {file}"
