"""metarun.problems.policy_gradient.problem: what is collected when, what is recorded of it, and the clipped loss, by hand."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from metarun.algorithm import RepeatedSteps, TrustRegion, Unrolled
from metarun.models.learner import Learner
from metarun.models.policy_mlp import PolicyMLP
from metarun.problems.base import losses_of
from metarun.problems.collected import Collected, keeping
from metarun.problems.policy_gradient.problem import PolicyGradient, Rollouts
from metarun.problems.policy_gradient.rollouts import Trajectories
from metarun.tasks.environments.bandit import Bandit
from metarun.tasks.environments.base import QUERY, SUPPORT
from metarun.tasks.environments.navigation2d import Navigation2D
from tests.algorithm.closed_forms import composed, descent
from tests.calls import meta_step, sorted_theta

pytestmark = pytest.mark.usefixtures("float64")

SETTINGS = {
    "surrogate": "likelihood_ratio",
    "clip": None,
    "discount": 0.9,
    "advantage_decay": 1.0,
    "baseline": "none",
    "standardise": False,
}
B, EPISODES, QUERIES, HORIZON = 3, 4, 5, 6


@dataclass(frozen=True, kw_only=True)
class Counted(PolicyGradient):
    """Writes down what is collected."""

    calls: list = field(default_factory=list, compare=False)

    def collect(self, tasks, params, role, step):
        self.calls.append((role, int(step)))
        return super().collect(tasks, params, role, step)


def navigation(**changes):
    """The problem, its tasks, and theta."""
    environment = Navigation2D(goals=(-0.5, 0.5), horizon=HORIZON, max_step=0.1, action_scale=0.1, reached=0.05)
    torch.manual_seed(0)
    policy = PolicyMLP(input_shape=[2], num_outputs=4, hidden=[5], activation="tanh", init_std=1.0, min_std=1e-6)
    learner = Learner(policy).to("cpu", torch.float64)
    problem = Counted(learner=learner, environment=environment, **SETTINGS | changes)
    tasks = environment.sample(0, "train", torch.arange(B), EPISODES, QUERIES)
    return problem, tasks, learner.init(dtype=torch.float64)


def expanded(theta):
    return {name: leaf.expand(B, *leaf.shape) for name, leaf in theta.items()}


def region():
    return TrustRegion(max_divergence=1e-3, damping=1e-5, steps=3, rtol=0.0, shrink=0.5, tries=4, recompute=False)


# ---- what is collected -----------------------------------------------------------------------------------------------


DIRECTIONS = {
    "plain": {},
    "region": {"direction": region()},
    "repeated": {"direction": RepeatedSteps(steps=3, lr=1e-3, clip=0.2)},
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chunk", [None, 2])
def test_each_inner_step_collects_once_and_the_query_set_once(direction, chunk):
    """Also where a direction adapts the same tasks again: it is given the same episodes."""
    problem, tasks, theta = navigation()
    meta_step(composed(descent(3, 0.1), Unrolled(), **DIRECTIONS[direction]), theta, problem, tasks, chunk)
    per_chunk = [(SUPPORT, 0), (SUPPORT, 1), (SUPPORT, 2), (QUERY, 3)]
    assert problem.calls == per_chunk * (1 if chunk is None else 2)


def test_evaluation_collects_each_inner_step_once_for_all_that_is_measured():
    problem, tasks, theta = navigation()
    chosen = composed(descent(1, 0.1), Unrolled())
    list(chosen.adaptations(sorted_theta(chosen, theta, problem), problem, tasks, [0, 1, 3]))
    assert problem.calls == [(SUPPORT, 0), (SUPPORT, 1), (SUPPORT, 2)]


def test_inner_steps_and_the_query_set_have_noise_of_their_own():
    """With the same parameters: the numbers are those of the step, and the same whenever it asks."""
    problem, tasks, theta = navigation()
    first, again, second = (problem.support(tasks, expanded(theta), step) for step in (0, 0, 1))
    query = problem.query(tasks, expanded(theta), 0)
    assert torch.equal(first.targets["actions"], again.targets["actions"])
    assert not torch.isclose(first.targets["actions"], second.targets["actions"]).any()
    assert not torch.isclose(first.targets["actions"], query.targets["actions"][:, :EPISODES]).any()
    assert first.inputs.shape == (B, EPISODES * HORIZON, 2) and query.inputs.shape == (B, QUERIES * HORIZON, 2)


def test_collected_data_are_kept_whatever_parameters_ask_later():
    problem, tasks, theta = navigation()
    kept = keeping(problem)
    assert isinstance(kept, Collected)
    there = {name: leaf + 1 for name, leaf in expanded(theta).items()}
    for ask in (kept.support, kept.query):
        first = ask(tasks, expanded(theta), 1)
        assert ask(tasks, there, torch.tensor(1)) is first
        assert ask(tasks, there, 2) is not first
    assert problem.calls == [(SUPPORT, 1), (SUPPORT, 2), (QUERY, 1), (QUERY, 2)]
    assert keeping(problem) is not kept


# ---- what is recorded ------------------------------------------------------------------------------------------------


def by_hand(rewards, mask) -> Trajectories:
    """Of one task; pulls of arm 0 of two, with even chances."""
    rewards, mask = torch.tensor([rewards]), torch.tensor([mask])
    pulled = torch.zeros(mask.shape, dtype=torch.int64)
    return Trajectories(torch.ones(*mask.shape, 1), pulled, rewards, mask, torch.full(mask.shape, 0.5).log())


class Arms(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, inputs):
        return inputs * self.logits


def bandit(**changes) -> PolicyGradient:
    learner = Learner(Arms()).to("cpu", torch.float64)
    return PolicyGradient(learner=learner, environment=Bandit(num_arms=2, horizon=3), **SETTINGS | changes)


def test_returns_and_steps_by_hand():
    """Two episodes of 3 steps, one over after its second: returns 1 + 2 + 4 and 8 + 16, without discount; 5 steps."""
    problem = bandit()
    before = problem.rollouts(by_hand([[1.0, 2.0, 4.0], [8.0, 16.0, 0.0]], [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
    later = problem.rollouts(by_hand([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    after = problem.rollouts(by_hand([[3.0, 0.0, 0.0], [1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
    measured = problem.metrics(torch.zeros(6, 2), {name: each[0] for name, each in before.targets.items()})
    assert {name: value.item() for name, value in measured.items()} == {"return": 15.5, "episode_steps": 2.5}
    recorded = problem.statistics([before, later], after)
    assert {name: value.tolist() for name, value in recorded.items()} == {
        "support/return": [15.5],
        "query/return": [2.5],
        "environment_steps": [5 + 4 + 3],
    }


def test_an_outer_step_counts_the_steps_of_all_its_episodes():
    """None ends early where a goal cannot be reached: (2 inner steps * 4 + 5) episodes of 6 steps."""
    problem, tasks, theta = navigation()
    tasks.latent["goal"][:] = 100.0
    found = meta_step(composed(descent(2, 0.1), Unrolled()), theta, problem, tasks, 2)
    assert found.stats["environment_steps"].tolist() == [(2 * EPISODES + QUERIES) * HORIZON] * B
    returns = problem.query(tasks, expanded(theta), 2).targets["rewards"]
    assert returns.shape == (B, QUERIES, HORIZON)


def test_the_score_is_the_return_of_the_query_episodes():
    problem, tasks, theta = navigation()
    chosen = composed(descent(1, 0.1), Unrolled())
    found = meta_step(chosen, theta, problem, tasks)
    phi = chosen.adapt(sorted_theta(chosen, theta, problem), problem, tasks)
    again = problem.query(tasks, phi, 1)
    assert torch.equal(found.stats["query/return"], again.targets["rewards"].sum(-1).mean(-1))
    before = problem.support(tasks, expanded(theta), 0)
    assert torch.equal(found.stats["support/return"], before.targets["rewards"].sum(-1).mean(-1))


# ---- the loss --------------------------------------------------------------------------------------------------------


def data_with(ratios, advantages, clip, mask):
    """Pulls of arm 0, which the policy now makes with chance 1/2: ratio 1/2 / (1/2 / ratio)."""
    ratios, advantages, mask = (torch.tensor([[each]]) for each in (ratios, advantages, mask))
    targets = {
        "actions": torch.zeros(mask.shape, dtype=torch.int64),
        "advantages": advantages,
        "rewards": torch.zeros_like(mask),
        "log_probs": (0.5 / ratios).log(),
        "mask": mask,
    } | ({} if clip is None else {"clip": torch.tensor([clip])})
    return Rollouts(torch.ones(1, mask.numel(), 1), targets)


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "share"),
    [
        (1.5, 2.0, 2.4, 0.0),  # better, and already likelier by more than the clip: no more of it
        (1.5, -2.0, -3.0, 1.0),  # worse, and likelier: back
        (0.5, 2.0, 1.0, 1.0),
        (0.5, -2.0, -1.6, 0.0),
        (1.125, 2.0, 2.25, 1.0),  # within
        (0.875, -2.0, -1.75, 1.0),
    ],
)
def test_a_clipped_ratio_has_no_gradient(ratio, advantage, surrogate, share):
    """Beside a step of ratio 1 and advantage 4 and one that does not count. d log pi(0) / d logits is (1/2, -1/2)."""
    problem = bandit()
    logits = torch.zeros(1, 2, requires_grad=True)
    data = data_with([ratio, 1.0, 3.0], [advantage, 4.0, 5.0], 0.2, [1.0, 1.0, 0.0])
    (loss,) = losses_of(problem, {"logits": logits}, data)
    assert loss.item() == pytest.approx(-(surrogate + 4.0) / 2, rel=1e-14)
    loss.backward()
    slope = -(share * ratio * advantage + 4.0) / 2 * 0.5
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([slope, -slope], rel=1e-13)


def test_without_a_clip_the_query_loss_is_the_likelihood_ratio():
    """An infinite clip clips nothing, to the bit; and query data say which clip they have."""
    problem = bandit()
    params = {"logits": torch.tensor([[0.3, -0.2]])}
    given = [0.01, 1.0, 300.0], [1.0, -4.0, 5.0]
    with_clip, without = (
        losses_of(problem, params, data_with(*given, clip, [1.0, 1.0, 1.0])) for clip in (torch.inf, None)
    )
    assert torch.equal(with_clip, without)
    for clip, said in ((None, torch.inf), (0.3, 0.3)):
        problem, tasks, theta = navigation(clip=clip)
        assert problem.query(tasks, expanded(theta), 1).targets["clip"].tolist() == [said] * B
        assert "clip" not in problem.support(tasks, expanded(theta), 0).targets
