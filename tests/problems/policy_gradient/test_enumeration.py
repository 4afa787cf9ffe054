"""metarun.problems.policy_gradient against expectations without samples: every trajectory of a tabular MDP, by its probability.

The episodes are all trajectories, their steps weighed by the mask with P(tau), so that a mean over steps is an expectation over the
T steps of an episode: the loss is -J / T.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, jacrev, vmap

from metarun.algorithm import FirstOrder, Unrolled
from metarun.models.learner import Learner
from metarun.problems.base import losses_of
from metarun.problems.policy_gradient.problem import PolicyGradient, Rollouts
from metarun.problems.policy_gradient.rollouts import Trajectories
from metarun.tasks.environments.base import Continuous, episode_keys
from metarun.tasks.environments.tabular_mdp import TabularMDP
from metarun.tasks.types import TaskBatch
from tests.algorithm.closed_forms import composed, descent
from tests.calls import task_gradients
from tests.reference.tabular_policy_gradient import (
    SURROGATES,
    adapted,
    all_trajectories,
    difference,
    drawn,
    expected_first,
    expected_second,
    gradient,
    hessian,
    meta_gradient,
    meta_gradient_with,
    objective,
    probabilities,
)

pytestmark = pytest.mark.usefixtures("float64")

CASES = [(2, 2, 3, 1.0), (3, 2, 3, 0.9), (2, 3, 2, 0.5)]
HORIZON_1 = (2, 3, 1, 1.0)
SETTINGS = {"clip": None, "discount": 1.0, "advantage_decay": 1.0, "baseline": "none", "standardise": False}


class Table(nn.Module):
    """A logit for each state and action; states come one-hot."""

    def __init__(self, num_states, num_actions):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_states, num_actions))

    def forward(self, inputs):
        return inputs @ self.logits


@dataclass(frozen=True, kw_only=True)
class Enumerated(PolicyGradient):
    """Tasks are MDPs by number. In place of episodes, all trajectories: of `paths` for the inner steps, of `later` after them."""

    paths: list = field(default_factory=list)
    later: list = field(default_factory=list)

    def support(self, tasks, params, step):
        return self.rollouts(self._all(self.paths, tasks, params))

    def query(self, tasks, params, step):
        data = self.rollouts(self._all(self.later, tasks, params))
        data.targets["clip"] = torch.full((len(tasks),), torch.inf)
        return data

    def _all(self, paths, tasks, params):
        assert not params["logits"].requires_grad
        found = [
            self._of_one(paths[task], theta)
            for task, theta in zip(tasks.latent["number"].tolist(), params["logits"], strict=True)
        ]
        return Trajectories(*(torch.stack(column) for column in zip(*found, strict=True)))

    def _of_one(self, paths, theta):
        mask = probabilities(theta, paths)[:, None].expand_as(paths.rewards)
        seen = torch.eye(len(theta))[paths.states]
        log_probs = theta.log_softmax(1)[paths.states, paths.actions]
        # Discounted already: the policy gradient is then exact.
        return seen, paths.actions, paths.rewards, mask, log_probs


def enumerated(case, surrogate, **changes):
    """theta, the problem of two MDPs, and its tasks."""
    num_states, num_actions, horizon, _ = case
    theta, first = drawn(*case)
    problem = Enumerated(
        learner=Learner(Table(num_states, num_actions)),
        environment=TabularMDP(
            num_states=num_states,
            num_actions=num_actions,
            horizon=horizon,
            reward_mean=1.0,
            reward_deviation=1.0,
            reward_noise=0.0,
        ),
        surrogate=surrogate,
        paths=[first, drawn(*case, seed=1)[1]],
        later=[drawn(*case, seed=seed)[1] for seed in (2, 3)],
        **{**SETTINGS, **changes},
    )
    return theta, problem, TaskBatch(None, None, {"number": torch.arange(2)})


def derivatives(problem, data, leaves, name="logits"):
    """First and second of each task's loss, [D] and [D, D]."""
    for task, leaf in enumerate(leaves):

        def loss(vector, task=task):
            values = [*leaves[:task], vector.view_as(leaves[task]), *leaves[task + 1 :]]
            return losses_of(problem, {name: torch.stack(values)}, data)[task]

        flat = leaf.flatten()
        yield torch.autograd.functional.jacobian(loss, flat), torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_each_surrogate_are_their_expectations(case, surrogate):
    theta, problem, tasks = enumerated(case, surrogate)
    thetas = [theta, theta.flip(0)]
    data = problem.support(tasks, {"logits": torch.stack(thetas)}, 0)
    found = derivatives(problem, data, thetas)
    for at, paths, (first, second) in zip(thetas, problem.paths, found, strict=True):
        assert difference(-case[2] * first, expected_first(at, paths)) < 1e-10
        assert difference(-case[2] * first, gradient(at, paths).flatten()) < 1e-10
        assert difference(-case[2] * second, expected_second(surrogate, at, paths)) < 1e-10
        is_exact = difference(-case[2] * second, hessian(at, paths)) < 1e-10
        assert is_exact == (surrogate == "dice")


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_at_horizon_1_the_likelihood_ratio_is_exact_too(surrogate):
    theta, problem, tasks = enumerated(HORIZON_1, surrogate)
    data = problem.support(tasks, {"logits": theta.expand(2, -1, -1)}, 0)
    for paths, (_, second) in zip(problem.paths, derivatives(problem, data, [theta, theta]), strict=True):
        assert (difference(-second, hessian(theta, paths)) < 1e-10) == (surrogate != "log_prob")


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "changes", [{"baseline": "linear"}, {"standardise": True}, {"baseline": "linear", "standardise": True}]
)
def test_baselines_and_standardising_change_no_expectation_but_by_the_scale(case, surrogate, changes):
    """A baseline of state and time has no expectation in any derivative, whatever it is, except in the second of log pi."""
    theta, problem, tasks = enumerated(case, surrogate)
    other = replace(problem, **changes)
    params = {"logits": torch.stack([theta, theta.flip(0)])}
    plain, changed = problem.support(tasks, params, 0), other.support(tasks, params, 0)
    weights, raw = plain.targets["mask"], replace(other, standardise=False).support(tasks, params, 0)
    centred = raw.targets["advantages"]
    share = weights / weights.sum((1, 2), keepdim=True)
    mean = (share * centred).sum((1, 2), keepdim=True)
    deviation = (share * (centred - mean) ** 2).sum((1, 2)).sqrt() + 1e-8
    scales = deviation if other.standardise else torch.ones(2)
    pairs = zip(
        scales, derivatives(problem, plain, [*params["logits"]]), derivatives(other, changed, [*params["logits"]]), strict=True
    )  # fmt: skip
    for scale, (first, second), (first_found, second_found) in pairs:
        assert difference(scale * first_found, first) < 1e-10
        is_same = difference(scale * second_found, second) < 1e-10
        assert is_same == (surrogate != "log_prob")


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_steps_after_an_end_do_not_count(surrogate):
    """State 1 earns nothing and is never left: the same derivatives when its steps are masked, whatever is written in them."""
    transitions = torch.tensor([[[0.3, 0.7], [0.8, 0.2]], [[0.0, 1.0], [0.0, 1.0]]])
    paths = all_trajectories(transitions, torch.tensor([[1.0, -2.0], [0.0, 0.0]]), 3, 0.9)
    theta, problem, _ = enumerated((2, 2, 3, 0.9), surrogate)
    problem = replace(problem, paths=[paths])
    tasks = TaskBatch(None, None, {"number": torch.zeros(1, dtype=torch.int64)})
    whole = problem.support(tasks, {"logits": theta[None]}, 0)
    is_over = paths.states[None] == 1
    junk = {"actions": 1 - whole.targets["actions"], "log_probs": whole.targets["log_probs"] - 3}
    targets = whole.targets | {name: torch.where(is_over, each, whole.targets[name]) for name, each in junk.items()}
    targets["mask"] = whole.targets["mask"] * ~is_over
    masked = Rollouts(torch.where(is_over.flatten(1)[..., None], 7.0, whole.inputs), targets)
    ((first, second),) = derivatives(problem, masked, [theta])
    steps = float(targets["mask"].sum())
    assert steps < 3
    assert difference(-steps * first, expected_first(theta, paths)) < 1e-10
    assert difference(-steps * second, expected_second(surrogate, theta, paths)) < 1e-10
    ((first_whole, second_whole),) = derivatives(problem, whole, [theta])
    assert difference(steps * first, 3 * first_whole) < 1e-10 and difference(steps * second, 3 * second_whole) < 1e-10


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("case", [*CASES, HORIZON_1])
def test_meta_gradient_of_a_step_of_maml(case, surrogate):
    """Exact for dice, and at horizon 1 for the likelihood ratio; else with the surrogate's own expected second derivative."""
    horizon, step_size = case[2], 0.4
    theta, problem, tasks = enumerated(case, surrogate)
    found = task_gradients(composed(descent(1, horizon * step_size), Unrolled()), {"logits": theta}, problem, tasks)
    for task, (paths, later) in enumerate(zip(problem.paths, problem.later, strict=True)):
        phi = adapted(theta.clone().requires_grad_(), paths, step_size).detach()
        assert difference(found.params["logits"][task], phi) < 1e-10
        meta = -horizon * found.gradient["logits"][task]
        second = expected_second(surrogate, theta, paths)
        assert difference(meta, meta_gradient_with(second, theta, paths, step_size, later)) < 1e-10
        _, exact = meta_gradient(theta, paths, step_size, later)
        is_exact = difference(meta, exact) < 1e-10
        assert is_exact == (surrogate == "dice" or (surrogate == "likelihood_ratio" and horizon == 1))


def test_meta_gradient_of_two_steps_with_dice_is_exact():
    """Each step's trajectories weighed by the policy from which it is taken."""
    theta, problem, tasks = enumerated((2, 2, 3, 0.9), "dice")
    found = task_gradients(composed(descent(2, 3 * 0.4), Unrolled()), {"logits": theta}, problem, tasks)
    for task, (paths, later) in enumerate(zip(problem.paths, problem.later, strict=True)):
        leaf = theta.clone().requires_grad_()
        value = objective(adapted(adapted(leaf, paths, 0.4), paths, 0.4), later)
        (exact,) = torch.autograd.grad(value, leaf)
        assert difference(-3 * found.gradient["logits"][task], exact) < 1e-10


class Plane:
    """For its kind of actions."""

    actions = Continuous(1)


class Mean(nn.Module):
    """A Gaussian's mean, and the logarithm of its deviation, which is held."""

    def __init__(self, deviation):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(1))
        self.register_buffer("log_std", torch.tensor(deviation).log()[None])

    def forward(self, inputs):
        return torch.cat([self.mu, self.log_std]).expand(*inputs.shape[:-1], 2)


@dataclass(frozen=True, kw_only=True)
class GaussianBandit(PolicyGradient):
    """Trajectories of one action a ~ N(mu, deviation^2) with reward -(a - goal)^2, at the nodes of a quadrature.

    The mask holds its weights. Gauss and Hermite's rule of 8 nodes is exact up to degree 15; those here are of degree 4.
    """

    goal: float
    deviation: float
    is_centred: bool

    def support(self, tasks, params, step):
        nodes, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(8))
        actions = params["mu"] + self.deviation * nodes
        log_probs = (-(nodes**2) / 2 - np.log(self.deviation * np.sqrt(2 * np.pi))).expand_as(actions)
        mask, log_probs, rewards = (
            each.expand_as(actions)[..., None] for each in (weights, log_probs, -((actions - self.goal) ** 2))
        )
        data = self.rollouts(
            Trajectories(torch.ones_like(mask)[..., None], actions[..., None, None], rewards, mask, log_probs)
        )
        if self.is_centred:
            share = mask / mask.sum((1, 2), keepdim=True)
            data.targets["advantages"] -= (share * data.targets["advantages"]).sum((1, 2), keepdim=True)
        return data

    def query(self, tasks, params, step):
        data = self.support(tasks, params, step)
        data.targets["clip"] = torch.full((len(tasks),), torch.inf)
        return data


def gaussian_bandit(surrogate, deviation, is_centred=True):
    problem = GaussianBandit(
        learner=Learner(Mean(deviation)),
        environment=Plane(),
        surrogate=surrogate,
        goal=1.1,
        deviation=deviation,
        is_centred=is_centred,
        **SETTINGS,
    )
    return problem, TaskBatch(None, None, {"number": torch.arange(1)})


@pytest.mark.parametrize(("surrogate", "expected"), [("likelihood_ratio", -2.0), ("dice", -2.0), ("log_prob", 0.0)])
@pytest.mark.parametrize("deviation", [0.7, 2.0])
def test_gaussian_bandit(surrogate, expected, deviation):
    """J = -((mu - goal)^2 + deviation^2) has the derivatives 1.6 and -2 at 0.3; without centring log pi has -J / deviation^2."""
    for is_centred, of_log_prob in ((True, 0.0), (False, 1 + 0.64 / deviation**2)):
        problem, tasks = gaussian_bandit(surrogate, deviation, is_centred)
        data = problem.support(tasks, {"mu": torch.tensor([[0.3]])}, 0)
        ((first, second),) = derivatives(problem, data, [torch.tensor([0.3])], "mu")
        assert float(-first) == pytest.approx(1.6, abs=1e-10)
        assert float(-second) == pytest.approx(of_log_prob if surrogate == "log_prob" else expected, abs=1e-10)


@pytest.mark.parametrize(("surrogate", "expected"), [("likelihood_ratio", 1.024), ("dice", 1.024), ("log_prob", 1.28)])
def test_meta_gradient_of_the_gaussian_bandit(surrogate, expected):
    """-2 (mu' - goal) (1 - 2 alpha) with mu' = 0.46 after a step of 0.1; log pi gives what first order does."""
    problem, tasks = gaussian_bandit(surrogate, 0.7)
    for part, value in ((Unrolled(), expected), (FirstOrder(), 1.28)):
        found = task_gradients(composed(descent(1, 0.1), part), {"mu": torch.tensor([0.3])}, problem, tasks)
        assert found.params["mu"].item() == pytest.approx(0.46, abs=1e-10)
        assert -found.gradient["mu"].item() == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_collected_episodes_have_these_expectations(surrogate):
    """Of 400 times 100 episodes that the problem itself collects, means within four of their standard errors."""
    theta, problem, _ = enumerated((2, 2, 3, 1.0), surrogate)
    problem = PolicyGradient(learner=problem.learner, environment=problem.environment, surrogate=surrogate, **SETTINGS)
    latent = problem.environment.sample(0, "train", torch.arange(1), 100, 2).latent
    paths = all_trajectories(latent["transitions"][0], latent["rewards"][0], 3, 1.0)
    copies = {name: each.expand(400, *each.shape[1:]) for name, each in latent.items()}
    keys = episode_keys(0, "copies", "train", torch.arange(400), 100, 2)
    params = {"logits": theta.expand(400, -1, -1)}
    data = problem.support(TaskBatch(None, None, copies | keys), params, 0)

    def loss(vector, inputs, targets):
        return problem.loss(problem.outputs({"logits": vector.view_as(theta)}, inputs), targets)

    given = theta.flatten(), data.inputs, data.targets
    first, second = (
        -3 * vmap(derivative, in_dims=(None, 0, 0))(*given) for derivative in (grad(loss), jacrev(grad(loss)))
    )
    returns = data.targets["rewards"].sum(-1).mean(-1)
    for found, expected in (
        (returns, objective(theta, paths)),
        (first, expected_first(theta, paths)),
        (second, expected_second(surrogate, theta, paths)),
    ):
        error = found.std(0) / 400**0.5
        assert bool(((found.mean(0) - expected).abs() <= 4 * error + 1e-12).all())
