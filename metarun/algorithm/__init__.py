"""Algorithms are compositions: `Algorithm(inner, meta_gradient, direction, proximal_weight)`."""

from metarun.algorithm.algorithm import Algorithm
from metarun.algorithm.backtracking_descent import BacktrackingDescent
from metarun.algorithm.direction import Plain
from metarun.algorithm.first_order import FirstOrder
from metarun.algorithm.gradient_descent import GradientDescent
from metarun.algorithm.implicit import Implicit
from metarun.algorithm.learned_rates import LearnedRates
from metarun.algorithm.linear_solver import ConjugateGradient, Dense, Minres, Richardson
from metarun.algorithm.multi_step_loss import MultiStepLoss
from metarun.algorithm.natural_gradient import NaturalGradient
from metarun.algorithm.newton_cg import NewtonCG
from metarun.algorithm.no_gradient import NoGradient
from metarun.algorithm.prototypes import Prototypes
from metarun.algorithm.recursion import Recursion
from metarun.algorithm.reptile import Reptile
from metarun.algorithm.unrolled import Unrolled

__all__ = [
    "Algorithm",
    "BacktrackingDescent",
    "ConjugateGradient",
    "Dense",
    "FirstOrder",
    "GradientDescent",
    "Implicit",
    "LearnedRates",
    "Minres",
    "MultiStepLoss",
    "NaturalGradient",
    "NewtonCG",
    "NoGradient",
    "Plain",
    "Prototypes",
    "Recursion",
    "Reptile",
    "Richardson",
    "Unrolled",
]
