"""Conditional anatomical semantic alignment (CASA): cross-attention that says two maps on the same query positions.

`FeatureHeads` is the paper's, on features; `LogitHeads` the published code's, on the logits of prototypes. Both have
the same calls, so that the method does not ask which it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.heads import DINOHead, Prototypes
from nnssl.blocks.losses import entropy, wide

CODE_HEADS, CODE_KEY, CODE_HIDDEN = 8, 64, 2048  # of the published layer

Drop = Callable[[str, Tensor], Tensor]  # (name, values): values with some of them dropped, keyed by the name


class Tokens(NamedTuple):
    """Cells of maps: `vectors` (N, n, C), and `counted` (N, n) bool, those inside the case."""

    vectors: Tensor
    counted: Tensor


class Aligned(NamedTuple):
    """Memory told on query positions.

    `logits` (N, n, K); `weights` (N, heads, n, m) of the attention; `share` scalar, the attention's length over that of
    the residual it is added to: 0 would mean that the memory is ignored. None without a residual.
    """

    logits: Tensor
    weights: Tensor
    share: Tensor | None

    def attention_entropy(self) -> Tensor:
        """H / ln m of the attention, in [0, 1], without gradient."""
        memory = max(self.weights.shape[-1], 2)
        return entropy(self.weights.detach()) / torch.log(self.weights.new_tensor(float(memory)))


def attention_weights(queries: Tensor, keys: Tensor, counted: Tensor) -> Tensor:
    """softmax(q k^T / sqrt d), (N, heads, n, m).

    Args:
        queries: (N, heads, n, d).
        keys: (N, heads, m, d).
        counted: (N, m) bool, what may be looked at; all of it where none of it may.
    """
    scores = wide(queries @ keys.transpose(-1, -2)) / queries.shape[-1] ** 0.5
    open_to_all = counted | ~counted.any(1, keepdim=True)
    weights: Tensor = scores.masked_fill(~open_to_all[:, None, None], float("-inf")).softmax(-1)
    return weights


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(N, n, heads * d) as (N, heads, n, d)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


class TokenNorm(nn.Module):
    """Mean 0 and variance 1 of every channel over the counted tokens of all crops and ranks.

    Behind instance norm the cells of a map are nearly alike (cosines near 1): unless they are parted, every query looks
    at all of the memory alike, the answer is the same for all cells, and its distillation falls to the uniform one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = BatchNorm(width, affine=False)

    def forward(self, tokens: Tokens) -> Tokens:
        """The same tokens, standardised."""
        flat = self.norm(tokens.vectors.flatten(0, 1), tokens.counted.flatten())
        return Tokens(flat.unflatten(0, tokens.counted.shape), tokens.counted)


class FeatureHeads(nn.Module):
    """The paper's: S = zeta(softmax((W_q V)(W_k Y)^T / sqrt d) W_v Y), Y = projector(map); a DINO head for whole crops.

    Attributes:
        pooled_head: of a crop's vector.
        query, key, value: W_q, W_k, W_v, without bias.
        memory_norm, query_norm, key_norm: of the map before the projector, of W_q V and of W_k Y; nothing where tokens
            are not `normed`, as published.
        projector: phi; in the teacher, its average is psi.
        aligned_head: zeta.
    """

    def __init__(
        self,
        *,
        pooled: DINOHead,
        aligned: DINOHead,
        query_width: int,
        memory_width: int,
        width: int,
        heads: int,
        normed: bool,
    ) -> None:
        """Heads on maps of given widths.

        Args:
            pooled: head of whole crops.
            aligned: zeta, on `width`.
            query_width, memory_width: channels of the two maps.
            width: d times heads.
            heads: of the attention.
            normed: standardise tokens where the attention compares them.
        """
        super().__init__()
        self.heads = heads
        self.pooled_head = pooled
        self.query = nn.Linear(query_width, width, bias=False)
        self.projector = nn.Sequential(nn.Linear(memory_width, width), nn.GELU(), nn.Linear(width, width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.aligned_head = aligned
        self.memory_norm: nn.Module = TokenNorm(memory_width) if normed else nn.Identity()
        self.query_norm: nn.Module = TokenNorm(width) if normed else nn.Identity()
        self.key_norm: nn.Module = TokenNorm(width) if normed else nn.Identity()

    def classify(self, vectors: Tensor) -> Tensor:
        """(N, K) logits of whole crops' vectors."""
        logits: Tensor = self.pooled_head(vectors)
        return logits

    def queries(self, tokens: Tokens) -> Tokens:
        """W_q V."""
        asked: Tokens = self.query_norm(Tokens(self.query(tokens.vectors), tokens.counted))
        return asked

    def memory(self, tokens: Tokens) -> Tokens:
        """phi of a map."""
        normed: Tokens = self.memory_norm(tokens)
        return Tokens(self.projector(normed.vectors), tokens.counted)

    def attend(self, queries: Tokens, memory: Tokens, drop: Drop) -> Aligned:
        """The memory on query positions.

        Args:
            queries: of `queries`.
            memory: of `memory`; what is not counted is not looked at.
            drop: dropout.
        """
        known: Tokens = self.key_norm(Tokens(self.key(memory.vectors), memory.counted))
        asked, keys = (_by_head(tokens.vectors, self.heads) for tokens in (queries, known))
        weights = attention_weights(asked, keys, memory.counted)
        values = _by_head(self.value(memory.vectors), self.heads)
        told = (drop("attention", weights).to(values.dtype) @ values).transpose(1, 2).flatten(2)
        logits = self.aligned_head(told.flatten(0, 1), queries.counted.flatten())
        return Aligned(logits.unflatten(0, queries.counted.shape), weights, None)

    def prototypes(self) -> tuple[Prototypes, ...]:
        """The last layers."""
        return self.pooled_head.last_layer, self.aligned_head.last_layer


class LogitHeads(nn.Module):
    """The published code's: one MLP for crops and tokens, attention between logits of prototypes.

    Attributes:
        pooled_in, query_in, memory_in: to the MLP's width.
        head: MLP and prototypes of whole crops.
        token_layer: prototypes of tokens.
        layer: the attention.
    """

    def __init__(
        self, *, head: DINOHead, tokens: Prototypes, pooled_width: int, query_width: int, memory_width: int, width: int
    ) -> None:
        """Heads on maps of given widths.

        Args:
            head: on `width`.
            tokens: on the head's bottleneck.
            pooled_width, query_width, memory_width: of the crop's vector and the two maps.
            width: what the head takes.
        """
        super().__init__()
        # published: the crop's vector has this width already
        self.pooled_in: nn.Module = nn.Identity() if pooled_width == width else nn.Linear(pooled_width, width)
        self.query_in = nn.Linear(query_width, width)
        self.memory_in = nn.Linear(memory_width, width)
        self.head = head
        self.token_layer = tokens
        self.layer = LogitAttention(len(tokens.weight))

    def classify(self, vectors: Tensor) -> Tensor:
        """(N, K) logits of whole crops' vectors."""
        logits: Tensor = self.head(self.pooled_in(vectors))
        return logits

    def queries(self, tokens: Tokens) -> Tokens:
        """(N, n, K) logits of (N, n, C)."""
        return Tokens(self._logits(self.query_in(tokens.vectors)), tokens.counted)

    def memory(self, tokens: Tokens) -> Tokens:
        """(N, m, K) logits of (N, m, C)."""
        return Tokens(self._logits(self.memory_in(tokens.vectors)), tokens.counted)

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.token_layer(F.normalize(wide(self.head.mlp(x)), dim=-1))
        return logits

    def attend(self, queries: Tokens, memory: Tokens, drop: Drop) -> Aligned:
        """As `FeatureHeads.attend`, between logits."""
        aligned: Aligned = self.layer(queries.vectors, memory.vectors, memory.counted, drop)
        return aligned

    def prototypes(self) -> tuple[Prototypes, ...]:
        """The last layers."""
        return self.head.last_layer, self.token_layer


class LogitAttention(nn.Module):
    """One post-norm layer of cross-attention and a feed-forward net, each with a residual (Vaswani et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = CODE_HEADS * CODE_KEY
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.feed = nn.Sequential(nn.Linear(width, CODE_HIDDEN), nn.ReLU(), nn.Linear(CODE_HIDDEN, width))
        self.feed_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, queries: Tensor, memory: Tensor, counted: Tensor, drop: Drop) -> Aligned:
        """(N, n, K) and (N, m, K) to (N, n, K); see `FeatureHeads.attend`."""
        asked = _by_head(self.query(queries), CODE_HEADS)
        keys, values = (_by_head(layer(memory), CODE_HEADS) for layer in (self.key, self.value))
        weights = attention_weights(asked, keys, counted)
        told = (drop("attention", weights).to(values.dtype) @ values).transpose(1, 2).flatten(2)
        heard = drop("output", self.out(told))
        x = self.norm(heard + queries)
        with torch.no_grad():
            share = wide(heard).norm(dim=-1).mean() / wide(queries).norm(dim=-1).mean()
        return Aligned(self.feed_norm(drop("feed", self.feed(x)) + x), weights, share)
