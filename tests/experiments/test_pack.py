"""A packed model keeps the largest part of what training changed, and is found again by its base."""

from __future__ import annotations

import pytest
import torch

import vpd
from experiments.pack import main
from vpd import SegmentationModel


@pytest.mark.extras
def test_changes_are_cut_and_the_rest_is_the_base(tmp_path):
    model = SegmentationModel.from_diffusion("world", classes=["cube", "wall"], head_channels=8)
    base = {name: value.clone() for name, value in model.backbone.named_parameters()}
    name = next(
        name for name in base if name.endswith("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    )
    left, right = torch.eye(base[name].shape[0])[:, :3], torch.eye(base[name].shape[1])[:3]
    with torch.no_grad():
        model.backbone.get_parameter(name).add_(left * torch.tensor([1.0, 0.5, 0.25]) @ right)
    model.config = model.config.model_copy(update={"notes": {"training": {"steps": 1}, "measured": {"mIoU": 1}}})
    model.save(tmp_path / "model")
    main([str(tmp_path / "model"), "--out", str(tmp_path / "packed"), "--kilobytes", "1", "--made-by", "hand"])
    packed = vpd.load(tmp_path / "packed", device="cpu")
    change = packed.backbone.get_parameter(name) - base[name]
    assert torch.allclose(change, left * torch.tensor([1.0, 0.5, 0.0]) @ right, atol=1e-3)
    others = {key: value for key, value in packed.backbone.named_parameters() if key != name}
    assert all(torch.equal(value, base[key]) for key, value in others.items())
    assert packed.config.notes["made by"] == "hand, then experiments/pack.py --kilobytes 1"
    assert "measured" not in packed.config.notes
