"""`metarun --help`: every group, option and top-level key, read from the comments in the YAML files.

The text of the files is all that is read, and neither Hydra nor torch is imported, so that help answers at once.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from metarun import __version__
from metarun.configuration.config_folder import groups
from metarun.configuration.defaults import default_choices, owners

SENTENCE = "Train, evaluate, sweep and compare meta-learning algorithms from one command."

USAGE = (
    ("metarun [GROUP=OPTION ...] [KEY=VALUE ...]", "train, then evaluate on the test tasks"),
    ("metarun -m KEY=VALUE,VALUE ... [...]", "the same for every combination of the values"),
)

EXAMPLES = (
    ("metarun", "every group at its default"),
    ("metarun algorithm=maml dataset=omniglot", "MAML on few-shot characters"),
    ("metarun algorithm=imaml dataset=omniglot", "implicit MAML on the same tasks"),
    ("metarun algorithm/meta_gradient=first_order", "swap one part of an algorithm"),
    ("metarun -m algorithm=maml,imaml seed=0,1,2", "six runs, side by side; again: only what is missing"),
    ("metarun -m hydra/sweeper=tpe 'optimizer.lr=tag(log,interval(1e-4,1e-1))'", "search a range; random is the other"),
    ("metarun submit --dry-run seed=0,1,2", "three runs on a cluster: show the script"),
)

FLAGS = (
    ("--cfg job", "print the composed configuration and stop: all keys, with their values"),
    ("--cfg job --package algorithm", "the same for one part"),
    ("-m, --multirun", "run every combination of comma-separated values"),
    ("--config-dir DIR", "a folder of your own groups and options beside ours"),
    ("--info", "where the configuration comes from; --hydra-help lists Hydra's remaining flags"),
    ("-h, --help", "this text"),
)

FIRST = ("algorithm", "dataset", "model")

COMPLETION = 'eval "$(metarun -sc install=bash)"'


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of config.yaml as a reader sees it: dotted `name`, the `value` as written, what the comments say."""

    name: str
    value: str
    description: str


def print_help(conf: Path, subcommands: Mapping[str, str], console: Console | None = None) -> None:
    """Print the whole help, as wide as the console and without colour when piped.

    Args:
        conf: folder holding config.yaml and the groups.
        subcommands: usage of each subcommand ("evaluate RUN_DIR [KEY=VALUE ...]") -> its one-line description.
        console: where to; standard output by default.
    """
    console = console or Console(highlight=False)
    keys = config_keys((conf / "config.yaml").read_text(encoding="utf-8"))

    console.print(Text.assemble(("metarun", "bold cyan"), (f" {__version__}", "dim")))
    _print(console, SENTENCE)
    _section(console, "Usage")
    _columns(console, [*USAGE, *((f"metarun {usage}", summary) for usage, summary in subcommands.items())])
    _section(console, "Groups", "choose with GROUP=OPTION; * is the default")
    _print_groups(console, conf, groups(conf), default_choices(conf))
    _section(console, "Keys", "set with KEY=VALUE; the keys of the chosen parts too: metarun --cfg job")
    _columns(console, [(f"{key.name}={key.value}", key.description) for key in keys])
    _section(console, "Examples")
    _columns(console, EXAMPLES)
    _section(console, "Flags")
    _columns(console, FLAGS)
    _section(console, "Tab completion", "bash and zsh; for fish: metarun -sc install=fish | source")
    _print(console, Text(f"  {COMPLETION}", "cyan"))


def config_keys(text: str) -> Iterator[Key]:
    """The keys of a YAML text in its order; blocks `defaults` and `hydra` and the names of classes are left out.

    A key is described by the comment on its line or, without one, by the comment lines right above it. Nested keys are
    named by dots; a mapping is not itself listed.
    """
    path: list[tuple[int, str]] = []  # (indent, name) of the enclosing mappings
    above: list[str] = []
    for line in text.splitlines():
        comment = re.fullmatch(r"\s*#\s?(.*)", line)
        entry = re.fullmatch(r"""(\s*)([\w.-]+):(?:\s+("[^"]*"|'[^']*'|[^#\s].*?))??(?:\s+#\s*(.*))?\s*""", line)
        if comment:
            above.append(comment[1].strip())
        elif not entry:
            above = []  # a blank line parts a comment from the key below it
        else:
            indent, name, value, inline = len(entry[1]), entry[2], entry[3], entry[4]
            while path and path[-1][0] >= indent:
                path.pop()
            full = ".".join([*(outer for _, outer in path), name])
            if value is None:
                path.append((indent, name))
            elif full.split(".")[0] not in ("defaults", "hydra") and name != "_target_":
                yield Key(name=full, value=value, description=inline or " ".join(above))
            above = []


def _in_defaults_order(available: Mapping[str, object], chosen: Mapping[str, str]) -> list[str]:
    """What a reader looks for first, then group names in the order of config.yaml, each followed by the groups inside it."""
    roots = [*FIRST, *(group for group in chosen if "/" not in group and group not in FIRST)]

    def place(group: str) -> tuple[int, str]:
        root = group.split("/")[0]
        return (roots.index(root) if root in roots else len(roots), group)

    return sorted(available, key=place)


def _print_groups(
    console: Console, conf: Path, available: Mapping[str, Mapping[str, str]], chosen: Mapping[str, str]
) -> None:
    width = max((len(option) for options in available.values() for option in options), default=0) + 4
    for group in _in_defaults_order(available, chosen):
        parent, _, part = group.rpartition("/")
        choice = chosen.get(group)
        note = f"one part of {parent}; * is that of {parent}={chosen.get(parent)}" if part and parent else ""
        if choice == "null":
            note = "nothing by default"
        elif choice == "???":
            note = "must be chosen"
        elif choice is None:
            found = owners(conf, group, available.get(parent, {}))
            note = f"one part of {parent.rpartition('/')[2]}={found[0]}" if found else f"choose with +{group}=OPTION"
        if not parent:
            console.print()
        _print(console, Text.assemble("  ", (group, "bold cyan"), (f"  {note}" if note else "", "dim")))
        for option, description in available[group].items():
            mark, style = ("* ", "bold green") if option == choice else ("  ", "")
            _row(console, Text(f"  {mark}{option}", style), description, width)


def _section(console: Console, title: str, note: str = "") -> None:
    console.print()
    _print(console, Text.assemble((title, "bold"), (f"  {note}" if note else "", "dim")))


def _columns(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    limit = max(30, console.width * 2 // 5)  # of the left column: a longer cell stands on a line of its own
    width = max((len(left) for left, _ in rows if len(left) <= limit), default=0) + 2
    if any(len(left) > limit for left, _ in rows):
        width = max(width, 22)  # else what stands below a long cell would hug the margin
    for left, right in rows:
        _row(console, Text(f"  {left}", "cyan"), right, width)


def _row(console: Console, left: Text, right: str, width: int) -> None:
    """Two cells: `left` in `width` columns, `right` wrapped in what remains; no blanks at line ends."""
    lines = wrap(right, max(20, console.width - width - 2), break_long_words=False, break_on_hyphens=False)
    if lines and len(left) <= width:
        left = left + Text(" " * (width + 2 - len(left)) + lines.pop(0))
    _print(console, left)
    for line in lines:
        _print(console, " " * (width + 2) + line)


def _print(console: Console, line: str | Text) -> None:
    """One line as it is: no markup, nothing wrapped that is to be copied."""
    console.print(line, markup=False, soft_wrap=True)
