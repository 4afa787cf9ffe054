"""README.md and docs/*.md as the tests here read them: code blocks, commands, files that they show, words between backticks."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SUBCOMMAND = re.compile(r"metarun ([a-z]+)")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page by its path from the top of the repository."""

    name: str
    text: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    def blocks(self, language: str) -> list[str]:
        """What stands in the code blocks of a language."""
        return [body for found, body in _BLOCK.findall(self.text) if found == language]

    @property
    def prose(self) -> str:
        """The page without its code blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def words(self) -> list[str]:
        """What stands between backticks, without line breaks."""
        return [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", self.prose)]

    @property
    def files(self) -> dict[str, str]:
        """The files that the page shows: blocks of Python or YAML whose first or second line is a comment with a path."""
        found = {}
        for body in self.blocks("python") + self.blocks("yaml"):
            path = re.match(r"(?:# @package \S+\n)?# ((?:\w+/)*\w+\.(?:py|yaml))\b", body)
            if path:
                found[path[1]] = body
        return found

    @property
    def commands(self) -> list[str]:
        """The commands of `metarun` in blocks of shell and between backticks, without comments, redirections and repetitions."""
        lines = [line for body in self.blocks("bash") for line in body.replace("\\\n", " ").splitlines()]
        found = [command for line in lines for command in _commands_of(line)]
        found += [command for word in self.words if not _SUBCOMMAND.fullmatch(word) for command in _commands_of(word)]
        return list(dict.fromkeys(found))

    @property
    def subcommands(self) -> set[str]:
        """The subcommands that sentences name: `metarun data`."""
        return {named[1] for word in self.words if (named := _SUBCOMMAND.fullmatch(word))}


def pages() -> list[Page]:
    """The README, then the pages of docs/ by name."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [Page(name=file.relative_to(ROOT).as_posix(), text=file.read_text(encoding="utf-8")) for file in files]


def _commands_of(line: str) -> list[str]:
    """The commands of `metarun` in a line of shell: `a && metarun b`, `$(metarun c)`, `torchrun -m metarun d`."""
    inner = re.findall(r"\$\((metarun [^)]*)\)", line)
    outer = re.search(r"(?:^| && | -m | run )(metarun(?: .*)?)$", line.strip())
    found = []
    for command in [*inner, *([outer[1]] if outer and not inner else [])]:
        words = shlex.split(re.split(r" (?:>|\||&&) ", command)[0], comments=True)
        found.append(shlex.join(word for word in words if word != "..."))
    return found
