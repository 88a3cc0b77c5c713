"""What of a joined script is its state, goes on in a copy, or is told since it cannot."""

import copy
import itertools

import pytest
import torch
from joined_scripts import build, turn

from pbt_flow import TaskError
from pbt_flow.exceptions import UnusableTask
from pbt_flow.testing.task_contract import same, through_checkpoint


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
