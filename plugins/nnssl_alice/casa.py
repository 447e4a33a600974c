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

from nnssl.blocks.heads import DINOHead, Prototypes
from nnssl.blocks.losses import entropy, wide

CODE_HEADS, CODE_KEY, CODE_HIDDEN = 8, 64, 2048  # of the published layer

Drop = Callable[[str, Tensor], Tensor]  # (name, values): values with some of them dropped, keyed by the name


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


class FeatureHeads(nn.Module):
    """The paper's: S = zeta(softmax((W_q V)(W_k Y)^T / sqrt d) W_v Y), Y = projector(map); a DINO head for whole crops.

    Attributes:
        pooled_head: of a crop's vector.
        query, key, value: W_q, W_k, W_v, without bias.
        projector: phi; in the teacher, its average is psi.
        aligned_head: zeta.
    """

    def __init__(
        self, *, pooled: DINOHead, aligned: DINOHead, query_width: int, memory_width: int, width: int, heads: int
    ) -> None:
        """Heads on maps of given widths.

        Args:
            pooled: head of whole crops.
            aligned: zeta, on `width`.
            query_width, memory_width: channels of the two maps.
            width: d times heads.
            heads: of the attention.
        """
        super().__init__()
        self.heads = heads
        self.pooled_head = pooled
        self.query = nn.Linear(query_width, width, bias=False)
        self.projector = nn.Sequential(nn.Linear(memory_width, width), nn.GELU(), nn.Linear(width, width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.aligned_head = aligned

    def classify(self, vectors: Tensor) -> Tensor:
        """(N, K) logits of whole crops' vectors."""
        logits: Tensor = self.pooled_head(vectors)
        return logits

    def queries(self, tokens: Tensor) -> Tensor:
        """W_q V of (N, n, C)."""
        asked: Tensor = self.query(tokens)
        return asked

    def memory(self, tokens: Tensor) -> Tensor:
        """phi of (N, m, C)."""
        known: Tensor = self.projector(tokens)
        return known

    def attend(self, queries: Tensor, memory: Tensor, counted: Tensor, drop: Drop) -> Aligned:
        """The memory on query positions.

        Args:
            queries: of `queries`.
            memory: of `memory`.
            counted: (N, m) bool.
            drop: dropout.
        """
        keys, values = (_by_head(layer(memory), self.heads) for layer in (self.key, self.value))
        weights = attention_weights(_by_head(queries, self.heads), keys, counted)
        told = drop("attention", weights).to(values.dtype) @ values
        return Aligned(self.aligned_head(told.transpose(1, 2).flatten(2)), weights, None)

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

    def queries(self, tokens: Tensor) -> Tensor:
        """(N, n, K) logits of (N, n, C)."""
        return self._logits(self.query_in(tokens))

    def memory(self, tokens: Tensor) -> Tensor:
        """(N, m, K) logits of (N, m, C)."""
        return self._logits(self.memory_in(tokens))

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.token_layer(F.normalize(wide(self.head.mlp(x)), dim=-1))
        return logits

    def attend(self, queries: Tensor, memory: Tensor, counted: Tensor, drop: Drop) -> Aligned:
        """As `FeatureHeads.attend`, between logits."""
        aligned: Aligned = self.layer(queries, memory, counted, drop)
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
