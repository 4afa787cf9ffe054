"""What cannot be with episodes, policies and the algorithms that learn them, refused as in test_bad_input."""

import pytest

NAVIGATION = (
    "dataset=navigation2d",
    "dataset.source.horizon=4",
    "dataset.shots=2",
    "dataset.queries=2",
    "dataset.test_shots=2",
    "dataset.test_queries=2",
    "model.hidden=[4]",
)
CLIPPED = (*NAVIGATION, "algorithm/direction=clipped_steps")

pytestmark = pytest.mark.usefixtures("nothing_trains")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # episodes, and what is learned of them
        ([*NAVIGATION, "dataset.source.horizon=0"], "dataset.source: horizon must be an integer >= 1, got 0"),
        (
            [*NAVIGATION, "dataset.source.goals=[0.5,-0.5]"],
            "dataset.source: goals must be [low, high] with low <= high, got [0.5, -0.5]. Set dataset.source.goals.",
        ),
        ([*NAVIGATION, "dataset.source.max_step=0"], "dataset.source: max_step must be a number > 0, got 0"),
        ([*NAVIGATION, "dataset.shots=1"], "dataset: shots must be >= 2 episodes, got 1. Set dataset.shots."),
        ([*NAVIGATION, "dataset.queries=1"], "dataset: queries must be >= 2 episodes, got 1. Set dataset.queries."),
        (
            [*NAVIGATION, "dataset.test_shots=1"],
            "shots must be >= 2 episodes, got 1. Set dataset.test_shots or evaluation.shots.",
        ),
        (
            [*NAVIGATION, "evaluation.queries=1"],
            "queries must be >= 2 episodes, got 1. Set dataset.test_queries or evaluation.queries.",
        ),
        (
            [*NAVIGATION, "evaluation.val_shots=1"],
            "shots must be >= 2 episodes, got 1. Set evaluation.val_shots (by default that of the test, evaluation.shots).",
        ),
        ([*NAVIGATION, "dataset.problem.discount=0"], "dataset.problem: discount must be a number > 0, got 0"),
        ([*NAVIGATION, "dataset.problem.discount=1.5"], "dataset.problem: discount must be <= 1, got 1.5"),
        (
            [*NAVIGATION, "dataset.problem.advantage_decay=-0.1"],
            "dataset.problem: advantage_decay must be a number >= 0, got -0.1",
        ),
        ([*NAVIGATION, "dataset.problem.advantage_decay=2"], "dataset.problem: advantage_decay must be <= 1, got 2"),
        ([*NAVIGATION, "dataset.problem.clip=0"], "dataset.problem: clip must be a number > 0, got 0"),
        ([*CLIPPED, "algorithm.direction.clip=0"], "algorithm.direction: clip must be a number > 0, got 0"),
        ([*CLIPPED, "algorithm.direction.clip=null"], "algorithm.direction: clip must be a number, got None"),
        ([*CLIPPED, "algorithm.direction.steps=0"], "algorithm.direction: steps must be an integer >= 1, got 0"),
        (
            ["algorithm/direction=clipped_steps"],
            "algorithm: RepeatedSteps clips ratios of densities, and this problem's data are stored: there are none. "
            "Choose algorithm/direction=plain.",
        ),
        (
            [*NAVIGATION, "dataset.problem.surrogate=foo"],
            "dataset.problem: surrogate must be one of likelihood_ratio, log_prob, dice, got 'foo'",
        ),
        (
            [*NAVIGATION, "dataset.problem.baseline=quadratic"],
            "dataset.problem: baseline must be one of linear, none, got 'quadratic'",
        ),
        (
            [*NAVIGATION, "dataset.problem.standardise=maybe"],
            "dataset.problem: standardise must be true or false, got 'maybe'",
        ),
        (
            [*NAVIGATION, "algorithm.direction.max_divergence=0"],
            "algorithm.direction: max_divergence must be a number > 0, got 0",
        ),
        (
            [*NAVIGATION, "algorithm.direction.shrink=1"],
            "algorithm.direction: shrink must be a number > 0 and < 1, got 1",
        ),
        ([*NAVIGATION, "algorithm.direction.tries=0"], "algorithm.direction: tries must be an integer >= 1, got 0"),
        (
            [*NAVIGATION, "algorithm.inner.eval_step_sizes=[0.5,0]"],
            "algorithm.inner: eval_step_sizes[1] must be a number > 0, got 0",
        ),
        ([*NAVIGATION, "model.min_std=0"], "model: min_std must be a number > 0, got 0"),
        (
            [*NAVIGATION, "model.min_std=2"],
            "model: init_std must be >= min_std, below which no deviation falls, got 1.0 and 2.",
        ),
        (
            [*NAVIGATION, "model.num_outputs=3"],
            "model: num_outputs must be even for a policy whose actions are real numbers, a mean and a deviation for each, "
            "got 3. Where actions are choices, choose model=softmax_policy; where there are none, model=mlp.",
        ),
        (["dataset=tabular_mdp", "model=policy_mlp"], "got 5. Where actions are choices, choose model=softmax_policy"),
        # algorithms that do not go with episodes, or not with a step that measures itself
        (
            [*NAVIGATION, "algorithm=reptile"],
            "algorithm: TrustRegion transforms a gradient, and Reptile does not give one. Choose algorithm/direction=plain "
            "with optimizer=adam or sgd.",
        ),
        ([*NAVIGATION, "algorithm=scratch"], "NoGradient does not give one. Choose algorithm/direction=plain with "),
        (
            [*NAVIGATION, "algorithm=hf_maml"],
            "algorithm: TrustRegion needs d phi / d theta, and Recursion does not give it. Choose algorithm/direction=plain "
            "with optimizer=adam or sgd, or algorithm/meta_gradient=unrolled, implicit or first_order.",
        ),
        (
            [*NAVIGATION, "algorithm=meta_sgd"],
            "algorithm: TrustRegion measures steps of the model's parameters, and step sizes or lambda are learned here too. "
            "Choose algorithm/direction=plain with optimizer=adam or sgd, or parts that learn neither (algorithm=maml).",
        ),
        (
            [*NAVIGATION, "algorithm=r2d2"],
            "step sizes or lambda are learned here too. Choose algorithm/direction=plain ",
        ),
        (
            [*NAVIGATION, "algorithm=cavia"],
            "and those that algorithm.not_meta_learned names are no part of theta. Choose algorithm/direction=plain with "
            "optimizer=adam or sgd, or leave algorithm.not_meta_learned empty.",
        ),
        (
            [*NAVIGATION, "algorithm=protonet"],
            "algorithm: prototypes need a classification and a model whose head is a linear layer with a bias, got "
            "PolicyGradient and a head of mean.layers.3.weight, mean.layers.3.bias. Choose algorithm/inner=gradient_descent",
        ),
        (
            [*NAVIGATION, "algorithm=imaml_hf"],
            "algorithm: NewtonCG goes on from the gradient of its last step, and here each inner step collects data anew. "
            "Choose algorithm=imaml, or ",
        ),
        (
            [*NAVIGATION, "algorithm=imaml", "algorithm.meta_gradient.curvature=gauss_newton"],
            "the matrix says nothing of its curvature. Set algorithm.meta_gradient.curvature=hessian",
        ),
    ],
    ids=lambda value: " ".join(word for word in value if word not in NAVIGATION[1:]) if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be(arguments, message, refused):
    assert message in refused(*arguments)
