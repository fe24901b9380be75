"""Weights of a model without what it shares with the diffusion model that it was adapted from, and the way back.

A model with a frozen UNet or with LoRA then takes megabytes instead of gigabytes: the rest comes from the base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from vpd.errors import UsageError

UP, DOWN = ".low_rank_up", ".low_rank_down"
"""A weight `name` may be stored as two factors: the base's weight + `name.low_rank_up` @ `name.low_rank_down`."""
_LARGEST_SHARE = 0.5
"""Factors are stored only where they take at most this share of the weight itself."""
_RELATIVE_ERROR = 1e-6
_SAMPLED_EVERY = 997


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A hash of some values of every tensor; quick even for billions of them."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().flatten()[::_SAMPLED_EVERY].float().cpu().contiguous()
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


def leave_out(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What must be stored: all that differs from the base, as low-rank factors where these say it (merged LoRA)."""
    stored = {}
    for name, value in weights.items():
        origin = base.get(name)
        if origin is None or origin.shape != value.shape:
            stored[name] = value
        elif not torch.equal(origin, value):
            factors = low_rank(value.float() - origin.float(), scale=float(value.abs().max()))
            stored |= {name: value} if factors is None else {name + UP: factors[0], name + DOWN: factors[1]}
    return stored


def put_back(stored: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights of a model: those that were stored, and the base's with what is to be added to them.

    Raises:
        UsageError: If a factor has no partner, or belongs to no weight of the base.
    """
    weights = {**base, **{name: value for name, value in stored.items() if not name.endswith((UP, DOWN))}}
    for name in sorted({name.removesuffix(UP).removesuffix(DOWN) for name in stored if name.endswith((UP, DOWN))}):
        up, down, origin = stored.get(name + UP), stored.get(name + DOWN), base.get(name)
        if up is None or down is None or origin is None or not _fit(up, down, origin):
            raise UsageError(f"The low-rank factors of {name} are incomplete or do not fit the base model.")
        weights[name] = origin + (up.float() @ down.float()).to(origin.dtype)
    return weights


def _fit(up: Tensor, down: Tensor, origin: Tensor) -> bool:
    are_matrices = up.ndim == down.ndim == origin.ndim == 2
    return are_matrices and up.shape[1] == down.shape[0] and (up.shape[0], down.shape[1]) == origin.shape


def low_rank(change: Tensor, *, scale: float) -> tuple[Tensor, Tensor] | None:
    """Two factors `(m, r)`, `(r, n)` of a change `(m, n)`; none where they save nothing.

    The error is about a millionth of the change, or of the weights' `scale` where that is larger.
    """
    if change.ndim != 2:
        return None
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    rank = int((values > _RELATIVE_ERROR * max(scale, float(values[0]))).sum())
    if rank * sum(change.shape) > _LARGEST_SHARE * change.numel():
        return None
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).contiguous(), (root[:, None] * right[:rank]).contiguous()
