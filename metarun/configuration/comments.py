"""The comments of a YAML file, each beside the key that it describes."""

from collections.abc import Iterator

import yaml


def comments(text: str) -> dict[str, str]:
    """What a file says of its keys: dotted name -> comment, "" where there is none, in the file's order.

    A key is described by the comment behind its value (behind its colon, where the value stands on lines of its own) and on
    the lines below, as long as they begin in the same column; or else by the comment lines right above it. Comments at the
    top describe the file. Mappings are listed like the keys in them; the blocks `defaults` and `hydra` and the names of
    classes are not.

    Raises:
        yaml.YAMLError: the text is no YAML.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = dict(_comments(root, "", text.splitlines())) if isinstance(root, yaml.MappingNode) else {}
    return {name: said for name, said in found.items() if name.partition(".")[0] not in ("defaults", "hydra")}


def _comments(mapping: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for key, value in mapping.value:
        if key.value == "_target_":
            continue
        name = f"{prefix}{key.value}"
        is_below = value.start_mark.line > key.end_mark.line
        is_block = isinstance(value, yaml.ScalarNode) and value.style in ("|", ">")
        end = key.end_mark if is_below or is_block else value.end_mark
        beside = _beside(lines, end.line, end.column)
        yield name, beside or ("" if mapping.flow_style else _above(lines, key.start_mark.line, key.start_mark.column))
        if isinstance(value, yaml.MappingNode):
            yield from _comments(value, f"{name}.", lines)


def _beside(lines: list[str], line: int, column: int) -> str:
    """The comment behind a place, and what stands below it in the same column."""
    behind = lines[line][column:].lstrip(": ,|>-+") if line < len(lines) else ""
    if not behind.startswith("#"):
        return ""
    said, start = [behind], len(lines[line]) - len(behind)
    for below in lines[line + 1 :]:
        if below[:start].strip() or not below[start:].startswith("#"):
            break
        said.append(below[start:])
    return _words(said)


def _above(lines: list[str], line: int, column: int) -> str:
    """The comment lines that end right above a place, in its column, and do not begin the file."""
    first = line
    while first and not lines[first - 1][:column].strip() and lines[first - 1][column:].startswith("#"):
        first -= 1
    return _words(lines[first:line]) if first else ""


def _words(lines: list[str]) -> str:
    return " ".join(line.lstrip(" #").strip() for line in lines)
