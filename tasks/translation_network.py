"""The network of the translation task: an encoder-decoder Transformer, and what is kept of it.

Source: Vaswani et al. 2017, arXiv 1706.03762, with normalisation before each part. Dropout is in
three places, each with a rate of its own that PBT tunes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .translation_corpora import BOS, EOS, PAD

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


CHUNK = 256
"""How many sentences are translated at once."""


# --- sentences as numbers -------------------------------------------------------------------------


def pad(sentences: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """The sentences as rows, padded on the right."""
    rows = np.full((len(sentences), max(map(len, sentences), default=0)), PAD, np.int32)
    for row, sentence in zip(rows, sentences, strict=True):
        row[: len(sentence)] = sentence
    return rows


def batch(pieces: NDArray[np.int32], rows: NDArray[np.intp], device: str | torch.device) -> Tensor:
    """Some rows as a tensor, as long as the longest of them needs."""
    chosen = pieces[rows]
    longest = int((chosen != PAD).sum(1).max())
    return torch.from_numpy(chosen[:, :longest]).to(device, torch.long)


def by_length(pieces: NDArray[np.int32]) -> list[NDArray[np.intp]]:
    """All rows in chunks of like length, so that few places are padding."""
    order = np.argsort((pieces != PAD).sum(1), kind="stable")
    return [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]


# --- the network ----------------------------------------------------------------------------------


class Dropout(nn.Module):
    """Sets a share `p` of the numbers to 0 while training, and scales the others to make up for it.

    torch's own draws one random number for each element, which took 15% of a training step here;
    this one takes four from each 64-bit draw, and rounds `p` to a multiple of 2^-16.
    """

    p = 0.0

    def forward(self, x: Tensor) -> Tensor:
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        if not self.training or dropped == 0:
            return x
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
        draws = draws.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
        return x * ((draws >= dropped - 2**15).to(x.dtype) * (2**16 / (2**16 - dropped)))


class Dropouts(nn.Module):
    """The three dropouts, one module each, shared by all places where it applies."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = Dropout()
        """On what each sub-layer adds to the residual stream, and on the embeddings."""
        self.attention = Dropout()
        """On the attention weights."""
        self.relu = Dropout()
        """On the hidden units of the feed-forward layers."""


@dataclass
class Cache:
    """What one decoder layer keeps between two steps: keys and values."""

    memory: tuple[Tensor, Tensor]
    memory_mask: Tensor
    past: tuple[Tensor, Tensor] | None = None

    def keep(self, rows: Tensor) -> None:
        """Forget all sentences but those at `rows`."""
        self.memory = (self.memory[0][rows], self.memory[1][rows])
        self.memory_mask = self.memory_mask[rows]
        if self.past is not None:
            self.past = (self.past[0][rows], self.past[1][rows])


class Attention(nn.Module):
    """Multi-head attention; keys and values are made apart, so that a decoder can keep them."""

    def __init__(self, width: int, heads: int, dropout: Dropout) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = dropout

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for `x` [batch, length, width], each [batch, heads, length, part]."""
        both = self.key_value(x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key, value = both.contiguous()  # or else each step of a decoding would copy them
        return key, value

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Let each place of `x` look at the keys; at those where the mask is False it cannot."""
        key, value = keys_values
        query = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        weights = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        if mask is not None:
            weights = weights.masked_fill(~mask, -math.inf)
        mixed = self.dropout(weights.softmax(-1)) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """One layer of the encoder or (with `cross`) of the decoder."""

    def __init__(
        self, width: int, heads: int, feedforward: int, drop: Dropouts, *, cross: bool
    ) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, drop.attention)
        if cross:
            self.cross_norm = nn.LayerNorm(width)
            self.cross_attention = Attention(width, heads, drop.attention)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, feedforward)
        self.feed_out = nn.Linear(feedforward, width)
        self.drop = drop

    def feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.drop.relu(F.relu(self.feed_in(self.feed_norm(x))))
        out: Tensor = x + self.drop.residual(self.feed_out(hidden))
        return out

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.self_norm(x)
        mixed = self.self_attention(y, self.self_attention.keys_values(y), mask)
        return self.feed_forward(x + self.drop.residual(mixed))

    def decode(self, x: Tensor, cache: Cache, mask: Tensor | None) -> Tensor:
        """Go on behind the places that `cache` holds, and add those of `x` to it."""
        y = self.self_norm(x)
        key, value = self.self_attention.keys_values(y)
        if cache.past is not None:
            key, value = torch.cat([cache.past[0], key], 2), torch.cat([cache.past[1], value], 2)
        cache.past = (key, value)
        x = x + self.drop.residual(self.self_attention(y, cache.past, mask))
        y = self.cross_norm(x)
        x = x + self.drop.residual(self.cross_attention(y, cache.memory, cache.memory_mask))
        return self.feed_forward(x)


class Transformer(nn.Module):
    """Encoder and decoder; the output layer is the target embedding, transposed."""

    def __init__(
        self, sources: int, targets: int, *, width: int, heads: int, layers: int, feedforward: int
    ) -> None:
        super().__init__()
        self.width = width
        self.drop = Dropouts()
        sizes = (width, heads, feedforward, self.drop)
        self.source_embedding = nn.Embedding(sources, width)
        self.target_embedding = nn.Embedding(targets, width)
        self.encoder = nn.ModuleList(Layer(*sizes, cross=False) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(*sizes, cross=True) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder_norm = nn.LayerNorm(width)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=width**-0.5)
        for name, weight in self.named_parameters():
            if weight.dim() == 2 and "embedding" not in name:
                nn.init.xavier_uniform_(weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The logits of each next piece, [batch, target length, vocabulary].

        Args:
            source: Pieces, padded on the right, [batch, source length].
            target: Pieces so far, which begin with BOS, padded on the right.
        """
        caches = self.start(source)
        length = target.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=target.device).tril()
        return self.go_on(target, caches, causal)

    def start(self, source: Tensor) -> list[Cache]:
        """Read the source sentences; what comes back is ready to decode from."""
        mask = (source != PAD)[:, None, None, :]
        x = self.embed(self.source_embedding, source, 0)
        for layer in _layers(self.encoder):
            x = layer.encode(x, mask)
        memory = self.encoder_norm(x)
        return [
            Cache(layer.cross_attention.keys_values(memory), mask)
            for layer in _layers(self.decoder)
        ]

    def go_on(self, target: Tensor, caches: list[Cache], mask: Tensor | None = None) -> Tensor:
        """The logits of the pieces that follow each of `target`, the next in a cached decoding."""
        past = caches[0].past
        x = self.embed(self.target_embedding, target, 0 if past is None else past[0].shape[2])
        for layer, cache in zip(_layers(self.decoder), caches, strict=True):
            x = layer.decode(x, cache, mask)
        return F.linear(self.decoder_norm(x), self.target_embedding.weight)

    def embed(self, embedding: nn.Embedding, pieces: Tensor, first: int) -> Tensor:
        x = embedding(pieces) * math.sqrt(self.width)
        end = first + pieces.shape[1]
        places = sinusoids(1 << end.bit_length(), self.width)[first:end]
        out: Tensor = self.drop.residual(x + places.to(x))
        return out

    @torch.no_grad()
    def greedy(self, source: Tensor, limit: int) -> list[list[int]]:
        """The likeliest next piece, again and again: at most `limit` pieces for each sentence."""
        self.eval()
        caches = self.start(source)
        answers: list[list[int]] = [[] for _ in range(len(source))]
        going = list(range(len(source)))
        pieces = torch.full((len(source), 1), BOS, device=source.device)
        for _ in range(limit):
            pieces = self.go_on(pieces, caches).argmax(-1)
            rows = []
            for row, piece in enumerate(pieces[:, 0].tolist()):
                if piece != EOS:
                    answers[going[row]].append(piece)
                    rows.append(row)
            if not rows:
                break
            if len(rows) < len(going):
                going = [going[row] for row in rows]
                chosen = torch.tensor(rows, device=source.device)
                pieces = pieces[chosen]
                for cache in caches:
                    cache.keep(chosen)
        return answers


def _layers(stack: nn.ModuleList) -> Iterator[Layer]:
    """The layers of an encoder or decoder; torch knows of its modules only that they are some."""
    for layer in stack:
        assert isinstance(layer, Layer)
        yield layer


@functools.lru_cache(maxsize=8)
def sinusoids(length: int, width: int) -> Tensor:
    """Vaswani's fixed code of positions, [length, width]."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


class Translator(nn.Module):
    """The network with its two vocabularies: from text to text. This is what is kept at the end."""

    def __init__(
        self,
        network: Transformer,
        source: SentencePieceProcessor,
        target: SentencePieceProcessor,
        limit: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.source = source
        self.target = target
        self.limit = limit

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """See `Transformer.forward`."""
        logits: Tensor = self.network(source, target)
        return logits

    def translate(self, sentences: Sequence[str]) -> list[str]:
        """Greedy translations, in the order of `sentences`."""
        pieces = pad([[*line, EOS] for line in self.source.encode(list(sentences))])
        device = self.network.source_embedding.weight.device
        translations = [""] * len(sentences)
        for rows in by_length(pieces):
            answers = self.network.greedy(batch(pieces, rows, device), self.limit)
            for row, text in zip(rows, self.target.decode(answers), strict=True):
                translations[row] = text
        return translations
