"""Tiny data sets in the true layouts that a model can learn something from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("left", "right", "square")


def write_segment_data(root: Path) -> Path:
    """Six training and three validation images: left half, right half, a bright square; a band without label."""
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


def write_depth_data(root: Path) -> Path:
    """Pairs in the NYU layout: a ramp of depth, brighter where nearer; NYU's crop needs its size."""
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


def write_refer_data(root: Path) -> Path:
    """Two pictures in REFER's layout with a left and a right square each, two sentences an object."""
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
