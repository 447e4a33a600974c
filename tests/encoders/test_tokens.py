"""Primus with views of any size: at the plan's patch it is nnU-Net's, elsewhere what nnU-Net would build there."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.encoders.other import build_other
from nnssl.encoders.tokens import TOKEN, TokenEncoder, resized, token_encoder
from nnssl.errors import PlanError, PluginError
from nnssl.nnunet import build_primus
from tests.primus import tiny_primus

PATCH = (16, 24, 32)
GRID = (2, 3, 4)


def wrapped(**options: Any) -> tuple[nn.Module, TokenEncoder]:
    """nnU-Net's network, and the encoder made of another one with equal values."""
    torch.manual_seed(0)
    theirs = tiny_primus(PATCH, **options).eval()
    ours = tiny_primus(PATCH, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, TokenEncoder(ours, name="primus_s", patch_size=PATCH)


def tokens_of(network: nn.Module, image: Tensor) -> Tensor:
    """What DNA's own forward hands to its decoder."""
    seen: list[Tensor] = []
    decoder = network.get_submodule("up_projection")
    handle = decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(image)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_plans_patch_it_equals_nnunets_forward_exactly(registers: int, dtype: torch.dtype) -> None:
    theirs, ours = wrapped(registers=registers)
    image = torch.randn(2, 1, *PATCH, dtype=dtype)
    with torch.no_grad():
        (found,) = ours.to(dtype)(image)
    assert found.shape == (2, 48, *GRID)
    assert torch.equal(found, tokens_of(theirs.to(dtype), image))


@pytest.mark.parametrize("size", [(8, 8, 8), (16, 16, 8), (16, 24, 16), (24, 40, 48)])
def test_at_other_sizes_it_equals_a_native_network_with_an_interpolated_table(size: tuple[int, int, int]) -> None:
    theirs, ours = wrapped(registers=2)
    native = tiny_primus(size, registers=2).eval()
    state = dict(theirs.state_dict())
    table = state["eva.pos_embed"]
    cells = table[:, 2:].transpose(1, 2).reshape(1, 48, *GRID)
    grid = tuple(side // 8 for side in size)
    cells = F.interpolate(cells, size=grid, mode="trilinear").flatten(2).transpose(1, 2)
    state["eva.pos_embed"] = torch.cat((table[:, :2], cells), dim=1)
    native.load_state_dict(state)
    image = torch.randn(2, 1, *size)
    with torch.no_grad():
        (found,) = ours(image)
    torch.testing.assert_close(found, tokens_of(native, image), rtol=1e-5, atol=1e-5)
    # and nothing of it stays behind
    whole = torch.randn(1, 1, *PATCH)
    with torch.no_grad():
        assert torch.equal(ours(whole)[0], tokens_of(theirs, whole))


def test_rotary_coordinates_are_true_distances_in_every_view() -> None:
    _, ours = wrapped()
    whole = ours._rotary(GRID).reshape(*GRID, -1)
    corner = ours._rotary((1, 2, 3)).reshape(1, 2, 3, -1)
    assert torch.equal(corner, whole[:1, :2, :3])
    larger = ours._rotary((3, 4, 6)).reshape(3, 4, 6, -1)
    assert torch.equal(larger[:2, :3, :4], whole)
    assert ours._rotary((1, 2, 3)) is ours._rotary((1, 2, 3))


def test_positions_are_interpolated_along_each_axis_and_registers_stay() -> None:
    torch.manual_seed(0)
    old, new = (2, 3, 4), (3, 2, 7)
    table = torch.randn(1, 2 + 24, 5, dtype=torch.float64)

    def blend(index: int, before: int, after: int) -> list[tuple[int, float]]:
        """Rows and shares for one new row: centres of cells are laid over each other, ends are repeated."""
        place = min(max((index + 0.5) * before / after - 0.5, 0.0), before - 1.0)
        low = min(int(place), before - 1)
        return [(low, 1 - (place - low)), (min(low + 1, before - 1), place - low)]

    wanted = torch.zeros(*new, 5, dtype=torch.float64)
    cells = table[0, 2:].reshape(*old, 5)
    for d in range(new[0]):
        for h in range(new[1]):
            for w in range(new[2]):
                for i, a in blend(d, old[0], new[0]):
                    for j, b in blend(h, old[1], new[1]):
                        for k, c in blend(w, old[2], new[2]):
                            wanted[d, h, w] += a * b * c * cells[i, j, k]
    found = resized(table, old, new)
    torch.testing.assert_close(found[0, 2:].reshape(*new, 5), wanted)
    assert torch.equal(found[:, :2], table[:, :2])
    assert resized(table, old, old) is table


def test_gradients_reach_the_table_through_a_local_view() -> None:
    _, ours = wrapped()
    ours(torch.randn(1, 1, 8, 16, 16))[0].square().sum().backward()
    gradient = ours.eva.pos_embed.grad
    assert gradient is not None and bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0


def test_what_inference_mode_asked_first_can_still_be_trained() -> None:
    _, ours = wrapped()
    image = torch.randn(1, 1, 8, 8, 16)
    with torch.inference_mode():
        ours(image)
    ours(image)[0].sum().backward()


def test_training_draws_nothing() -> None:
    theirs, ours = wrapped()
    image = torch.randn(1, 1, *PATCH)
    assert any(module.drop_prob > 0 for module in theirs.modules() if hasattr(module, "drop_prob"))
    with torch.no_grad():
        assert torch.equal(ours.train()(image)[0], ours.eval()(image)[0])


def test_hidden_tokens_see_the_given_one_and_nothing_of_the_image() -> None:
    _, ours = wrapped()
    image, token = torch.randn(2, 1, *PATCH), torch.randn(48)
    hidden = torch.zeros(2, 24, dtype=torch.bool)
    hidden[0, 5] = True  # d, h, w = 0, 1, 1
    other = image.clone()
    other[0, :, :8, 8:16, 8:16] += 1
    with torch.no_grad():
        one, two = (ours(x, hidden=hidden, token=token)[0] for x in (image, other))
        assert torch.equal(one, two)
        assert not torch.equal(one[0], ours(image)[0][0])
        torch.testing.assert_close(one[1], ours(image)[0][1])


def test_sides_that_are_no_whole_tokens_are_refused() -> None:
    _, ours = wrapped()
    with pytest.raises(PlanError, match=r"tokens of \(8, 8, 8\).*\(16, 20, 32\) is not\. Use \(16, 16, 32\)"):
        ours(torch.zeros(1, 1, 16, 20, 32))
    with pytest.raises(PlanError, match=r"Use \(48, 48, 40\)"):
        token_encoder("primus_s", 1, patch_size=(48, 48, 44))
    with pytest.raises(PluginError, match="does not take the options"):
        build_other("primus_s", channels=1, options={"width": 3})


@pytest.mark.parametrize("size", ["s", "b", "m", "l"])
def test_every_size_is_what_nnunets_trainer_builds(size: str) -> None:
    from dynamic_network_architectures.architectures.primus import _PRIMUS_CONFIGS

    with torch.device("meta"):
        theirs = build_primus(size, patch_size=PATCH, channels=2, classes=3)
        ours: Any = build_other(f"primus_{size}", channels=2, options={"patch_size": PATCH})
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("up_projection.")}
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == shapes
    told = _PRIMUS_CONFIGS[size.upper()]
    assert ours.channels == (told["embed_dim"],) and len(ours.eva.blocks) == told["eva_depth"]
    assert ours.strides == (TOKEN,) and ours.name == f"primus_{size}"
    assert ours.keys == {
        "key_to_encoder": "eva",
        "key_to_stem": "down_projection",
        "keys_to_in_proj": ("down_projection.proj",),
        "key_to_lpe": "eva.pos_embed",
    }


def test_importing_it_brings_neither_nnunet_nor_timm() -> None:
    code = "import sys, nnssl.encoders.tokens; print([n for n in ('timm', 'nnunetv2', 'einops') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
