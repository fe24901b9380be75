"""Predictions as other libraries take them: COCO's annotations, supervision's and FiftyOne's objects, polygons."""

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


def polygons(mask: NDArray[np.bool_], *, least_share: float = 0.0001) -> list[NDArray[np.float64]]:
    """Outlines `(n, 2)`, x and y in pixels, of the parts of a mask, largest first; holes are not in them.

    Points lie within 1 px of the mask's edge; (0, 0) is the corner of the picture, (0.5, 0.5) the middle of its first
    pixel.

    Args:
        mask: `(H, W)`.
        least_share: Parts that are smaller than this share of the picture are left out.

    Raises:
        UsageError: If OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"Polygons need OpenCV ({error}): pip install opencv-python-headless, or vpd-perception[video]."
        ) from error
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    parts = sorted(((cv2.contourArea(outline), outline) for outline in outlines), key=lambda part: -part[0])
    simple = [cv2.approxPolyDP(outline, 1.0, True) for area, outline in parts if area >= least_share * mask.size]
    return [outline[:, 0].astype(np.float64) + 0.5 for outline in simple if len(outline) >= 3]


def fiftyone_pixels(labels: NDArray[Any], classes: int) -> Any:
    """FiftyOne's `Segmentation` of labels `(H, W)`: class number plus 1, and 0 where there is none."""
    kind = np.uint8 if classes <= 255 else np.uint16
    return _fiftyone().Segmentation(mask=np.where(labels < classes, labels.astype(np.int64) + 1, 0).astype(kind))


def fiftyone_objects(regions: Sequence[Region]) -> Any:
    """FiftyOne's `Detections`: name, box in shares of the picture, the mask within it, confidence."""
    fiftyone = _fiftyone()
    found = []
    for region in regions:
        rows, columns = np.nonzero(region.mask.any(axis=1))[0], np.nonzero(region.mask.any(axis=0))[0]
        (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
        height, width = region.mask.shape
        box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        mask = region.mask[top:bottom, left:right]
        found.append(
            fiftyone.Detection(
                label=region.name, bounding_box=[float(edge) for edge in box], mask=mask, confidence=region.score
            )
        )
    return fiftyone.Detections(detections=found)


def fiftyone_heatmap(depth_m: NDArray[np.float32], max_depth_m: float) -> Any:
    """FiftyOne's `Heatmap` of depth `(H, W)`, metres."""
    return _fiftyone().Heatmap(map=depth_m, range=[0.0, max_depth_m])


def _fiftyone() -> Any:
    """FiftyOne.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise UsageError(f"to_fiftyone() needs FiftyOne ({error}): pip install fiftyone.") from error
    return fiftyone
