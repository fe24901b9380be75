"""The models of the experiments: the library's own, with one factor changed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.claims_arms import Arm
from experiments.claims_scenes import NAMES, SURFACES
from experiments.frozen_features import FrozenBackbone
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import DepthConfig, ReferConfig, Resize, SegmentConfig
from vpd.errors import UsageError
from vpd.inference.cache import TensorCache
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import PLAIN_TEMPLATE, embed_names
from vpd.tasks.depth import DepthModel
from vpd.tasks.model import PerceptionModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.tensors import Features, Text
from vpd.weights.sources import find_source
from vpd.world.dataset import SCENE
from vpd.world.scenes import CLASSES

TOKEN_LENGTH = 16
"""Of expressions; the longest has 13 words."""
HEAD_CHANNELS = 48
DEPTH_HEAD: dict[str, Any] = {"head_channels": 16, "feature_channels": 256}
REFER_WEIGHTS = (0.4, 2.0)
"""Of background and object. An object that one of four in a scene might be counts as found: a model without text can
then mark all of them, which is the best it can do, instead of nothing."""
MAX_DEPTH_M = 10.0


class Mapless(StableDiffusionBackbone):
    """A backbone that gives its head no cross-attention maps."""

    @property
    def attention_strides(self) -> tuple[int, ...]:
        """None."""
        return ()

    def forward(self, images: Tensor | None, text_embeds: Text, *, latents: Tensor | None = None) -> Features:
        """The UNet's features alone."""
        return replace(super().forward(images, text_embeds, latents=latents), attention={})


class FrozenMapless(Mapless, FrozenBackbone):
    """The same, frozen; it keeps maps all the same, so that others may share what it keeps."""


class NullEncoder(TextEncoder):
    """Reads the empty text whatever it is given."""

    def tokens(self, texts: list[str], *, length: int) -> Tensor:
        """Of the empty text, as often as there are texts."""
        return super().tokens([""] * len(texts), length=length)


def shuffled_classes(model: SegmentationModel, names: list[str]) -> Tensor:
    """Class prompts `(b, n, d)` in an order that the name of the picture decides."""
    orders = []
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        orders.append(torch.randperm(len(model.class_embeddings), generator=generator))
    return model.class_embeddings[torch.stack(orders)]


def exchanged(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each object under the name of another, by chance: with a rule, names would still tell what goes together."""
    order = torch.randperm(len(names) - len(SURFACES), generator=torch.Generator().manual_seed(0)).tolist()
    return (*SURFACES, *(names[len(SURFACES) + place] for place in order))


def weights_hash(*parts: Path) -> str:
    """Eight letters that change with the weights of parts of a diffusion model, each a folder.

    Raises:
        UsageError: If a part has none.
    """
    crc = 0
    for part in parts:
        paths = sorted(part.glob("*.safetensors"))
        if not paths:
            raise UsageError(f"{part} holds no *.safetensors: {part.parent} is no diffusion model.")
        for path in paths:
            crc = zlib.crc32(path.read_bytes(), crc)
    return f"{crc:08x}"


def read_backbones(pairs: list[str]) -> dict[str, str]:
    """Name -> folder, of words like `text=world` and `random=DIR`.

    Raises:
        UsageError: If a word is no such pair, or there is no such diffusion model.
    """
    return {name: str(find_source(source, with_text=True)) for name, source in read_pairs(pairs).items()}


def read_pairs(words: list[str]) -> dict[str, str]:
    """Name -> folder, of words like `camvid=DIR`.

    Raises:
        UsageError: If a word is no such pair, or a name comes twice.
    """
    pairs = [word.split("=", 1) for word in words]
    names = [pair[0] for pair in pairs]
    if any(len(pair) != 2 or not all(pair) for pair in pairs) or len(set(names)) < len(names):
        raise UsageError(f"{' '.join(words)}: give NAME=FOLDER, each name once.")
    return dict(pairs)


@dataclass
class Sources:
    """The backbones at hand."""

    folders: dict[str, str]
    """Name -> folder in diffusers' layout; `text` must be one of them."""
    cache_mb: int = 1500
    """Memory for the features of each UNet."""

    def __post_init__(self) -> None:
        if "text" not in self.folders:
            raise UsageError("Prompts come from the text encoder of the backbone `text`: give its folder.")
        vaes = {weights_hash(Path(folder, "vae")) for folder in self.folders.values()}
        if len(vaes) > 1:
            raise UsageError("The backbones have different autoencoders: then it is not only the UNet that differs.")
        self._encoders: dict[tuple[str, type[TextEncoder]], TextEncoder] = {}
        self._frozen: dict[tuple[str, ...], FrozenBackbone] = {}
        self._kept: dict[str, TensorCache] = {}
        self.latents = TensorCache(2**30)
        """Of all pictures: the backbones have one VAE."""

    def weights(self, name: str) -> str:
        """Short hash of a UNet and of the text encoder of `text`, by which results know what they were made with."""
        return weights_hash(Path(self.folders[name], "unet"), Path(self.folders["text"], "text_encoder"))

    def encoder(self, arm: Arm) -> TextEncoder:
        """The text encoder of an arm: that of `text`, but for the empty text the backbone's own."""
        key = (arm.backbone, NullEncoder) if arm.prompt == "null" else ("text", TextEncoder)
        if key not in self._encoders:
            self._encoders[key] = key[1].from_pretrained(self.folders[key[0]])
        return self._encoders[key]

    def backbone(self, arm: Arm) -> StableDiffusionBackbone:
        """A fresh backbone; where features are computed once, one that shares them with others of the same UNet."""
        options: dict[str, Any] = {"map_scale": "probability" if arm.maps == "published" else "log_ratio"}
        folder, is_mapless = self.folders[arm.backbone], arm.maps == "off"
        if not arm.is_cached:
            return (Mapless if is_mapless else StableDiffusionBackbone).from_pretrained(folder, **options)
        key = (arm.backbone, arm.maps)
        if key not in self._frozen:
            backbone = (FrozenMapless if is_mapless else FrozenBackbone).from_pretrained(folder, **options)
            assert isinstance(backbone, FrozenBackbone)
            backbone.kept = self._kept.setdefault(arm.backbone, TensorCache(self.cache_mb * 2**20))
            backbone.kept_latents, backbone.kept_type = self.latents, torch.bfloat16
            self._frozen[key] = backbone
        return self._frozen[key]


def build_model(arm: Arm, sources: Sources, *, size_px: int, seed: int) -> PerceptionModel:
    """The model of an arm, its new weights drawn from the seed."""
    backbone, encoder = sources.backbone(arm), sources.encoder(arm)
    torch.manual_seed(seed)
    fit = Resize(mode="squash", size_px=size_px)
    model: PerceptionModel
    if arm.task == "refer":
        config = ReferConfig(
            backbone=backbone.config,
            fit=fit,
            token_length=TOKEN_LENGTH,
            class_weights=REFER_WEIGHTS,
            head_channels=HEAD_CHANNELS,
        )
        model = ReferringModel(config, backbone=backbone, text_encoder=encoder)
    elif arm.task == "depth":
        depth_config = DepthConfig(
            backbone=backbone.config, fit=fit, scenes=(SCENE,), max_depth_m=MAX_DEPTH_M, **DEPTH_HEAD
        )
        model = DepthModel(depth_config, backbone=backbone)
        model.scene_embeddings.copy_(name_prompts(encoder, (SCENE,)))
    else:
        names = CLASSES if arm.task == "segment" else NAMES
        segment_config = SegmentConfig(
            backbone=backbone.config,
            classes=names,
            fit=fit,
            head="open" if arm.task == "open" else "fpn",
            head_channels=HEAD_CHANNELS,
        )
        model = SegmentationModel(segment_config, backbone=backbone)
        model.class_embeddings.copy_(name_prompts(encoder, exchanged(names) if arm.prompt == "exchanged" else names))
    if arm.adapter == "off":
        with torch.no_grad():
            model.adapter.gamma.zero_()
        model.adapter.requires_grad_(False)
    return model


def name_prompts(encoder: TextEncoder, names: tuple[str, ...]) -> Tensor:
    """Embeddings of names in the one sentence that the small text encoder has read; or of the empty text."""
    if isinstance(encoder, NullEncoder):
        return encoder.pooled([""]).expand(len(names), -1)
    return embed_names(encoder, names, templates=PLAIN_TEMPLATE)
