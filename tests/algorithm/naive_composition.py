"""Any composition written down naively: one task at a time, plain autograd, every matrix formed (`tests.reference`)."""

import functools

import torch
from torch import Tensor

from metarun.algorithm.direction.metric.layer_gradients import _keys, _signs
from metarun.maths.psd import root
from tests.reference import (
    curvature,
    gradient_steps,
    implicit_function,
    kronecker,
    natural_gradient,
    newton_cg,
    prototypes,
    ridge,
)
from tests.reference.imaml import flat, named

from .compositions import (
    _BODY,
    _HEAD,
    ADAPTED,
    NEWTON,
    STEP,
    VALUES,
    compose,
    direction_of,
    forward,
    inner_of,
    meta_gradient_of,
    meta_parameters,
    setting,
)


class NaiveTask:
    """One task adapted from theta by an inner solver written down naively; everything is in the leaves of `theta`."""

    def __init__(self, inner: str, weight: str, adapted: str, kind: str, theta, task) -> None:
        self.setting, self.task, inputs, targets = setting(kind), task, task[0], task[1]
        self.at = lambda theta: NaiveTask(inner, weight, adapted, kind, theta, task)
        self.theta = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
        made = {name: leaf.clone().requires_grad_() for name, leaf in self.setting.theta.items()}
        self.model = made | {name: leaf for name, leaf in self.theta.items() if name in made}
        names = ADAPTED[adapted]
        self.anchor = {name: self.model[name] for name in names}
        self.frozen = {name: leaf for name, leaf in self.model.items() if name not in names}
        value, _, self.learned = weight.partition(", ")
        self.weight = {name: self.weight_of(name, VALUES[value]) for name in names}
        self.inner, self.solver = inner, inner_of(inner)
        self.path = self.adapt(inner, self.solver, inputs, targets)
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

    def adapt(self, name, solver, inputs, targets, steps=None):
        if name == "prototypes":
            params = self.anchor | {"layers.3.weight": torch.eye(2), "layers.3.bias": torch.zeros(2)}
            weight, bias = prototypes.head_of_prototypes(self.outputs(params, inputs), targets, 3)
            return [self.anchor | {"layers.3.weight": weight, "layers.3.bias": bias}]
        if name == "ridge_head":
            params = self.anchor | {"layers.3.weight": torch.eye(2), "layers.3.bias": torch.zeros(2)}
            learned = [self.theta[f"inner/{n}"] for n in ("log_regulariser", "scale", "offset")]
            features = self.outputs(params, inputs)
            weight, bias = ridge.head_of_ridge(features, targets, 3, learned[0].exp(), *learned[1:])
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
        return descend(
            self.support_loss, self.anchor, self.weight, rate, steps=solver.steps if steps is None else steps
        )

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

    def jacobian_of_all(self, meta_gradient):
        """d phi / d theta of all leaves, those that are not adapted among them."""
        if not self.frozen:
            return self.jacobian(meta_gradient)
        if meta_gradient == "first_order":
            return torch.eye(len(flat(self.theta.values())))
        complete = self.theta | self.path[-1]
        phi = torch.cat([complete[name].flatten() for name in self.theta])
        return torch.cat([curvature.rows(phi, leaf) for leaf in self.theta.values()], dim=1)

    @functools.cache  # noqa: B019
    def gradient(self, meta_gradient):
        """In every meta-parameter."""
        found = self.in_every_leaf(meta_gradient)
        return {name: found[name] for name in self.theta}

    def in_every_leaf(self, meta_gradient):
        """Leaves that are not meta-learned among them, where the formula has them."""
        if meta_gradient in ("unrolled", "recursion", "hessian_free"):
            return self.differentiated(self.query_loss(self.path[-1]))
        if meta_gradient == "multi_step_loss":
            ends = self.path[1:]
            if self.inner == "pull_back_16":  # each number of steps has a pull-back of its own
                ends = [
                    self.adapt(self.inner, self.solver, *self.task[:2], steps=k + 1)[-1]
                    for k in range(self.solver.steps)
                ]
            losses = [self.query_loss(phi) for phi in ends] or [self.query_loss(self.path[-1])]
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
        params = {name: leaf.detach() for name, leaf in params.items()}
        learned = {name: leaf for name, leaf in params.items() if name in self.theta}
        return self.setting.fisher(
            lambda p: self.outputs(params | named(p, learned), self.task[2]), flat(learned.values())
        )

    def examples_of_layer(self, number):
        """(a, d outputs / d y, metric) of each query example, for the layer's y = W a."""
        params = {name: leaf.detach() for name, leaf in (self.model | self.phi).items()}
        hidden = torch.tanh(self.task[2] @ params["layers.1.weight"].T + params["layers.1.bias"])
        outputs, one = forward(params, self.task[2]), torch.ones(1)
        for x, h, o in zip(self.task[2], hidden, outputs, strict=True):
            first = (x, params["layers.3.weight"] * (1 - h**2)) if number == 0 else (h, torch.eye(len(o)))
            yield torch.cat([first[0], one]), first[1], self.setting.metric(o)

    def diagonal(self, number, like):
        """Of the Fisher matrix in some leaves, from sums over examples with the signs that are drawn for this task and step."""
        params = {name: leaf.detach() for name, leaf in (self.model | self.phi).items()}
        at = flat(params[name] for name in like).requires_grad_()
        outputs = self.outputs(params | named(at, like), self.task[2])
        jacobian = curvature.rows(outputs, at, keep=False).unflatten(0, outputs.shape)
        signs = _signs(_keys(STEP, number, 1, torch.device("cpu")), len(outputs), 1)[0]
        roots = torch.stack([root(self.setting.metric(o.detach()) / len(outputs)) for o in outputs]) * signs[..., None]
        return torch.einsum("sod,soc->cd", jacobian, roots).square().sum(0)


def naive_direction(tasks: list[NaiveTask], meta_gradient: str, direction: str) -> dict[str, Tensor]:
    gradients = [task.gradient(meta_gradient) for task in tasks]
    mean = {name: torch.stack([gradient[name] for gradient in gradients]).mean(0) for name in gradients[0]}
    part, (_, metric, kind) = direction_of(direction), (*direction.split(" "), "", "")[:3]
    if direction == "plain":
        return mean
    if direction == "trust_region":
        return trusted(tasks, meta_gradient, part, mean)
    if metric == "kfac":
        return shortened(*by_layers(tasks, mean, part, corrected=kind == "true"), tasks, part, mean)
    if metric == "task_empirical":
        matrix = natural_gradient.of_tasks([flat(gradient.values()) for gradient in gradients])
    else:  # fresh tasks are the step's own here
        jacobians = [
            task.jacobian_of_all(meta_gradient) if kind == "pullback" else torch.eye(len(flat(mean.values())))
            for task in tasks
        ]
        matrix = natural_gradient.pulled_back([task.fisher(kind) for task in tasks], jacobians)
    whole = natural_gradient.natural_step(flat(mean.values()), matrix, damping=part.damping, step_size=part.step_size)
    return shortened(*whole, tasks, part, mean)


def shortened(step, predicted, tasks: list[NaiveTask], part, mean: dict[str, Tensor]) -> dict[str, Tensor]:
    """As long as the adapted models diverge no further than they may."""
    step = natural_gradient.within(
        step,
        predicted,
        lambda step: consequences(step, tasks, mean)[1],
        max_divergence=part.max_divergence,
        tries=part.tries,
    )
    return named(step, mean)


def consequences(step, tasks: list[NaiveTask], mean: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """By how much the query loss changes and how far the outputs diverge when every task is adapted anew from there."""
    moved = named(step, mean)
    changes, divergences = [], []
    for task in tasks:
        theta = {name: leaf.detach() - moved[name] for name, leaf in task.theta.items()}
        there = task.at(theta)
        before, now = (each.outputs(each.phi, each.task[2]).detach() for each in (task, there))
        changes.append((there.query_loss(there.phi) - task.query_loss(task.phi)).detach())
        divergences.append(task.setting.divergence(now, before))
    return torch.stack(changes).mean(), torch.stack(divergences).mean()


def by_layers(tasks: list[NaiveTask], mean: dict[str, Tensor], part, *, corrected: bool) -> tuple[Tensor, Tensor]:
    """The step by Kronecker factors; a layer that is not learned as a whole has the diagonal of its part."""
    found, squared, settings = {}, 0.0, {"damping": part.damping, "corrected": corrected}
    for number, names in enumerate((_BODY, _HEAD)):
        if all(name in mean for name in names):
            examples = [example for task in tasks for example in task.examples_of_layer(number)]
            matrix = torch.cat([mean[names[0]], mean[names[1]][:, None]], 1)
            solution, product = kronecker.solved(matrix, examples, **settings)
            found |= {names[0]: solution[:, :-1], names[1]: solution[:, -1]}
            squared = squared + (solution * product).sum()
    if rest := {name: leaf for name, leaf in mean.items() if name not in found}:
        diagonal = torch.stack([task.diagonal(number, rest) for number, task in enumerate(tasks)]).mean(0)
        solution = flat(rest.values()) / (diagonal + part.damping)
        squared = squared + solution @ (diagonal * solution)
        found |= named(solution, rest)
    step, squared = part.step_size * flat(found[name] for name in mean), part.step_size**2 * squared
    return step, squared / 2


def trusted(tasks: list[NaiveTask], meta_gradient: str, part, mean: dict[str, Tensor]) -> dict[str, Tensor]:
    """The longest step of the radius, shortened until it is good; every task is adapted anew from where it leads."""
    jacobians = [task.jacobian_of_all(meta_gradient) for task in tasks]
    metric = natural_gradient.pulled_back([task.fisher("phi") for task in tasks], jacobians)
    longest = natural_gradient.longest_step(
        flat(mean.values()), metric, damping=part.damping, max_divergence=part.max_divergence
    )

    step = natural_gradient.accepted(
        longest,
        lambda step: consequences(step, tasks, mean),
        max_divergence=part.max_divergence,
        shrink=part.shrink,
        tries=part.tries,
    )
    return named(step, mean)


@functools.lru_cache(maxsize=64)
def naive_tasks(inner: str, weight: str, adapted: str, kind: str) -> list[NaiveTask]:
    theta = meta_parameters(compose((inner, "none", "plain", weight, adapted, kind)), kind)
    return [NaiveTask(inner, weight, adapted, kind, theta, task) for task in setting(kind).each()]
