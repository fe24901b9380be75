"""A tiny diffusion model and tiny data in the true layouts, made once a session."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from vpd.prompts.tokenizer import clip_tokenizer

TEXT_DIM = 16
CLASSES = ("left", "right", "square")


@pytest.fixture(scope="session")
def small_heads() -> dict[str, dict[str, Any]]:
    """For each task the options that make its head tiny."""
    return {
        "segment": {"head_channels": 8},
        "refer": {"head_channels": 8, "token_length": 8},
        "depth": {"head_channels": 16, "feature_channels": 16, "deconv_channels": [8, 8, 8]},
    }


@pytest.fixture(scope="session")
def data_of(segment_data: Path, refer_data: Path, depth_data: Path) -> dict[str, Path]:
    """Folder of each task's data."""
    return {"segment": segment_data, "refer": refer_data, "depth": depth_data}


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion model of the Stable Diffusion topology in diffusers layout, random weights."""
    folder = tmp_path_factory.mktemp("diffusion")
    torch.manual_seed(0)
    UNet2DConditionModel(
        block_out_channels=(16, 16, 16, 16),
        layers_per_block=2,
        cross_attention_dim=TEXT_DIM,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=8,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
    ).save_pretrained(folder / "vae")
    text = CLIPTextConfig(
        hidden_size=TEXT_DIM,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=49408,
        eos_token_id=49407,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def segment_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and three validation images: left half, right half, a bright square; a band without label."""
    root = tmp_path_factory.mktemp("segment")
    generator = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 3)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(number):
            labels = np.zeros((70, 80), np.uint8)
            labels[:, 40:] = 1
            top, left = generator.integers(5, 40, 2)
            labels[top : top + 24, left : left + 24] = 2
            image = np.array([[200, 40, 40], [40, 40, 200], [250, 250, 250]], np.uint8)[labels]
            image = np.clip(image + generator.normal(0, 10, image.shape), 0, 255).astype(np.uint8)
            labels[-3:] = 255
            Image.fromarray(image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(labels).save(root / "labels" / split / f"{index}.png")
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES}))
    return root


@pytest.fixture(scope="session")
def depth_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in the NYU layout: a ramp of depth, brighter where nearer; NYU's crop needs its size."""
    root = tmp_path_factory.mktemp("depth")
    for folder, number in (("sync", 3), ("official_splits/test", 2)):
        room = root / folder / "kitchen_0001"
        room.mkdir(parents=True)
        for index in range(number):
            depth_mm = np.broadcast_to(np.linspace(1000, 5000 + 500 * index, 120, dtype=np.uint16), (90, 120)).copy()
            depth_mm[:10] = 0
            image = np.repeat((255 - depth_mm // 25)[..., None], 3, axis=2).astype(np.uint8)
            Image.fromarray(image).save(room / f"rgb_{index:05d}.jpg")
            Image.fromarray(depth_mm).save(room / f"sync_depth_{index:05d}.png")
    return root


@pytest.fixture(scope="session")
def refer_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures in REFER's layout with a left and a right square each, two sentences an object."""
    root = tmp_path_factory.mktemp("refer")
    pictures = root / "images/mscoco/images/train2014"
    pictures.mkdir(parents=True)
    (root / "refcoco").mkdir()
    images, annotations, references = [], [], []
    for image_id in (1, 2):
        name = f"COCO_train2014_{image_id:012d}.jpg"
        pixels = np.full((60, 80, 3), 60, np.uint8)
        for place, side in enumerate(("left", "right")):
            left = 8 + 40 * place
            pixels[20:44, left : left + 24] = (220, 200, 40)
            ann_id = 10 * image_id + place
            corners = [left, 20, left + 24, 20, left + 24, 44, left, 44]
            annotations.append({"id": ann_id, "image_id": image_id, "category_id": 1, "segmentation": [corners]})
            sentences = [
                {"sent": text, "sent_id": 100 * ann_id + number, "raw": text, "tokens": text.split()}
                for number, text in enumerate((f"{side} square", f"the square on the {side}"))
            ]
            references.append(
                {
                    "ref_id": ann_id,
                    "ann_id": ann_id,
                    "image_id": image_id,
                    "category_id": 1,
                    "split": "train" if image_id == 1 else "val",
                    "file_name": name,
                    "sentences": sentences,
                    "sent_ids": [sentence["sent_id"] for sentence in sentences],
                }
            )
        Image.fromarray(pixels).save(pictures / name)
        images.append({"id": image_id, "file_name": name, "height": 60, "width": 80})
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    (root / "refcoco" / "refs(unc).json").write_text(json.dumps(references))
    return root


@pytest.fixture(scope="session")
def session_settings(diffusion: Path, segment_data: Path, small_heads: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A run of a second for segmentation."""
    return {
        "model": str(diffusion),
        "data": {"root": str(segment_data)},
        "model_options": small_heads["segment"],
        "crop_px": 64,
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "workers": 0,
        "log_every": 1,
        "validate_every": 2,
        "checkpoint_every": 2,
        "pictures": 1,
    }


@pytest.fixture
def settings(session_settings: dict[str, Any]) -> dict[str, Any]:
    """The same, free to change."""
    return copy.deepcopy(session_settings)
