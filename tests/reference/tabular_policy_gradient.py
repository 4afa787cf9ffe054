"""Policy gradients of a small tabular MDP, exactly: every trajectory is written down, and nothing is drawn.

    pi(a | s) = softmax(theta[s])[a]
    P(tau)    = product over t of  pi(a_t | s_t) P(s_t+1 | s_t, a_t),   from state 0
    J(theta)  = sum over tau of  P(tau) sum over t of  discount^t r(s_t, a_t)
    inner:      phi = theta + step_size * dJ / d theta
    outer:      J(phi)

What an estimate from episodes is in expectation, by hand: let g_t and h_t be the first and second derivative of
log pi(a_t | s_t), G_t and H_t the sums of them up to t, r_t the discounted reward and A_t the sum of the rewards from t on. A
surrogate's first derivative where the episodes are drawn is E[ sum_t g_t A_t ] = dJ / d theta, and its second

    log_prob           log pi A                              E[ sum_t h_t A_t ]
    likelihood_ratio   pi / stop(pi) A                       E[ sum_t (h_t + g_t g_t') A_t ]
    dice               product_{t' <= t} pi / stop(pi) r     E[ sum_t (H_t + G_t G_t') r_t ]  =  d2J / d theta2

Source: Foerster et al. 2018 (DiCE); Rothfuss et al. 2019 (ProMP), sections 4 and 5.
"""

import itertools
from dataclasses import dataclass

import torch

SURROGATES = ("likelihood_ratio", "log_prob", "dice")


@dataclass
class Trajectories:
    """All N of them, of T steps: states and actions [N, T]; discounted rewards [N, T]; chance [N], of the transitions alone."""

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    chance: torch.Tensor

    @property
    def advantages(self):
        """Discounted rewards to go, sum over t' >= t of discount^t' r_t' [N, T]: without a baseline."""
        return torch.stack([self.rewards[:, t:].sum(1) for t in range(self.rewards.shape[1])], 1)


def all_trajectories(transitions, rewards, horizon, discount):
    """Of a MDP with transitions [S, A, S] and rewards [S, A]."""
    num_states, num_actions = rewards.shape
    found = []
    for actions in itertools.product(range(num_actions), repeat=horizon):
        for later in itertools.product(range(num_states), repeat=horizon - 1):
            states = (0, *later)
            chance, earned = torch.ones((), dtype=rewards.dtype), []
            for t in range(horizon):
                earned.append(discount**t * rewards[states[t], actions[t]])
                if t + 1 < horizon:
                    chance = chance * transitions[states[t], actions[t], states[t + 1]]
            found.append((torch.tensor(states), torch.tensor(actions), torch.stack(earned), chance))
    return Trajectories(*(torch.stack(column) for column in zip(*found, strict=True)))


def probabilities(theta, paths):
    """P(tau) [N]."""
    policy = theta.softmax(1)
    return paths.chance * policy[paths.states, paths.actions].prod(1)


def objective(theta, paths):
    """J."""
    return probabilities(theta, paths) @ paths.rewards.sum(1)


def gradient(theta, paths, create_graph=False):
    """dJ / d theta [S, A]."""
    theta = theta if create_graph else theta.detach().requires_grad_()
    return torch.autograd.grad(objective(theta, paths), theta, create_graph=create_graph)[0]


def hessian(theta, paths):
    """d2J / d theta2 [D, D], D = S A, theta row by row."""
    flat = torch.autograd.functional.hessian(lambda vector: objective(vector.view_as(theta), paths), theta.flatten())
    return (flat + flat.T) / 2


def adapted(theta, paths, step_size):
    """phi [S, A], as a function of theta."""
    return theta + step_size * gradient(theta, paths, create_graph=True)


def meta_gradient(theta, paths, step_size, query_paths):
    """J(phi(theta)) of `query_paths`, and its gradient in theta [S, A]."""
    theta = theta.detach().requires_grad_()
    value = objective(adapted(theta, paths, step_size), query_paths)
    return value.detach(), torch.autograd.grad(value, theta)[0]


def meta_gradient_with(second, theta, paths, step_size, query_paths):
    """(I + step_size * second) dJ / d phi [S, A]: what the meta-gradient becomes with `second` [D, D] for d2J / d theta2."""
    phi = (theta + step_size * gradient(theta, paths)).detach()
    outer = gradient(phi, query_paths).flatten()
    return (outer + step_size * second.T @ outer).view_as(theta)


def score(theta, state, action):
    """d log pi(action | state) / d theta [D]: the unit vector of the action less the policy, in the row of the state."""
    g = torch.zeros_like(theta)
    g[state] = -theta[state].softmax(0)
    g[state, action] += 1
    return g.flatten()


def curvature_of_log_pi(theta, state):
    """d2 log pi(action | state) / d theta2 [D, D]: -(diag(p) - p p') in the block of the state, whatever the action."""
    h = torch.zeros(*theta.shape, *theta.shape, dtype=theta.dtype)
    p = theta[state].softmax(0)
    h[state, :, state, :] = p[:, None] * p[None, :] - torch.diag(p)
    return h.reshape(theta.numel(), theta.numel())


def expected_first(theta, paths):
    """Of every surrogate, [D]."""
    weight, total = probabilities(theta, paths), 0.0
    for n, (states, actions) in enumerate(zip(paths.states, paths.actions, strict=True)):
        for t, (state, action) in enumerate(zip(states, actions, strict=True)):
            total = total + weight[n] * paths.advantages[n, t] * score(theta, state, action)
    return total


def expected_second(surrogate, theta, paths):
    """Of one of `SURROGATES`, [D, D]."""
    weight, advantages, total = probabilities(theta, paths), paths.advantages, 0.0
    for n, (states, actions) in enumerate(zip(paths.states, paths.actions, strict=True)):
        all_g, all_h = 0.0, 0.0
        for t, (state, action) in enumerate(zip(states, actions, strict=True)):
            g, h = score(theta, state, action), curvature_of_log_pi(theta, state)
            all_g, all_h = all_g + g, all_h + h
            total = (
                total
                + weight[n]
                * {
                    "log_prob": h * advantages[n, t],
                    "likelihood_ratio": (h + g[:, None] * g) * advantages[n, t],
                    "dice": (all_h + all_g[:, None] * all_g) * paths.rewards[n, t],
                }[surrogate]
            )
    return total


def drawn(num_states, num_actions, horizon, discount, seed=0):
    """theta [S, A] and all trajectories of a MDP drawn as RL^2's."""
    generator = torch.Generator().manual_seed(seed)
    weights = -torch.rand(num_states, num_actions, num_states, generator=generator, dtype=torch.float64).log()
    rewards = 1 + torch.randn(num_states, num_actions, generator=generator, dtype=torch.float64)
    theta = torch.randn(num_states, num_actions, generator=generator, dtype=torch.float64)
    return theta, all_trajectories(weights / weights.sum(-1, keepdim=True), rewards, horizon, discount)


def difference(found, exact):
    """Relative, by Frobenius' norm."""
    return float((found - exact).norm() / exact.norm())
