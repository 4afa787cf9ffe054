"""Where the YAML files lie and which options they offer, read as text (no YAML parser, no Hydra: `--help` must be quick)."""

from collections.abc import Iterable
from pathlib import Path

from metarun.errors import ConfigurationError

PACKAGE = Path(__file__).resolve().parents[1]
SEVERAL = "tracker"
"""The group of which several options may be chosen at once, tracker=[wandb,tensorboard]: each lies in a package of its own."""


def config_folder(package: Path = PACKAGE) -> Path:
    """The folder holding `config.yaml`: `<package>/conf` in an installed wheel, `<package>/../conf` in a checkout.

    Args:
        package: folder of the `metarun` package.
    Returns:
        An absolute path.
    Raises:
        ConfigurationError: neither folder holds a config.yaml.
    """
    candidates = (package / "conf", package.parent / "conf")
    for folder in candidates:
        if (folder / "config.yaml").is_file():
            return folder
    looked = " and ".join(str(folder) for folder in candidates)
    raise ConfigurationError(f"metarun's configuration is missing: no config.yaml in {looked}. Install metarun again.")


def groups(*folders: Path) -> dict[str, dict[str, str]]:
    """Every config group with its options: `{"algorithm/inner": {"newton_cg": "truncated Newton ..."}}`.

    Args:
        folders: config folders (ours and a user's `--config-dir`), merged; the first to describe an option wins.
    Returns:
        Group path -> option -> first comment line of its file ("" if it has none), both sorted by name.
        `hydra/...` is left out: Hydra adds options of its own there.
    """
    found: dict[str, dict[str, str]] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            parts = file.relative_to(folder).parts[:-1]
            if parts and parts[0] != "hydra" and not any(part.startswith(".") for part in parts):
                options = found.setdefault("/".join(parts), {})
                if not options.get(file.stem):
                    options[file.stem] = first_comment(file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {group: dict(sorted(found[group].items())) for group in sorted(found)}


def first_comment(lines: Iterable[str]) -> str:
    """The first comment line ahead of any content, without its `#`; "" if there is none.

    Hydra's own `# @package ...` line is a directive, not a description, and is passed over.
    """
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            return ""
        text = line.lstrip("#").strip()
        if text and not text.startswith("@package"):
            return text
    return ""
