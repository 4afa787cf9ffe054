"""metarun.report.trajectories: what is drawn where."""

import pytest
import torch
from PIL import Image

from metarun.report import figures
from metarun.report.trajectories import trajectories

SAVE = figures.save  # which no test has but by asking
GOALS = torch.tensor([[0.5, -0.25], [-0.125, 0.0]])


def walks(scale):
    """Two tasks of three episodes of four steps; the episodes of task 1 are over after 4, 2 and 1 of them."""
    places = scale * torch.arange(2 * 3 * 4 * 2, dtype=torch.float32).view(2, 3, 4, 2) / 48
    mask = torch.ones(2, 3, 4)
    mask[1, 1, 2:] = mask[1, 2, 1:] = 0
    return places, mask


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that draws and gives the panels, row by row."""

    def draw(paths):
        kept = []
        monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
        trajectories(tmp_path / "never.png", GOALS, paths, "title")
        axes = kept[0].axes
        return [axes[start : start + 2] for start in range(0, len(axes), 2)]

    return draw


def test_each_panel_has_its_episodes_up_to_their_ends_and_its_goal(drawn):
    paths = {0: walks(8.0), 1: walks(1.0), 2: walks(0.5)}
    panels = drawn(paths)
    assert len(panels) == 3 and [row[0].get_ylabel() for row in panels] == ["before", "after 1 step", "after 2 steps"]
    assert [axes.get_title() for axes in panels[0]] == ["test task 0", "test task 1"]
    for row, (places, mask) in zip(panels, paths.values(), strict=True):
        for task, axes in enumerate(row):
            *episodes, ends, start, goal = axes.get_lines()
            assert len(episodes) == 3
            for episode, line in enumerate(episodes):
                steps = int(mask[task, episode].sum())
                shown = torch.tensor(line.get_xydata())
                assert torch.equal(shown[:steps], places[task, episode, :steps].double())
                assert bool(shown[steps:].isnan().all())
                assert ends.get_xydata()[episode].tolist() == places[task, episode, steps - 1].tolist()
            assert start.get_xydata().tolist() == [places[task, 0, 0].tolist()]
            assert goal.get_xydata().tolist() == [GOALS[task].tolist()]


def test_the_square_holds_the_adapted_places_and_the_goals(drawn):
    """Of task 1 the furthest place before an end that counts is 41/48, the last episode's first; of task 0 it is 23/48."""
    for paths, half in (
        ({0: walks(8.0), 1: walks(1.0), 2: walks(0.5)}, 41 / 48),
        ({0: walks(8.0)}, 8 * 41 / 48),
        ({0: walks(8.0), 1: walks(0.25)}, 0.5),
    ):
        for row in drawn(paths):
            for axes in row:
                assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-1.12 * half, 1.12 * half))
                assert axes.get_aspect() == 1


def test_few_strays_do_not_shrink_the_others(drawn):
    """One place of 100 is ten times as far as the rest."""
    places = torch.full((2, 10, 10, 2), 0.75)
    places[0, 0, 0, 0] = 7.5
    assert drawn({0: walks(1.0), 1: (places, torch.ones(2, 10, 10))})[0][0].get_xlim()[1] == pytest.approx(0.84)


def test_a_file_of_its_size_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "save", SAVE)
    trajectories(tmp_path / "paths.png", GOALS, {0: walks(8.0), 1: walks(1.0), 2: walks(0.5)}, "title")
    with Image.open(tmp_path / "paths.png") as image:
        assert image.size == (round(150 * (2 * 2.3 + 0.6)), round(150 * (3 * 2.3 + 0.8)))
