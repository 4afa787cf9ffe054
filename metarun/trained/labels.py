"""Labels as a person has them, and the class ids that a model is given."""

from collections.abc import Hashable
from typing import Any

import numpy as np
from torch import Tensor


def classes_of(targets: Any, number: int) -> tuple[tuple[Hashable, ...], list[int]]:
    """The classes in order, and the id of each example's class.

    Args:
        targets: `number` labels: texts or whole numbers, as a list, a tensor or an array.
    Raises:
        ValueError: another number of labels, labels of several kinds, or fewer than two classes.
    """
    labels = labels_in(targets)
    if len(labels) != number:
        raise ValueError(f"there must be a label for each of {number} examples, got {len(labels)}")
    kinds = {type(label) for label in labels}
    if not (kinds <= {str} or kinds <= {int}):
        raise ValueError(f"labels must be texts or whole numbers, got {', '.join(sorted(k.__name__ for k in kinds))}")
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise ValueError(f"the support set must have two classes at least, got {len(classes)}")
    ids = {label: place for place, label in enumerate(classes)}
    return classes, [ids[label] for label in labels]


def labels_in(targets: Any) -> list[Any]:
    """Labels as Python's own texts and numbers."""
    if isinstance(targets, Tensor | np.ndarray):
        if targets.ndim != 1:
            raise ValueError(f"labels must be one for each example, got shape {list(targets.shape)}")
        return targets.tolist()
    return [label.item() if isinstance(label, Tensor | np.generic) else label for label in targets]
