"""`metarun --help`: the subcommands, the groups and the names of their options, on one screen.

The text of the YAML files is all that is read, and neither Hydra nor torch is imported, so that help answers at once. What an
option is and which keys it has, `metarun.command_line.help_keys` says.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from metarun import __version__
from metarun.configuration.config_folder import groups
from metarun.configuration.defaults import default_choices
from metarun.console.rows import columns, heading, paragraph
from metarun.console.terminal import terminal

SENTENCE = "Train, evaluate, sweep and compare meta-learning algorithms from one command."

USAGE = (
    ("metarun [GROUP=OPTION ...] [KEY=VALUE ...]", "train, then evaluate on the test tasks"),
    ("metarun -m KEY=VALUE,VALUE ... [...]", "the same for every combination of the values"),
)

MORE = (
    ("metarun --help algorithm", "what the options of a group are, and their keys"),
    ("metarun algorithm=imaml dataset=omniglot --help", "every key of what is chosen, its value"),
    ("metarun report --help", "what a subcommand takes"),
    ("--config-dir DIR", "your own groups and options beside ours"),
    ("--cfg job", "print the configuration as YAML, and stop"),
)

FIRST = ("algorithm", "dataset", "model")


def print_help(folders: Sequence[Path], subcommands: Mapping[str, str], console: Console | None = None) -> None:
    """Print the help on one screen, as wide as the console and without colour when piped.

    Args:
        folders: the one with config.yaml and the groups, and those of the user's beside it.
        subcommands: name of each subcommand -> its one-line description.
        console: where to; standard output by default.
    """
    console = console or terminal()
    chosen = default_choices(folders[0])
    console.print(Text.assemble(("metarun", "bold cyan"), (f" {__version__}", "dim")))
    paragraph(console, SENTENCE)
    heading(console, "Usage")
    columns(console, USAGE, limit=44)
    heading(console, "Subcommands")
    columns(console, list(subcommands.items()))
    heading(console, "Groups", "chosen with GROUP=OPTION, as algorithm/inner=newton_cg; * is the default")
    available = groups(*folders)
    rows = []
    for group in in_order(available, chosen):
        parent, _, part = group.rpartition("/")
        options = (f"{option}*" if option == chosen.get(group) else option for option in available[group])
        rows.append((f"{'  ' * group.count('/')}/{part}" if parent in available else group, ", ".join(options)))
    columns(console, rows)
    heading(console, "More")
    columns(console, MORE, limit=48)


def in_order(available: Mapping[str, object], chosen: Mapping[str, object]) -> list[str]:
    """What a reader looks for first, then group names in the order of config.yaml, each followed by the groups inside it."""
    roots = [*FIRST, *(group for group in chosen if "/" not in group and group not in FIRST)]

    def place(group: str) -> tuple[int, str]:
        root = group.split("/")[0]
        return (roots.index(root) if root in roots else len(roots), group)

    return sorted(available, key=place)
