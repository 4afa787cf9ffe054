"""Every part beside every other: legal compositions match naive ones, the others are refused in words.

Truncated solvers are asked for as many steps as make them exact; Richardson's iteration is compared with as many steps of itself.
"""

import dataclasses
import functools
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate

from tests.calls import meta_step
from tests.reference import prototypes
from tests.training.small import configuration

from .compositions import (
    ALL,
    AXES,
    COMPUTED,
    CONTRADICTORY,
    FORBIDDEN,
    GROUPS,
    LEGAL,
    METRICS,
    PROBLEMS,
    STEP,
    compose,
    inner_of,
    is_legal,
    meta_parameters,
    pairs,
    setting,
    settings,
)
from .naive_composition import naive_direction, naive_tasks

pytestmark = pytest.mark.usefixtures("float64")

RTOL = 1e-10  # rounding of float64, through linear systems of condition 100 and less
# Central differences in steps d of 6e-6 (1 + |phi|): d^2 of truncation and 1e-16 / d of rounding, 4e-11 each, in every inner step
# and through the Fisher matrix's inverse.
DIFFERENCES_RTOL = 1e-7
# Undamped Newton steps without a proximal term have singular matrices: 1e-15 more in theta is 1e-8 in phi, in the reference too.
NEWTON_RTOL = 1e-5
# g g' + damping I has condition 2e5 where a gradient is 61 long and the damping 0.01, in the dense solve as by Woodbury.
TASK_EMPIRICAL_RTOL = 1e-8


def check(composition: tuple[str, ...]) -> None:
    """A meta step, with or without a cut into chunks, is what the naive composition says, in every meta-parameter."""
    inner, meta_gradient, direction, weight, adapted, kind = composition
    algorithm, here = compose(composition), setting(kind)
    theta = meta_parameters(algorithm, kind)
    chunk = {"classification": 1, "regression": 2}[kind]
    fresh = here.tasks if algorithm.num_fresh_tasks else None  # the same tasks again, so that the matrix is known
    estimate = meta_step(algorithm, theta, here.problem, here.tasks, chunk, None, STEP, fresh=fresh)
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
    """All compositions; the words name a key to change."""
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
    composition = (inner, meta_gradient, "plain", "2, never", "all", kind)
    if not is_legal(composition):
        pytest.skip("a classification needs inner steps")
    algorithm, here = compose(composition), setting(kind)
    steps = []
    for way in ("hessian", curvature):
        part = dataclasses.replace(getattr(algorithm, turned), curvature=way)
        steps.append(meta_step(dataclasses.replace(algorithm, **{turned: part}), here.theta, here.problem, here.tasks))
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
    if inner not in COMPUTED:  # whose problem is no sinusoid
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
    direction = choices["algorithm/direction"]
    if direction == "natural_gradient":
        metric = choices["algorithm/direction/metric"]
        value = node["direction"]["metric"].get(METRICS[metric][0], "")
        direction = f"{direction} {metric} {str(value).lower()}".strip()
    weight = f"{'2' if node['proximal_weight'] else '0'}, {node['learn_proximal_weight']}"
    problem = "regression" if inner == "none" else "classification"
    adapted = node["adapted"] if isinstance(node["adapted"], str) else "context"
    composition = (inner, meta_gradient, direction, weight, adapted, problem)
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
