"""What `join` promises a script, each promise by the smallest script that shows it."""

import copy
import gc
import itertools
import os
import resource
import sys
import textwrap
import threading
import weakref

import pytest
import torch

from pbt_flow import TaskError
from pbt_flow.exceptions import UnusableTask
from pbt_flow.joining import is_joining
from pbt_flow.task import TaskSpec, declare, find_task
from pbt_flow.task.joined_script import task_of
from pbt_flow.testing.task_contract import same, through_checkpoint

SCRIPT = """
import argparse, collections, copy, random, sys
import numpy as np
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
import pbt_flow

RATE = FloatDistribution(1e-3, 1.0, log=True)
net = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

def update():
    loss = (net(torch.randn(8, 3)) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

def score():
    return net[0].bias.item()
"""
LOOP = """
for number in pbt.steps(range(1, 9)):
    update()
"""


@pytest.fixture
def script(tmp_path):
    """Makes a task of a script that begins as `SCRIPT` does."""

    def made(text, *, name="joined.py", loop=False):
        path = tmp_path / name
        path.write_text(SCRIPT + textwrap.dedent(text) + (LOOP if loop else ""))
        return find_task(str(path))

    return made


def build(kind, seed=0, **options):
    return TaskSpec(name=str(kind.path), options=options).build(seed)


def turn(task, hparams, steps=2, seed=1):
    task.reseed(seed)
    return task.train(hparams, steps)


def group(task, name="optimizer"):
    return task._member.objects[name].param_groups[0]


# --- what is a script that joins ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("import pbt_flow\npbt = pbt_flow.join(space, f, net=net)", True),
        ("import pbt_flow as pf\ndef main():\n    pf.join(space, f)", True),
        ("from pbt_flow import join as enter\nenter(space, f)", True),
        ("import pbt_flow\nclass Mine(pbt_flow.Task): pass\npbt_flow.join(space, f)", False),
        ("import pbt_flow\npbt_flow.run('x')", False),
        ("import os\nos.path.join('a', 'b')", False),
        ("from mine import join\njoin(1)", False),
        ("not Python at all (", False),
    ],
)
def test_a_script_that_joins_is_known_without_running_it(text, is_one, tmp_path):
    (tmp_path / "joined.py").write_text(text)
    assert is_joining(tmp_path / "joined.py") == is_one


def test_a_script_that_was_edited_declares_what_it_says_now(script):
    text = 'pbt = pbt_flow.join({"lr": FloatDistribution(0.1, HIGH)}, score, net=net)\n'
    for high in (0.5, 0.9):
        kind = script(text.replace("HIGH", str(high)), loop=True)
        os.utime(kind.path, ns=(0, int(high * 10)))
        assert kind.space["lr"].high == high


def test_what_a_script_declares_may_follow_from_its_own_arguments(script):
    kind = script("""
        parser = argparse.ArgumentParser()
        parser.add_argument("--most", type=float, required=True)
        parser.add_argument("--epochs", type=int, default=5)
        args = parser.parse_args()
        space = {"lr": FloatDistribution(0.01, args.most)}
        pbt = pbt_flow.join(space, score, interval=2, direction="minimize", net=net,
                            optimizer=optimizer)
        for epoch in pbt.steps(args.epochs):
            update()
    """)
    declared = declare(str(kind.path), {"arguments": ["--most", "0.5"]})
    assert declared.space["lr"].high == 0.5
    assert (declared.direction, declared.defaults) == ("minimize", {"interval": 2, "turns": 3})
    assert declared.option_defaults == {
        "arguments": [],
        "keep_seed": False,
        "keep_folder": False,
    }
    with pytest.raises(
        TaskError, match=r"(?s)joined.py left before its loop.*required: --most.*--"
    ):
        declare(str(kind.path))


# --- how hyperparameters reach training -----------------------------------------------------------


def test_a_key_of_parameter_groups_is_set_in_every_group_in_its_share(script):
    kind = script(
        """
        optimizer = torch.optim.SGD([
            {"params": net[0].weight, "lr": 0.2}, {"params": net[0].bias, "lr": 0.1}
        ], lr=0.5, weight_decay=0.01)
        space = {"learning_rate": RATE, "weight_decay": RATE}
        pbt = pbt_flow.join(space, score, net=net, optimizer=optimizer)
    """,
        loop=True,
    )
    task = build(kind)
    live = turn(task, {"learning_rate": 0.5, "weight_decay": 0.02})
    groups = task._member.objects["optimizer"].param_groups
    assert [one["lr"] for one in groups] == [0.5, 0.25]
    assert [one["weight_decay"] for one in groups] == [0.02, 0.02]
    assert live == {"live/learning_rate": 0.5, "live/weight_decay": 0.02}


def test_of_several_optimisers_one_is_meant_by_its_name(script):
    kind = script("""
        other = torch.optim.SGD([net[0].bias], lr=0.1)
        space = {"generator.lr": RATE, "critic.lr": RATE}
        pbt = pbt_flow.join(space, score, net=net, generator=optimizer, critic=other)
        for number in pbt.steps():
            update()
            other.step()
    """)
    task = build(kind)
    live = turn(task, {"generator.lr": 0.5, "critic.lr": 0.25})
    assert (group(task, "generator")["lr"], group(task, "critic")["lr"]) == (0.5, 0.25)
    assert live == {"live/generator.lr": 0.5, "live/critic.lr": 0.25}


SCHEDULERS = {
    "step": "s.StepLR(optimizer, 1, gamma=0.7)",
    "exponential": "s.ExponentialLR(optimizer, 0.7)",
    "lambda": "s.LambdaLR(optimizer, lambda n: 0.7**n)",
    "multiplicative": "s.MultiplicativeLR(optimizer, lambda n: 0.7)",
    "sequential": "s.SequentialLR(optimizer, [s.StepLR(optimizer, 1, 0.7), "
    "s.StepLR(optimizer, 1, 0.7)], [9])",
    "chained": "s.ChainedScheduler([s.ExponentialLR(optimizer, 0.7)], optimizer)",
    "plateau": "s.ReduceLROnPlateau(optimizer, factor=0.7, patience=0, threshold=9)",
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_with_its_scheduler_a_rate_is_the_base_and_the_factor_is_kept(script, scheduler):
    """A donor is two decays of .7 old, and .5 is asked for: .49 of it is live."""
    step = "scheduler.step(1.0)" if "Plateau" in scheduler else "scheduler.step()"
    kind = script(f"""
        s = torch.optim.lr_scheduler
        scheduler = {scheduler}
        pbt = pbt_flow.join({{"lr": RATE}}, score, net=net, optimizer=optimizer,
                            scheduler=scheduler)
        for number in pbt.steps():
            update()
            if number not in (0, 9):
                {step}
    """)
    donor, copy = build(kind), build(kind, seed=1)
    factor = turn(donor, {"lr": 0.2}, steps=3)["factor/lr"]
    # The last step was made with .7 of it; what the schedule did behind it is the next turn's.
    assert factor == pytest.approx(0.7)
    assert group(donor)["lr"] == pytest.approx(0.2 * 0.49)
    copy.load_state_dict(through_checkpoint(donor.state_dict()))
    live = turn(copy, {"lr": 0.5}, steps=1)
    assert group(copy)["lr"] == pytest.approx(0.5 * 0.7**3)
    assert live["live/lr"] == 0.5
    # What the schedule makes from there on is what it makes of that base from the beginning.
    straight = build(kind)
    turn(straight, {"lr": 0.5}, steps=4)
    assert group(copy)["lr"] == pytest.approx(group(straight)["lr"])


def test_a_single_cycle_is_scaled_by_its_peak(script):
    kind = script("""
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.1, total_steps=20, cycle_momentum=False)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer, scheduler=scheduler)
        for number in pbt.steps():
            update()
            scheduler.step()
    """)
    plain, scaled = build(kind), build(kind)
    turn(plain, {"lr": 0.1}, steps=5)
    assert turn(scaled, {"lr": 0.3}, steps=5)["live/lr"] == 0.3
    assert group(scaled)["lr"] == pytest.approx(3 * group(plain)["lr"])


@pytest.mark.parametrize(
    ("tuned", "cycled", "helps"),
    [
        ("momentum", True, "sets it too; give cycle_momentum=False to a OneCycleLR or CyclicLR, "),
        ("lr", False, r"sets it too; name its scheduler in join\(...\), drop it, or"),
        ("weight_decay", False, "sets it too; drop it, or let the script"),
    ],
)
def test_what_a_schedule_sets_too_is_told_with_what_helps_there(tuned, cycled, helps, script):
    kind = script(f"""
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.1, total_steps=20, cycle_momentum={cycled})
        pbt = pbt_flow.join({{"{tuned}": RATE}}, score, net=net, optimizer=optimizer)
        for number in pbt.steps():
            update()
            optimizer.param_groups[0]["weight_decay"] = 0.0
            scheduler.step()
    """)
    with pytest.raises(TaskError, match=helps):
        turn(build(kind), {tuned: 0.5})


def test_namesakes_of_a_namespace_are_set_and_a_part_of_a_module_by_name(script):
    kind = script("""
        args = argparse.Namespace(clip=1.0, other=2)
        pbt = pbt_flow.join({"clip": RATE, "dropout": RATE, "lr": RATE}, score, net=net,
                            optimizer=optimizer)
        pbt.into(args)
        pbt.into(net[1], p="dropout")
        for number in pbt.steps():
            update()
            pbt.log(clip_seen=args.clip)
    """)
    task = build(kind)
    live = turn(task, {"clip": 0.5, "dropout": 0.25, "lr": 0.125})
    assert live.pop("clip_seen") == 0.5
    assert live == {"live/clip": 0.5, "live/dropout": 0.25, "live/lr": 0.125}
    assert task.model()[1].p == 0.25


def test_a_script_may_make_the_rate_of_each_step_itself_from_what_it_was_told(script):
    kind = script("""
        args = argparse.Namespace(lr=0.1)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        pbt.into(args, lr="lr")
        for number in pbt.steps():
            optimizer.param_groups[0]["lr"] = args.lr * 0.5**number
            update()
    """)
    task = build(kind)
    assert turn(task, {"lr": 0.5}, steps=3) == {"live/lr": 0.5}
    assert group(task)["lr"] == 0.125


def test_a_choice_is_asked_for_by_name_and_has_no_number_to_record(script):
    kind = script("""
        pbt = pbt_flow.join({"loss": CategoricalDistribution(["l1", "l2"])}, score, net=net)
        for number in pbt.steps():
            assert pbt["loss"] == pbt.get("loss", "l1") == "l2"
    """)
    assert turn(build(kind), {"loss": "l2"}) == {}


@pytest.mark.parametrize(
    ("space", "body", "said"),
    [
        ('{"lr": RATE, "clip": RATE}', "update()", r"nobody took the hyperparameter clip.*pbt\['c"),
        (
            '{"lr": RATE}',
            "update(); optimizer.param_groups[0]['lr'] *= 0.7",
            r"lr was 0.5 when the turn began and came to 0.35 .*name its scheduler",
        ),
        (
            '{"lr": RATE}',
            "optimizer.param_groups[0]['lr'] = 9.0; update(); optimizer.param_groups[0]['lr']=0.5",
            "lr was 0.5 when the turn began and came to 9.0",
        ),
        ('{"lr": RATE}', "pass", "lr was set in optimizer, which made no step"),
        (
            '{"lr": RATE}',
            "update(); pbt['lt']",
            "no hyperparameter 'lt' in the space; it has lr",
        ),
    ],
)
def test_what_was_not_live_ends_the_turn_and_says_so(script, space, body, said):
    kind = script(f"""
        pbt = pbt_flow.join({space}, score, net=net, optimizer=optimizer)
        for number in pbt.steps():
            {body}
    """)
    with pytest.raises(TaskError, match=said):
        turn(build(kind), {"lr": 0.5, "clip": 0.5} if "clip" in space else {"lr": 0.5}, steps=1)


# --- the state ------------------------------------------------------------------------------------


def test_what_has_a_state_and_is_not_named_is_told_by_its_name(script):
    kind = script(
        """
        ema = copy.deepcopy(net)
        loss = torch.nn.MSELoss()
        noise = torch.Generator()
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """,
        loop=True,
    )
    told = build(kind).understood()["not in checkpoints"]
    assert told.startswith("ema, noise: ")


def test_what_the_loop_carries_in_no_object_is_told_by_its_name(script):
    kind = script(
        """
        patience, best, kept, losses = 0, None, {"n": 0}, []
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer, kept=kept)
        for number, step in enumerate(pbt.steps()):
            update()
            losses.append(score())
            kept["n"] += 1
            if best is None or losses[-1] < best:
                best, patience = losses[-1], 0
            else:
                patience += 1
            if patience > 3 or number % 10 == 9 or kept["n"] > 90:
                print(best)
    """
    )
    told = build(kind).understood()["begins anew"]
    assert told.startswith("best, losses, number, patience: carried by the loop from pass to pass")
    text = kind.path.read_text()
    kind.path.write_text(text.replace("losses[-1]", "score()").replace("number % 10 == 9", "step"))
    assert build(kind).understood()["begins anew"].startswith("best, patience: ")


def test_what_a_trainer_the_file_and_a_loader_have_is_told_as_well(script):
    kind = script(
        """
        older, drawn = np.random.RandomState(1), random.Random(1)
        class Trainer:
            def __init__(self):
                self.net, self.ema = net, copy.deepcopy(net)
                self.loader = torch.utils.data.DataLoader(
                    torch.arange(4), shuffle=True, generator=torch.Generator()
                )
            def fit(self):
                pbt = pbt_flow.join({"lr": RATE}, score, net=self.net, optimizer=optimizer)
                for number in pbt.LOOP:
                    update()
        Trainer().fit()
    """.replace("LOOP", "steps()")
    )
    told = build(kind).understood()["not in checkpoints"]
    assert told.startswith("drawn, older, self.ema, self.loader.generator: ")
    # What batches() draws from is seeded for each epoch, by a seed in the state.
    kind.path.write_text(kind.path.read_text().replace("steps()", "batches(self.loader)"))
    told = build(kind).understood()["not in checkpoints"]
    assert told.startswith("drawn, older, self.ema: ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("path='here'", r"join\(path=...\): a str has no state"),
        ("count=3", 'goes into a dict, as in progress = {"best": 0.0}'),
        ("mean=np.zeros(3)", "torch.from_numpy"),
        ("kind=torch.nn.Linear", "the class Linear has no state"),
        ("", "names no object"),
    ],
)
def test_what_has_no_state_is_refused_with_its_name_and_type(script, given, said):
    kind = script(
        f"""
        pbt = pbt_flow.join({{"lr": RATE}}, score, {given})
    """,
        loop=True,
    )
    with pytest.raises(TaskError, match=said):
        build(kind)


EVERYTHING = """
progress = {"best": 0.0, "seen": [1]}
total = torch.zeros(2)
draws, noise = np.random.default_rng(3), torch.Generator().manual_seed(3)
older, oldest = np.random.RandomState(3), random.Random(3)
losses = collections.defaultdict(list)
objects = dict(net=net, optimizer=optimizer, progress=progress, total=total, draws=draws,
               noise=noise, older=older, oldest=oldest, losses=losses)
pbt = pbt_flow.join({"lr": RATE}, score, **objects)
for number in pbt.steps():
    update()
    progress["best"] += np.float64(draws.random() + older.rand() + oldest.random())
    losses["all"].append(progress["best"])
    total += torch.rand(2, generator=noise)
"""


def test_every_kind_of_object_goes_on_where_it_was_left(script):
    kind = script(EVERYTHING)
    warm, cold = build(kind), build(kind, seed=1)
    turn(warm, {"lr": 0.1})
    cold.load_state_dict(through_checkpoint(warm.state_dict()))
    for task in (warm, cold):
        turn(task, {"lr": 0.1}, seed=2)
    assert same(through_checkpoint(warm.state_dict()), through_checkpoint(cold.state_dict()))


ESTIMATOR = """
from sklearn.{module} import {estimator}
texts = np.array(["no", "yes"])
net = {estimator}({given})
pbt = pbt_flow.join({{"x": RATE}}, lambda: float(net.{score}.mean()), net=net)
images = np.random.default_rng(7).random((90, 4))
for number in pbt.steps():
    pbt["x"]
    part = images[number * 30 : number * 30 + 30]
    net.partial_fit(part{labels})
"""
LABELS = ", texts[(part[:, 0] > 0.5).astype(int)], classes=texts"


@pytest.mark.parametrize(
    "given",
    [
        ("naive_bayes", "GaussianNB", "", "theta_", LABELS),
        ("linear_model", "SGDClassifier", "random_state=0", "coef_", LABELS),
        ("linear_model", "SGDClassifier", "random_state=np.random.RandomState(3)", "coef_", LABELS),
        ("decomposition", "LatentDirichletAllocation", "random_state=0", "components_", ""),
    ],
    ids=lambda given: given[1],
)
def test_an_estimator_goes_on_where_it_was_left_whatever_its_labels_and_draws_are(script, given):
    names = dict(zip(("module", "estimator", "given", "score", "labels"), given, strict=True))
    kind = script(ESTIMATOR.format(**names))
    warm, cold = build(kind), build(kind, seed=1)
    turn(warm, {"x": 0.5}, steps=1)
    cold.load_state_dict(through_checkpoint(warm.state_dict()))
    for task in (warm, cold):
        turn(task, {"x": 0.5}, steps=1, seed=2)
    assert cold.evaluate() == warm.evaluate()
    assert same(through_checkpoint(warm.state_dict()), through_checkpoint(cold.state_dict()))


def test_an_estimator_that_learns_what_no_checkpoint_can_hold_is_refused_once(script):
    kind = script(
        ESTIMATOR.format(
            module="neural_network", estimator="MLPClassifier", given="(2,)",
            score="coefs_[0]", labels=LABELS,
        )
    )  # fmt: skip
    task = build(kind)
    turn(task, {"x": 0.5}, steps=1)
    with pytest.raises(UnusableTask, match="MLPClassifier learns _label_binarizer, .*state_dict"):
        task.state_dict()


def test_gradients_that_are_gathered_for_a_step_go_on_after_a_copy_and_are_no_losers(script):
    kind = script("""
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        for number in pbt.steps():
            (net(torch.randn(8, 3)) - 1).square().mean().backward()
            if number % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
    """)
    warm, cold, loser = build(kind), build(kind, seed=1), build(kind, seed=2)
    turn(warm, {"lr": 0.1}, steps=3)
    assert "gradients" not in warm.state_dict()
    turn(warm, {"lr": 0.1}, steps=4, seed=3)
    turn(loser, {"lr": 0.1}, steps=5)
    state = through_checkpoint(warm.state_dict())
    assert list(state["gradients"]) == ["optimizer"]
    for task in (cold, loser):
        task.load_state_dict(copy.deepcopy(state))
        assert same(through_checkpoint(task.state_dict()), state)
    for task in (warm, cold, loser):
        turn(task, {"lr": 0.1}, steps=3, seed=2)
    assert cold.evaluate() == warm.evaluate() == loser.evaluate()


def test_weights_that_the_loop_begins_to_train_are_trained_after_a_copy_as_well(script):
    kind = script("""
        net[0].bias.requires_grad_(False)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        for number in pbt.steps():
            if number == 1:
                net[0].bias.requires_grad_(True)
            update()
    """)
    first, warm, cold = build(kind), build(kind), build(kind, seed=1)
    turn(first, {"lr": 0.1}, steps=1)
    assert "trainable" not in first.state_dict()
    turn(warm, {"lr": 0.1})
    cold.load_state_dict(through_checkpoint(warm.state_dict()))
    for task in (warm, cold):
        turn(task, {"lr": 0.1}, seed=2)
    assert cold.evaluate() == warm.evaluate()
    # Back to what had not come so far.
    warm.load_state_dict(through_checkpoint(first.state_dict()))
    assert not warm.model()[0].bias.requires_grad


@pytest.mark.parametrize(
    "body",
    [
        "optimizer.add_param_group({'params': [torch.nn.Parameter(torch.ones(1))]})",
        "net.append(torch.nn.Linear(1, 1))",
    ],
    ids=["group", "layer"],
)
def test_a_loop_that_adds_what_no_copy_would_have_is_told_in_the_turn_that_does_so(script, body):
    kind = script(f"""
        pbt = pbt_flow.join({{"lr": RATE}}, score, net=net, optimizer=optimizer)
        for number in pbt.steps():
            if number == 2:
                {body}
            update()
    """)
    task = build(kind)
    turn(task, {"lr": 0.1})
    with pytest.raises(TaskError, match=r"joined\.py: its loop has given .* requires_grad_"):
        turn(task, {"lr": 0.1})


def test_a_state_that_does_not_fit_the_script_is_refused_with_the_objects_name(script):
    join = 'pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)'
    begun = build(script(join, loop=True))
    turn(begun, {"lr": 0.1})
    edited = build(script(f"net.append(torch.nn.Linear(1, 1))\n{join}", loop=True))
    with pytest.raises(TaskError, match=r"joined\.py: net does not take over .*bring the script"):
        edited.load_state_dict(through_checkpoint(begun.state_dict()))


LOADER = """
data = torch.utils.data.TensorDataset(torch.arange(10.0))
loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True{more})
seen = {{"batches": []}}
pbt = pbt_flow.join({{"x": RATE}}, lambda: 0.0, seen=seen)
for (batch,) in pbt.batches(loader):
    pbt["x"]
    torch.rand(3)
    seen["batches"].append(batch.tolist())
"""


@pytest.mark.parametrize(
    "more", ["", ", generator=torch.Generator()", ", num_workers=1"], ids=["plain", "own", "worker"]
)
@pytest.mark.parametrize("lengths", [[13], [6, 7], [1, 4, 5, 3]])
def test_the_place_in_a_loader_is_part_of_the_state(script, more, lengths):
    """Whether each turn goes on warm or in another process: an epoch is seen once, in one order."""
    kind = script(LOADER.format(more=more))
    warm, cold = build(kind), build(kind)
    for task in (warm, cold):
        task.reseed(1)
    random_before = torch.get_rng_state()
    for number, steps in enumerate(lengths):
        warm.train({"x": 0.5}, steps)
        warm.reseed(number)
    torch.set_rng_state(random_before)
    cold.reseed(1)
    for number, steps in enumerate(lengths):
        cold.train({"x": 0.5}, steps)
        state = through_checkpoint(cold.state_dict())
        cold = build(kind, seed=number)
        cold.load_state_dict(state)
        cold.reseed(number)
    seen = warm._member.objects["seen"]["batches"]
    assert len(seen) == 13
    for epoch in (seen[:5], seen[5:10]):
        assert sorted(itertools.chain(*epoch)) == list(range(10))
    assert seen == cold._member.objects["seen"]["batches"]


@pytest.mark.parametrize(
    ("loop", "length"),
    [
        ("steps(range(3, 9, 2))", 3),
        ("steps()", None),
        ("batches([1, 2], epochs=4)", 8),
        ("batches([1, 2], epochs=None)", None),
        ("batches(iter([1, 2]))", None),
    ],
)
def test_a_loop_is_as_long_as_the_scripts_own_alone_and_in_a_population(script, loop, length):
    text = f"""
        lengths = {{}}
        pbt = pbt_flow.join({{"lr": RATE}}, lambda: 0.0, net=net, lengths=lengths)
        loop = pbt.{loop}
        try:
            lengths["loop"] = len(loop)
        except TypeError:
            lengths["loop"] = None
        for one in loop:
            if pbt.is_alone:
                break
    """
    kind = script(text)
    assert build(kind)._member.objects["lengths"] == {"loop": length}
    alone = {}
    exec(compile(kind.path.read_text(), str(kind.path), "exec"), alone)
    assert alone["lengths"] == {"loop": length}


PERSISTENT = """
class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, place):
        return place + torch.rand(1)

loader = torch.utils.data.DataLoader(
    Noise(), shuffle=True, num_workers=1, persistent_workers=True
)
parts = {{"train": loader}}
seen = {{"batches": []}}
pbt = pbt_flow.join({{"x": RATE}}, {evaluate}, interval=2, seen=seen)
for given in pbt.{loop}:
    pbt["x"]
    seen["batches"] += [one.item() for one in {batches}]
"""


@pytest.mark.parametrize(
    "given",
    [
        {"loop": "steps()", "batches": "parts['train']", "evaluate": "lambda: 0.0"},
        {"loop": "batches(loader)", "batches": "[given]", "evaluate": "lambda: len(list(loader))"},
    ],
    ids=["steps", "batches"],
)
def test_a_loader_whose_processes_stay_gives_a_copy_what_it_gives_the_donor(script, given):
    kind = script(PERSISTENT.format(**given))
    warm, cold = build(kind), build(kind, seed=1)
    for seed, steps in ((1, 3), (2, 2)):
        turn(warm, {"x": 0.5}, steps, seed)
        warm.evaluate()
        if seed == 1:
            cold.load_state_dict(through_checkpoint(warm.state_dict()))
    turn(cold, {"x": 0.5}, 2, seed=2)
    assert cold._member.objects["seen"] == warm._member.objects["seen"]


def test_the_number_of_a_step_follows_the_lineage_in_the_scripts_own_counting(script):
    kind = script("""
        seen = {"numbers": []}
        pbt = pbt_flow.join({"x": RATE}, lambda: 0.0, seen=seen)
        for number in pbt.steps(range(10, 40, 10)):
            pbt["x"]
            seen["numbers"].append((number, pbt.step, pbt.begins))
    """)
    donor, copy = build(kind), build(kind)
    turn(donor, {"x": 0.5}, steps=2)
    copy.load_state_dict(through_checkpoint(donor.state_dict()))
    turn(copy, {"x": 0.5}, steps=3)
    begun = [(10, 0, True), (20, 1, False)]
    assert copy._member.objects["seen"]["numbers"] == [
        *begun,
        (30, 2, True),
        (40, 3, False),
        (50, 4, False),
    ]


# --- the script in its process --------------------------------------------------------------------


def test_members_begin_with_other_weights_though_the_script_seeds_itself(script):
    text = """
        torch.manual_seed(1); np.random.seed(1); random.seed(1)
        net = torch.nn.Linear(1, 1)
        drawn = {"values": [random.random(), np.random.random()]}
        data = torch.rand(1, generator=torch.Generator().manual_seed(1))
        pbt = pbt_flow.join({"x": RATE}, lambda: 0.0, net=net, drawn=drawn, data=data)
        for number in pbt.steps():
            pbt["x"]
            torch.manual_seed(5)
            pbt.log(drawn=torch.rand(()).item())
    """
    kind = script(text)
    tasks = [build(kind, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (through_checkpoint(task.state_dict())["objects"] for task in tasks)
    assert same(first, again)
    for name in ("net", "drawn"):
        assert not same(first[name], other[name])
    assert same(first["data"], other["data"]), "a generator of the script's own is its own affair"
    told = tasks[0].understood()["seed"]
    assert "torch.manual_seed(1) of the script" in told
    # Who has seeded the split need not change anything.
    assert "a generator of its own is the same in all; one that has none is another in each" in told
    # In the loop the script's seeding is its own.
    torch.manual_seed(5)
    drawn = torch.rand(()).item()
    assert turn(tasks[2], {"x": 0.5})["drawn"] == drawn
    kept = [build(kind, seed=seed, keep_seed=True) for seed in (0, 1)]
    assert same(*(through_checkpoint(task.state_dict()) for task in kept))


def test_a_script_sees_its_own_words_and_its_own_main_module(script):
    import sys

    kind = script("""
        class Own: pass
        seen = {"before": [sys.argv[1:], sys.modules["__main__"].Own is Own], "in": []}
        def score():
            assert sys.modules["__main__"].Own is Own
            return 1.0
        pbt = pbt_flow.join({"x": RATE}, score, seen=seen)
        for number in pbt.steps():
            pbt["x"]
            seen["in"] = [sys.argv[1:], sys.modules["__main__"].Own is Own, __name__, __file__]
    """)
    words, main = list(sys.argv), sys.modules["__main__"]
    task = build(kind, arguments=["--one", "two words"])
    turn(task, {"x": 0.5})
    task.evaluate()
    seen = task._member.objects["seen"]
    assert seen["before"] == [["--one", "two words"], True]
    assert seen["in"] == [["--one", "two words"], True, "__main__", str(kind.path)]
    assert (sys.argv, sys.modules["__main__"]) == (words, main)


FILES = """
open("last.txt", "a").close()
pbt = pbt_flow.join({"x": RATE}, lambda: 0.0, seen={"files": 0})
for number in pbt.steps():
    pbt["x"]
    import os
    pbt.log(files=len(os.listdir(".")))
    open("last.txt", "x").close()
    open("{missing}").close()
"""


def test_a_members_loop_has_a_folder_of_its_own_that_is_empty_when_a_turn_begins(
    script, tmp_path, monkeypatch
):
    kind = script(FILES.replace("{missing}", "last.txt"))
    monkeypatch.setenv("PBT_FLOW_WORKER", "0")
    monkeypatch.setenv("PBT_FLOW_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    first, second = build(kind), build(kind)
    here = os.getcwd()
    for task in (first, second, first):
        assert turn(task, {"x": 0.5}, steps=1)["files"] == 0
    assert os.getcwd() == here
    assert len(list((tmp_path / "scratch").iterdir())) == 2
    del first, second, task
    gc.collect()
    assert not list((tmp_path / "scratch").iterdir())
    missing = script(FILES.replace("{missing}", "data/train.csv"), name="joined_other.py")
    with pytest.raises(TaskError, match=r"no data/train.csv in the .*own folder.*keep_folder"):
        turn(build(missing), {"x": 0.5}, steps=1)
    kept = build(missing, keep_folder=True)
    (tmp_path / "last.txt").unlink()
    with pytest.raises(FileNotFoundError):
        turn(kept, {"x": 0.5}, steps=1)


@pytest.mark.parametrize(
    ("loop", "evaluation", "named"),
    [
        ("torch.save(net.state_dict(), 'saved/last.pt')", "0.0", "saved"),
        ("raise OSError(\"Cannot save file into a non-existent directory: 'out'\")", "0.0", "out"),
        ("pass", "open('data/test.csv')", "data/test.csv"),
    ],
)
def test_whatever_is_not_found_in_a_members_folder_is_told_with_the_way_out(
    script, tmp_path, monkeypatch, loop, evaluation, named
):
    kind = script(f"""
        pbt = pbt_flow.join({{"lr": RATE}}, lambda: {evaluation}, net=net, optimizer=optimizer)
        for number in pbt.steps():
            update()
            {loop}
    """)
    monkeypatch.setenv("PBT_FLOW_WORKER", "0")
    monkeypatch.setenv("PBT_FLOW_SCRATCH", str(tmp_path))
    task = build(kind)

    def train():
        turn(task, {"lr": 0.1})
        task.evaluate()

    with pytest.raises(TaskError, match=rf"there is no {named} in .*own folder.*keep_folder=true"):
        train()


def test_a_script_whose_weights_no_checkpoint_would_hold_is_refused(script):
    kind = script(
        """
        pbt = pbt_flow.join({"lr": RATE}, score, optimizer=optimizer)
    """,
        loop=True,
    )
    with pytest.raises(TaskError, match="optimizer trains 2 weights that no object named in join"):
        build(kind)


PART = """
head = torch.nn.Linear(1, 1)
optimizer.add_param_group({{"params": list(head.parameters())}})
class Copies:
    def state_dict(self): return copy.deepcopy(head.state_dict())
    def load_state_dict(self, state): head.load_state_dict(state)
pbt = pbt_flow.join({{"lr": RATE}}, score, net=net, optimizer=optimizer{more})
"""


def test_each_weight_that_is_trained_belongs_to_a_named_object(script):
    with pytest.raises(TaskError, match="optimizer trains 2 of its 4 weights that no object"):
        build(script(PART.format(more=""), loop=True))
    # A state may hold copies, and weights that are frozen belong to nobody.
    build(script(PART.format(more=", head=Copies()"), name="copies.py", loop=True))
    frozen = PART.format(more="") + "head.requires_grad_(False)\n"
    build(script(frozen, name="frozen.py", loop=True))


def test_a_module_that_knows_its_shapes_only_in_training_joins(script):
    kind = script("""
        net = torch.nn.Sequential(torch.nn.LazyLinear(1), torch.nn.Dropout(0.5))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """, loop=True)  # fmt: skip
    warm, cold = build(kind), build(kind, seed=1)
    turn(warm, {"lr": 0.1})
    cold.load_state_dict(through_checkpoint(warm.state_dict()))
    assert cold.evaluate() == warm.evaluate()


def test_a_loader_that_does_not_know_its_length_joins(script):
    kind = script("""
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(torch.rand(6))
        loader = torch.utils.data.DataLoader(Stream(), batch_size=2)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        for batch in pbt.batches(loader):
            update()
            pbt.log(least=batch.min())
    """)
    warm, cold = build(kind), build(kind, seed=1)
    turn(warm, {"lr": 0.1})
    cold.load_state_dict(through_checkpoint(warm.state_dict()))
    assert turn(warm, {"lr": 0.1}, seed=2) == turn(cold, {"lr": 0.1}, seed=2)


NESTED = {
    "epochs": """
        for epoch in range(3):
            for number in pbt.steps():
                update()
    """,
    "function": """
        def train():
            for number in pbt.steps():
                update()
        while True:
            train()
    """,
}


@pytest.mark.parametrize("loops", NESTED.values(), ids=NESTED)
def test_a_loop_inside_of_another_one_is_refused(script, loops):
    joined = 'pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)'
    kind = script(f"        {joined}\n{loops}")
    with pytest.raises(TaskError, match=r"stands inside of another loop \(line \d+ of module\)"):
        build(kind)


def test_a_script_that_was_edited_is_read_as_it_is_now(script):
    join = 'pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)'
    with pytest.raises(TaskError, match="stands inside of another loop"):
        build(script(join + "\nwhile True:\n  for number in pbt.steps():\n    update()"))
    build(script(join + "\nif True:\n  for number in pbt.steps():\n    update()"))


def test_a_loop_in_which_the_script_joins_is_none(script):
    kind = script("""
        def begin():
            return pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        for fold in range(3):
            pbt = begin()
            for number in pbt.steps(): update()
    """)
    assert turn(build(kind), {"lr": 0.1})


def test_a_script_finds_what_lies_beside_it_before_what_lies_where_the_user_stands(
    script, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    for folder in (tmp_path, tmp_path / "here"):
        (folder / "helper_of_joined.py").write_text(f"folder = {str(folder)!r}\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    monkeypatch.delitem(sys.modules, "helper_of_joined", raising=False)
    kind = script("""
        import helper_of_joined
        seen = {"folder": helper_of_joined.folder}
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer, seen=seen)
    """, loop=True)  # fmt: skip
    order = list(sys.path)
    assert build(kind)._member.objects["seen"] == {"folder": str(tmp_path)}
    assert [entry for entry in sys.path if entry in order] == order
    monkeypatch.delitem(sys.modules, "helper_of_joined")


def test_a_script_that_neither_joins_nor_has_a_class_is_refused_without_running_it(tmp_path):
    (tmp_path / "plain.py").write_text("for epoch in range(9):\n    open('was_run', 'w').close()")
    with pytest.raises(TaskError, match="has a loop and no class, and does not call"):
        find_task(str(tmp_path / "plain.py"))
    assert not (tmp_path / "was_run").exists()


def test_a_member_that_trains_past_the_scripts_own_end_says_so(script):
    kind = script(
        """
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """,
        loop=True,
    )
    task = build(kind)
    task.train({"lr": 0.1}, 8)
    assert "loop" not in task.understood()
    task.train({"lr": 0.1}, 1)
    assert "is of 8 passes, and a member trains on past its end" in task.understood()["loop"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pass", r"came to its end without a call of pbt_flow.join\(\)"),
        ("pbt_flow.join({'x': RATE}, score, net=net)", r"without a loop over pbt.steps\(\) or"),
        ("import sys; sys.exit('no data')", "left before its loop.*no data"),
        (
            "pbt = pbt_flow.join({'x': RATE}, score, net=net)\n"
            "with torch.no_grad():\n    for n in pbt.steps(): pass",
            r"stands inside of torch.no_grad\(\)",
        ),
        (
            "pbt = pbt_flow.join({'x': RATE}, score, net=net)\npbt['x']",
            "asks for x before its loop",
        ),
        (
            "for _ in range(2): pbt_flow.join({'x': RATE}, score, net=net)",
            "calls join.. twice",
        ),
        ("pbt_flow.join({'x': RATE}, 0.5, net=net)", "evaluate must be a function"),
        (
            "pbt_flow.join({'x': RATE}, score, net=net).into(object())",
            "no attribute that is called",
        ),
        ("pbt_flow.join({'x': RATE}, score, net=net).steps(list('ab'))", "steps.. takes a range"),
    ],
)
def test_a_script_that_cannot_be_a_member_is_told_why_when_it_is_built(tmp_path, text, said):
    (tmp_path / "joined.py").write_text(SCRIPT + text)
    with pytest.raises(TaskError, match=f"(?s){said}"):
        task_of(tmp_path / "joined.py")(seed=0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("break", "joined.py left its loop"),
        ("1 / 0", "division by zero"),
        ("for n in pbt.steps(): pass", "one loop"),
    ],
)
def test_a_script_that_leaves_its_loop_fails_the_turn(script, body, said):
    kind = script(f"""
        pbt = pbt_flow.join({{"x": RATE}}, lambda: None, net=net)
        for number in pbt.steps():
            pbt["x"]
            {body}
    """)
    task = build(kind)
    with pytest.raises((TaskError, ZeroDivisionError), match=said):
        turn(task, {"x": 0.5})
    with pytest.raises(TaskError, match="has ended, and trains no more"):
        turn(task, {"x": 0.5})


def test_an_evaluation_that_returns_nothing_is_named(script):
    kind = script("""
        def test(): print("accuracy")
        pbt = pbt_flow.join({"x": RATE}, test, net=net)
        for number in pbt.steps():
            pbt["x"]
    """)
    task = build(kind)
    turn(task, {"x": 0.5})
    with pytest.raises(TaskError, match=r"test, given to join\(\) to evaluate, returned None"):
        task.evaluate()


def test_modules_are_in_the_mode_of_the_loops_beginning_whoever_looked_at_them(script):
    kind = script("""
        pbt = pbt_flow.join({"lr": RATE}, score, report=lambda: {"bias": score()}, net=net,
                            optimizer=optimizer)
        for number in pbt.steps():
            update()
            pbt.log(training=net.training and net[1].training)
    """)
    task = build(kind)
    task.model().eval()
    assert turn(task, {"lr": 0.1})["training"] == 1.0
    assert task.report() == {"bias": task.evaluate()}


def test_a_walk_of_64_frames_of_c_does_not_leave_the_stack_of_a_script(script):
    # Torch walks them for each of its errors. What lies beyond is no frame once the script has
    # waited, and whoever walked on ended the worker by SIGSEGV.
    kind = script("""
        import ctypes
        def frames():
            return ctypes.CDLL(None).backtrace((ctypes.c_void_p * 65)(), 65)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        for number in pbt.steps():
            update()
            pbt.log(frames=frames())
    """)
    seen = []

    def train():
        task = build(kind)
        seen.extend(turn(task, {"lr": 0.1})["frames"] for _ in range(2))

    # A thread's own stack is short, so that all frames but a few are the script's.
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [65, 65]


# --- what a waiting member costs ------------------------------------------------------------------


def test_a_member_that_is_dropped_is_freed_with_its_model_and_its_greenlet(script):
    kind = script(
        """
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """,
        loop=True,
    )
    task = build(kind)
    turn(task, {"lr": 0.1})
    kept = [weakref.ref(task.model()), weakref.ref(task._script._body), weakref.ref(task)]
    del task
    gc.collect()
    assert [one() for one in kept] == [None, None, None]


def test_a_member_that_waits_takes_little_memory_and_no_time(script):
    kind = script(
        """
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """,
        loop=True,
    )
    turn(build(kind), {"lr": 0.1})  # what all share is there
    before = _resident()
    waiting = [build(kind, seed=seed) for seed in range(32)]
    for task in waiting:
        turn(task, {"lr": 0.1})
    each = (_resident() - before) / len(waiting)
    assert each < 2**20, f"{each:,.0f} bytes"
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for _ in range(1000):
        [task.step for task in (one._member for one in waiting)]
    assert sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - used < 1.0


def _resident() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
