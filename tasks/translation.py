"""Machine translation by a small Transformer, selected by BLEU: section 4.2 of the PBT paper.

What is tuned is what the paper tunes: the learning rate and three dropout rates. There is no
warm-up, and no schedule unless `decay=cosine` asks for one: PBT finds them. The default is Chinese
to English on Tatoeba sentences of up to five words, a small task for two CPU cores; its BLEU says
nothing about newspaper text.

    python -m pbt_flow run --task translation
    python -m pbt_flow run --task translation --set data=files:train.de,train.en --set max_words=20

A run of seconds, for tests (no download):

    python -m pbt_flow run --task translation --quick

Paper: Jaderberg et al., "Population Based Training of Neural Networks", 2017, arXiv:1711.09846.
The model is that of Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, with layer
normalisation before each sub-layer instead of after it (it trains without a warm-up).
"""

from __future__ import annotations

import atexit
import copy
import functools
import hashlib
import html
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from torch import nn

from pbt_flow.space import Hparams, Space
from pbt_flow.task import Task, TaskError

from .decay import Decay, Kind
from .phrases import count, shown
from .translation_columns import Pair
from .translation_corpora import BOS, EOS, PAD, UNKNOWN, Corpus, load
from .translation_network import (  # noqa: F401 - models that earlier versions logged name these
    Attention,
    Cache,
    Dropout,
    Dropouts,
    Layer,
    Transformer,
    Translator,
    batch,
    by_length,
    pad,
    sinusoids,
)
from .translation_scripts import choose_tokenizer

try:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
except ModuleNotFoundError as error:
    raise TaskError(
        f"the translation task needs {error.name}: pip install sacrebleu sentencepiece Babel"
    ) from error

FLOOR = 2.0
"""BLEU below this is noise: there, members are ranked by their likelihood instead."""
BLOCKS = 20
"""Into how many parts the dev split is cut to estimate the score's error."""
SHOWN = 100
"""How many test sentences `samples` shows."""


# --- the data as numbers --------------------------------------------------------------------------


class Encoded(NamedTuple):
    """A split in pieces: rows of sources and of targets, with BOS and EOS around the latter."""

    source: NDArray[np.int32]
    target: NDArray[np.int32]

    def lengths(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return (self.source != PAD).sum(1), (self.target != PAD).sum(1) - 1

    def at_most(self, length: int) -> Encoded:
        """Without the pairs that are longer on either side."""
        kept = np.maximum(*self.lengths()) <= length
        return Encoded(self.source[kept], self.target[kept])

    def batches(self, rng: np.random.Generator, limit: int) -> Iterator[NDArray[np.intp]]:
        """Epoch after epoch of batches, of at most `limit` places on either side.

        A batch holds sentences of like length; which ones, and the order of the batches, is drawn
        anew in each epoch.
        """
        source, target = self.lengths()
        while True:
            order = rng.permutation(len(source))
            order = order[np.lexsort((source[order], target[order]))]
            cuts, start, longest = [], 0, 0
            for end, length in enumerate(np.maximum(source, target)[order].tolist()):
                longest = max(longest, length)
                if longest * (end + 1 - start) > limit:
                    cuts.append(end)
                    start, longest = end, length
            epoch = np.split(order, cuts)
            for index in rng.permutation(len(epoch)):
                yield epoch[index]


def encode(corpus: Corpus, pairs: Sequence[Pair]) -> Encoded:
    """The pairs in pieces."""
    sources, targets = zip(*pairs, strict=True)
    return Encoded(
        pad([[*line, EOS] for line in corpus.source.encode(list(sources))]),
        pad([[BOS, *line, EOS] for line in corpus.target.encode(list(targets))]),
    )


def share_unknown(pieces: NDArray[np.int32]) -> float:
    """Which share of the pieces is unknown to the vocabulary."""
    return float((pieces == UNKNOWN).sum() / (pieces != PAD).sum())


@functools.lru_cache(maxsize=4)
def prepare(**options: Any) -> tuple[Corpus, Encoded, Encoded]:
    """The corpus (see `translation_corpora.load`), and its train and dev split in pieces.

    Kept for the process, since the members that train in one worker share it.
    """
    corpus = load(**options)
    return corpus, encode(corpus, corpus.splits.train), encode(corpus, corpus.splits.dev)


atexit.register(prepare.cache_clear)  # See there.


# --- the score ------------------------------------------------------------------------------------


def make_bleu(tokenizer: str) -> BLEU:
    """BLEU with a tokeniser, which sacreBLEU may have to fetch.

    Raises:
        TaskError: The tokeniser cannot be had.
    """
    way_out = "to go on without it, leave tokenize out, or take --set tokenize=char"
    try:
        return BLEU(tokenize=tokenizer)
    except OSError as error:
        raise TaskError(
            f"translation: sacreBLEU could not fetch its tokeniser {tokenizer}, which it does the "
            f"first time ({shown(str(error), 200)}): {way_out}"
        ) from None
    # The former where a package is missing, the latter after a failed check of a certificate.
    except (ImportError, RuntimeError, AssertionError, SystemExit) as error:
        raise TaskError(
            f"translation: sacreBLEU cannot use its tokeniser {tokenizer} "
            f"({shown(str(error), 200)}): {way_out}"
        ) from None


class Quality(NamedTuple):
    """How good translations are."""

    bleu: float
    """Corpus BLEU of sacreBLEU, 0 to 100."""
    nll: float
    """Negative log likelihood of the references in nats per piece, without label smoothing."""
    bleu_error: float
    """The standard error of BLEU, also where it is below `FLOOR` and so is not the score."""
    sample: tuple[float, ...]
    """Values whose mean is the score, and whose variance by their number its squared error."""


def score(bleu: float, nll: float) -> float:
    """One number that orders all members: BLEU, and below `FLOOR` the likelihood instead.

    While BLEU is under 2 it is noise: ranked by it, a bad member was copied three times, and PBT
    fell back to random search. There the score is 2 exp(-NLL), 2 divided by the perplexity per
    piece: it grows as the likelihood does, and stays below every BLEU that counts. A score under 2
    in the record therefore is no BLEU; the NLL is log(2 / score).

    >>> score(1.9, 3.0) < score(0.1, 2.5) < score(2.0, 9.0)
    True
    """
    return bleu if bleu >= FLOOR else FLOOR * math.exp(-nll)


def measure(
    metric: BLEU,
    translations: Sequence[str],
    references: Sequence[str],
    nlls: NDArray[np.float64],
    pieces: NDArray[np.intp],
) -> Quality:
    """Score translations, with the error of the score.

    BLEU is a ratio of sums over the corpus, so it has no value per sentence to average. The sample
    that a t-test needs is made of jackknife pseudo-values (Tukey, 1958): cut the sentences into
    n = 20 blocks, leave out each in turn, and take n S - (n - 1) S_without, moved by a constant so
    that the mean is S, the score of the whole. The t-test divides a variance by n: that is right
    for these values, but would be wrong by any factor for bootstrap resamples, whose number is
    arbitrary; and they need no random numbers. The error is that of the choice of sentences. Two
    members are scored on the same ones, so a test that takes the samples as independent errs on
    the safe side.

    Args:
        metric: BLEU with its options.
        translations: One for each reference.
        references: What they should be.
        nlls: Negative log likelihood of each reference, in nats.
        pieces: How many pieces each has.
    """
    blocks = min(BLOCKS, len(references))
    sums = []
    for block in range(blocks):
        part = slice(block, None, blocks)
        found = metric.corpus_score(translations[part], [references[part]])
        lengths = [found.sys_len, found.ref_len, nlls[part].sum(), pieces[part].sum()]
        sums.append([*found.counts, *found.totals, *lengths])
    parts = np.array(sums, np.float64)
    whole = parts.sum(0)

    def values(total: NDArray[np.float64]) -> tuple[float, float]:
        orders = metric.max_ngram_order
        counts = [int(count) for count in total[:-2]]
        bleu = BLEU.compute_bleu(
            correct=counts[:orders],
            total=counts[orders : 2 * orders],
            sys_len=counts[-2],
            ref_len=counts[-1],
            smooth_method=metric.smooth_method,
            smooth_value=metric.smooth_value,
        )
        return bleu.score, float(total[-2] / total[-1])

    bleu, nll = values(whole)
    if not math.isfinite(nll):
        # The weights are lost, whatever they still say.
        return Quality(bleu=bleu, nll=nll, bleu_error=math.nan, sample=(math.nan,))
    without = np.array([values(whole - part) for part in parts])
    bleus = _pseudo_values(bleu, without[:, 0])
    # On the whole's side of the floor, lest a block that tips it counts as a great difference.
    sample = bleus if bleu >= FLOOR else _pseudo_values(score(bleu, nll), _likely(without[:, 1]))
    return Quality(
        bleu=bleu,
        nll=nll,
        bleu_error=float(bleus.std(ddof=1) / math.sqrt(blocks)),
        sample=tuple(sample.tolist()),
    )


def _pseudo_values(whole: float, without: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jackknife pseudo-values from a statistic of the whole, and of it without each block."""
    blocks = len(without)
    pseudo = blocks * whole - (blocks - 1) * without
    centred: NDArray[np.float64] = pseudo + (whole - pseudo.mean())
    return centred


def _likely(nlls: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores below the floor (see `score`)."""
    return FLOOR * np.exp(-nlls)


# --- the task -------------------------------------------------------------------------------------


class Translation(Task):
    """A Transformer that learns to translate; its score is BLEU on the dev split (see `score`)."""

    space: ClassVar[Space] = {
        "lr": FloatDistribution(1e-4, 1e-2, log=True),
        "residual_dropout": FloatDistribution(0.0, 0.5),
        "attention_dropout": FloatDistribution(0.0, 0.5),
        "relu_dropout": FloatDistribution(0.0, 0.5),
    }
    report_direction = "maximize"
    defaults: ClassVar[Mapping[str, Any]] = {
        "population": 8,
        "turns": 12,
        "interval": 200,
        # docs/results.md: with these stages 10 of 10 pairs were ahead of random search.
        "stages": "narrow",
        "exploit": "truncation:fraction=0.25",
        # A factor of 2 moves a domain that reaches 0 by its whole width: dropouts would jump from
        # end to end. A Gaussian step suits them and the rate alike (0.15 of two decades is x2).
        "explore": "gaussian:sigma=0.15,resample_probability=0.1",
    }
    quick: ClassVar[Mapping[str, Any]] = {
        "population": 4,
        "turns": 3,
        "interval": 30,
        "stages": "none",
        "options": {
            "data": "babel",
            "max_pairs": 1500,
            "width": 48,
            "feedforward": 96,
            "source_vocabulary": 250,
            "target_vocabulary": 250,
        },
    }

    def __init__(
        self,
        *,
        seed: int,
        device: str = "cpu",
        data: str = "tatoeba",
        swap: bool = False,
        max_words: int = 5,
        max_pairs: int = 200_000,
        source_vocabulary: int = 2_500,
        target_vocabulary: int = 1_000,
        width: int = 96,
        feedforward: int = 192,
        layers: int = 1,
        heads: int = 4,
        batch_tokens: int = 512,
        label_smoothing: float = 0.1,
        tokenize: str = "",
        decay: Kind = "none",
    ) -> None:
        """Read the corpus and build a fresh model. A step is one batch, one update.

        Args:
            seed: Seeds the initial weights.
            device: Where to put the model.
            data: Where the sentences come from: tatoeba, tsv:FILE, files:SRC,TGT,
                hf:NAME[,CONFIG], or babel (see `translation_corpora.SOURCES`).
            swap: Translate from the second language to the first.
            max_words: The longest sentence to keep, in words between spaces, on either side.
            max_pairs: Read no more pairs than this.
            source_vocabulary: How many pieces the source language gets at most; characters where a
                language has many of them (see `translation_corpora.learn_subwords`).
            target_vocabulary: Likewise, for the target. It costs time: the output layer is a third
                of the work.
            width: Of the residual stream.
            feedforward: Hidden units in each feed-forward layer.
            layers: Of the encoder, and again of the decoder.
            heads: Of each attention.
            batch_tokens: Pieces in a batch with their padding, on the longer side.
            label_smoothing: Of the training target, this share is spread evenly over the vocabulary
                and the rest is on the right piece (Szegedy et al., 2016). The dev NLL has none.
            tokenize: The tokeniser of sacreBLEU: 13a, zh, ja-mecab, char, ... Empty: by the script
                of the training targets (see `translation_scripts.choose_tokenizer`).
            decay: With `cosine`, the learning rate is the first one, and falls to 0.

        Raises:
            TaskError: An option cannot be used, or the data cannot be had or read.
        """
        super().__init__(seed=seed, device=device)
        sizes = {"max_words": max_words, "width": width, "feedforward": feedforward}
        sizes |= {"layers": layers, "heads": heads, "batch_tokens": batch_tokens}
        for name, value in sizes.items():
            if value < 1:
                raise TaskError(f"translation: {name} must be at least 1, got {value}")
        if not 0 <= label_smoothing < 1:
            raise TaskError(
                f"translation: label_smoothing must be from 0 to below 1, got {label_smoothing}"
            )
        if width % 2 or width % heads:
            raise TaskError(
                f"translation: width={width} must be even and a multiple of heads={heads}"
            )
        if tokenize and tokenize not in BLEU.TOKENIZERS:
            raise TaskError(
                f"translation: tokenize={tokenize!r} is none of sacreBLEU's "
                f"{sorted(BLEU.TOKENIZERS)}"
            )
        self.corpus, train, self.dev = prepare(
            data=data,
            swap=swap,
            max_words=max_words,
            max_pairs=max_pairs,
            source_vocabulary=source_vocabulary,
            target_vocabulary=target_vocabulary,
        )
        self.training = train.at_most(batch_tokens)
        self.too_long = len(train.source) - len(self.training.source)
        if (left := len(self.training.source)) < 10:
            raise TaskError(
                f"translation: batch_tokens={batch_tokens} leaves {left} pairs to train on; the "
                "others are longer than a whole batch"
            )
        self.batch_tokens = batch_tokens
        self.label_smoothing = label_smoothing
        tokenizer, self.why_tokenizer = choose_tokenizer(self.corpus.target_scripts, tokenize)
        self.bleu = make_bleu(tokenizer)
        self.chrf = CHRF()
        pieces = [v.serialized_model_proto() for v in (self.corpus.source, self.corpus.target)]
        self.vocabulary = hashlib.sha256(b"".join(pieces)).hexdigest()

        torch.manual_seed(seed)
        source, target = self.corpus.source, self.corpus.target
        self.network = Transformer(
            source.get_piece_size(),
            target.get_piece_size(),
            width=width,
            heads=heads,
            layers=layers,
            feedforward=feedforward,
        ).to(device)
        # The paper's beta2 is 0.98: rare words get gradients rarely.
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), betas=(0.9, 0.98), eps=1e-9, fused=True
        )
        self.decay = Decay(decay)
        self.follows_budget = self.decay.is_on
        longest = int(self.training.lengths()[1].max())
        self.translator = Translator(self.network, source, target, limit=longest)

    def understood(self) -> Mapping[str, str]:
        """Splits and sizes, which side is the source, what was left out, and the tokeniser."""
        told = {**self.corpus.understood, "tokenizer": self.why_tokenizer}
        told |= self.decay.understood(self.budget)
        if self.too_long:
            pairs = count(self.too_long, "training pair")
            told["batches"] = f"{pairs} left out, longer than batch_tokens={self.batch_tokens}"
        sides = {"source": self.dev.source, "target": self.dev.target}
        unknown = {side: share_unknown(pieces) for side, pieces in sides.items()}
        small = [f"{share:.0%} of the {side}" for side, share in unknown.items() if share > 0.05]
        if small:
            told["vocabulary"] = f"too small: {' and '.join(small)} of dev is unknown to it"
        return told

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Train on `steps` batches; return the mean loss and target pieces per second."""
        for site in ("residual", "attention", "relu"):
            getattr(self.network.drop, site).p = hparams[f"{site}_dropout"]
        self.network.train()
        parameters = list(self.network.parameters())
        first = float(hparams["lr"])  # type: ignore[arg-type]
        started = time.perf_counter()
        loss_sum, tokens = torch.zeros((), device=self.device), 0
        batches = self.training.batches(self.rng, self.batch_tokens)
        for rows in itertools.islice(batches, steps):
            rate = self.decay.set_rate(self.optimizer, first, self.budget)
            source = batch(self.training.source, rows, self.device)
            target = batch(self.training.target, rows, self.device)
            logits = self.network(source, target[:, :-1])
            labels = target[:, 1:].flatten()
            loss = F.cross_entropy(
                logits.flatten(0, 1),
                labels,
                ignore_index=PAD,
                label_smoothing=self.label_smoothing,
            )
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            loss_sum += loss.detach()
            tokens += int((labels != PAD).sum())
            self.decay.age += 1
        seconds = time.perf_counter() - started
        metrics = {"loss": float(loss_sum) / steps, "tokens_per_second": tokens / seconds}
        return {**metrics, "rate/lr": rate} if self.decay.is_on else metrics

    def evaluate(self) -> Sequence[float]:
        """The score on the dev split, as a sample (see `score` and `measure`)."""
        self.quality = self.validate()
        return self.quality.sample

    def metrics(self) -> Mapping[str, float]:
        """What the score was made from: under a BLEU of 2 it is the likelihood (see `score`)."""
        return {"bleu": self.quality.bleu, "nll": self.quality.nll}

    def validate(self) -> Quality:
        """BLEU and likelihood on the dev split."""
        return self._quality(self.corpus.splits.dev, self.dev)[0]

    def _quality(self, pairs: Sequence[Pair], encoded: Encoded) -> tuple[Quality, list[str]]:
        sources, references = zip(*pairs, strict=True)
        translations = self.translator.translate(sources)
        return measure(
            self.bleu, translations, references, self._nlls(encoded), encoded.lengths()[1]
        ), translations

    @torch.no_grad()
    def _nlls(self, encoded: Encoded) -> NDArray[np.float64]:
        """The negative log likelihood of each target sentence, in nats."""
        self.network.eval()
        nlls = np.zeros(len(encoded.target))
        for rows in by_length(encoded.target):
            source = batch(encoded.source, rows, self.device)
            target = batch(encoded.target, rows, self.device)
            logits, labels = self.network(source, target[:, :-1]), target[:, 1:]
            nll = F.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=PAD, reduction="none"
            )
            nlls[rows] = nll.view(labels.shape).sum(1).cpu().numpy()
        return nlls

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": copy.deepcopy(self.network.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "vocabulary": self.vocabulary,
            **self.decay.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["vocabulary"] != self.vocabulary:
            # As when the file was changed since: the numbers would mean other words.
            raise TaskError("translation: this state was trained on other data or vocabularies")
        self.network.load_state_dict(state["network"])
        # Adam would go on to write into the tensors of `state`.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.decay.restore(state)

    def report(self) -> Mapping[str, float]:
        """BLEU, its standard error, chrF and NLL on the test split, which selection never saw."""
        return self._test()[0]

    def _test(self) -> tuple[dict[str, float], list[str]]:
        pairs = self.corpus.splits.test
        quality, translations = self._quality(pairs, encode(self.corpus, pairs))
        return {
            "bleu": quality.bleu,
            "bleu_error": quality.bleu_error,
            "chrf": self.chrf.corpus_score(translations, [[t for _, t in pairs]]).score,
            "nll": quality.nll,
        }, translations

    def samples(self, folder: Path) -> None:
        """Write `translations.html`: test sentences, their translations and the references."""
        metrics, translations = self._test()
        rows = [
            "".join(f'<td dir="auto">{html.escape(text)}</td>' for text in (source, ours, target))
            for (source, target), ours in zip(self.corpus.splits.test, translations, strict=True)
        ]
        page = f"""<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Translations</title><style>
body {{ font: 15px/1.4 system-ui, sans-serif; color-scheme: light dark; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: 3px 12px; text-align: start; border-bottom: 1px solid #8884; }}
</style></head><body>
<p>Test split, {len(rows)} sentences, which selection never saw:<br>
BLEU {metrics["bleu"]:.2f} &plusmn; {metrics["bleu_error"]:.2f}
(standard error; {self.bleu.get_signature()})<br>
chrF {metrics["chrf"]:.2f} ({self.chrf.get_signature()})</p>
<p>{html.escape(self.corpus.credit)}</p>
<table><tr><th>Source</th><th>Translation</th><th>Reference</th></tr>
{"".join(f"<tr>{row}</tr>{chr(10)}" for row in rows[:SHOWN])}</table></body></html>
"""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "translations.html").write_text(page, encoding="utf-8")

    def model(self) -> Translator:
        """The network with its vocabularies; `translate` takes and gives text."""
        return self.translator
