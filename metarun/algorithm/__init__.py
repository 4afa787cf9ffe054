"""Algorithms are compositions: `Algorithm(inner, meta_gradient, direction, proximal_weight)`."""

from metarun.algorithm.algorithm import Algorithm
from metarun.algorithm.direction.metric.kronecker import Kfac
from metarun.algorithm.direction.metric.products import FreshTasks, StepTasks
from metarun.algorithm.direction.metric.task_empirical import TaskEmpirical
from metarun.algorithm.direction.natural_gradient import NaturalGradient
from metarun.algorithm.direction.plain import Plain
from metarun.algorithm.direction.repeated_steps import RepeatedSteps
from metarun.algorithm.direction.trust_region import TrustRegion
from metarun.algorithm.inner.backtracking_descent import BacktrackingDescent
from metarun.algorithm.inner.gradient_descent import GradientDescent
from metarun.algorithm.inner.learned_rates import LearnedRates
from metarun.algorithm.inner.newton_cg import NewtonCG
from metarun.algorithm.inner.prototypes import Prototypes
from metarun.algorithm.meta_gradient.first_order import FirstOrder
from metarun.algorithm.meta_gradient.implicit import Implicit
from metarun.algorithm.meta_gradient.multi_step_loss import MultiStepLoss
from metarun.algorithm.meta_gradient.no_gradient import NoGradient
from metarun.algorithm.meta_gradient.recursion import Recursion
from metarun.algorithm.meta_gradient.reptile import Reptile
from metarun.algorithm.meta_gradient.solver.conjugate_gradient import ConjugateGradient
from metarun.algorithm.meta_gradient.solver.dense import Dense
from metarun.algorithm.meta_gradient.solver.fixed_point import Richardson
from metarun.algorithm.meta_gradient.solver.minimal_residual import Minres
from metarun.algorithm.meta_gradient.unrolled import Unrolled

__all__ = [
    "Algorithm",
    "BacktrackingDescent",
    "ConjugateGradient",
    "Dense",
    "FirstOrder",
    "FreshTasks",
    "GradientDescent",
    "Implicit",
    "Kfac",
    "LearnedRates",
    "Minres",
    "MultiStepLoss",
    "NaturalGradient",
    "NewtonCG",
    "NoGradient",
    "Plain",
    "Prototypes",
    "Recursion",
    "RepeatedSteps",
    "Reptile",
    "Richardson",
    "StepTasks",
    "TaskEmpirical",
    "TrustRegion",
    "Unrolled",
]
