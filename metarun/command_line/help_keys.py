"""`metarun --help algorithm` and `metarun algorithm=imaml --help`: what the options are, and the keys of what is chosen.

The configuration is composed for it, which needs Hydra and no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from metarun import __version__
from metarun.command_line.help import in_order
from metarun.configuration.chosen_keys import Chosen, Key, chosen_keys
from metarun.configuration.config_folder import groups
from metarun.configuration.defaults import default_choices, owners
from metarun.configuration.did_you_mean import closest
from metarun.configuration.overrides import config_folders, parse
from metarun.console.rows import columns, heading
from metarun.console.terminal import terminal
from metarun.errors import ConfigurationError

_ROOM = 30  # of the console, that names and values leave for what is said of them


def print_keys(
    arguments: Sequence[str], conf: Path, subcommands: Iterable[str], console: Console | None = None
) -> None:
    """Print what is chosen.

    Args:
        arguments: the words beside --help. Those without `=` are what is asked about: groups ("algorithm", "algorithm/inner"),
            keys ("schedule", "optimizer.lr") and options ("imaml"); without any, it is everything. The others are composed.
        conf: folder holding config.yaml.
        subcommands: what else could stand after --help.
        console: where to; standard output by default.
    Raises:
        ConfigurationError: something asked about is not there, or the configuration cannot be composed.
    """
    console = console or terminal()
    parsed = parse(arguments)
    folders = config_folders(parsed, conf)
    of_hydra = groups(*(folder / "hydra" for folder in folders))
    available = groups(*folders) | {f"hydra/{group}": options for group, options in of_hydra.items()}
    topics = [word for word in parsed.overrides if "=" not in word]
    if parsed.multirun or parsed.cfg:
        raise ConfigurationError(
            "--help shows one configuration: leave out -m and --cfg, and give one value to each key."
        )
    words = [word for word in arguments if word not in topics]
    for index, topic in enumerate(topics):
        choices = [f"{group}={topic}" for group, options in available.items() if topic in options]
        if topic not in available and len(choices) == 1:
            words += choices
            topics[index] = choices[0].partition("=")[0]
    chosen = chosen_keys(words, conf)
    tops = {key.name.partition(".")[0] for key in chosen.keys} | {"hydra"}
    for topic in topics:
        if topic not in available and not _of(topic, chosen.keys):
            raise ConfigurationError(_unknown(topic, available, tops, subcommands))
    console.print(Text.assemble(("metarun", "bold cyan"), (f" {__version__}", "dim")))
    for topic in topics:
        _print_options(console, conf, available, chosen, topic)
    heading(console, "Keys", "set with KEY=VALUE; the values are those that a run would have")
    keys = [key for key in chosen.keys if not topics or any(_is_of(key.name, topic) for topic in topics)]
    if not topics and not any(word.startswith("hydra") for word in words):
        keys = [key for key in keys if not key.name.startswith("hydra.")]
    _print_keys(console, conf, available, chosen, keys)


def _is_of(name: str, topic: str) -> bool:
    inside = topic.replace("/", ".")
    return name == inside or name.startswith(f"{inside}.")


def _of(topic: str, keys: Iterable[Key]) -> list[Key]:
    return [key for key in keys if _is_of(key.name, topic)]


def _print_options(
    console: Console, conf: Path, available: Mapping[str, Mapping[str, str]], chosen: Chosen, topic: str
) -> None:
    """The options of a group and of those inside it, each with its line; * is the one that is chosen."""
    defaults = default_choices(conf)
    for group in in_order({g: None for g in available if g == topic or g.startswith(f"{topic}/")}, defaults):
        parent = group.rpartition("/")[0]
        choice, note = chosen.choices.get(group, []), ""
        if not choice:
            found = owners(conf, group, available.get(parent, {})) if parent else []
            note = f"one part of {parent.rpartition('/')[2]}={found[0]}" if found else "nothing by default"
        rows = [
            (Text(f"* {option}", "bold green") if option in choice else Text(f"  {option}"), text)
            for option, text in available[group].items()
        ]
        heading(console, f"{group}=OPTION", note)
        columns(console, rows)


def _print_keys(
    console: Console, conf: Path, available: Mapping[str, Mapping[str, str]], chosen: Chosen, keys: Sequence[Key]
) -> None:
    """A table for each group's choice and each block of config.yaml."""
    sections: dict[str, list[Key]] = {}
    for key in keys:
        words = key.name.split(".")
        paths = ["/".join(words[:n]) for n in range(len(words) - 1, 0, -1)]
        found = [path for path in paths if path in chosen.choices]
        sections.setdefault(found[0] if found else words[0] if len(words) > 1 else "", []).append(key)
    order = in_order({name: None for name in sections if name in chosen.choices}, default_choices(conf))
    for name in [*order, *(name for name in sections if name not in order)]:
        options = chosen.choices.get(name, [])
        if len(options) == 1:
            heading(console, f"{name}={options[0]}", available.get(name, {}).get(options[0], ""))
        elif options:
            heading(console, f"{name}=[{','.join(options)}]")
        elif name:
            heading(console, name)
        else:
            console.print()
        _print_table(console, sections[name])


def _print_table(console: Console, keys: Sequence[Key]) -> None:
    """Name, value and comment; on a narrow console what does not fit beside a long name stands below it."""
    keys = sorted(keys, key=lambda key: key.name.count("."))  # what is set most often does not lie deep
    room = console.width - _ROOM
    values = max((len(key.value) for key in keys if len(key.value) <= room // 4), default=0)
    names = max((len(key.name) for key in keys if len(key.name) + 2 + values <= room), default=0)
    rows = [(Text.assemble((f"{key.name:<{names}}", "cyan"), f"  {key.value}"), key.comment) for key in keys]
    columns(console, rows, limit=max(names + values + 2, 30))


def _unknown(
    topic: str, available: Mapping[str, Iterable[str]], tops: Iterable[str], subcommands: Iterable[str]
) -> str:
    choices = [f"{group}={topic}" for group, options in available.items() if topic in options]
    if choices:
        return f"{topic} is an option of several groups: give one of {', '.join(choices)} and --help."
    options = {option for names in available.values() for option in names}
    near = closest(topic, [*available, *tops, *subcommands, *options])
    guess = f"; did you mean {near}?" if near else "."
    return f"--help knows groups, keys, options and subcommands, and {topic!r} is none{guess} Groups: {', '.join(available)}."
