"""tests.reference.tabular_policy_gradient: its closed forms against derivatives of the exact objective, and what each misses."""

import pytest
import torch

from tests.reference.tabular_policy_gradient import (
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

CASES = [(2, 2, 3, 1.0), (3, 2, 3, 0.9), (3, 2, 2, 0.5), (2, 3, 3, 0.99)]
WRITTEN = {
    "transitions": [[[0.1, 0.9], [0.7, 0.3]], [[0.5, 0.5], [0.2, 0.8]]],
    "rewards": [[1.0, 0.0], [-0.5, 2.0]],
    "theta": [[0.2, -0.3], [0.5, 0.1]],
}


def written(horizon, discount=0.9, rewards=WRITTEN["rewards"], transitions=WRITTEN["transitions"]):
    """theta and all trajectories of a MDP of two states and two actions in plain numbers."""
    transitions, rewards, theta = (
        torch.tensor(each, dtype=torch.float64) for each in (transitions, rewards, WRITTEN["theta"])
    )
    return theta, all_trajectories(transitions, rewards, horizon, discount)


@pytest.mark.parametrize("case", CASES)
def test_trajectories_are_all_there_are(case):
    num_states, num_actions, horizon, _ = case
    theta, paths = drawn(*case)
    assert len(paths.chance) == num_actions**horizon * num_states ** (horizon - 1)
    assert float(probabilities(theta, paths).sum()) == pytest.approx(1, abs=1e-14)


def test_objective_by_hand():
    """Two states: action 0 stays and earns 1, action 1 goes on to state 1, where nothing but 4 for action 0 is to be had."""
    transitions = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], dtype=torch.float64)
    rewards = torch.tensor([[1, 0], [4, 0]], dtype=torch.float64)
    paths = all_trajectories(transitions, rewards, 2, 0.5)
    theta = torch.tensor([[0, 3], [1, 1]], dtype=torch.float64).log().nan_to_num(neginf=-800.0)
    assert float(objective(theta, paths)) == pytest.approx(0 + 0.5 * 2, abs=1e-14)
    theta = torch.tensor([[1, 3], [1, 1]], dtype=torch.float64).log()
    assert float(objective(theta, paths)) == pytest.approx(0.25 * (1 + 0.5 * 0.25) + 0.75 * 0.5 * 2, abs=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_first_derivative_is_the_policy_gradient(case):
    theta, paths = drawn(*case)
    assert difference(expected_first(theta, paths), gradient(theta, paths).flatten()) < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_dice_has_the_exact_hessian(case):
    theta, paths = drawn(*case)
    exact = hessian(theta, paths)
    assert difference(expected_second("dice", theta, paths), exact) < 1e-10
    assert difference(expected_second("likelihood_ratio", theta, paths), exact) > 0.1
    assert difference(expected_second("log_prob", theta, paths), exact) > 2


def test_how_far_the_others_are_from_it():
    """Relative: of the Hessian, and of the meta-gradient of a step of 0.5. Without a baseline log pi is worse than no Hessian."""
    theta, paths = written(horizon=3)
    exact, (_, meta) = hessian(theta, paths), meta_gradient(theta, paths, 0.5, paths)
    for name, of_hessian, of_meta_gradient in (
        ("dice", 0.0, 0.0),
        ("likelihood_ratio", 0.550085, 0.077194),
        ("log_prob", 1.951118, 0.372562),
    ):
        second = expected_second(name, theta, paths)
        assert difference(second, exact) == pytest.approx(of_hessian, abs=1e-6)
        found = meta_gradient_with(second, theta, paths, 0.5, paths)
        assert difference(found, meta) == pytest.approx(of_meta_gradient, abs=1e-6)
    first_order = meta_gradient_with(torch.zeros_like(exact), theta, paths, 0.5, paths)
    assert difference(first_order, meta) == pytest.approx(0.167410, abs=1e-6)


@pytest.mark.parametrize("case", [(1, 3, 1, 1.0), (3, 3, 1, 1.0)])
def test_at_horizon_1_the_likelihood_ratio_has_it_too_and_log_prob_has_not(case):
    theta, paths = drawn(*case)
    exact = hessian(theta, paths)
    assert difference(expected_second("likelihood_ratio", theta, paths), exact) < 1e-10
    assert difference(expected_second("log_prob", theta, paths), exact) > 1


def test_the_likelihood_ratio_has_it_wherever_actions_do_not_choose_the_way():
    """Scores of different steps are then uncorrelated with all that comes later."""
    theta, paths = written(horizon=3, transitions=[[[0.1, 0.9]] * 2, [[0.5, 0.5]] * 2])
    assert difference(expected_second("likelihood_ratio", theta, paths), hessian(theta, paths)) < 1e-10


def test_rewards_that_nothing_changes_bend_log_prob_alone():
    """J is then constant, and all its derivatives 0. Only log pi has a second one: minus the Fisher matrix for each step to go."""
    theta, paths = written(horizon=2, discount=1.0, rewards=[[1.0, 1.0], [1.0, 1.0]])
    for name in ("dice", "likelihood_ratio"):
        assert float(expected_second(name, theta, paths).abs().max()) < 1e-14
    p, q = theta.softmax(1)
    visited = p[0] * 0.1 + p[1] * 0.7  # probability of state 0 at the second step
    fisher = [p[0] * p[1], q[0] * q[1]]
    by_hand = torch.block_diag(*(share * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double() for share in fisher))
    by_hand = -by_hand * torch.tensor([2 + visited] * 2 + [1 - visited] * 2).double()[:, None]
    assert difference(expected_second("log_prob", theta, paths), by_hand) < 1e-12


def test_log_prob_by_hand():
    """Two arms of reward 1 and 3, chosen evenly: J bends neither way there, but log pi has minus half of [[1, -1], [-1, 1]]."""
    paths = all_trajectories(torch.ones(1, 2, 1).double(), torch.tensor([[1.0, 3.0]]).double(), 1, 1.0)
    theta = torch.zeros(1, 2).double()
    expected = -0.5 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    assert torch.allclose(expected_second("log_prob", theta, paths), expected, rtol=0, atol=1e-15)
    assert float(hessian(theta, paths).abs().max()) < 1e-15


@pytest.mark.parametrize("case", CASES)
def test_meta_gradient_is_the_chain_rule_with_the_hessian(case):
    """And the difference quotient of the meta-objective, along a direction."""
    theta, paths = drawn(*case)
    _, other = drawn(*case, seed=1)
    _, found = meta_gradient(theta, paths, 0.3, other)
    assert difference(meta_gradient_with(hessian(theta, paths), theta, paths, 0.3, other), found) < 1e-10
    ways, width = torch.linspace(-1, 2, theta.numel()).double().view_as(theta), 1e-5
    ahead, behind = (
        objective(adapted((theta + sign * width * ways).requires_grad_(), paths, 0.3), other).detach()
        for sign in (1, -1)
    )
    assert float((ahead - behind) / (2 * width)) == pytest.approx(float((found * ways).sum()), rel=1e-7)
