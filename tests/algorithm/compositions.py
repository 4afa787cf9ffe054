"""The choices of which a composition is made, as `conf/` offers them; which contradict each other; parts and problems of them.

A composition has six choices: inner solver, meta-gradient (the implicit ones with their linear solver), direction, lambda (with
how it is learned), which parameters are adapted, and the problem. `ILLEGAL` says which two of them contradict each other, and
why; a composition is legal exactly when all its pairs are.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor

from metarun import rng
from metarun.algorithm import Algorithm
from metarun.algorithm.direction.metric.products import POINTS
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.proximal import LEARNED
from metarun.configuration.config_folder import config_folder, groups
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.classification import Classification
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch
from tests.reference import curvature, kronecker
from tests.training.small import configuration

GROUPS = groups(config_folder())
SOLVERS = GROUPS["algorithm/meta_gradient/solver"]
INNER = tuple(GROUPS["algorithm/inner"])
META_GRADIENTS = tuple(
    f"{name} {solver}".strip()
    for name in GROUPS["algorithm/meta_gradient"]
    for solver in (SOLVERS if name.startswith("implicit") else [""])
)
METRICS = {  # as conf has them, and the values of one key of theirs
    "step_tasks": ("point", POINTS),
    "fresh_tasks": ("point", ["phi"]),
    "kfac": ("corrected", ["false", "true"]),
    "task_empirical": ("", [""]),
}
DIRECTIONS = tuple(
    name for name in GROUPS["algorithm/direction"]
    if name not in ("natural_gradient", "clipped_steps")  # that is for data that are collected (test_repeated_steps.py)
) + tuple(f"natural_gradient {metric} {value}".strip() for metric, (_, values) in METRICS.items() for value in values)  # fmt: skip
VALUES = {"0": 0.0, "2": 2.0, "by layer": {"*.3.*": 1.5, "*": 3.0}}
WEIGHTS = tuple(f"{value}, {learned}" for value in VALUES for learned in LEARNED)
_BODY, _HEAD = ["layers.1.weight", "layers.1.bias"], ["layers.3.weight", "layers.3.bias"]
ADAPTED = {"all": [*_BODY, *_HEAD], "head": _HEAD, "body": _BODY, "context": ["layers.1.bias"]}
UNLEARNED = {"context": ["layers.1.bias"]}
PROBLEMS = ("classification", "regression")
AXES = (INNER, META_GRADIENTS, DIRECTIONS, WEIGHTS, tuple(ADAPTED), PROBLEMS)

# ---- what contradicts what -------------------------------------------------------------------------------------------

NEWTON = ("newton_cg", "newton_cg_martens")
RATES = ("learned_rates", "learned_rates_5")
COMPUTED = ("prototypes", "ridge_head")
IMPLICIT = tuple(name for name in META_GRADIENTS if name.startswith("implicit"))
NATURAL = tuple(name for name in DIRECTIONS if name.startswith("natural_gradient") or name == "trust_region")
PULLED_BACK = ("natural_gradient step_tasks pullback", "trust_region")
WITHOUT = tuple(weight for weight in WEIGHTS if weight.startswith("0"))
TO_LEARN = tuple(weight for weight in WEIGHTS if not weight.endswith("never"))
CONTRADICTORY = ("0, scalar", "0, layer", "0, parameter", "by layer, scalar")

ILLEGAL = (
    # An early end is no differentiable function of theta, and Newton's steps are not -alpha times a gradient.
    (NEWTON, ("unrolled", "multi_step_loss", "recursion", "hessian_free")),
    # The recursion's factors I - alpha H are those of equal steps on the objective; a step on the proximal term alone is another.
    # So are steps of sizes that a search finds.
    (("pull_back_16", "backtracking_descent"), ("recursion", "hessian_free")),
    (RATES, ("recursion", "hessian_free")),
    # A stationary point does not depend on step sizes (their implicit gradient is 0); an identity or a displacement knows none.
    (RATES, (*IMPLICIT, "first_order", "reptile")),
    # A computed head is no step from theta's head: no displacement, no identity, no stationary point, no path.
    (
        COMPUTED,
        (*IMPLICIT, "first_order", "reptile", "recursion", "hessian_free", "multi_step_loss"),
    ),
    (COMPUTED, tuple(weight for weight in WEIGHTS if weight != "0, never")),
    (COMPUTED, ("head", "body", "context")),
    (COMPUTED, ("regression",)),
    # phi is a function of theta through the proximal term: without it nothing holds phi near theta.
    (IMPLICIT, WITHOUT),
    # lambda = exp(rho) is never 0, and one number cannot start from several.
    (CONTRADICTORY, tuple(ADAPTED)),
    # With d phi / d theta = I, or with nothing differentiated, lambda has no gradient; the recursion is that of theta alone.
    (("first_order", "reptile", "recursion", "hessian_free"), TO_LEARN),
    # A displacement is no gradient, and nothing is none: there is nothing to turn.
    (("none", "reptile"), NATURAL),
    # A Fisher matrix is one of the model's parameters; it has no rows for step sizes and lambda.
    ((*RATES, "ridge_head"), NATURAL),
    (TO_LEARN, NATURAL),
    # The pull-back needs P = d phi / d theta: a sum over steps has no one phi, the recursion has P' alone; P has no rows of a
    # context.
    (("recursion", "hessian_free", "multi_step_loss"), PULLED_BACK),
    (("context",), PULLED_BACK),
)  # fmt: skip
ILLEGAL_TRIPLE = (PULLED_BACK, IMPLICIT, ("head", "body"))
"""The implicit Jacobian is that of the adapted parameters in themselves; the one rule about three choices."""


def on_axis(options: tuple[str, ...]) -> list[tuple[int, str]]:
    """With the number of the axis that they are on."""
    (axis,) = (number for number, axis in enumerate(AXES) if set(options) <= set(axis))
    return [(axis, option) for option in options]


FORBIDDEN = frozenset(
    tuple(sorted(pair)) for these, those in ILLEGAL for pair in itertools.product(on_axis(these), on_axis(those))
) | {
    # Without inner steps nothing tells which label is which. ("none" is a meta-gradient, too: the axes are named.)
    ((AXES.index(INNER), "none"), (AXES.index(PROBLEMS), "classification"))
}


def pairs(composition: tuple[str, ...]) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    return itertools.combinations(enumerate(composition), 2)


def is_legal(composition: tuple[str, ...]) -> bool:
    is_triple = all(any(option in composition for option in options) for options in ILLEGAL_TRIPLE)
    return FORBIDDEN.isdisjoint(pairs(composition)) and not is_triple


ALL = tuple(itertools.product(*AXES))
LEGAL = tuple(composition for composition in ALL if is_legal(composition))

# ---- the parts -------------------------------------------------------------------------------------------------------

SIZE = 15  # parameters of the larger net
SCALE = ("dataset.adaptation.steps=3", "dataset.adaptation.step_size=0.2", "dataset.adaptation.proximal_step_size=0.2")
EXACT = {"steps": 3 * SIZE, "rtol": 1e-14}
CHANGES = MappingProxyType(
    {"cg": EXACT, "cg_official": EXACT | {"atol": 0.0}, "minres": EXACT, "step_tasks": EXACT, "kfac": {"samples": None}}
    | {"fresh_tasks": EXACT | {"num_fresh_tasks": 2}, "trust_region": EXACT | {"damping": 0.01}}
)
STEP = 500  # a quarter of the way of multi_step_loss's annealing


@functools.cache
def settings(*choices: str) -> dict:
    return configuration(*SCALE, "algorithm.proximal_weight=2", *choices)["algorithm"]


@functools.cache
def inner_of(option: str):
    # With a meta-gradient that goes with every solver.
    return instantiate(settings("algorithm/meta_gradient=none", f"algorithm/inner={option}")["inner"], _convert_="all")


@functools.cache
def meta_gradient_of(option: str):
    name, _, solver = option.partition(" ")
    if not solver:
        return instantiate(settings(f"algorithm/meta_gradient={name}")["meta_gradient"], _convert_="all")
    node = settings(f"algorithm/meta_gradient={name}", f"algorithm/meta_gradient/solver={solver}")["meta_gradient"]
    return instantiate(node | {"solver": node["solver"] | CHANGES.get(solver, {})}, _convert_="all")


@functools.cache
def direction_of(option: str):
    name, _, rest = option.partition(" ")
    if not rest:
        node = settings(f"algorithm/direction={name}")["direction"]
        return instantiate(node | CHANGES.get(name, {}), _convert_="all")
    metric, _, value = rest.partition(" ")
    key, _ = METRICS[metric]
    node = settings(f"algorithm/direction={name}", f"algorithm/direction/metric={metric}")["direction"]
    turned = {key: {"false": False, "true": True}.get(value, value)} if key else {}
    changes = {"damping": 0.01, "metric": node["metric"] | CHANGES.get(metric, {}) | turned}
    return instantiate(node | changes, _convert_="all")


def compose(composition: tuple[str, ...]) -> Algorithm:
    """The algorithm, which fits its problem.

    Raises:
        ValueError: it makes no sense.
    """
    inner, meta_gradient, direction, weight, adapted, problem = composition
    value, _, learned = weight.partition(", ")
    algorithm = Algorithm(
        inner=inner_of(inner),
        meta_gradient=meta_gradient_of(meta_gradient),
        direction=direction_of(direction),
        proximal_weight=VALUES[value],
        learn_proximal_weight=learned,
        adapted=ADAPTED[adapted] if adapted in UNLEARNED else adapted,
        not_meta_learned=UNLEARNED.get(adapted, []),
    )
    algorithm.check(setting(problem).problem, setting(problem).theta)
    return algorithm


# ---- the problems ----------------------------------------------------------------------------------------------------


def forward(params, inputs):
    """The net by hand: one hidden layer."""
    hidden = torch.tanh(F.linear(inputs, params["layers.1.weight"], params["layers.1.bias"]))
    return F.linear(hidden, params["layers.3.weight"], params["layers.3.bias"])


def examples(generator: torch.Generator, targets: Tensor, width: int) -> Examples:
    inputs = torch.randn(*targets.shape[:2], width, generator=generator)
    if targets.dim() == 2:  # class ids: classes lie apart
        inputs = inputs + 2 * F.one_hot(targets)[..., :width]
    return Examples(inputs, targets)


@dataclass(frozen=True)
class Setting:
    """A net, two tasks, and what a naive algorithm must know of them."""

    problem: Classification | Regression
    theta: dict[str, Tensor]
    tasks: TaskBatch
    loss: Callable[[Tensor, Tensor], Tensor]
    fisher: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor], Tensor]

    def each(self) -> Iterator[tuple[Tensor, ...]]:
        support, query = self.tasks.support, self.tasks.query
        return zip(support.inputs, support.targets, query.inputs, query.targets, strict=True)


def softmax_divergence(outputs, reference):
    return F.kl_div(F.log_softmax(outputs, -1), F.log_softmax(reference, -1), reduction="batchmean", log_target=True)


@functools.cache
def setting(kind: str) -> Setting:
    generator = torch.Generator().manual_seed(3)
    width, outputs = (2, 3) if kind == "classification" else (1, 1)
    with rng.seeded_construction(1, "test"):
        net = MLP(input_shape=(width,), num_outputs=outputs, hidden=(2,), activation="tanh")
    learner = Learner(net, head="layers.3")
    learner.to("cpu", torch.float64)
    if kind == "classification":
        targets = torch.arange(3).expand(2, -1), torch.arange(3).repeat(2).expand(2, -1)
        problem, loss, fisher = Classification(learner), F.cross_entropy, curvature.fisher_of_softmax
        divergence, metric = softmax_divergence, kronecker.metric_of_softmax
    else:
        targets = tuple(torch.randn(2, size, 1, generator=generator) for size in (4, 3))
        problem, loss, fisher = Regression(learner), F.mse_loss, curvature.fisher_of_gaussian
        divergence, metric = F.mse_loss, kronecker.metric_of_gaussian
    tasks = TaskBatch(*(examples(generator, target, width) for target in targets), {})
    theta = {name: torch.randn(leaf.shape, generator=generator) for name, leaf in learner.init().items()}
    return Setting(problem, theta, tasks, loss, fisher, divergence, metric)


def meta_parameters(algorithm: Algorithm, kind: str) -> MetaParameters:
    """As a run starts them, then each learned rate and lambda by itself turned a little away from the others."""
    generator = torch.Generator().manual_seed(4)
    model = setting(kind).theta
    theta = algorithm.meta_parameters(setting(kind).problem, model)
    turned = {n: 0.8 + 0.4 * torch.rand(leaf.shape, generator=generator) for n, leaf in theta.items() if n not in model}
    return theta.updated({name: theta[name] * factor for name, factor in turned.items()})
