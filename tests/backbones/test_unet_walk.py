from __future__ import annotations

import pytest
import torch

from tiny import TEXT_DIM, tiny_unet
from vpd.backbones.unet_walk import attention_levels, walk_unet
from vpd.config import Checkpointing
from vpd.errors import UsageError
from vpd.weights.families import check_unet


def denoise(unet, hidden):
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))


@pytest.mark.parametrize("size", [(8, 8), (16, 8), (7, 13), (1, 1), (5, 24)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_linear_projection": True, "attention_head_dim": (2, 4, 4, 8), "upcast_attention": True},
        {"layers_per_block": 1},
        {"transformer_layers_per_block": 2},
    ],
)
@torch.no_grad()
def test_walk_equals_diffusers_unet(size: tuple[int, int], changes: dict) -> None:
    torch.manual_seed(0)
    unet = tiny_unet(**changes).eval()
    latents, text = torch.randn(2, 4, *size), torch.randn(2, 5, TEXT_DIM)
    maps, _ = walk_unet(unet, latents, timestep=1, text_embeds=text)
    torch.testing.assert_close(denoise(unet, maps[0]), unet(latents, 1, text).sample, atol=2e-5, rtol=0)


@torch.no_grad()
def test_map_sizes_and_channels() -> None:
    unet = tiny_unet()
    maps, attention = walk_unet(unet, torch.randn(1, 4, 16, 24), timestep=1, text_embeds=torch.randn(1, 5, TEXT_DIM))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 16, 24), (32, 8, 12), (32, 4, 6), (32, 2, 3)]
    assert {level: tuple(a.shape) for level, a in attention.items()} == {1: (1, 5, 8, 12), 2: (1, 5, 4, 6)}


@torch.no_grad()
def test_attention_is_what_the_layers_compute() -> None:
    """Against diffusers' own explicit scores, averaged over heads and over the layers of a level by hand."""
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    latents, text = torch.randn(1, 4, 8, 16), torch.randn(1, 3, TEXT_DIM)
    seen: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    for name, module in unet.named_modules():
        if name.endswith("attn2") and "mid" not in name:
            module.register_forward_hook(record(seen), with_kwargs=True)
    unet(latents, 1, text)
    _, attention = walk_unet(unet, latents, timestep=1, text_embeds=text)
    for level, (height, width) in {1: (4, 8), 2: (2, 4)}.items():
        assert len(seen[level]) == 5
        wanted = torch.stack(seen[level]).mean(0).transpose(1, 2).reshape(1, 3, height, width)
        torch.testing.assert_close(attention[level], wanted, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(attention[level].sum(1), torch.ones(1, height, width))


def record(seen):
    def hook(attn, args, kwargs, output):
        hidden, context = args[0], kwargs["encoder_hidden_states"]
        query, key = attn.head_to_batch_dim(attn.to_q(hidden)), attn.head_to_batch_dim(attn.to_k(context))
        probs = attn.get_attention_scores(query, key).mean(0, keepdim=True)
        level = {32: 1, 8: 2}.get(hidden.shape[1])
        if level:
            seen[level].append(probs)

    return hook


def test_maps_carry_gradient_unless_detached() -> None:
    for detach in (False, True):
        unet = tiny_unet()
        _, attention = walk_unet(
            unet, torch.randn(1, 4, 8, 8), timestep=1, text_embeds=torch.randn(1, 3, TEXT_DIM), detach_maps=detach
        )
        assert all(a.requires_grad is not detach for a in attention.values())


def everything_on(unet) -> dict[str, object]:
    """Every attribute of every layer, by identity, and the lengths and members of those that hold others."""
    found: dict[str, object] = {}
    for name, module in unet.named_modules():
        for attribute, value in vars(module).items():
            members = list(value.values()) if isinstance(value, dict) else value
            inside = [id(member) for member in members] if isinstance(members, (list, tuple, set)) else None
            found[f"{name}.{attribute}"] = (id(value), inside)
    return found


@pytest.mark.parametrize("gradient_checkpointing", [False, True, "cheap"])
def test_nothing_is_left_on_the_module(gradient_checkpointing: Checkpointing) -> None:
    unet = tiny_unet()
    before = everything_on(unet)
    maps, attention = walk_unet(
        unet,
        torch.randn(1, 4, 8, 8),
        timestep=1,
        text_embeds=torch.randn(1, 3, TEXT_DIM),
        gradient_checkpointing=gradient_checkpointing,
    )
    assert everything_on(unet) == before
    (maps[0].sum() + sum(a.sum() for a in attention.values())).backward()
    assert unet.conv_in.weight.grad is not None
    assert everything_on(unet) == before


def test_no_attention_matrix_where_no_map_is_wanted() -> None:
    """Self-attention of the finest level never materialises positions x positions."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(value, torch.Tensor):
                    self.size = max(self.size, value.numel())
            return out

    unet = tiny_unet().eval()
    with torch.no_grad(), Largest() as largest:
        walk_unet(unet, torch.randn(1, 4, 48, 48), timestep=1, text_embeds=torch.randn(1, 3, TEXT_DIM))
    assert largest.size < (48 * 48) ** 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"addition_embed_type": "text_time"}, "addition_embed_type='text_time'"),
        ({"down_block_types": ["AttnDownBlock2D"]}, "AttnDownBlock2D"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type='UNetMidBlock2D'"),
        ({"only_cross_attention": True}, "only_cross_attention=True"),
        ({"center_input_sample": True}, "center_input_sample=True"),
        ({"cross_attention_norm": "layer_norm"}, "cross_attention_norm='layer_norm'"),
    ],
)
def test_other_families_are_refused_by_name(changes: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        check_unet({**tiny_unet().config, **changes})


def test_attention_levels() -> None:
    assert attention_levels(tiny_unet().config) == (1, 2)
