"""Every part beside every other, as `conf/` offers them: legal compositions match naive ones, the others are refused in words.

A composition has six choices: inner solver, meta-gradient (the implicit ones with their linear solver), direction, lambda (with
how it is learned), which parameters are adapted, and the problem. `ILLEGAL` says which two of them contradict each other, and
why; a composition is legal exactly when all its pairs are.

The references of `tests/reference` adapt one task at a time with plain autograd and form every matrix. Truncated solvers are
asked for as many steps as make them exact; Richardson's iteration is compared with as many steps of itself.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor

from metarun import rng
from metarun.algorithm import Algorithm
from metarun.algorithm.natural_gradient import POINTS
from metarun.algorithm.proximal import LEARNED
from metarun.config_folder import config_folder, groups
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.classification import Classification
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch
from tests.reference import curvature, gradient_steps, implicit_function, natural_gradient, newton_cg, prototypes
from tests.reference.imaml import flat, named
from tests.train.small import configuration

pytestmark = pytest.mark.usefixtures("float64")

GROUPS = groups(config_folder())
SOLVERS = GROUPS["algorithm/meta_gradient/solver"]
INNER = tuple(GROUPS["algorithm/inner"])
META_GRADIENTS = tuple(
    f"{name} {solver}".strip()
    for name in GROUPS["algorithm/meta_gradient"]
    for solver in (SOLVERS if name.startswith("implicit") else [""])
)
DIRECTIONS = tuple(
    f"{name} {point}".strip()
    for name in GROUPS["algorithm/direction"]
    for point in (POINTS if name == "natural_gradient" else [""])
)
VALUES = {"0": 0.0, "2": 2.0, "by layer": {"*.3.*": 1.5, "*": 3.0}}
WEIGHTS = tuple(f"{value}, {learned}" for value in VALUES for learned in LEARNED)
ADAPTED = {"all": (1, 3), "head": (3,), "body": (1,)}
PROBLEMS = ("classification", "regression")
AXES = (INNER, META_GRADIENTS, DIRECTIONS, WEIGHTS, tuple(ADAPTED), PROBLEMS)

# ---- what contradicts what -------------------------------------------------------------------------------------------

NEWTON = ("newton_cg", "newton_cg_martens")
RATES = ("learned_rates", "learned_rates_5")
IMPLICIT = tuple(name for name in META_GRADIENTS if name.startswith("implicit"))
NATURAL = tuple(name for name in DIRECTIONS if name.startswith("natural_gradient"))
WITHOUT = tuple(weight for weight in WEIGHTS if weight.startswith("0"))
TO_LEARN = tuple(weight for weight in WEIGHTS if not weight.endswith("never"))
CONTRADICTORY = ("0, scalar", "0, layer", "0, parameter", "by layer, scalar")

ILLEGAL = (
    # An early end is no differentiable function of theta, and Newton's steps are not -alpha times a gradient.
    (NEWTON, ("unrolled", "multi_step_loss", "recursion", "hessian_free")),
    # The recursion's factors I - alpha H are those of equal steps on the objective; a step on the proximal term alone is another.
    # So are steps of sizes that a search finds.
    (("pull_back_16", "backtracking_descent"), ("recursion", "hessian_free", "multi_step_loss")),
    (RATES, ("recursion", "hessian_free")),
    # A stationary point does not depend on step sizes (their implicit gradient is 0); an identity or a displacement knows none.
    (RATES, (*IMPLICIT, "first_order", "reptile")),
    # A head of class means is no step from theta's head: no displacement, no identity, no stationary point, no path.
    (
        ("prototypes",),
        (*IMPLICIT, "first_order", "reptile", "recursion", "hessian_free", "multi_step_loss"),
    ),
    (("prototypes",), tuple(weight for weight in WEIGHTS if weight != "0, never")),
    (("prototypes",), ("head", "body")),
    (("prototypes",), ("regression",)),
    # phi is a function of theta through the proximal term: without it nothing holds phi near theta.
    (IMPLICIT, WITHOUT),
    # lambda = exp(rho) is never 0, and one number cannot start from several.
    (CONTRADICTORY, tuple(ADAPTED)),
    # With d phi / d theta = I, or with nothing differentiated, lambda has no gradient; the recursion is that of theta alone.
    (("first_order", "reptile", "recursion", "hessian_free"), TO_LEARN),
    # A displacement is no gradient, and nothing is none: there is nothing to turn.
    (("none", "reptile"), NATURAL),
    # A Fisher matrix is one of the model's parameters; it has no rows for step sizes and lambda.
    (RATES, NATURAL),
    (TO_LEARN, NATURAL),
    # The pull-back needs P = d phi / d theta: a sum over steps has no one phi, the recursion has P' alone; P has no frozen rows.
    (("recursion", "hessian_free", "multi_step_loss"), ("natural_gradient pullback",)),
    (("head", "body"), ("natural_gradient pullback",)),
)  # fmt: skip


def on_axis(options: tuple[str, ...]) -> list[tuple[int, str]]:
    """With the number of the axis that they are on."""
    (axis,) = (number for number, axis in enumerate(AXES) if set(options) <= set(axis))
    return [(axis, option) for option in options]


FORBIDDEN = frozenset(
    tuple(sorted(pair)) for these, those in ILLEGAL for pair in itertools.product(on_axis(these), on_axis(those))
)


def pairs(composition: tuple[str, ...]) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    return itertools.combinations(enumerate(composition), 2)


def is_legal(composition: tuple[str, ...]) -> bool:
    return FORBIDDEN.isdisjoint(pairs(composition))


ALL = tuple(itertools.product(*AXES))
LEGAL = tuple(composition for composition in ALL if is_legal(composition))

# ---- the parts -------------------------------------------------------------------------------------------------------

SIZE = 15  # parameters of the larger net
SCALE = ("dataset.adaptation.steps=3", "dataset.adaptation.step_size=0.2", "dataset.adaptation.proximal_step_size=0.2")
EXACT = {"steps": 3 * SIZE, "rtol": 1e-14}
CHANGES = MappingProxyType(
    {"cg": EXACT, "cg_official": EXACT | {"atol": 0.0}, "minres": EXACT, "natural_gradient": EXACT}
)
RTOL = 1e-10  # rounding of float64, through linear systems of condition 100 and less
# Central differences in steps d of 6e-6 (1 + |phi|): d^2 of truncation and 1e-16 / d of rounding, 4e-11 each, in every inner step
# and through the Fisher matrix's inverse.
DIFFERENCES_RTOL = 1e-7
# Undamped Newton steps without a proximal term have singular matrices: 1e-15 more in theta is 1e-8 in phi, in the reference too.
NEWTON_RTOL = 1e-5
# g g' + damping I has condition 2e5 where a gradient is 61 long and the damping 0.01, in the dense solve as by Woodbury.
TASK_EMPIRICAL_RTOL = 1e-8
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
    name, _, point = option.partition(" ")
    node = settings(f"algorithm/direction={name}")["direction"] | CHANGES.get(name, {})
    return instantiate(node | ({"point": point} if point else {}), _convert_="all")


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
        adapted=adapted,
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

    def each(self) -> Iterator[tuple[Tensor, ...]]:
        support, query = self.tasks.support, self.tasks.query
        return zip(support.inputs, support.targets, query.inputs, query.targets, strict=True)


@functools.cache
def setting(kind: str) -> Setting:
    generator = torch.Generator().manual_seed(3)
    width, outputs = (2, 3) if kind == "classification" else (1, 1)
    with rng.seeded_construction(1, "test"):
        learner = Learner(MLP(input_shape=(width,), num_outputs=outputs, hidden=(2,), activation="tanh"))
    learner.to("cpu", torch.float64)
    if kind == "classification":
        targets = torch.arange(3).expand(2, -1), torch.arange(3).repeat(2).expand(2, -1)
        problem, loss, fisher = Classification(learner), F.cross_entropy, curvature.fisher_of_softmax
    else:
        targets = tuple(torch.randn(2, size, 1, generator=generator) for size in (4, 3))
        problem, loss, fisher = Regression(learner), F.mse_loss, curvature.fisher_of_gaussian
    tasks = TaskBatch(*(examples(generator, target, width) for target in targets), {})
    theta = {name: torch.randn(leaf.shape, generator=generator) for name, leaf in learner.init().items()}
    return Setting(problem, theta, tasks, loss, fisher)


def meta_parameters(algorithm: Algorithm, model: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a run starts them, then each learned rate and lambda by itself turned a little away from the others."""
    generator = torch.Generator().manual_seed(4)
    theta = algorithm.meta_parameters(model)
    turned = {n: 0.8 + 0.4 * torch.rand(leaf.shape, generator=generator) for n, leaf in theta.items() if n not in model}
    return theta | {name: theta[name] * factor for name, factor in turned.items()}


# ---- the naive composition -------------------------------------------------------------------------------------------


class NaiveTask:
    """One task adapted from theta by an inner solver written down naively; everything is in the leaves of `theta`."""

    def __init__(self, inner: str, weight: str, adapted: str, kind: str, theta, task) -> None:
        self.setting, self.task, inputs, targets = setting(kind), task, task[0], task[1]
        self.theta = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
        self.model = {name: self.theta[name] for name in self.setting.theta}
        names = [f"layers.{layer}.{leaf}" for layer in ADAPTED[adapted] for leaf in ("weight", "bias")]
        self.anchor = {name: self.model[name] for name in names}
        self.frozen = {name: leaf for name, leaf in self.model.items() if name not in names}
        value, _, self.learned = weight.partition(", ")
        self.weight = {name: self.weight_of(name, VALUES[value]) for name in names}
        self.path = self.adapt(inner, inner_of(inner), inputs, targets)
        self.phi = {name: leaf.detach() for name, leaf in self.path[-1].items()}

    def rho_name(self, name):
        return "proximal_weight/" + ("all" if self.learned == "scalar" else name)

    def weight_of(self, name, value):
        if self.learned != "never":
            return self.theta[self.rho_name(name)].exp()
        if isinstance(value, dict):
            return value["*.3.*"] if ".3." in name else value["*"]
        return value

    def outputs(self, params, inputs):
        return forward(self.model | params, inputs)

    def support_loss(self, params):
        return self.setting.loss(self.outputs(params, self.task[0]), self.task[1])

    def query_loss(self, params):
        return self.setting.loss(self.outputs(params, self.task[2]), self.task[3])

    def adapt(self, name, solver, inputs, targets):
        if name == "prototypes":
            params = self.anchor | {"layers.3.weight": torch.eye(2), "layers.3.bias": torch.zeros(2)}
            weight, bias = prototypes.head_of_prototypes(self.outputs(params, inputs), targets, 3)
            return [self.anchor | {"layers.3.weight": weight, "layers.3.bias": bias}]
        if name in NEWTON:
            return [self.anchor, named(self.newton(solver), self.anchor)]
        rates = {n.removeprefix("inner/step_size/"): leaf for n, leaf in self.theta.items() if n.startswith("inner/")}
        searched = self.searched_rates(solver) if name == "backtracking_descent" else None

        def rate(leaf, step):
            if searched:
                return searched[step]
            if name == "learned_rates_5":
                return rates[leaf][step]
            return rates[leaf] if rates else solver.step_size

        descend = gradient_steps.descend_and_pull_back if name == "pull_back_16" else gradient_steps.descend
        return descend(self.support_loss, self.anchor, self.weight, rate, steps=solver.steps)

    def objective(self, phi):
        """Of the inner problem, at a vector; theta as a constant."""
        theta, weight = flat(self.anchor.values()), self.raveled(self.weight)
        return self.support_loss(named(phi, self.anchor)) + (weight * (phi - theta) ** 2).sum() / 2

    def searched_rates(self, solver):
        known = {word: getattr(solver, word) for word in ("steps", "step_size", "max_backtracks")}
        return gradient_steps.searched_rates(self.objective, flat(self.anchor.values()).detach(), **known)

    def newton(self, solver):
        theta, weight = flat(self.anchor.values()), self.raveled(self.weight)
        with torch.no_grad():
            # Everything but the derivatives inside is without graph.
            differentiable = torch.enable_grad()(self.objective)
            words = ("steps", "cg_steps", "damping", "adapt_damping", "rtol", "progress_rtol", "warm_start")
            known = {word: getattr(solver, word) for word in (*words, "max_backtracks", "tolerance")}
            return newton_cg.newton_cg(
                differentiable,
                torch.enable_grad()(lambda phi: self.curvature("gauss_newton", phi)),
                theta,
                weight,
                **known,
            )

    def raveled(self, values):
        return torch.cat([(values[n] * torch.ones_like(leaf)).flatten() for n, leaf in self.anchor.items()]).detach()

    def curvature(self, kind, phi):
        """Of the support loss in the adapted parameters, at a vector."""
        if kind == "gauss_newton":
            return curvature.gauss_newton(
                lambda p: self.outputs(named(p, self.anchor), self.task[0]),
                lambda o: self.setting.loss(o, self.task[1]),
                phi,
            )
        return curvature.hessian(lambda p: self.support_loss(named(p, self.anchor)), phi)

    @functools.cache  # noqa: B019
    def jacobian(self, meta_gradient):
        """d phi / d theta of the adapted leaves."""
        if meta_gradient == "first_order":
            return torch.eye(len(flat(self.anchor.values())))
        if meta_gradient == "unrolled":
            phi = torch.cat([leaf.flatten() for leaf in self.path[-1].values()])
            columns = [curvature.rows(phi, leaf) for leaf in self.anchor.values()]
            return torch.cat(columns, dim=1)
        estimator = meta_gradient_of(meta_gradient)
        solver = meta_gradient.partition(" ")[2]
        return implicit_function.jacobian(
            self.curvature(estimator.curvature, flat(self.phi.values())),
            self.raveled(self.weight),
            damping=estimator.damping,
            identity=estimator.identity,
            offset=estimator.weight_offset,
            richardson=(estimator.solver.steps, estimator.solver.step_size)
            if solver in ("fixed_point", "neumann")
            else None,
        )

    @functools.cache  # noqa: B019
    def gradient(self, meta_gradient):
        """In every meta-parameter."""
        if meta_gradient in ("unrolled", "recursion", "hessian_free"):
            return self.differentiated(self.query_loss(self.path[-1]))
        if meta_gradient == "multi_step_loss":
            losses = [self.query_loss(phi) for phi in self.path[1:]] or [self.query_loss(self.path[-1])]
            early = (1 - STEP / meta_gradient_of(meta_gradient).annealed_over) / len(losses)
            return self.differentiated(
                sum(early * loss for loss in losses[:-1]) + (1 - early * (len(losses) - 1)) * losses[-1]
            )
        zero = {name: torch.zeros_like(leaf) for name, leaf in self.theta.items()}
        if meta_gradient == "none":
            return zero
        if meta_gradient == "first_order":
            leaves = {name: leaf.detach().requires_grad_() for name, leaf in (self.model | self.phi).items()}
            slopes = torch.autograd.grad(self.query_loss(leaves), list(leaves.values()))
            return zero | dict(zip(leaves, slopes, strict=True))
        if meta_gradient == "reptile":
            return zero | {name: (self.anchor[name] - leaf).detach() for name, leaf in self.phi.items()}
        theta, phi, frozen = (
            flat(leaves.values()) if leaves else torch.zeros(0) for leaves in (self.anchor, self.phi, self.frozen)
        )
        of_theta, of_frozen, of_weight = implicit_function.through_phi(
            lambda p, w: self.support_loss(named(p, self.anchor) | (named(w, self.frozen) if len(w) else {})),
            lambda p, w: self.query_loss(named(p, self.anchor) | (named(w, self.frozen) if len(w) else {})),
            phi, theta, frozen, self.raveled(self.weight), self.jacobian(meta_gradient),
        )  # fmt: skip
        result = zero | named(of_theta, self.anchor) | (named(of_frozen, self.frozen) if self.frozen else {})
        if self.learned != "never":
            for name, leaf in named(of_weight, self.anchor).items():  # d lambda / d rho = lambda
                rho = self.rho_name(name)
                result[rho] = result[rho] + (leaf * self.weight[name]).detach().sum_to_size(self.theta[rho].shape)
        return result

    def differentiated(self, loss):
        slopes = torch.autograd.grad(loss, list(self.theta.values()), retain_graph=True, materialize_grads=True)
        return dict(zip(self.theta, slopes, strict=True))

    @functools.cache  # noqa: B019
    def fisher(self, point):
        params = self.model if point == "theta" else self.model | self.phi
        params = {name: params[name].detach() for name in self.model}
        return self.setting.fisher(lambda p: self.outputs(named(p, params), self.task[2]), flat(params.values()))


def naive_direction(tasks: list[NaiveTask], meta_gradient: str, direction: str) -> dict[str, Tensor]:
    gradients = [task.gradient(meta_gradient) for task in tasks]
    mean = {name: torch.stack([gradient[name] for gradient in gradients]).mean(0) for name in gradients[0]}
    part, point = direction_of(direction), direction.partition(" ")[2]
    if not point:
        return mean
    if point == "task_empirical":
        metric = natural_gradient.of_tasks([flat(gradient.values()) for gradient in gradients])
    else:
        jacobians = [
            task.jacobian(meta_gradient) if point == "pullback" else torch.eye(len(flat(mean.values())))
            for task in tasks
        ]
        metric = natural_gradient.pulled_back([task.fisher(point) for task in tasks], jacobians)
    step = natural_gradient.natural_step(
        flat(mean.values()), metric, damping=part.damping, step_size=part.step_size, max_divergence=part.max_divergence
    )
    return named(step, mean)


@functools.lru_cache(maxsize=64)
def naive_tasks(inner: str, weight: str, adapted: str, kind: str) -> list[NaiveTask]:
    theta = meta_parameters(compose((inner, "none", "plain", weight, adapted, kind)), setting(kind).theta)
    return [NaiveTask(inner, weight, adapted, kind, theta, task) for task in setting(kind).each()]


def check(composition: tuple[str, ...]) -> None:
    """A meta step, with or without a cut into chunks, is what the naive composition says, in every meta-parameter."""
    inner, meta_gradient, direction, weight, adapted, kind = composition
    algorithm, here = compose(composition), setting(kind)
    theta = meta_parameters(algorithm, here.theta)
    estimate = algorithm.meta_step(
        theta, here.problem, here.tasks, {"classification": 1, "regression": 2}[kind], None, STEP
    )
    tasks = naive_tasks(inner, weight, adapted, kind)
    losses = torch.stack([task.query_loss(task.phi).detach() for task in tasks])
    rtol = NEWTON_RTOL if (inner, weight) == ("newton_cg", "0, never") else RTOL
    torch.testing.assert_close(
        estimate.query_loss, losses, rtol=rtol, atol=0, msg=lambda text: f"{composition}: {text}"
    )
    expected = naive_direction(tasks, meta_gradient, direction)
    assert list(estimate.gradient) == list(expected) == list(theta)
    if direction == "natural_gradient task_empirical":
        rtol = max(rtol, TASK_EMPIRICAL_RTOL)
    rtol = DIFFERENCES_RTOL if meta_gradient == "hessian_free" else rtol
    for name, leaf in expected.items():
        error = (estimate.gradient[name] - leaf).norm()
        assert error <= rtol * leaf.norm(), f"{composition}, {name}: relative error {error / leaf.norm():.1e}"


# ---- the tests -------------------------------------------------------------------------------------------------------


def covering() -> list[tuple[str, ...]]:
    """A few of the legal compositions, in which every legal pair of choices is met: the next always brings most that is new."""
    met: set = set()
    chosen = []
    shuffled = [LEGAL[i] for i in torch.randperm(len(LEGAL), generator=torch.Generator().manual_seed(0)).tolist()]
    for wanted in range(len(AXES) * (len(AXES) - 1) // 2, 0, -1):
        for composition in shuffled:
            if len(set(pairs(composition)) - met) >= wanted:
                chosen.append(composition)
                met.update(pairs(composition))
    return sorted(chosen)


@functools.cache
def covered() -> dict[tuple[str, str], list[tuple[str, ...]]]:
    """`covering`, by inner solver and meta-gradient."""
    found: dict = {}
    for composition in covering():
        found.setdefault(composition[:2], []).append(composition)
    return found


LEGAL_PAIRS = sorted({composition[:2] for composition in LEGAL})


def test_the_walk_meets_every_option_and_every_legal_pair():
    met = {pair for compositions in covered().values() for composition in compositions for pair in pairs(composition)}
    options = [[(i, option) for option in axis if option not in CONTRADICTORY] for i, axis in enumerate(AXES)]
    every = {pair for two in itertools.combinations(options, 2) for pair in itertools.product(*two)}
    assert met == every - FORBIDDEN
    assert sorted(covered()) == LEGAL_PAIRS


def test_nonsense_is_refused_in_words_and_nothing_else_is():
    """All 75 240 compositions; the words name a key to change."""
    for composition in ALL:
        try:
            compose(composition)
            refusal = ""
        except ValueError as error:
            refusal = str(error)
        assert (refusal == "") == is_legal(composition), f"{composition}: {refusal}"
        assert not refusal or re.search(r"algorithm[./][a-z_/]+", refusal), f"{composition}: {refusal}"


@pytest.mark.parametrize(("inner", "meta_gradient"), LEGAL_PAIRS)
def test_legal_compositions_match_the_naive_ones(inner, meta_gradient):
    """As many as it takes to meet every legal pair of choices."""
    for composition in covered()[inner, meta_gradient]:
        check(composition)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("curvature", ["hessian_forward", "finite_difference"])
@pytest.mark.parametrize(
    ("inner", "meta_gradient", "turned"),
    [
        ("gradient_descent", "implicit_official dense", "meta_gradient"),
        ("none", "implicit_official dense", "meta_gradient"),
        ("gradient_descent", "recursion", "meta_gradient"),
        ("newton_cg", "first_order", "inner"),
    ],
)
def test_the_hessian_by_other_ways_is_the_same(inner, meta_gradient, turned, curvature, kind):
    """Where the Hessian is an option, its products by forward mode and by differences give the same step, all tasks at once."""
    algorithm, here = compose((inner, meta_gradient, "plain", "2, never", "all", kind)), setting(kind)
    steps = []
    for way in ("hessian", curvature):
        part = dataclasses.replace(getattr(algorithm, turned), curvature=way)
        steps.append(dataclasses.replace(algorithm, **{turned: part}).meta_step(here.theta, here.problem, here.tasks))
    rtol = DIFFERENCES_RTOL if curvature == "finite_difference" else RTOL
    for name, leaf in steps[0].gradient.items():
        assert (steps[1].gradient[name] - leaf).norm() <= rtol * leaf.norm()


@pytest.mark.slow
@pytest.mark.parametrize(("inner", "meta_gradient"), LEGAL_PAIRS)
def test_every_legal_composition_matches_the_naive_one(inner, meta_gradient):
    """Hydra composes the pair without a new file, and whatever goes with it is right."""
    name, _, solver = meta_gradient.partition(" ")
    words = [f"algorithm/meta_gradient/solver={solver}"] if solver else []
    node = settings(f"algorithm/inner={inner}", f"algorithm/meta_gradient={name}", *words)
    if inner != "prototypes":  # whose problem is no sinusoid
        assert type(instantiate(node, _convert_="all").inner) is type(inner_of(inner))
    for composition in LEGAL:
        if composition[:2] == (inner, meta_gradient):
            check(composition)


@pytest.mark.parametrize("name", sorted(GROUPS["algorithm"]))
def test_every_algorithm_is_in_the_walk(name):
    """As the command line composes it, each `conf/algorithm/*.yaml` is one of the legal compositions, of the same parts."""
    config = configuration(f"algorithm={name}")
    choices, node = config["choices"], config["algorithm"]
    inner, meta_gradient = choices["algorithm/inner"], choices["algorithm/meta_gradient"]
    if meta_gradient.startswith("implicit"):
        meta_gradient += " " + choices["algorithm/meta_gradient/solver"]
    direction = f"{choices['algorithm/direction']} {node['direction'].get('point', '')}".strip()
    weight = f"{'2' if node['proximal_weight'] else '0'}, {node['learn_proximal_weight']}"
    composition = (inner, meta_gradient, direction, weight, node["adapted"], "classification")
    assert composition in LEGAL
    built, walked = instantiate(node, _convert_="all"), compose(composition)
    for part in ("inner", "meta_gradient", "direction"):
        assert type(getattr(built, part)) is type(getattr(walked, part))


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (("algorithm=imaml", "algorithm/inner=newton_cg"), ("algorithm=imaml_hf",)),
        (("algorithm=imaml", "algorithm/direction=natural_gradient", "optimizer=sgd_unit"), ("algorithm=imaml_ng",)),
        (("algorithm=imaml_ng", "algorithm/inner=newton_cg"), ("algorithm=imaml_hf", "algorithm/direction=natural_gradient")),
        (("algorithm=maml", "algorithm/meta_gradient=first_order"), ("algorithm=fomaml",)),
        (("algorithm=maml", "algorithm.adapted=head"), ("algorithm=anil",)),
    ],
)  # fmt: skip
def test_parts_swapped_on_the_command_line_are_the_algorithm_itself(words, same):
    assert configuration(*words)["algorithm"] == configuration(*same)["algorithm"]


def test_the_prototypes_head_is_the_nearest_class_mean():
    """S10: its logits and the negative squared distances have the same softmax."""
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.randn(6, 4, generator=generator) for _ in range(2))
    targets = torch.tensor([0, 1, 2, 2, 1, 0])
    weight, bias = prototypes.head_of_prototypes(support, targets, 3)
    distances = prototypes.logits_by_distance(query, weight / 2)
    torch.testing.assert_close(F.linear(query, weight, bias).softmax(1), distances.softmax(1), rtol=1e-12, atol=0)
