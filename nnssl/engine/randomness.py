"""Keyed randomness: every random number is a function of (seed, key, names) and of nothing else.

A *key* names a sample of the run, `names` say what is drawn for it ("view", "global", 0). There is no state, so
worker counts, ranks, call order and resuming cannot change a draw. Generators are counter-based (Philox: Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3") with a key hashed by BLAKE2b, because Python's own `hash` differs
between processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

# Numbers per sample up to which a batched draw is made by NumPy on the CPU, and so is the same on every device. Larger
# fields would stall the device while the CPU draws them; they come from the device's own keyed generator.
CPU_DRAW_LIMIT = 65_536

Name = str | int


def digest(seed: int, key: int, names: Sequence[Name]) -> bytes:
    """16 bytes that depend on the seed, the key and the names, the same in every process and on every machine.

    Each part carries its type and length, so ("ab", "c") and ("a", "bc"), or 1 and "1", never collide.
    """
    state = hashlib.blake2b(digest_size=16)
    for part in (seed, key, *names):
        text = str(part).encode()
        kind = b"s" if isinstance(part, str) else b"i"
        state.update(kind + len(text).to_bytes(4, "little") + text)
    return state.digest()


def numpy_generator(seed: int, key: int, *names: Name) -> np.random.Generator:
    """A fresh Philox generator for (seed, key, names).

    Example:
        >>> numpy_generator(0, 7, "flip").random() == numpy_generator(0, 7, "flip").random()
        True
    """
    words = np.frombuffer(digest(seed, key, names), dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=words))


def torch_generator(seed: int, key: int, *names: Name, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator on `device` for (seed, key, names). Its numbers differ between kinds of device.

    Use it for fields of image size only; torch's CPU engine looks at 32 bits of the seed, so two of 65,536 fields share
    their noise about as often as not, which is harmless for noise and would not be for draws that must be independent.
    """
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest(seed, key, names)[:8], "little") & (2**63 - 1))
    return generator


def uniform(
    seed: int,
    keys: Tensor,
    name: str,
    shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(B, *shape) uniform in [0, 1); row i depends on (seed, keys[i], name) alone. `keys`: (B,) int64 on the CPU."""
    if prod(shape) > CPU_DRAW_LIMIT:
        return _on_device(torch.rand, seed, keys, name, shape, device, dtype)
    drawn = [numpy_generator(seed, key, name).random(prod(shape)) for key in keys.tolist()]
    below_one = 1.0 - torch.finfo(dtype).eps / 2  # the largest value under 1: rounding to `dtype` must not reach 1
    return _from_numpy(drawn, shape, device, dtype).clamp_(max=below_one)


def normal(
    seed: int,
    keys: Tensor,
    name: str,
    shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(B, *shape) standard normal; row i depends on (seed, keys[i], name) alone. `keys`: (B,) int64 on the CPU."""
    if prod(shape) > CPU_DRAW_LIMIT:
        return _on_device(torch.randn, seed, keys, name, shape, device, dtype)
    drawn = [numpy_generator(seed, key, name).standard_normal(prod(shape)) for key in keys.tolist()]
    return _from_numpy(drawn, shape, device, dtype)


def permutation(seed: int, keys: Tensor, name: str, n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(B, n) int64, row i a random order of 0..n-1 that depends on (seed, keys[i], name) alone; same on all devices."""
    drawn = [torch.from_numpy(numpy_generator(seed, key, name).permutation(n)) for key in keys.tolist()]
    stacked = torch.stack(drawn) if drawn else torch.empty((0, n), dtype=torch.int64)
    return stacked.to(device=device, dtype=torch.int64)


def _from_numpy(
    drawn: list[np.ndarray[tuple[int], np.dtype[np.float64]]],
    shape: Sequence[int],
    device: torch.device | str,
    dtype: torch.dtype,
) -> Tensor:
    """One float64 row per sample as a (B, *shape) tensor; drawn in float64 so that float32 and float64 runs agree."""
    flat = np.stack(drawn) if drawn else np.empty((0, prod(shape)))
    return torch.from_numpy(flat).to(dtype).reshape(len(drawn), *shape).to(device)


def _on_device(
    draw: Callable[..., Tensor],
    seed: int,
    keys: Tensor,
    name: str,
    shape: Sequence[int],
    device: torch.device | str,
    dtype: torch.dtype,
) -> Tensor:
    """Large fields, one `draw` (torch.rand or torch.randn) per sample by the device's own keyed generator."""
    rows = [
        draw(tuple(shape), generator=torch_generator(seed, key, name, device=device), device=device)
        for key in keys.tolist()
    ]
    return torch.stack(rows).to(dtype) if rows else torch.empty((0, *shape), device=device, dtype=dtype)
