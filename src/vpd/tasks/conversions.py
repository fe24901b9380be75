"""Predictions as other libraries take them: COCO's annotations, supervision's detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from vpd.errors import UsageError


@dataclass(frozen=True)
class Region:
    """Pixels that have one name."""

    name: str
    number: int
    """Of its class, from 0."""
    mask: NDArray[np.bool_]
    """`(H, W)`, true somewhere."""
    score: float | None = None
    """Mean probability of its pixels, where that is known."""


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask `(H, W)` as COCO's compressed run lengths, which JSON can hold."""
    runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}


def coco_data(
    regions: Sequence[Region], names: Sequence[str], size: tuple[int, int], *, file_name: str, image_id: int
) -> dict[str, Any]:
    """A COCO data set of one picture; the id of a category is the number of its class plus 1.

    Args:
        regions: What is in the picture.
        names: All classes.
        size: Width and height of the picture, pixels.
        file_name: Of the picture.
        image_id: Of the picture.
    """
    annotations: list[dict[str, Any]] = []
    for region in regions:
        runs = run_lengths(region.mask)
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": region.number + 1,
                "segmentation": runs,
                "area": int(region.mask.sum()),
                "bbox": [float(edge) for edge in coco.toBbox(runs)],
                "iscrowd": 0,
                **({} if region.score is None else {"score": round(region.score, 4)}),
            }
        )
    return {
        "images": [{"id": image_id, "file_name": file_name, "width": size[0], "height": size[1]}],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(names)],
        "annotations": annotations,
    }


def detections(regions: Sequence[Region]) -> Any:
    """Supervision's `Detections`: boxes, masks, classes with names, and confidence where it is known.

    Raises:
        UsageError: If supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise UsageError(
            f"to_supervision() needs supervision ({error}): pip install supervision, or vpd-perception[supervision]."
        ) from error
    if not regions:
        return supervision.Detections.empty()
    masks = np.stack([region.mask for region in regions])
    scores = [region.score for region in regions if region.score is not None]
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
        mask=masks,
        class_id=np.array([region.number for region in regions]),
        confidence=np.array(scores, np.float32) if len(scores) == len(regions) else None,
        data={"class_name": np.array([region.name for region in regions])},
    )
