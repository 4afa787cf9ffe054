"""Which comment describes which key of a YAML file."""

from pathlib import Path

import pytest
import yaml

from metarun.configuration.comments import comments

CONF = Path(__file__).resolve().parents[2] / "conf"

TEXT = """\
# The file's own comment.
# @package _global_
first: 1
defaults:
  - algorithm: maml  # not a key

seed: 0  # every draw follows from it

# updates of theta,
# not of phi
steps: 100
title: "a # b"      # in quotes
text: it's # so
run:                # where the files go
  # of this run
  dir: out/${seed}
  _target_: a.B     # a class
  overwrite: false  # train again
bare: null
list: [0, 1]        # flow
block:              # a list
  - 1               # an entry
flow: {a: 1, b: {c: "}"}}   # as one
long: its own       # begun here,
                    # and ended here
after: 1
# above the last
"16": 3
folded: >-          # behind the sign
  words
hydra:
  output_subdir: null  # Hydra's
"""


def test_comments_behind_above_and_going_on():
    assert comments(TEXT) == {
        "first": "",  # what stands at the top describes the file
        "seed": "every draw follows from it",
        "steps": "updates of theta, not of phi",
        "title": "in quotes",
        "text": "so",
        "run": "where the files go",
        "run.dir": "of this run",
        "run.overwrite": "train again",
        "bare": "",
        "list": "flow",
        "block": "a list",
        "flow": "as one",
        "flow.a": "",
        "flow.b": "",
        "flow.b.c": "",
        "long": "begun here, and ended here",
        "after": "",
        "16": "above the last",
        "folded": "behind the sign",
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "- 1\n", "a\n"])
def test_a_file_without_keys(text):
    assert comments(text) == {}


def test_no_yaml():
    with pytest.raises(yaml.YAMLError):
        comments("a: [1\n")


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.relative_to(CONF).as_posix())
def test_every_comment_behind_a_key_of_conf_is_found(file):
    """Held against the text: a line `key: value  # words` gives its words to a key of that name."""
    text = file.read_text()
    said = comments(text)
    body = text.partition("\nhydra:")[0]
    lines = [
        line
        for line in body.splitlines()
        if ": " in line and " # " in line and not line.lstrip().startswith(("#", "-", "_"))
    ]
    for line in lines:
        name, words = line.split(":")[0].strip().strip('"'), line.rpartition(" # ")[2].strip()
        assert [c for key, c in said.items() if key.rpartition(".")[2] == name and c.startswith(words)], line
