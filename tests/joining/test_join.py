"""What is a script that joins, and how hyperparameters reach its training."""

import os

import pytest
from joined_scripts import build, group, turn

from pbt_flow import TaskError
from pbt_flow.joining import is_joining
from pbt_flow.task import declare
from pbt_flow.testing.task_contract import through_checkpoint

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
