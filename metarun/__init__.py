"""metarun: train, evaluate, sweep and compare meta-learning algorithms from one command."""

__version__ = "0.1.0"
