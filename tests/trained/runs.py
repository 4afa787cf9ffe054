"""Small trained runs and what their tests do with files."""

from pathlib import Path

import torch
from PIL import Image

from ..training.small import SIX_STEPS, run_here


def trained(folder: Path, *overrides: str) -> Path:
    assert run_here(*SIX_STEPS, "device.program=eager", f"run.folder={folder}", *overrides) == 0
    return folder


def files_of(folder: Path) -> tuple[list[Path], list[str]]:
    """The images in class folders, in order, and their labels."""
    files = sorted(folder.rglob("*.png"))
    return files, [file.parent.name for file in files]


def bytes_of(file: Path) -> torch.Tensor:
    """[1, H, W], uint8."""
    image = Image.open(file)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, image.height, image.width)
