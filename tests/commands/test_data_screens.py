"""`metarun data list` and `check` in 60, 80 and 120 columns."""

import pytest

from ..screens import WIDTHS, assert_screen, commands_on, fits, no_broken_word
from ..training.small import run_here


@pytest.mark.parametrize("words", [("list",), ("check", "cub")], ids=lambda words: words[0])
def test_the_screens_at_each_width(words, monkeypatch):
    """With folders that are not there, so that the screens are the same anywhere."""
    monkeypatch.chdir("/")
    texts = {}
    for width in WIDTHS:
        with commands_on(width) as text:
            run_here("data", *words, "data.root=/nowhere/data", "data.cache=/nowhere/cache")
        texts[width] = assert_screen(f"data-{words[0]}-{width}", text())
    for width, text in texts.items():
        fits(text, width, "pip install")
        no_broken_word(text, texts[120])
