"""Which trackers a configuration chooses."""

from collections.abc import Mapping
from typing import Any

from metarun.configuration.instantiate import make
from metarun.errors import ConfigurationError
from metarun.tracking.base import NoTracker, TrackerSettings


def tracker_nodes(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name -> the settings of each tracker that is chosen, as the configuration has them.

    A tracker lies in a package of its own, as the files of conf/tracker say in their first line, so that several can be
    chosen; one in a user's file without that line stands alone.
    """
    node = config["tracker"]
    if isinstance(node, Mapping) and "_target_" in node:
        chosen = config["choices"].get("tracker")
        return {chosen if isinstance(chosen, str) else "tracker": node}
    return dict(node)


def make_trackers(config: Mapping[str, Any]) -> dict[str, TrackerSettings]:
    """The settings of each tracker that is chosen, by name; nothing for tracker=none.

    Raises:
        ConfigurationError: one of them refuses its values or lacks its packages, or they cannot stand beside each other.
    """
    nodes = tracker_nodes(config)
    made: dict[str, TrackerSettings] = {}
    for name, node in nodes.items():
        key = "tracker" if config["tracker"] is node else f"tracker.{name}"
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigurationError(
                f"{key} is no tracker: the file of a tracker NAME that stands beside others begins with the line "
                "'# @package tracker.NAME'"
            )
        tracker = make(config, key)
        if not isinstance(tracker, TrackerSettings):
            raise ConfigurationError(
                f"{key}._target_ must be a class with open and finish_timeout_s, got {node['_target_']}"
            )
        made[name] = tracker
    several = [name for name, tracker in made.items() if isinstance(tracker, NoTracker)]
    if several and len(made) > 1:
        raise ConfigurationError(f"tracker={several[0]} stands alone, got [{','.join(made)}]. Leave {several[0]} out.")
    return {name: tracker for name, tracker in made.items() if not isinstance(tracker, NoTracker)}
