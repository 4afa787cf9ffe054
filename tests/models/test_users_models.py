"""Users' modules as they are written: right as a plain loop over tasks is, or refused in one line.

The loop calls a copy of the module that nothing was exchanged in, one task after the other, with plain autograd.
"""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metarun import rng
from metarun.algorithm import Algorithm
from metarun.models.learner import Learner
from metarun.problems.classification import Classification
from metarun.tasks.types import Examples, TaskBatch
from metarun.training import trial
from tests.calls import adapt, meta_step
from tests.reference import imaml
from tests.reference.prototypes import logits_by_distance

from . import users_models as users

pytestmark = pytest.mark.usefixtures("float64")

WAYS, NUM_TASKS = 5, 3
STEP, WEIGHT, CG_STEPS = 0.05, 1000.0, 3
RTOL = 1e-9  # rounding of float64, through batch norm and CG
MODELS = {
    "SubclassedNorm": users.SubclassedNorm,
    "FrozenBody": users.FrozenBody,
    "PaddedTokens": users.PaddedTokens,
    "HeadFirst": users.HeadFirst,
    "LogProbabilities": users.LogProbabilities,
    "FunctionalNorm": users.FunctionalNorm,
    "LSTM": users.Rows,
    "GRU": lambda outputs: users.Rows(outputs, "GRU"),
    "RNN": lambda outputs: users.Rows(outputs, "RNN"),
    "Encoder": users.Encoder,
    "Temperature": users.Temperature,
    "SharedModule": users.SharedModule,
}
REFUSED = {
    ("FrozenBody", "protonet"): "trial of the meta-gradient failed: the query loss depends on nothing that is learned",
    ("Temperature", "anil"): "which layer .* is its head cannot be found: the last layer is head, and scale acts on",
    (
        "Temperature",
        "protonet",
    ): "which layer .* is its head cannot be found: the last layer is head, and scale acts on",
}


def drawings(seed: int) -> Examples:
    """One image of each class."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(NUM_TASKS, WAYS, 1, 28, 28, generator=generator, dtype=torch.float64).round(decimals=1)
    return Examples(inputs, torch.arange(WAYS).expand(NUM_TASKS, -1), WAYS)


TASKS = TaskBatch(drawings(1), drawings(2), {})


def built(make) -> tuple[nn.Module, Learner]:
    """The module, as it was and as a learner."""
    with rng.seeded_construction(0, "test"):
        module = make(WAYS).double()
    untouched = copy.deepcopy(module).train()
    return untouched, Learner(module)


def composed(name: str, algorithm_of) -> Algorithm:
    inner = {"steps": 2, "step_size": STEP if name != "imaml" else 0.4 / WEIGHT}
    if name == "imaml":
        solver = {"steps": CG_STEPS, "rtol": 0.0, "negative_curvature": "raise"}
        return algorithm_of(
            name,
            {"inner": inner, "meta_gradient": {"curvature": "hessian", "solver": solver}, "proximal_weight": WEIGHT},
        )
    return algorithm_of(name, {} if name == "protonet" else {"inner": inner})


def tried(learner: Learner, algorithm: Algorithm, tasks: TaskBatch = TASKS) -> tuple[Classification, dict[str, Tensor]]:
    """What a run does before it starts; the problem and theta."""
    learner.check(tasks.support.inputs[0], WAYS)
    problem = Classification(learner.to("cpu", torch.float64))
    theta = learner.init(dtype=torch.float64)
    algorithm.check(problem, theta)
    trial.try_model(algorithm, problem, theta, tasks)
    return problem, theta


def plainly(module: nn.Module, name: str, theta: dict[str, Tensor]) -> dict[str, Tensor]:
    """The meta-gradient by a loop over tasks."""

    def forward(params, inputs, _support=None):
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(module, params, (inputs,))

    sets = [
        ((TASKS.support.inputs[b], TASKS.support.targets[b]), (TASKS.query.inputs[b], TASKS.query.targets[b]))
        for b in range(NUM_TASKS)
    ]
    if name == "imaml":
        settings = {
            "steps": 2,
            "step_size": 0.4 / WEIGHT,
            "weight": WEIGHT,
            "cg_steps": CG_STEPS,
            "curvature": "hessian",
        }
        return imaml.meta_gradient(forward, F.cross_entropy, theta, sets, **settings)[1]
    theta = {key: leaf.clone().requires_grad_() for key, leaf in theta.items()}
    total = 0.0
    for (inputs, targets), (query_inputs, query_targets) in sets:
        if name == "protonet":
            centres, embedded = (embedding(module, theta, forward, x) for x in (inputs, query_inputs))
            outputs = logits_by_distance(embedded, centres[targets])
        else:
            phi = theta
            adapted = [key for key in theta if name == "maml" or key.startswith("head.")]
            for _ in range(2):
                loss = F.cross_entropy(forward(phi, inputs), targets)
                slopes = torch.autograd.grad(loss, [phi[key] for key in adapted], create_graph=True)
                phi = phi | {key: phi[key] - STEP * slope for key, slope in zip(adapted, slopes, strict=True)}
            outputs = forward(phi, query_inputs)
        total = total + F.cross_entropy(outputs, query_targets) / NUM_TASKS
    gradients = torch.autograd.grad(total, list(theta.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(theta, gradients, strict=True))


def embedding(module: nn.Module, theta, forward, inputs: Tensor) -> Tensor:
    """What the layer `head` is given."""
    seen = []
    hook = module.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    forward(theta, inputs)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["maml", "imaml", "anil", "protonet"])
@pytest.mark.parametrize("model", MODELS)
def test_a_module_is_differentiated_as_it_is_written(model, name, algorithm_of):
    untouched, learner = built(MODELS[model])
    algorithm = composed(name, algorithm_of)
    if (model, name) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[model, name]):
            tried(learner, algorithm)
        return
    problem, theta = tried(learner, algorithm)
    assert list(theta) == [key for key, leaf in untouched.named_parameters() if leaf.requires_grad]
    assert (learner.one_by_one is not None) == (model in ("LSTM", "GRU", "RNN"))
    expected = plainly(untouched, name, theta)
    size = torch.cat([leaf.flatten() for leaf in expected.values()]).norm()
    for chunk in (2, None):
        found = meta_step(algorithm, algorithm.meta_parameters(problem, theta), problem, TASKS, chunk)
        if name == "imaml":
            assert not found.stats["system/negative_curvature"].any()
        for key, leaf in expected.items():
            assert (found.gradient[key] - leaf).norm() <= RTOL * size, (key, chunk)


def test_a_module_that_returns_two_tensors_is_refused(algorithm_of):
    _, learner = built(users.Pair)
    with pytest.raises(ValueError, match=r"the model \(Pair\) must give one tensor of shape \(5, 5\), got a tuple"):
        tried(learner, composed("maml", algorithm_of))


class OwnFunction(torch.autograd.Function):
    """As of before PyTorch 2.0."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, slope):
        return slope * 2


class Once(torch.autograd.Function):
    """Its backward cannot be differentiated."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].cos()

    @staticmethod
    def vmap(info, dims, x):
        return Once.apply(x), dims[0]


class Tail(nn.Module):
    """A linear layer, and what follows it."""

    def __init__(self, tail) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(784, WAYS), tail
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.head(x.flatten(1)))


def written_in_place(h: Tensor) -> Tensor:
    filled = torch.zeros(h.shape, dtype=h.dtype)
    filled[:, 0] = h[:, 0]
    return filled + h


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (users.Branch, r"model Branch, users_models\.py:\d+: its control flow depends on values.*torch\.where"),
        (lambda _: Tail(OwnFunction.apply), r"model Tail, .*: a torch\.autograd\.Function must have .* setup_context"),
        (lambda _: Tail(Once.apply), r"once_differentiable has no second derivative"),
        (lambda _: Tail(written_in_place), r"test_users_models\.py:\d+: it writes in place .*torch\.stack"),
        (
            lambda _: Tail(lambda h: h @ torch.eye(WAYS, dtype=torch.float32)),
            r"another number format than device\.dtype",
        ),
        (lambda _: Convolved(), r"model Convolved, .*another number format than device\.dtype"),
        (lambda _: Tail(rarely_random()), r"it draws random numbers"),
    ],
    ids=["branch", "own function", "once differentiable", "in place", "format", "format of a kernel", "rarely random"],
)
def test_what_cannot_be_lifted_is_said_in_one_line(module, words, algorithm_of):
    with rng.seeded_construction(0, "test"):
        made = module(WAYS)
    learner = Learner(made)
    with pytest.raises(ValueError, match=words) as caught:
        tried(learner, composed("maml", algorithm_of))
    assert "\n" not in str(caught.value)


class Convolved(nn.Module):
    """Its kernel is a constant in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.head = torch.ones(1, 1, 4, 4, dtype=torch.float32), nn.Linear(49, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.conv2d(x, self.kernel, stride=4).flatten(1))


def rarely_random():
    """A tail that draws in its fifth call and after."""
    calls = []

    def tail(h: Tensor) -> Tensor:
        calls.append(None)
        return h + 1e-3 * torch.randn_like(h) if len(calls) > 4 else h

    return tail


class MixesTasks(nn.Module):
    """Remembers what it met: no function of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.count = nn.Linear(784, WAYS), 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.head(x.flatten(1)) * (1.0 if self.count < 5 else 0.5)


def test_results_that_differ_from_a_plain_loop_are_refused(algorithm_of):
    with pytest.raises(ValueError, match=r"\(MixesTasks\) gives task \d another meta-gradient when tasks"):
        tried(Learner(MixesTasks()), composed("maml", algorithm_of))


class Lost(nn.BatchNorm2d):
    """A forward of its own that no exchange can keep: it reads its running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0.0 if self.running_mean is None else 1.0)


def test_an_exchange_that_changes_the_outputs_is_refused():
    module = nn.Sequential(nn.Conv2d(1, 3, 5, stride=5), Lost(3), nn.Flatten(), nn.Linear(75, WAYS))
    with pytest.raises(ValueError, match=r"\(Sequential\) gives other outputs when its batch norm is put into"):
        Learner(module).check(TASKS.support.inputs[0], WAYS)


@pytest.mark.parametrize("asked", ["transductive", "support"])
@pytest.mark.parametrize("make", [users.FunctionalNorm, users.SubclassedNorm])
def test_statistics_of_the_support_set_in_any_batch_norm(make, asked):
    """With `support` an output depends on no other query example, and the label says what is done."""
    with rng.seeded_construction(0, "test"):
        learner = Learner(make(WAYS).double(), asked)
    support, query = TASKS.support.inputs[0], TASKS.query.inputs[0]
    learner.check(support, WAYS)
    assert learner.batch_norm == asked
    theta = learner.init(dtype=torch.float64)
    alone, together = learner(theta, query[:1], support), learner(theta, query, support)[:1]
    assert torch.allclose(alone, together, rtol=1e-5, atol=1e-6) == (asked == "support")


def test_batch_norm_without_affine_parameters():
    module = nn.Sequential(nn.BatchNorm2d(1, affine=False), nn.Flatten(), nn.Linear(784, WAYS)).double()
    x = TASKS.support.inputs[0]
    expected = copy.deepcopy(module)(x)
    learner = Learner(module)
    assert learner.replaced_norms == ["0"]
    assert list(learner.init()) == ["2.weight", "2.bias"]
    torch.testing.assert_close(learner(learner.init(dtype=torch.float64), x), expected, rtol=1e-12, atol=1e-14)


def test_the_padding_row_is_left_alone_by_a_module_called_plainly():
    """`nn.Embedding`'s own autograd: the row of `padding_idx` has gradient zero, -1 counts from the end."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(4, 2, padding_idx=-1)

        def forward(self, x: Tensor) -> Tensor:
            return self.embedding(x).sum((1, 2))[:, None]

    module = Last().double()
    learner = Learner(module)
    tokens = torch.tensor([[0, 3], [3, 1], [1, 1]])
    learner.check(tokens, 1)
    weight = module.embedding.weight.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(learner({"embedding.weight": weight}, tokens).sum(), weight)
    assert slope.tolist() == [[1, 1], [3, 3], [0, 0], [0, 0]]  # integer inputs are taken as they are


def test_outputs_that_are_no_numbers_are_called_so():
    with pytest.raises(ValueError, match=r"\(Tail\) gives outputs that are not finite"):
        Learner(Tail(lambda h: h * float("nan"))).check(TASKS.support.inputs[0], WAYS)


# ---- the head --------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """The last layer's weight is the embedding's."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inlet, self.head = nn.Linear(784, WAYS), nn.Linear(WAYS, outputs)
        self.head.weight = nn.Parameter(torch.eye(outputs, WAYS))
        self.between = nn.Linear(WAYS, WAYS)
        self.between.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.between(self.inlet(x.flatten(1)))))


class TwoHeads(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(784, outputs), nn.Linear(784, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x.flatten(1)) + self.other(x.flatten(1))


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (users.HeadFirst, "head"),
        (users.Rows, "head"),
        (users.Encoder, "head"),
        (lambda outputs: nn.Sequential(nn.Flatten(), nn.Linear(784, outputs), nn.ReLU(inplace=True)), "1"),
        (lambda outputs: nn.Sequential(nn.Flatten(), nn.LSTM(784, outputs), First()), "1"),
    ],
    ids=["registered first", "after an LSTM", "after attention", "before an activation in place", "an LSTM itself"],
)
def test_the_head_is_the_layer_that_makes_the_outputs(make, head):
    with rng.seeded_construction(0, "test"):
        learner = Learner(make(WAYS))
    learner.check(TASKS.support.inputs[0], WAYS)
    assert learner.head == head
    assert learner.head_parameters == [key for key in learner.init() if key.startswith(f"{head}.")]


class First(nn.Module):
    def forward(self, pair) -> Tensor:
        return pair[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (TwoHeads, "the last layer is other, and one.weight, one.bias act on the outputs past it"),
        (Tied, "the head's head.weight is the parameter between.weight, too: it cannot be adapted alone"),
    ],
)
def test_a_head_that_is_not_to_be_told_is_refused(make, words):
    learner = Learner(make(WAYS))
    learner.check(TASKS.support.inputs[0], WAYS)
    with pytest.raises(ValueError, match=re.escape(words)):
        _ = learner.head


def test_a_head_is_named_by_a_key(algorithm_of):
    """`head=head` for a model whose temperature follows it; then only that layer is adapted."""
    with rng.seeded_construction(0, "test"):
        learner = Learner(users.Temperature(WAYS).double(), head="head")
    algorithm = composed("anil", algorithm_of)
    problem, theta = tried(learner, algorithm)
    phi = adapt(algorithm, theta, problem, TASKS)
    assert torch.equal(phi["scale"], theta["scale"].expand(NUM_TASKS))
    assert (phi["head.weight"] != theta["head.weight"]).any()
    with pytest.raises(ValueError, match="head must be a layer of the model, got 'tail'; it has head"):
        Learner(users.Temperature(WAYS), head="tail")


def test_prototypes_are_refused_where_the_head_has_no_vector_for_each_example(algorithm_of):
    class Rowwise(nn.Module):
        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.head = nn.Linear(28, outputs)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.squeeze(1)).tanh().mean(1)

    with pytest.raises(
        ValueError, match=r"one vector for each example where the head, head, begins; got .*\(5, 28, 28\)"
    ):
        tried(Learner(Rowwise(WAYS).double()), composed("protonet", algorithm_of))


# ---- outputs without a class -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_outputs_of_no_class_are_never_predicted(name, algorithm_of):
    """Tasks of three ways by a model of five outputs: as by one whose last two outputs are cut off."""
    with rng.seeded_construction(0, "test"):
        wide = users.HeadFirst(WAYS).double()
    narrow = users.HeadFirst(3).double()
    with torch.no_grad():
        narrow.body.load_state_dict(wide.body.state_dict())
        narrow.head.weight.copy_(wide.head.weight[:3])
        narrow.head.bias.copy_(wide.head.bias[:3])
    tasks = TaskBatch(
        *(Examples(e.inputs[:, :3], e.targets[:, :3], 3) for e in (TASKS.support, TASKS.query)),
        {},
    )
    results = {}
    for module in (wide, narrow):
        learner = Learner(module, head="head").to("cpu", torch.float64)
        problem = Classification(learner)
        results[module] = meta_step(composed(name, algorithm_of), learner.init(dtype=torch.float64), problem, tasks)
    torch.testing.assert_close(results[wide].query_loss, results[narrow].query_loss, rtol=1e-13, atol=0)
    for key, leaf in results[narrow].gradient.items():
        torch.testing.assert_close(results[wide].gradient[key][: len(leaf)], leaf, rtol=1e-11, atol=1e-14)
        assert not results[wide].gradient[key][len(leaf) :].any()
