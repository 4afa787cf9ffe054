"""Algorithms are compositions: `Algorithm(inner, meta_gradient, direction, proximal_weight)`."""

from metarun.algorithm.algorithm import Algorithm
from metarun.algorithm.direction import Plain
from metarun.algorithm.first_order import FirstOrder
from metarun.algorithm.gradient_descent import GradientDescent
from metarun.algorithm.implicit import Implicit
from metarun.algorithm.unrolled import Unrolled

__all__ = ["Algorithm", "FirstOrder", "GradientDescent", "Implicit", "Plain", "Unrolled"]
