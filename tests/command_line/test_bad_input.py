"""What cannot be is refused in one line that names what to change, before anything is trained or written."""

import os
import zipfile
from pathlib import Path

import pytest
import torch

from ..training.small import QUICK, python, run_here

# 12, 5 and 6 classes of 18 drawings; what is wrong with it is found before training, so it is not made any smaller.
GLYPHS = (
    "dataset=glyphs",
    "dataset.image_size=14",
    "model.width=8",
    "dataset.source.store.num_classes={train: 12, val: 5, test: 6}",
    "dataset.source.store.drawings=18",
)

pytestmark = pytest.mark.usefixtures("nothing_trains")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # unknown keys and mistyped options: the closest one that exists
        (["algorithm.inner.step=3"], "there is no key algorithm.inner.step; did you mean algorithm.inner.steps?"),
        (
            [f"seed={'1' * 5000}"],
            "an integer on the command line has thousands of digits; integers must have at most 64",
        ),
        (["sed=1"], "there is no key sed; did you mean seed?"),
        (["algorithm=mamll"], "algorithm has no option 'mamll'; did you mean maml? Options: "),
        (["dataset=omniglott"], "dataset has no option 'omniglott'; did you mean omniglot? Options: "),
        (["algorithm/inner=gradient_decent"], "algorithm/inner has no option 'gradient_decent'; did you mean "),
        (["experiment=maml_sinus"], "experiment has no option 'maml_sinus'; did you mean maml_sinusoid? Options: "),
        (
            ["+model.foo=3"],
            "there is no key model.foo; MLP takes input_shape, num_outputs, hidden, activation, init_std.",
        ),
        (["+optimizer.foo=3"], "optimizer: "),
        (["+algorithm.inner.stepp=3"], "there is no key algorithm.inner.stepp; did you mean algorithm.inner.steps?"),
        (["~algorithm.inner.steps"], "algorithm.inner.steps must be given"),
        (["~algorithm.adapted"], "algorithm.adapted must be given"),
        (["+foo=3"], "there is no key foo. metarun --cfg job shows every key."),
        (["+run.foldr=x"], "there is no key run.foldr; did you mean run.folder?"),
        # no option of a group, or none at all
        (
            ["model=null"],
            "model has no option 'null'. Options: context_mlp, conv4, conv4_max_pool, mlp, policy_mlp, softmax_policy.",
        ),
        (
            ["tracker=null"],
            "tracker has no option 'null'; did you mean none? Options: mlflow, none, tensorboard, wandb.",
        ),
        (["device=inf"], "device has no option 'inf'. Options: auto, cpu, cuda."),
        (["algorithm=1_000"], "algorithm has no option '1_000'. Options: "),
        (["tracker=[1,2]"], "tracker has no option '1'. Options: mlflow, none, tensorboard, wandb."),
        (["tracker=[]"], "tracker=[] names no option. Options: mlflow, none, tensorboard, wandb."),
        (["tracker=[wandb,tensorbord]"], "tracker has no option 'tensorbord'; did you mean tensorboard? Options: "),
        (["tracker=[none,wandb]"], "tracker=none stands alone, got [none,wandb]. Leave none out."),
        (
            ["tracker=none,tensorboard"],
            "tracker=none,tensorboard gives several values: add -m to run each of them, or write "
            "'tracker=[none,tensorboard]' to have them in one run.",
        ),
        (
            ["tracker.project=x"],
            "there is no key tracker.project; did you mean tracker.wandb.project, which comes with tracker=wandb?",
        ),
        (
            ["tracker=wandb", "tracker.finish_timeout_s=1"],
            "there is no key tracker.finish_timeout_s; did you mean tracker.wandb.finish_timeout_s?",
        ),
        (
            ["tracker=wandb", "tracker.mlflow.uri=x"],
            "there is no key tracker.mlflow.uri with the parts chosen; it comes with tracker=mlflow.",
        ),
        (
            ["tracker=mlflow", "tracker.mlflow.uri=runs"],
            "tracker.mlflow: uri must be sqlite:///FILE or a server's address",
        ),
        (["model=[]"], "model takes one option, got []. Options: "),
        (["model=[mlp]"], "model takes one option, got [mlp]. Options: "),
        (["~optimizer=[1,2]"], "~optimizer=[1,2]: optimizer must be chosen. Options: "),
        (["~tracker"], "tracker must be one option. Options: mlflow, none, tensorboard, wandb."),
        (["~algorithm/inner"], "algorithm/inner must be one option. Options: backtracking_descent, "),
        (["experiment=null"], "experiment=null: none is chosen unless you name one, so leave experiment out."),
        (["hydra/launcher=null"], "hydra/launcher must name an option, got null."),
        (["-m", "model=null,mlp"], "model has no option 'null'. Options: "),
        # a value in the place of keys, and the reverse
        (["data=cuda"], "data must have keys of its own (root, cache, residence, max_pixels), got 'cuda'"),
        (["schedule=null"], "schedule must have keys of its own (steps, tasks_per_step, "),
        (
            ["algorithm.direction=18446744073709551616"],
            "algorithm.direction must have keys of its own (choose one with ",
        ),
        (
            ["algorithm.inner=null"],
            "algorithm.inner must have keys of its own (steps, step_size, eval_step_sizes, proximal) (choose ",
        ),
        (["dataset.training=null"], "dataset.training must have keys of its own (steps, tasks_per_step, "),
        (["+seed.x=3"], "seed must be a single value, such as 0, got {'x': 3}"),
        (["model.hidden=64"], "model: hidden must be a list of integers, got 64"),
        (["~seed"], "seed must be given"),
        (["~run.overwrite"], "run.overwrite must be given"),
        (["reference=5"], "reference must be null or have source, metric, values and differences, got 5"),
        (
            ["experiment=maml_sinusoid", "reference.settings=5"],
            "reference.settings must be keys of this configuration, got 5",
        ),
        # what is Hydra's
        (["hydra.run.dir=x"], "hydra.run.dir has no effect here: run.folder names this run's folder, run.root where "),
        (["~hydra.launcher.jobs"], "~hydra.launcher.jobs: Hydra needs hydra.launcher.jobs; give it another value"),
        (["hydra.sweeper=null"], "hydra.sweeper=null: Hydra needs hydra.sweeper; give it another value"),
        (["-m", "seed=range(0,3,0)"], "seed=range(0,3,0): range() arg 3 must not be zero."),
        (["-m", "seed=range(0,0)"], "seed=range(0,0) gives no value: the end of a range is not part of it."),
        (["run=${seed}"], "run must have keys of its own (root, folder, overwrite, init_from), got '${seed}'"),
        (["hydra.sweep.dir=x"], "hydra.sweep.dir has no effect here: a sweep lies in sweeps/ of run.root."),
        (["+model._partial_=true"], "model._partial_ is Hydra's own and has no place here"),
        (["optimizer._partial_=false"], "optimizer._partial_ is Hydra's own and must stay true, got false"),
        (["~model._target_"], "model._target_ must name a class, and is missing"),
        # classes
        (
            ["model._target_=nowhere.Model"],
            "model._target_ is nowhere.Model, and there is no module nowhere. Looked in the current folder (",
        ),
        (["model._target_=torch.nn.Linea"], "has no Linea; did you mean Linear?"),
        (["model._target_=builtins.dict"], "model._target_ must name a torch.nn.Module, and builtins.dict gave {"),
        (["model.num_outputs=-1"], "model: "),
        # values of a wrong kind
        (["algorithm.inner.steps=abc"], "algorithm.inner: steps must be an integer, got 'abc'"),
        (["algorithm.inner.step_size=0"], "algorithm.inner: step_size must be a number > 0, got 0"),
        (["seed=x"], "seed: the seed must be an integer >= 0, got 'x'"),
        (["seed=-1"], "seed: the seed must be an integer >= 0, got -1"),
        (["schedule.steps=0"], "schedule: steps must be an integer >= 1, got 0"),
        (["schedule.steps=1.5"], "schedule: steps must be an integer, got 1.5"),
        (["dataset.shots=0"], "schedule: shots must be an integer >= 1, got 0"),
        (["evaluation.inner_steps=5"], "evaluation: inner_steps must be a list of integers"),
        (["optimizer.lr=-1"], "optimizer: lr must be a number > 0, got -1"),
        (["optimizer.lr=abc"], "optimizer: lr must be a number, got 'abc'"),
        (["optimizer=sgd", "optimizer.momentum=5"], "optimizer: momentum must be a number >= 0 and < 1, got 5"),
        (
            ["optimizer._target_=torch.optim.LBFGS", "~optimizer.eps"],
            "optimizer: LBFGS evaluates the loss several times",
        ),
        (["lr_schedule.factor=0"], "lr_schedule: factor must be a number > 0, got 0"),
        (["lr_schedule.total_iters=abc"], "lr_schedule: total_iters must be an integer, got 'abc'"),
        (["lr_schedule=cosine", "lr_schedule.T_max=-3"], "lr_schedule: T_max must be an integer >= 1, got -3"),
        (["lr_schedule=plateau", "+lr_schedule.mode=max"], "lr_schedule.mode must be min for the score mse, got max"),
        (["model.activation=foo"], "model: activation must be one of relu, tanh, softplus, got 'foo'"),
        (["model.num_outputs=3"], "model: the model (MLP) must give outputs of shape (2, 1), got (2, 3)"),
        (["seed=1208925819614629174706176"], "seed: the seed must be an integer of at most 64 bits, got one of 81"),
        # more memory than any machine has
        (
            ["dataset.queries=1000000000000"],
            "schedule: drawing 25 task(s) of 10 shots and 1000000000000 queries takes at least ",
        ),
        (
            ["evaluation.val_queries=1000000000000"],
            "Lower evaluation.val_tasks, evaluation.val_shots or evaluation.val_",
        ),
        (
            ["schedule.tasks_per_step=10000000000", "device.task_chunk=null"],
            "Lower schedule.tasks_per_step, dataset.shots or dataset.queries.",
        ),
        (
            ["model.hidden=[1000000,1000000]"],
            "model: a model of 1,000,004,000,001 parameters, with theta, its gradient and",
        ),
        (
            [*GLYPHS, "dataset.source.store.num_classes.train=1000000000000"],
            "dataset.source.store: drawing the glyphs takes at least ",
        ),
        (["device.threads=100000"], "device: threads must be at most "),
        (["batch_norm=foo"], "batch_norm must be one of transductive, support, got 'foo'"),
        (["device.tf32=true"], "device: tf32 is for products on a GPU, and kind is cpu: this run is on the CPU. Leave"),
        (["device.dtype=float16"], "device: dtype must be one of float32, float64, got 'float16'"),
        (
            ["tracker=wandb", "tracker.wandb.mode=foo"],
            "tracker.wandb: mode must be one of auto, online, offline, disabled",
        ),
        (["tracker=wandb", "tracker.wandb.project=1"], "tracker.wandb: project must be a string, got 1"),
        (["model.hidden=64"], "model: hidden must be a list of integers, got 64"),
        (["schedule.steps=9223372036854775808"], "schedule.steps must be an integer of at most 64 bits, got one of 64"),
        ([*GLYPHS, "dataset.source.flips=maybe"], "dataset.source: flips must be true or false, got 'maybe'"),
        ([*GLYPHS, "dataset.source.store.seed=1.5"], "dataset.source.store: seed must be an integer, got 1.5"),
        (
            [*GLYPHS, "dataset.source.crop_padding=1000"],
            "dataset.source: crop_padding must leave something of each image: < 14, got 1000. "
            "Set dataset.source.crop_padding.",
        ),
        (["run.overwrite=maybe"], "run.overwrite must be true or false, got 'maybe'"),
        (["data.residence=gpu"], "data.residence must be one of auto, device, host, got 'gpu'"),
        (["data.max_pixels=1e9"], "data.max_pixels must be an integer >= 1, got 1000000000.0"),
        (["run.root=null"], "run.root must be a path, got None"),
        (["run.folder=3"], "run.folder must be a path, got 3"),
        (["data.root=null"], "data.root must be a path, got None"),
        (["dataset.source.amplitude=[2,1]"], "dataset.source: amplitude must be [low, high] with low <= high"),
        # compositions that make no sense
        (["algorithm=imaml", "algorithm.proximal_weight=0"], "algorithm: proximal_weight must be > 0 for the implicit"),
        (
            ["algorithm=imaml", "algorithm.proximal_weight=-1"],
            "algorithm: proximal_weight must be a number >= 0, got -1",
        ),
        (
            ["algorithm=imaml", "algorithm.proximal_weight=nan"],
            "algorithm.proximal_weight must be a finite number, got nan",
        ),
        (["algorithm/meta_gradient=implicit"], "algorithm: proximal_weight must be > 0 for the implicit"),
        (
            ["algorithm=imaml", "algorithm.meta_gradient.curvature=foo"],
            "algorithm.meta_gradient: curvature must be one of",
        ),
        (
            ["algorithm=imaml", "algorithm.meta_gradient.solver.steps=-1"],
            "algorithm.meta_gradient.solver: steps must be",
        ),
        (
            [*GLYPHS, "algorithm=pretrain"],
            "algorithm: a classification needs inner steps in training, got steps=0: labels are shuffled in every task, so a "
            "model that does not adapt learns chance. Set algorithm.inner.steps, or choose algorithm=protonet (class means) or "
            "algorithm=scratch as a baseline; algorithm=pretrain is for regression.",
        ),
        # tasks that cannot be filled
        ([*GLYPHS, "dataset.ways=1"], "dataset.source: ways must be >= 2 to classify, got 1. Set dataset.ways."),
        (
            [*GLYPHS, "dataset.ways=6"],
            "split val has 5 classes, but an episode needs ways = 6. Lower dataset.val_ways.",
        ),
        (
            [*GLYPHS, "dataset.ways=7"],
            "split test has 6 classes, but an episode needs ways = 7. Lower dataset.test_ways.",
        ),
        (
            [*GLYPHS, "dataset.ways=4", "dataset.val_ways=5"],
            "dataset.source: the model needs an output for each of the 5 ways of split val, got 4. "
            "Set dataset.output_size=5, or lower dataset.val_ways.",
        ),
        (
            [*GLYPHS, "dataset.ways=13"],
            "split train has 12 classes, but an episode needs ways = 13. Lower dataset.ways.",
        ),
        ([*GLYPHS, "dataset.shots=14"], "14 shots + 5 queries need 19 images per class, but in split train 12 of 12"),
        # validation is as the test: the test's key mends both
        (
            [*GLYPHS, "evaluation.queries=18"],
            "in split test 6 of 6 classes have fewer, test/000000 the fewest with 18. "
            "Lower evaluation.shots or evaluation.queries (evaluation.queries=17 would do).",
        ),
        (
            [*GLYPHS, "evaluation.val_queries=18"],
            "in split val 5 of 5 classes have fewer, val/000000 the fewest with 18. "
            "Lower evaluation.val_shots or evaluation.val_queries (evaluation.val_queries=17 would do).",
        ),
        (["evaluation.val_shots=0"], "evaluation: val_shots must be an integer >= 1, got 0"),
        ([*GLYPHS, "dataset.source.store.num_classes.val=0"], "dataset.source.store: num_classes must be >= 1"),
    ],
    ids=lambda value: " ".join(word for word in value if word not in GLYPHS) if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be(arguments, message, refused):
    assert message in refused(*arguments)


YAML = {
    "typo": ("# @package _global_\nschedul: {steps: 5}\n", ", line 2: there is no key schedul; did you mean schedule?"),
    "deep": ("# @package _global_\nrun: {foldr: x}\n", ", line 2: there is no key run.foldr; did you mean run.folder?"),
    "no_package": ("seed: 5\n", " sets nothing: what it says lies under experiment, which nothing reads. "),
    "number_as_key": ("# @package _global_\n3: 4\n", ", line 2: there is no key 3."),
    "broken": ("# @package _global_\nschedule: {steps: 5\nseed: 3\n", ", line 3: no YAML that can be read: "),
    "tab": ("# @package _global_\nschedule:\n\tsteps: 3\n", ", line 3: no YAML that can be read: "),
    "twice": ("# @package _global_\nseed: 3\nseed: 4\n", ", line 3: no YAML that can be read: "),
    "latin": ("# @package _global_\n# caf\xe9\nseed: 3\n", ", line 2: not UTF-8 (byte 0xe9). Save it as UTF-8."),
    "a_list": ("# @package _global_\n- 3\n", "experiment=a_list cannot be: In 'experiment/a_list': "),
    "a_number": ("3\n", "experiment=a_number cannot be: Invalid loaded object type: int"),
    "defaults": ("# @package _global_\ndefaults: 3\n", "experiment=defaults cannot be: Invalid defaults list in "),
    "itself": ("# @package _global_\nseed: &a [*a]\n", "experiment=itself cannot be: maximum recursion depth exceeded"),
    "hydras": ("# @package _global_\nhydra: {run: {dir: x}}\n", "hydra.run.dir has no effect here: run.folder "),
    "no_key": ("# @package _global_\nseed: ${dataset.way}\n", "Interpolation key 'dataset.way' not found (at seed)"),
}


@pytest.mark.parametrize("name", sorted(YAML))
def test_a_file_of_the_users_is_checked_as_the_command_line_is(name, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Hydra makes its own folder, where a file names one, before anybody is asked
    text, message = YAML[name]
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / f"{name}.yaml").write_bytes(text.encode("latin-1"))
    line = refused(f"--config-dir={tmp_path / 'mine'}", f"experiment={name}")
    assert message in line
    if message.startswith((", line", " sets nothing")):
        assert line.startswith(str(folder / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("dataset.source.amplitude=3", "amplitude"),
        ("dataset.source.amplitude=[a,b]", "amplitude"),
        ("model.hidden=abc", "hidden"),
        ("model.hidden=[0]", "hidden"),
        ("algorithm.meta_gradient=null", "meta_gradient"),
    ],
)
def test_a_part_names_the_value_that_it_refuses(setting, key, refused):
    assert key in refused(setting)


def test_ways_that_are_no_number_are_named(refused):
    assert "ways" in refused(*GLYPHS, "dataset.ways=x")


def test_a_device_that_is_not_there(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused("device=cuda")
    assert line.startswith(
        "device: kind is cuda, and PyTorch sees no CUDA device here. Choose device=cpu or device=auto"
    )


def test_missing_data_say_which_files_where_and_how_to_get_them(refused, tmp_path):
    nowhere = tmp_path / "nowhere"
    line = refused("dataset=omniglot", f"data.root={nowhere}", f"data.cache={tmp_path / 'cache'}")
    assert line.startswith("dataset.source.store: omniglot needs its original files, not found in ")
    assert f"{nowhere} or {nowhere / 'omniglot'}: images_background.zip and images_evaluation.zip; or" in line
    assert "Run: metarun data prepare omniglot, or set data.root or METARUN_DATA" in line


def test_a_set_that_is_not_here_names_its_files_and_the_command(refused, tmp_path):
    line = refused("algorithm=imaml", "dataset=miniimagenet", f"data.root={tmp_path}", f"data.cache={tmp_path / 'c'}")
    for words in (
        "mini-imagenet.tar.gz",
        "mini-imagenet-cache-{train,val,test}.pkl",
        "metarun data prepare miniimagenet",
    ):
        assert words in line


def test_a_folder_of_images_must_be_given(refused):
    line = refused("dataset=folder")
    assert "dataset=folder needs the folder of your images, one folder for each class. Set dataset.path=FOLDER." in line


def test_one_missing_archive_is_the_one_that_is_named(refused, tmp_path):
    (tmp_path / "images_background.zip").write_bytes(b"")
    line = refused("dataset=omniglot", f"data.root={tmp_path}", f"data.cache={tmp_path / 'cache'}")
    assert f"In {tmp_path} images_background.zip is there, and images_evaluation.zip is missing." in line


def test_a_truncated_archive_is_named_with_what_to_do(refused, tmp_path):
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}/A/character01/0001_01.png", bytes(1000))
    broken = tmp_path / "images_background.zip"
    broken.write_bytes(broken.read_bytes()[:500])
    line = refused("dataset=omniglot", f"data.root={tmp_path}", f"data.cache={tmp_path / 'cache'}")
    assert f"{broken} (500 bytes) is not omniglot images_background: truncated, or not such a file" in line
    assert "Take it away and run: metarun data prepare omniglot" in line
    assert os.listdir(tmp_path / "cache") == ["omniglot-28-v1.classes.lock"]


@pytest.mark.parametrize("kind", ["no such system folder", "below a file", "a file"])
def test_an_output_folder_that_cannot_be_written(kind, refused, tmp_path):
    """Places where not even root can write."""
    file = tmp_path / "file"
    file.write_text("mine")
    root = {"no such system folder": Path("/proc/nowhere"), "below a file": file / "runs", "a file": file}[kind]
    if kind == "no such system folder" and not Path("/proc/self").exists():
        pytest.skip("needs the /proc of Linux")
    line = refused(root=root)
    assert line.startswith(f"the run's folder must be writable, and {root}/sinusoid-10shot-maml-seed0-")
    assert line.endswith("Set run.root (or METARUN_OUTPUTS) to a folder of yours.")
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(refused, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "Permission denied" in refused(root=locked)


def test_the_streams_and_the_status_of_the_real_command(tmp_path):
    """One case in another process: nothing on stdout, one line on stderr, status 2."""
    done = python("-m", "metarun", "algorithm.inner.steps=abc", cwd=tmp_path)
    out, err = done.communicate()
    assert (done.returncode, out) == (2, "")
    assert err == "metarun: error: algorithm.inner: steps must be an integer, got 'abc'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_one_line_too(tmp_path, monkeypatch, capsys):
    """It is found while training, so there is a folder and a checkpoint; status 1, and no traceback."""
    monkeypatch.undo()  # this one trains
    assert run_here(*QUICK, "schedule.steps=5", "optimizer.lr=1e30", f"run.root={tmp_path}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "metarun: error: after step 1 the query loss or the meta-gradient is not finite; 25 of 25 tasks"
    )
    for key in ("algorithm.inner.step_size", "optimizer.lr", "algorithm.proximal_weight"):
        assert key in line
