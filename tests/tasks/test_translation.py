"""tasks/translation.py: the model, its decoding and its score, on phrases made with Babel."""

from __future__ import annotations

import copy
import doctest
import html
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import pbt_flow
from pbt_flow.task import TaskError
from pbt_flow.tasks.decay import cosine
from pbt_flow.testing import TaskContract, assert_same

sacrebleu = pytest.importorskip("sacrebleu")
pytest.importorskip("sentencepiece")
pytest.importorskip("babel")

from pbt_flow.tasks import translation  # noqa: E402
from pbt_flow.tasks import translation_corpora as corpora  # noqa: E402
from pbt_flow.tasks.translation import (  # noqa: E402
    Dropout,
    Encoded,
    Transformer,
    Translation,
    batch,
    measure,
    pad,
    prepare,
    score,
)
from pbt_flow.tasks.translation_corpora import BOS, EOS, PAD  # noqa: E402

SMALL: dict[str, Any] = dict(Translation.quick["options"])
GOOD = {"lr": 5e-3, "residual_dropout": 0.0, "attention_dropout": 0.0, "relu_dropout": 0.0}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PBT_FLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    prepare.cache_clear()


class TestContract(TaskContract):
    begins_anew = True  # each turn draws an order of the corpus
    task = Translation
    options: ClassVar[dict[str, Any]] = SMALL
    steps = 4


def test_with_a_decay_the_rate_falls_over_a_turns_end_and_a_restore() -> None:
    first, other = make(decay="cosine"), make(decay="cosine", seed=1)
    assert first.follows_budget
    assert not make().follows_budget
    first.budget = other.budget = 12
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    try:
        told = [first.train(GOOD, 6)["rate/lr"]]
        other.load_state_dict(copy.deepcopy(first.state_dict()))
        told.append(other.train(GOOD, 6)["rate/lr"])
    finally:
        hook.remove()
    assert rates == pytest.approx([GOOD["lr"] * cosine(age, 12) for age in range(12)])
    assert told == [rates[5], rates[11]]
    assert "age" not in make().state_dict()


def make(**options: Any) -> Translation:
    task = Translation(**{"seed": 0, **SMALL, **options})
    task.reseed(0)
    return task


@pytest.fixture(scope="module")
def trained(cache: None) -> Translation:
    """A model that translates some phrases; not to be trained further."""
    task = make()
    task.train(GOOD, 80)
    return task


@pytest.mark.slow
def test_a_quick_population_learns_to_translate() -> None:
    result = pbt_flow.run(
        Translation,
        population=4,
        turns=3,
        interval=30,
        initial=[GOOD],
        options=SMALL,
        engine="inline",
        mode="generational",
        quiet=True,
    )
    assert result.status == "finished"
    assert result.winner.score > 2
    assert result.winner.report["bleu"] > 2


# --- the model ------------------------------------------------------------------------------------


def network() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(50, 8, width=16, heads=4, layers=2, feedforward=32)
    return model.double().eval()


def sentences(count: int = 8) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[*rng.integers(4, 50, rng.integers(1, 9)).tolist(), EOS] for _ in range(count)]


def as_tensor(rows: list[list[int]]) -> Tensor:
    return torch.from_numpy(pad(rows)).long()


def decode_afresh(model: Transformer, source: list[int], limit: int) -> list[int]:
    """Greedy decoding without a cache: one sentence at a time, all of it again for each piece.

    In double precision no two pieces are so close that the order of a sum decides.
    """
    target = [BOS]
    while len(target) <= limit:
        logits = model(as_tensor([source]), as_tensor([target]))
        target.append(int(logits[0, -1].argmax()))
        if target[-1] == EOS:
            return target[1:-1]
    return target[1:]


def test_cached_decoding_equals_decoding_afresh(trained: Translation) -> None:
    model = copy.deepcopy(trained.network).double()
    rows = [row[row != PAD].tolist() for row in trained.dev.source[:16]]
    cached = model.greedy(as_tensor(rows), limit=8)
    assert cached == [decode_afresh(model.eval(), row, 8) for row in rows]
    lengths = {len(answer) for answer in cached}
    assert len(lengths) > 2, "sentences did not end at different places"
    assert max(lengths) == 8, "no sentence reached the limit"


def test_padding_does_not_change_the_logits_of_a_sentence() -> None:
    model, rows = network(), sentences()
    targets = [[BOS, *(piece % 8 for piece in row)] for row in rows]
    together = model(as_tensor(rows), as_tensor(targets))
    for row, target, logits in zip(rows, targets, together, strict=True):
        alone = model(as_tensor([row]), as_tensor([target]))[0]
        torch.testing.assert_close(logits[: len(target)], alone, rtol=0, atol=1e-12)


def test_a_piece_is_predicted_from_those_before_it_only() -> None:
    model, source = network(), as_tensor([[5, 6, 7, EOS]])
    logits = model(source, as_tensor([[BOS, 4, 5, 6]]))
    changed = model(source, as_tensor([[BOS, 4, 7, 7]]))
    torch.testing.assert_close(changed[:, :2], logits[:, :2], rtol=0, atol=0)
    assert not torch.allclose(changed[:, 2:], logits[:, 2:])


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_drops_the_share_that_it_should() -> None:
    torch.manual_seed(0)
    dropout, x = Dropout(), torch.ones(1000, 401)
    for p in (0.0, 0.1, 0.5, 0.99):
        dropout.p = p
        y = dropout(x)
        kept = y[y != 0]
        assert (y == 0).double().mean().item() == pytest.approx(
            p, abs=4 * math.sqrt(0.25 / x.numel())
        )
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-3, atol=0)


def test_dropout_rests_when_the_model_is_evaluated() -> None:
    dropout, x = Dropout(), torch.ones(3, 3)
    dropout.p = 0.5
    assert not torch.equal(dropout(x), x)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize(
    ("name", "sites"), [("residual_dropout", 7), ("attention_dropout", 3), ("relu_dropout", 2)]
)
def test_each_dropout_reaches_its_own_sites_and_no_other(name: str, sites: int) -> None:
    """Residual: two embeddings, two sub-layers of the encoder, three of the decoder. The others:
    three attentions, and two feed-forward layers.
    """
    task, seen = make(), list[tuple[bool, tuple[int, ...], bool]]()

    def look(module: Dropout, given: tuple[Tensor], result: Tensor) -> None:
        # Where a number was dropped that was not 0 before, as ReLU makes many.
        dropped = bool((result[given[0] != 0] == 0).double().mean() > 0.8)
        weights = bool((given[0] >= 0).all()) and given[0].dim() == 4
        seen.append((dropped, tuple(given[0].shape), weights))

    for dropout in (
        task.network.drop.residual,
        task.network.drop.attention,
        task.network.drop.relu,
    ):
        dropout.register_forward_hook(look)
    task.train({**GOOD, name: 0.9}, 1)
    shapes = {
        "residual_dropout": lambda shape, weights: len(shape) == 3 and shape[2] == 48,
        "attention_dropout": lambda shape, weights: weights,
        "relu_dropout": lambda shape, weights: len(shape) == 3 and shape[2] == 96,
    }
    assert len(seen) == 12
    assert sum(dropped for dropped, _, _ in seen) == sites
    assert all(shapes[name](shape, weights) == dropped for dropped, shape, weights in seen)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-4, 1e-2])
def test_the_first_step_of_adam_is_as_long_as_the_learning_rate(lr: float) -> None:
    task = make()
    before = [weight.detach().clone() for weight in task.network.parameters()]
    task.train({**GOOD, "lr": lr}, 1)
    moved = [
        (weight - old).abs().max().item()
        for weight, old in zip(task.network.parameters(), before, strict=True)
    ]
    assert max(moved) == pytest.approx(lr, rel=1e-2)


def test_label_smoothing_is_a_share_spread_over_the_whole_vocabulary() -> None:
    losses = {}
    for share in (0.0, 0.4, 0.8):
        losses[share] = make(label_smoothing=share).train(GOOD, 1)["loss"]
    assert losses[0.4] == pytest.approx((losses[0.0] + losses[0.8]) / 2, rel=1e-5)
    assert losses[0.0] != pytest.approx(losses[0.8], rel=1e-3)


def test_an_epoch_holds_each_pair_once_in_batches_of_like_length() -> None:
    data = make().training
    epoch, seen = [], 0
    batches = data.batches(np.random.default_rng(0), 384)
    while seen < len(data.source):
        epoch.append(next(batches))
        seen += len(epoch[-1])
    assert sorted(np.concatenate(epoch).tolist()) == list(range(len(data.source)))
    sources = [batch(data.source, rows, "cpu").numel() for rows in epoch]
    targets = [batch(data.target, rows, "cpu")[:, 1:].numel() for rows in epoch]
    assert 300 < max(sources + targets) <= 384
    assert (data.target[:, 1:] != PAD).sum() / sum(targets) > 0.95
    again = data.batches(np.random.default_rng(0), 384)
    assert all(np.array_equal(rows, next(again)) for rows in epoch)
    assert not np.array_equal(next(batches), epoch[0])


def test_pairs_that_fit_in_no_batch_are_left_out_of_training() -> None:
    data = Encoded(pad([[4] * 9, [5], [6]]), pad([[BOS, 4, EOS], [BOS, 5, EOS], [BOS] + [6] * 9]))
    assert data.at_most(8).source[:, 0].tolist() == [5]


def test_training_on_leaves_a_state_that_was_taken_or_given_as_it_was() -> None:
    donor, member = make(), make()
    donor.train(GOOD, 2)
    state = donor.state_dict()
    untouched = copy.deepcopy(state)
    member.load_state_dict(state)
    member.train(GOOD, 2)
    donor.train(GOOD, 2)
    assert_same(state, untouched)


def test_a_state_of_other_vocabularies_is_refused() -> None:
    other = make(max_pairs=1400)
    with pytest.raises(TaskError, match="other data or vocabularies"):
        make().load_state_dict(other.state_dict())


# --- the score ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [corpora, translation])
def test_the_examples_in_the_docstrings_are_true(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def noisy_translations(count: int = 400, right: float = 0.8) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(50)]
    references = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in range(count)]
    translations = [
        " ".join(w if rng.random() < right else str(rng.choice(words)) for w in line.split())
        for line in references
    ]
    return translations, references


def scored(translations: list[str], references: list[str], nll: float = 2.0) -> Any:
    ones = np.ones(len(references), int)
    return measure(sacrebleu.metrics.BLEU(), translations, references, nll * ones, ones)


def test_bleu_is_that_of_the_command_line_of_sacrebleu(trained: Translation) -> None:
    sources, references = zip(*trained.corpus.splits.test, strict=True)
    ours = trained.model().translate(sources)
    Path("ours").write_text("".join(f"{x}\n" for x in ours), "utf-8")
    Path("reference").write_text("".join(f"{x}\n" for x in references), "utf-8")
    command = [sys.executable, "-m", "sacrebleu", "reference", "-i", "ours", "-m", "bleu", "chrf"]
    options = ["--score-only", "--width", "9"]
    printed = subprocess.run([*command, *options], capture_output=True, check=True).stdout
    bleu, chrf = json.loads(printed)
    report = trained.report()
    assert report["bleu"] == pytest.approx(bleu, abs=1e-6)
    assert report["chrf"] == pytest.approx(chrf, abs=1e-6)
    assert 0 < report["bleu"] < 100


def test_below_the_floor_likelihood_ranks_and_above_it_bleu_does() -> None:
    worst_first = [(0, 99), (1.99, 6), (0.3, 3), (1, 1e-9), (2, 9), (2.1, 9.5), (99, 3)]
    scores = [score(bleu, nll) for bleu, nll in worst_first]
    assert scores == sorted(scores)
    assert [s < 2 for s in scores] == [bleu < 2 for bleu, _ in worst_first]
    assert score(1.0, 3.2) == pytest.approx(2 * math.exp(-3.2))


@pytest.mark.parametrize("right", [0.0, 0.3, 0.8])
def test_the_mean_of_the_sample_is_the_score(right: float) -> None:
    translations, references = noisy_translations(right=right)
    quality = scored(translations, references)
    bleu = sacrebleu.corpus_bleu(translations, [references]).score
    assert quality.bleu == pytest.approx(bleu, abs=1e-9)
    assert np.mean(quality.sample) == pytest.approx(score(bleu, 2.0), abs=1e-9)
    assert (bleu < 2) == (right == 0.0)


@pytest.mark.parametrize("right", [0.05, 0.8])
def test_the_error_of_bleu_is_that_of_the_bootstrap_below_the_floor_too(right: float) -> None:
    translations, references = noisy_translations(200, right)
    quality = scored(translations, references)
    assert (quality.bleu < 2) == (right < 0.8)
    metric, rng = sacrebleu.metrics.BLEU(), np.random.default_rng(1)
    resampled = []
    for _ in range(80):
        rows = rng.integers(len(references), size=len(references))
        drawn = [[texts[row] for row in rows] for texts in (translations, references)]
        resampled.append(metric.corpus_score(drawn[0], [drawn[1]]).score)
    assert quality.bleu_error == pytest.approx(np.std(resampled, ddof=1), rel=0.4)
    if quality.bleu >= 2:
        error = np.std(quality.sample, ddof=1) / math.sqrt(len(quality.sample))
        assert quality.bleu_error == pytest.approx(error)


def test_fewer_sentences_than_blocks_are_scored_too() -> None:
    translations, references = noisy_translations(3)
    assert len(scored(translations, references).sample) == 3


def test_the_likelihood_is_that_of_the_references_without_smoothing_or_dropout() -> None:
    task = make(label_smoothing=0.9)
    task.train({**GOOD, "residual_dropout": 0.5}, 5)
    total, pieces = 0.0, 0
    for source, target in zip(task.dev.source, task.dev.target, strict=True):
        one = torch.from_numpy(source[source != PAD]).long()[None]
        other = torch.from_numpy(target[target != PAD]).long()
        with torch.no_grad():
            logits = task.network.eval()(one, other[None, :-1])[0]
        total -= logits.log_softmax(-1)[range(len(other) - 1), other[1:]].sum().item()
        pieces += len(other) - 1
    assert task.validate().nll == pytest.approx(total / pieces, rel=1e-5)
    sample = task.evaluate()
    assert math.fsum(sample) / len(sample) == pytest.approx(score(**task.metrics()))


def test_weights_that_are_lost_score_nothing() -> None:
    task = make()
    with torch.no_grad():
        next(task.network.parameters()).fill_(math.nan)
    assert all(math.isnan(value) for value in task.evaluate())
    perfect = ["a b c d e"] * 4
    assert scored(perfect, perfect).sample == pytest.approx((100,) * 4)
    assert all(math.isnan(value) for value in scored(perfect, perfect, nll=math.inf).sample)


# --- what was understood --------------------------------------------------------------------------


def chinese(count: int = 60) -> str:
    """English and Chinese of one meaning, in a file of the working folder."""
    digits = "零一二三四五六七八九"
    rows = [f"number {n}\t数字{''.join(digits[int(d)] for d in str(n))}号" for n in range(count)]
    Path("zh.tsv").write_text("\n".join(rows), "utf-8")
    return "tsv:zh.tsv"


@pytest.mark.parametrize(
    ("options", "signature", "said"),
    [
        ({}, "tok:13a", "13a, which suits a target with spaces between its words"),
        ({"tokenize": "intl"}, "tok:intl", "intl, as given"),
        ({"data": "zh"}, "tok:zh", "zh, since 100% of the letters of the target are Chinese"),
        ({"data": "zh", "swap": True}, "tok:13a", "13a, which suits"),
        ({"data": "zh", "tokenize": "13a"}, "tok:13a", "13a, as given, but 100% .* which zh suits"),
    ],
)
def test_the_tokeniser_is_chosen_by_the_target_said_and_signed(
    options: dict[str, Any], signature: str, said: str
) -> None:
    made = {**options, "data": chinese()} if "data" in options else options
    task = make(**made)
    task.evaluate()
    assert f"|{signature}|" in str(task.bleu.get_signature())
    assert re.match(said, task.understood()["tokenizer"])


def test_a_chinese_target_that_is_nearly_right_has_a_bleu() -> None:
    task = make(data=chinese())
    _, references = zip(*task.corpus.splits.dev, strict=True)
    nearly = [f"{text[:-1]}好" for text in references]
    assert task.bleu.corpus_score(nearly, [list(references)]).score > 20
    assert sacrebleu.corpus_bleu(nearly, [list(references)]).score < 1


@pytest.mark.parametrize("tokenize", ["flores200", "ja-mecab"])
def test_a_tokeniser_that_cannot_be_had_is_named_with_a_way_out(
    tokenize: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    with pytest.raises(TaskError, match=rf"tokeniser {tokenize}.*--set tokenize=char") as caught:
        make(tokenize=tokenize)
    assert ("could not fetch" in str(caught.value)) == (tokenize == "flores200")
    assert "\n" not in str(caught.value)


def test_pairs_too_long_for_a_batch_and_a_vocabulary_too_small_are_said() -> None:
    told = make(batch_tokens=9, target_vocabulary=8).understood()
    left = re.match(
        r"([\d,]+) training pairs left out, longer than batch_tokens=9", told["batches"]
    )
    assert left
    assert re.fullmatch(
        r"too small: \d+% of the target of dev is unknown to it", told["vocabulary"]
    )
    assert "batches" not in make().understood()
    assert "vocabulary" not in make().understood()


# --- what comes out -------------------------------------------------------------------------------


def test_samples_show_source_translation_and_reference_and_the_signature(
    trained: Translation, tmp_path: Path
) -> None:
    trained.samples(tmp_path / "new")
    page = (tmp_path / "new" / "translations.html").read_text("utf-8")
    assert '<meta charset="utf-8">' in page
    assert f"BLEU {trained.report()['bleu']:.2f} " in page
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in page
    shown = trained.corpus.splits.test[:100]
    ours = trained.model().translate([source for source, _ in shown])
    for (source, target), text in zip(shown, ours, strict=True):
        cells = "".join(
            f'<td dir="auto">{html.escape(cell)}</td>' for cell in (source, text, target)
        )
        assert f"<tr>{cells}</tr>" in page
    assert any(mark in page for mark in "äöüß")


def test_text_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    lines = [f"<b>{i}</b> eins\t<i>{i}</i> one" for i in range(40)]
    Path("marked.tsv").write_text("\n".join(lines), "utf-8")
    task = make(data="tsv:marked.tsv")
    task.samples(tmp_path)
    page = (tmp_path / "translations.html").read_text("utf-8")
    assert "<b>" not in page
    assert "&lt;i&gt;" in page


def test_the_model_translates_after_it_was_saved_and_loaded(trained: Translation) -> None:
    buffer = io.BytesIO()
    torch.save(trained.model(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    texts = [source for source, _ in trained.corpus.splits.test[:5]]
    assert loaded.translate(texts) == trained.model().translate(texts)
    assert loaded.translate([]) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"heads": 5}, "width=48 must be even and a multiple of heads=5"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"target_vocabulary": 3}, "a vocabulary takes at least 8 pieces, got 3"),
        ({"label_smoothing": 1.5}, "label_smoothing must be from 0 to below 1, got 1.5"),
        ({"tokenize": "words"}, "tokenize='words' is none of .*13a"),
        ({"batch_tokens": 1}, "batch_tokens=1 leaves 0 pairs to train on"),
        ({"data": "nothing"}, "data='nothing' is none of"),
    ],
)
def test_options_that_cannot_be_used_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(**option)


@pytest.mark.parametrize(
    "name", ["Attention", "Dropout", "Dropouts", "Layer", "Transformer", "Translator"]
)
def test_what_models_of_earlier_versions_name_is_found_where_they_name_it(name: str) -> None:
    from pbt_flow.tasks import translation

    assert getattr(translation, name).__module__ == "pbt_flow.tasks.translation_network"
