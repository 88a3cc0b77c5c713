"""Breaks one promise after another in a copy of this repository, and shows which test turns red.

    python benchmarks/mutations.py                     # the table in docs/reliability.md
    python benchmarks/mutations.py --only log_queue

A test that stays green under its mutation proves nothing; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutation:
    """One promise, the test that holds it, and a change of the code that breaks it."""

    promise: str
    test: str
    """A file of tests, and after `::` what the names of those meant contain."""
    file: str
    before: str
    after: str
    change: str
    """The mutation in words."""


MUTATIONS = [
    Mutation(
        "a copy refers to a checkpoint that exists",
        "training/test_controller.py::straggler_copies_records",
        "population/history.py",
        "return turn.ok and (turn.member, turn.number) not in self._deleted",
        "return turn.ok",
        "forget which checkpoints were deleted",
    ),
    Mutation(
        "the age of the weights is counted along their lineage",
        "training/test_controller.py::any_population_conserves",
        "strategies/advise.py",
        "checkpoint=taken.checkpoint, step=taken.step)",
        "checkpoint=taken.checkpoint)",
        "a copy keeps its own step",
    ),
    Mutation(
        "a checkpoint in use is never deleted",
        "training/test_controller.py::any_population_conserves",
        "training/controller.py",
        "needed=self.member_index.needs,",
        "needed=lambda checkpoint: False,",
        "nothing is needed",
    ),
    Mutation(
        "a checkpoint that nobody needs is deleted at once",
        "training/test_retention.py::all_that_the_turn_made_superfluous",
        "training/controller.py",
        "self.touched.update(checkpoint.member for checkpoint in left if checkpoint is not None)",
        "pass",
        "look at the member itself only",
    ),
    Mutation(
        "generational: who arrives first decides nothing",
        "training/test_controller.py::under_any_strategy_whatever",
        "population/history.py",
        "            return list(self.ordered)\n",
        "            return list(self.ordered)\n"
        "        return [c for c in self.records.values() if c.member != member]\n",
        "opponents in the order of their arrival",
    ),
    Mutation(
        "generational: nor does a turn of the next generation",
        "training/test_controller.py::under_any_strategy_whatever",
        "training/controller.py",
        "            turns=turns,\n",
        "            turns=None,\n",
        "a decision sees what has been done since",
    ),
    Mutation(
        "no lineage trains beyond the budget, and what is copied was ranked",
        "training/test_controller.py::any_population_conserves",
        "strategies/advise.py",
        "None if chosen is None else history.copyable(chosen, ranking, member.index)",
        "None if chosen is None else history.standing(history.members[chosen])",
        "a copy takes what the donor stands on now",
    ),
    Mutation(
        "a straggler finds a record of its own age",
        "training/test_controller.py::straggler_copies_records",
        "training/retention.py",
        "keep and not is_best(turn)\n",
        "keep\n",
        "the best of an age is not kept",
    ),
    Mutation(
        "at equal time asynchronous members are no worse than generations",
        "training/test_rules.py::at_equal_time",
        "strategies/advise.py",
        "    if present + outlook.behind < quorum:\n",
        "    if outlook.behind:\n",
        "nobody waits",
    ),
    Mutation(
        "whoever does not wait would have copied nobody",
        "strategies/test_advise.py::for_being_sure",
        "strategies/exploit.py",
        "return worse >= exploit.size(members)",
        "return worse >= exploit.size(members) - 1",
        "one worse member too few is enough",
    ),
    Mutation(
        "a rescue has a quorum",
        "strategies/test_advise.py::only_front_runner",
        "strategies/advise.py",
        "        if ranking.count(retired) >= quorum:\n            return history",
        "        if ranking.records:\n            return history",
        "any record of the greatest age will do",
    ),
    Mutation(
        "one failed last turn does not throw the best member away",
        "population/test_history.py::throw_the_best_member",
        "population/history.py",
        "[self.standing(member) for member in self.present]",
        "[self.standing(m) for m in self.present if not m.failures]",
        "who failed last does not win",
    ),
    Mutation(
        "of equally good members each is as likely to rescue",
        "strategies/test_advise.py::as_likely_to_rescue",
        "strategies/advise.py",
        "key=lambda candidate: (candidate.fitness, rng.random()))",
        "key=lambda candidate: (candidate.fitness, candidate.member))",
        "the higher number gives",
    ),
    Mutation(
        "a turn whose worker dies is run again, once",
        "training/test_controller.py::worker",
        "training/controller.py",
        "_TRIES = 2",
        "_TRIES = 1",
        "give it up at the first death",
    ),
    Mutation(
        "half of a generation does not wait for one that hangs",
        "training/test_controller.py::straggler_joins_again",
        "training/controller.py",
        "if now - self.begun[member] > limit}",
        "if False}",
        "nobody is ever late",
    ),
    Mutation(
        "what a silent store missed, it hears later",
        "training/test_log_queue.py",
        "training/log_queue.py",
        "                self.waiting[0]()\n",
        "                self.waiting.popleft()()\n                self.waiting.appendleft(None)\n",
        "a message that was not heard is gone",
    ),
    Mutation(
        "a store that is away holds nothing up, and hears each turn once",
        "training/test_controller.py::any_population_conserves",
        "training/log_queue.py",
        "                self._wait_for_it(error, heard=len(self.waiting) < kept)\n",
        "                self._wait_for_it(error, heard=len(self.waiting) < kept)\n"
        "                self.waiting.popleft()\n",
        "what a silent store did not hear is skipped",
    ),
    Mutation(
        "a refusal of the store is no silence",
        "commands/test_run.py::refuses_is_not_waited_for",
        "tracking/client.py",
        "return error.error_code not in _REFUSALS",
        "return True",
        "every error of the store may pass",
    ),
    Mutation(
        "turns that MLflow never heard of are logged by a resume",
        "whole/test_crashes.py::next and generational",
        "commands/frame.py",
        "            logged = store.projected(member, len(turns))\n",
        "            logged = len(turns)\n",
        "a resume takes all turns for logged",
    ),
    Mutation(
        "no metric point is there twice",
        "whole/test_crashes.py::told and async",
        "tracking/outcome.py",
        "        when = int(max(ended, default=0.0) * 1000)\n",
        "        when = int(max(ended, default=0.0) * 0 + __import__('time').time() * 1000)\n",
        "the end is logged with the time of day",
    ),
    Mutation(
        "a killed attempt leaves nothing behind",
        "whole/test_crashes.py::name and generational",
        "population/checkpoints.py",
        "        partial.unlink(missing_ok=True)\n\n\ndef _rename_durably",
        "        pass\n\n\ndef _rename_durably",
        "unfinished files stay",
    ),
    Mutation(
        "a controller that died here is replaced at once",
        "whole/test_crashes.py::deleted and generational",
        "tracking/lease.py",
        "    return _process_identity(int(pid)) != identity\n",
        "    return False\n",
        "nobody is known to be dead",
    ),
    Mutation(
        "a controller that lives keeps its claim, whatever has its number",
        "tracking/test_lease.py::known_to_be_gone",
        "tracking/lease.py",
        "    return _process_identity(int(pid)) != identity\n",
        "    return _process_identity(int(pid)) == ''\n",
        "a number in use is a living controller",
    ),
    Mutation(
        "an altered checkpoint is refused",
        "population/test_checkpoints.py",
        "population/checkpoints.py",
        "    if (found := file_digest(path)) != checkpoint.digest:\n",
        "    if not (found := file_digest(path)):\n",
        "digests are not compared",
    ),
    Mutation(
        "loading a checkpoint runs no code",
        "population/test_checkpoints.py",
        "population/checkpoints.py",
        "        state = torch.load(path, weights_only=True, map_location=device)\n",
        "        state = torch.load(path, weights_only=False, map_location=device)\n",
        "pickles are loaded",
    ),
    Mutation(
        "a score that is not finite is never crowned",
        "engines/test_worker.py",
        "engines/worker.py",
        "            if math.isfinite(score):\n",
        "            if not math.isnan(score):\n",
        "infinity is a score",
    ),
    Mutation(
        "an artifact store that deletes nothing is told of",
        "tracking/test_deletion.py::cannot_delete",
        "tracking/deletion.py",
        "            if not self.has(checkpoint):\n                return None\n",
        "            return None\n",
        "what was asked to be deleted is taken for gone",
    ),
    Mutation(
        "such a place is told of once",
        "tracking/test_deletion.py::cannot_delete",
        "tracking/deletion.py",
        "        if self._can_delete is False:\n",
        "        if False:\n",
        "it is asked again",
    ),
    Mutation(
        "a killed attempt's state does not outlive its turn",
        "engines/test_worker.py::killed_attempt",
        "population/checkpoints.py",
        "        (folder / STATE).unlink(missing_ok=True)\n",
        "        pass\n",
        "it stays",
    ),
    Mutation(
        "nor does one that was published elsewhere",
        "tracking/test_deletion.py::killed_attempt",
        "tracking/remote_checkpoints.py",
        "            self._discard_state(turn.member, turn_folder(turn.number))\n",
        "            pass\n",
        "it stays in the remote store",
    ),
    Mutation(
        "what a remote store refuses is no failure of the task",
        "tracking/test_deletion.py::refuses_a_checkpoint",
        "engines/worker.py",
        "        with _storage_errors(what, root, Exception):\n",
        "        with _storage_errors(what, root, OSError):\n",
        "only errors of the system are trouble with storage",
    ),
    Mutation(
        "a full disk ends the run at once",
        "whole/test_disk.py::full_disk",
        "commands/run.py",
        '        if status == "failed" and living:\n',
        "        if False:\n",
        "the end waits until the disk takes the report",
    ),
    Mutation(
        "runs that cannot all be made do not say that they are running",
        "commands/test_run.py::while_the_runs_are_made",
        "tracking/create.py",
        "        with _end_runs_on_failure(client, experiment_id, founding):\n",
        "        with contextlib.nullcontext():\n",
        "they are left as they are",
    ),
    Mutation(
        "Ctrl-C at the end says what is safe",
        "tracking/test_remote_store.py::ctrl_c",
        "commands/frame.py",
        "    interrupted = isinstance(error, KeyboardInterrupt)\n",
        "    interrupted = False\n",
        "it only says that it was interrupted",
    ),
    Mutation(
        "what a launcher sends after Ctrl-C is no second wish",
        "utils/test_interrupts.py::same_wish",
        "utils/interrupts.py",
        "        if echo and self._has_launcher():\n",
        "        if False:\n",
        "the turns under way are given up",
    ),
    Mutation(
        "an interrupt that Python swallows comes again",
        "utils/test_interrupts.py::comes_again",
        "utils/interrupts.py",
        "    sys.unraisablehook = hook\n",
        "    pass\n",
        "it is printed, and lost",
    ),
    Mutation(
        "an old request to stop stops no new controller",
        "tracking/test_lease.py::asked_to_stop",
        "tracking/lease.py",
        "data.tags.get(STOP) != self._stop_before",
        "STOP in data.tags",
        "a resume ends at its first heartbeat",
    ),
    Mutation(
        "a run is not looked for in a database that is not there",
        "commands/test_run.py::not_looked_for",
        "tracking/client.py",
        "    return None if decoded.exists() or literal.exists() else decoded\n",
        "    return None\n",
        "MLflow makes an empty one",
    ),
    Mutation(
        "two populations may make their experiment at once",
        "commands/test_run.py::make_the_experiment_at_once",
        "tracking/create.py",
        "            if found is None:\n                raise\n",
        "            raise\n",
        "the slower one is refused",
    ),
    Mutation(
        "what a round is to show is made from a checkpoint that exists",
        "training/test_controller.py::any_population_conserves",
        "training/round_samples.py",
        "        self.member_index.count_use(turn.checkpoint)\n        self._turns",
        "        self._turns",
        "it is not held on to (and let go of all the same)",
    ),
    Mutation(
        "a round is shown once, after a resume too",
        "training/test_round_samples.py::once_after_a_resume",
        "tracking/artifacts.py",
        "        return folders\n",
        "        return {}\n",
        "nobody knows what has been shown",
    ),
    Mutation(
        "a winner's model is logged once",
        "tracking/test_models.py::resume",
        "tracking/models.py",
        "    begun = [model for model in found if model.tags.get(_CHECKPOINT_TAG) == checkpoint]\n",
        "    begun = []\n",
        "what was logged is not looked for",
    ),
    Mutation(
        "methods are compared seed by seed",
        "reporting/test_comparison.py::paired_by_seed",
        "reporting/comparison.py",
        "base_values.get(entry.seed)",
        "next(iter(base_values.values()))",
        "with the first of the control",
    ),
    Mutation(
        "a sign is said once",
        "training/test_diagnostics.py::seen_once",
        "training/diagnostics.py",
        "        self.seen.update(sign.name for sign in new)\n",
        "",
        "what was said is forgotten",
    ),
    Mutation(
        "the winner is chosen by its fresh score",
        "training/test_finalists.py::best_on_fresh_data",
        "population/history.py",
        "return sorted(judged or finalists, key=self._final_rank, reverse=True)",
        "return finalists",
        "the best by its score wins",
    ),
    Mutation(
        "no turn's data is fresh",
        "training/test_finalists.py::that_of_no_turn",
        "population/fresh_score.py",
        "return derive_seed(report_seed(seed), 1, number)",
        "return derive_seed(seed, 1, number)",
        "fresh evaluations have the seeds of member 1",
    ),
    Mutation(
        "whoever makes an average worse is left out",
        "training/test_averaging.py::makes_the_average_worse",
        "training/averaging.py",
        "        if worth > best:\n",
        "        if True:\n",
        "everybody is taken in",
    ),
    Mutation(
        "an average is worth what it is on data that no choice has seen",
        "training/test_averaging.py::no_choice_has_seen",
        "training/averaging.py",
        "first = times if has_fresh_data else 0",
        "first = 0",
        "it is judged on the data that chose its parents",
    ),
    Mutation(
        "a sign is not said again by a resume",
        "training/test_checks.py::resume_neither_checks_again",
        "commands/frame.py",
        "            controller.diagnostics.seen.update(store.warnings())\n",
        "",
        "nobody knows what was said",
    ),
    Mutation(
        "a task whose every run differs is not told that it forgets",
        "training/test_checks.py::leaves_something_out_is_found_and_no_other",
        "engines/restore_check.py",
        "    if _where_different(warm_again, warm):\n        return None\n"
        "    if _where_different(train_restored(saved), cold):\n        return None\n",
        "",
        "nothing is done again",
    ),
    Mutation(
        "what is being checked is not deleted",
        "training/test_checks.py::decides_as_one_without",
        "training/checks.py",
        "        self.member_index.count_use(check.checkpoint)\n",
        "        self.member_index.count_use(None)\n",
        "it is not held on to",
    ),
    Mutation(
        "a terminal that is closed ends no training",
        "whole/test_disturbed.py::reader_that_leaves",
        "utils/terminal.py",
        "            return self._stream.write(text)\n        except OSError:\n",
        "            return self._stream.write(text)\n        except FileNotFoundError:\n",
        "the closed pipe is the training's affair",
    ),
    Mutation(
        "what lies beside a turn was printed in it",
        "engines/test_engines.py::prints_in_a_turn",
        "engines/worker.py",
        "        self.read_output()\n        try:\n",
        "        try:\n",
        "and what was printed before it",
    ),
    Mutation(
        "of two controllers that resume at once one is refused",
        "commands/test_resume.py::heard_before",
        "tracking/lease.py",
        "    _send_heartbeat(client, run_id)\n    try:\n",
        "    try:\n",
        "a claim is made, and then there is a heartbeat",
    ),
    Mutation(
        "what a resume changed holds for the next one",
        "commands/test_resume.py::prints_goes_on",
        "commands/frame.py",
        "            store.change(settings.to_json(), began=stored.began.to_json())\n",
        "",
        "it is not noted",
    ),
    Mutation(
        "a deleted record is missed, and nothing trained over what follows it",
        "commands/test_resume.py::somebody_deleted",
        "tracking/store.py",
        "        last = self.folders.last(member)\n",
        "        last = 0\n",
        "the turns end where one is missing",
    ),
    Mutation(
        "the clocks of two machines are not compared",
        "tracking/test_lease.py::whatever_its_clock",
        "tracking/lease.py",
        "    if _is_alive_here(owner) and silence < _SILENCE_SECONDS:\n",
        "    if silence < _SILENCE_SECONDS:\n",
        "a heartbeat is old or not by one's own clock",
    ),
    Mutation(
        "time that a hung turn took is told as lost",
        "training/test_controller.py::time_lost",
        "training/controller.py",
        "                    self.engine.submit(Retry(plan=plan, lost=lost))\n",
        "                    self.engine.submit(plan)\n",
        "the second try does not tell of the first",
    ),
    Mutation(
        "a worker has no more members in memory than it may",
        "engines/test_worker.py::no_more_members",
        "engines/worker.py",
        "            self._make_room()\n",
        "            pass\n",
        "it keeps all that it has built",
    ),
    Mutation(
        "weights do not depend on the number of workers",
        "engines/test_engines.py::depend_on_the_number",
        "commands/launch.py",
        "        threads=settings.threads,\n",
        "        threads=max(1, 2 // slots),\n",
        "two cores are divided by the workers",
    ),
    Mutation(
        "a limit that a resume lifts stays lifted",
        "commands/test_resume.py::stays_lifted",
        "commands/stored_population.py",
        "settings=began.changed(store.changed()))\n",
        "settings=began.resumed(**store.changed()))\n",
        "None is taken for not given",
    ),
    Mutation(
        "a replay trains to the end, whatever the task would have of a population",
        "commands/test_replay.py::goes_on_to_what",
        "commands/replay.py",
        '            "target": NONE,\n',
        "",
        "it stops at the target of the task's defaults",
    ),
    Mutation(
        "a replay that is resumed says nothing twice",
        "commands/test_replay.py::goes_on_to_what",
        "commands/replay.py",
        "        when = max(turn.ended for turn in last)\n",
        "        when = __import__('time').time()\n",
        "its means have the time at which they are told",
    ),
    Mutation(
        "a replay that is gone on with is checked from its first turn",
        "commands/test_replay.py::checked_from_its_first",
        "commands/replay.py",
        "                self.planner.check(turn)\n        return self\n",
        "                pass\n        return self\n",
        "only new turns are checked",
    ),
    Mutation(
        "a run that is something already is not written into",
        "tracking/test_adoption.py::something_already",
        "tracking/adoption.py",
        "    if not found:\n        return run\n    remedy",
        "    return run\n    remedy",
        "whatever it is, it becomes a population",
    ),
    Mutation(
        "a founding that fails ends only runs of its own",
        "tracking/test_adoption.py::others_have_made",
        "tracking/create.py",
        """[experiment_id], f"tags.`{FOUNDING}` = '{founding}'", max_results""",
        "[experiment_id], max_results",
        "it ends all of the experiment",
    ),
    Mutation(
        "scores of the greatest float stop nothing",
        "whole/test_extremes.py::any_size_are_ranked",
        "utils/means.py",
        "    except OverflowError:\n        # Divided by",
        "    except ArithmeticError if len(numbers) > 99 else ():\n        # Divided by",
        "their sum is taken",
    ),
    Mutation(
        "a sampler learns the same in any unit",
        "whole/test_extremes.py::unit_of_the_scores",
        "utils/means.py",
        "    if -_SAFE_POWER < power < _SAFE_POWER:\n",
        "    if True:\n",
        "it is told the gains as they are",
    ),
    Mutation(
        "a checkpoint holds what its tensors own",
        "population/test_compact_state.py::costs_what_it_owns",
        "population/compact_state.py",
        "        if 2 * needed < known.storage.nbytes():\n",
        "        if False:\n",
        "and all that lies beside it",
    ),
    Mutation(
        "tensors that share numbers go on sharing them",
        "population/test_compact_state.py::written_apart",
        "population/compact_state.py",
        "        parent[root(one)] = root(other)\n",
        "        pass\n",
        "each is written apart",
    ),
    Mutation(
        "the reason is the line with the type",
        "utils/test_reasons.py::line_with_the_type",
        "utils/reasons.py",
        "    return lines[-1].strip() if start is None else _in_one_line(rest[start:])\n",
        "    return lines[-1].strip()\n",
        "the last line of the message is",
    ),
    Mutation(
        "what a state raises is no trouble with storage",
        "engines/test_worker.py::nor_is_what_its_state_raises",
        "population/checkpoints.py",
        "            check_saves(state)\n            raise\n",
        "            raise\n",
        "nobody tries it without a disk",
    ),
    Mutation(
        "a package that is missing is named",
        "tracking/test_drivers.py::names_what_to_install",
        "tracking/drivers.py",
        "    if isinstance(error, ImportError) and error.name:\n",
        "    if False:\n",
        "it says what Python says",
    ),
    Mutation(
        "what was live in a script's training is compared with what was asked",
        "joining/test_join.py::what_was_not_live",
        "joining/param_groups.py",
        "            if now != one.value:\n",
        "            if False:\n",
        "whatever is there is right",
    ),
    Mutation(
        "a hyperparameter that nobody took is an error",
        "joining/test_join.py::what_was_not_live",
        "joining/hyperparameters.py",
        "            if not targets and name not in self._read:\n",
        "            if False:\n",
        "nobody asks who took it",
    ),
    Mutation(
        "with its scheduler a rate is the base, and the factor is kept",
        "joining/test_join.py::factor_is_kept",
        "joining/param_groups.py",
        '            _put(group, "lr", factor * base)\n',
        '            _put(group, "lr", base)\n',
        "the schedule begins anew",
    ),
    Mutation(
        "the place in a loader is part of the state",
        "joining/test_join.py::place_in_a_loader",
        "joining/loader_position.py",
        "            for _ in range(self._done):\n",
        "            for _ in range(0):\n",
        "a copy begins the epoch anew",
    ),
    Mutation(
        "what a loader draws is apart from what the script draws",
        "joining/test_join.py::place_in_a_loader",
        "joining/loader_position.py",
        "        with self._randomness:\n            return next(",
        "        if True:\n            return next(",
        "both draw from one generator",
    ),
    Mutation(
        "members of a script begin with other weights",
        "joining/test_join.py::members_begin_with",
        "joining/script.py",
        "        self._body.seed = None if keep_seed else seed\n",
        "        self._body.seed = None\n",
        "the script's own seed stands",
    ),
    Mutation(
        "a member that is dropped is freed",
        "joining/test_join.py::dropped_is_freed",
        "joining/script.py",
        "        self._body.member = self.member\n",
        "        self._body.member = self.member\n        self.member.body = self._body\n",
        "the script's frames hold their greenlet",
    ),
    Mutation(
        "a module trains in the mode that the script's loop began in",
        "joining/test_join.py::modules_are_in_the_mode",
        "joining/member.py",
        "            module.training = training\n",
        "            pass\n",
        "in the mode that the last look left",
    ),
    Mutation(
        "an attribute that hides a method is refused",
        "task/test_task_base.py::hides_a_method",
        "task/base.py",
        "    if name in _METHODS:\n",
        "    if False:\n",
        "it is set",
    ),
    Mutation(
        "a constructor does not read the command line",
        "task/test_task_base.py::reads_the_command_line",
        "task/construction.py",
        "        return super().__getitem__(0) if is_name else self._refuse()\n",
        "        return super().__getitem__(place)\n",
        "it reads what is there",
    ),
    Mutation(
        "the contract finds a schedule that overwrites a rate",
        "testing/test_task_contract.py::broken_task_is_caught",
        "testing/task_contract.py",
        "if held and not any(held.values())}\n",
        "if False}\n",
        "nothing is missed",
    ),
    Mutation(
        "the contract finds what a turn makes anew",
        "testing/test_task_contract.py::broken_task_is_caught",
        "testing/task_contract.py",
        "        if self.begins_anew:\n            return\n",
        "        return\n",
        "nobody compares",
    ),
    Mutation(
        "a text that quotes a hyperparameter does not obey it",
        "testing/test_task_contract.py::broken_task_is_caught",
        "testing/task_contract.py",
        "    return not same(*states) and not same(first[1], second[1])\n",
        "    return not same(*states)\n",
        "it does",
    ),
    Mutation(
        "a report that lacks the others' headline ends no replay",
        "commands/test_replay.py::without_the_headline",
        "commands/replay.py",
        " for report in self.reports if self.metric in report]",
        " for report in self.reports]",
        "every report is taken to have it",
    ),
    Mutation(
        "a store that was not told the end is named without its password",
        "commands/test_frame.py::without_its_password",
        "commands/frame.py",
        "{hide_password(tracking_uri)}",
        "{tracking_uri}",
        "its address is told as it is",
    ),
    Mutation(
        "founders of members that are behind have descendants",
        "reporting/test_page.py::founders_of_members",
        "reporting/series.py",
        "    return {founder_of[Node(member.index, member.turn)] for member in living}\n",
        "    return set(founder_shares(history)[-1])\n",
        "only the members with the most turns count",
    ),
    Mutation(
        "exactly the planned numbers go on",
        "training/test_stages_in_training.py::exactly_the_planned",
        "population/leaving.py",
        "places - len(gone_on)",
        "places - len(gone_on) + 1",
        "one more goes on",
    ),
    Mutation(
        "who failed leaves first, then the worst, of equals the higher index",
        "population/test_leaving.py::leave_first",
        "population/leaving.py",
        "turn(member.index, end)), -member.index",
        "turn(member.index, end)), member.index",
        "of equals the lower index leaves",
    ),
    Mutation(
        "a resume finds the same stages",
        "population/test_leaving.py::whatever_the_ranks",
        "population/leaving.py",
        "if member.turn > end}",
        "if False}",
        "who has gone on is ranked again",
    ),
    Mutation(
        "a straggler past its deadline counts as last",
        "training/test_stages_in_training.py::not_waited_for",
        "population/leaving.py",
        "behind <= set(late)",
        "not behind",
        "everybody waits for it",
    ),
    Mutation(
        "nobody copies as a stage begins",
        "training/test_stages_in_training.py::exactly_the_planned",
        "training/controller.py",
        "return plan is not None and member.turn == plan.begins(self.history.stage)",
        "return False",
        "a stage's first turn is like any other",
    ),
    Mutation(
        "a stage copies what it may",
        "training/test_stages_in_training.py::exactly_the_planned",
        "training/controller.py",
        "return in_stage(exploit, plan.stages[self.history.stage].copies)",
        "return exploit",
        "all stages copy what the strategy copies",
    ),
    Mutation(
        "of who left no checkpoint is kept",
        "training/test_stages_in_training.py::no_checkpoint_is_kept",
        "training/retention.py",
        "candidates = turns if member in left else turns[:-1]",
        "candidates = turns[:-1]",
        "the newest stays, as that of any member",
    ),
    Mutation(
        "nor for as long as others may be copied",
        "training/test_retention.py::has_left_all_goes",
        "training/retention.py",
        "if member in left or passed or superfluous:",
        "if passed or superfluous:",
        "older ones stay, as those of any member",
    ),
    Mutation(
        "a straggler that has left spends nothing more",
        "training/test_stages_in_training.py::not_run_again",
        "training/controller.py",
        "            self._end_stage(late={plan.member})\n",
        "            pass\n",
        "its turn is run again first",
    ),
    Mutation(
        "the winner is one of those that are left",
        "population/test_leaving.py::winner_is_one",
        "population/history.py",
        "[self.standing(member) for member in self.present]",
        "[self.standing(member) for member in self.members.values()]",
        "whoever once scored most wins",
    ),
    Mutation(
        "the first founders are those without stages",
        "training/test_stages_in_training.py::first_founders",
        "settings.py",
        "*sampler.initial(space, count, rng)]",
        "*sampler.initial(space, self.founders - len(self.initial), rng)]",
        "all founders are drawn at once",
    ),
    Mutation(
        "the runs of who left end, after a kill too",
        "whole/test_crashes.py::nobody_is_told_yet or (in_stages and generational and left)",
        "commands/frame.py",
        "        controller.tell_who_left(history.left)\n",
        "",
        "a resume tells of nobody that left",
    ),
    Mutation(
        "a population that began before there were stages goes on",
        "population/test_result.py::first_version",
        "commands/frame.py",
        "began=stored.began.to_json()",
        "began=store.manifest.settings",
        "what it did not know counts as changed",
    ),
    Mutation(
        "a population in stages is compared by the total of its turns",
        "reporting/test_staged_reports.py::same_budget",
        "population/result.py",
        "return float(plan.turns)",
        "return float(plan.ends[-1])",
        "by the turns of those that are left",
    ),
    Mutation(
        "beside a user's `tasks`, an earlier name of ours means ours",
        "task/test_bundled.py::not_executed",
        "task/naming.py",
        "    current = current_name(name)\n",
        "    current = None\n",
        "earlier names are imported as they stand",
    ),
    Mutation(
        "a user's file at an earlier name of ours is theirs",
        "task/test_bundled.py::earlier_name_of_ours or whole_folder",
        "task/naming.py",
        "        if file is not None and not is_in_some_copy(file):\n",
        "        if False:\n",
        "ours goes first",
    ),
    Mutation(
        "a user's package `tasks` means the same to both commands",
        "task/test_bundled.py::to_both_commands",
        "task/naming.py",
        "    if found is None or is_in_some_copy(Path(found)):\n",
        "    if False:\n",
        "nobody looks in the working folder",
    ),
    Mutation(
        "a task of ours is one class under both of its names",
        "task/test_bundled.py::one_module",
        "task/bundled.py",
        "    sys.modules[EARLIER] = package\n",
        "",
        "two names, two copies",
    ),
    Mutation(
        "a download goes on where its connection broke",
        "tasks/test_cache.py::comes_in_whole",
        "../tasks/cache.py",
        '        headers["Range"] = f"bytes={have}-"\n',
        "        pass\n",
        "it begins anew each time",
    ),
    Mutation(
        "a file in the cache is what it should be",
        "tasks/test_cache.py::leaves_nothing",
        "../tasks/cache.py",
        "            if not _is_whole(file, sha256):\n",
        "            if False:\n",
        "nobody compares digests",
    ),
    Mutation(
        "an imported population names the runs that it has there",
        "commands/test_transfer.py::nothing_names",
        "tracking/import_runs.py",
        "        return _ANY_ID.sub(lambda match: self._ids.get(match[0], match[0]), text)\n",
        "        return text\n",
        "the old ids stay in tags and files",
    ),
    Mutation(
        "a damaged export is refused before a run is made",
        "commands/test_transfer.py::no_whole_export",
        "tracking/export_folder.py",
        "        if entry_of(path, advance) != entry:\n",
        "        if False:\n",
        "nobody compares digests",
    ),
    Mutation(
        "an interrupted import leaves nothing",
        "commands/test_transfer.py::interrupted_import",
        "tracking/import_runs.py",
        "                undo(self.client, self.uri, experiments, self._attempt)\n",
        "                pass\n",
        "its runs stay",
    ),
    Mutation(
        "an interrupted export leaves nothing",
        "commands/test_transfer.py::interrupted_export",
        "commands/transfer.py",
        "            shutil.rmtree(place, ignore_errors=True)\n",
        "            pass\n",
        "half a folder stays",
    ),
    Mutation(
        "what is imported is found when all of it is there",
        "commands/test_transfer.py::killed_import",
        "tracking/import_runs.py",
        "            found.pop(_ROLE, None)\n",
        "            pass\n",
        "a population's run says at once what it is",
    ),
    Mutation(
        "who watches is told of each turn once",
        "commands/test_watch.py::as_they_come",
        "commands/watch.py",
        "            for number in range(len(self.history.turns[member]) + 1, committed + 1):\n",
        "            for number in range(committed, committed + 1):\n",
        "only the newest turn is read",
    ),
    Mutation(
        "several workers download a file once",
        "tasks/test_cache.py::download_it_once",
        "../tasks/cache.py",
        "            fcntl.flock(opened, fcntl.LOCK_EX)\n",
        "            pass\n",
        "nobody waits",
    ),
]


def red(mutation: Mutation, copy: Path) -> bool:
    """Whether the test fails in a copy of the repository with the mutation."""
    path = copy / "pbt_flow" / mutation.file
    text = path.read_text()
    if text.count(mutation.before) != 1:
        raise SystemExit(f"{mutation.promise}: the code to change is not in {mutation.file}, once")
    path.write_text(text.replace(mutation.before, mutation.after))
    file, _, names = mutation.test.partition("::")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "slow or not slow"]
    command += [f"tests/{file}", *(["-k", names] if names else [])]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["HYPOTHESIS_PROFILE"] = "red"
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    path.write_text(text)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode == 1


def main() -> int:
    """Try each mutation and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", default="", help="mutations of this file or promise")
    given = parser.parse_args()
    print("| promise | test | mutation | with it the test is |\n|---|---|---|---|", flush=True)
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*cache", "mlruns")
        )
        for one in MUTATIONS:
            if given.only in f"{one.promise} {one.file}":
                failed = red(one, copy)
                survived += not failed
                test = one.test.replace("::", ": ")
                print(
                    f"| {one.promise} | `{test}` | {one.change} (`{one.file}`) "
                    f"| {'red' if failed else '**GREEN**'} |",
                    flush=True,
                )
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
