"""Small exports of annotation tools in their true forms: a bright square on a dark ground, train and val."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE, START, END = 40, 10, 29
COLOURS = {"background": (0, 0, 0), "mug": (250, 50, 83), "plate": (51, 221, 255)}
CLASSES = tuple(COLOURS)


def labels_of(index: int) -> np.ndarray:
    """A square of class 1 or 2 in turn."""
    labels = np.zeros((SIDE, SIDE + 8), np.uint8)
    labels[START : END + 1, START : END + 1] = 1 + index % 2
    return labels


def image_of(index: int) -> Image.Image:
    pixels = np.array([[30, 30, 30], [200, 60, 60], [60, 200, 200]], np.uint8)[labels_of(index)]
    return Image.fromarray(pixels + np.uint8(index))


def in_colours(labels: np.ndarray, *, palette: bool = False) -> Image.Image:
    if palette:
        picture = Image.fromarray(labels)
        picture.putpalette([part for colour in COLOURS.values() for part in colour])
        return picture
    return Image.fromarray(np.array(list(COLOURS.values()), np.uint8)[labels])


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def corners() -> list[list[float]]:
    return [[START, START], [END, START], [END, END], [START, END]]


def packed(mask: np.ndarray) -> bytes:
    """A mask as Supervisely packs it: a palette PNG whose 0 is transparent."""
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    picture.save(file, format="PNG", transparency=0)
    return file.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def labelme_shapes(index: int) -> list[dict[str, Any]]:
    label = CLASSES[1 + index % 2]
    shape = {"label": label, "points": corners(), "group_id": None, "shape_type": "polygon", "flags": {}}
    if index == 1:
        shape |= {"shape_type": "rectangle", "points": [[END, END], [START, START]]}
    if index == 2:
        whole = np.ones((END - START + 1, END - START + 1), np.uint8)
        file = io.BytesIO()
        Image.fromarray(whole.astype(bool)).save(file, format="PNG")
        box = [[START, START], [END, END]]
        shape |= {"shape_type": "mask", "points": box, "mask": text(file.getvalue())}
    return [shape]


def write_labelme(root: Path, split: str = "", *, count: int = 3) -> None:
    for index in range(count):
        save(image_of(index), root / split / f"im{index}.jpg")
        content = {"version": "5.5.0", "flags": {}, "shapes": labelme_shapes(index), "imagePath": f"im{index}.jpg"}
        content |= {"imageData": None, "imageHeight": SIDE, "imageWidth": SIDE + 8}
        write_json(root / split / f"im{index}.json", content)


def write_supervisely(root: Path, *, sets: tuple[str, ...] = ("train", "val")) -> None:
    classes = [{"title": name, "shape": "any", "color": "#FF0000", "id": 7} for name in CLASSES[1:]]
    write_json(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    for name in sets:
        for index in range(2):
            save(image_of(index), root / name / f"img/im{index}.jpg")
            thing: dict[str, Any] = {"id": index, "classTitle": CLASSES[1 + index], "tags": []}
            if index:
                data = text(zlib.compress(packed(np.ones((END - START + 1, END - START + 1)))))
                thing |= {"geometryType": "bitmap", "bitmap": {"data": data, "origin": [START, START]}}
            else:
                thing |= {"geometryType": "polygon", "points": {"exterior": corners(), "interior": []}}
            size = {"height": SIDE, "width": SIDE + 8}
            write_json(root / name / f"ann/im{index}.jpg.json", {"size": size, "objects": [thing], "tags": []})


def write_cvat_masks(root: Path, *, palette: bool = True) -> None:
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in COLOURS.items()]
    root.mkdir(parents=True, exist_ok=True)
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n")
    _write_voc(root, ("default",), lambda labels: in_colours(labels, palette=palette))


def write_voc(root: Path) -> None:
    """VOC itself: numbers with VOC's palette, 255 at the border; pictures without labels too."""

    def picture(labels: np.ndarray) -> Image.Image:
        numbers = labels * 5
        numbers[START - 1, START : END + 1] = 255
        made = Image.fromarray(numbers)
        made.putpalette([value % 256 for value in range(768)])
        return made

    _write_voc(root, ("train", "val"), picture)
    save(image_of(0), root / "JPEGImages/without.jpg")


def _write_voc(root: Path, splits: tuple[str, ...], picture: Callable[[np.ndarray], Image.Image]) -> None:
    for place, split in enumerate(splits):
        names = [f"im{2 * place + index}" for index in range(2)]
        for index, name in enumerate(names):
            save(image_of(index), root / f"JPEGImages/{name}.jpg")
            save(picture(labels_of(index)), root / f"SegmentationClass/{name}.png")
        listed = root / f"ImageSets/Segmentation/{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(names) + "\n")


def write_tree(root: Path, form: str, *, end: str = "", colours: bool = False) -> None:
    """Pictures and masks; `form` says where, such as `{split}/{kind}`, with the two words for the kinds after it."""
    where, image_word, label_word = form.split()
    for split in ("train", "val"):
        for index in range(2):
            labels = labels_of(index)
            picture = in_colours(labels) if colours else Image.fromarray(labels)
            save(image_of(index), root / where.format(split=split, kind=image_word) / f"im{index}.jpg")
            save(picture, root / where.format(split=split, kind=label_word) / f"im{index}{end}.png")


def write_depth_tree(root: Path, where: str = "{split}/{kind}", kind: str = "depth") -> None:
    for split in ("train", "val"):
        for index in range(2):
            save(image_of(index), root / where.format(split=split, kind="images") / f"im{index}.jpg")
            depth_mm = labels_of(index).astype(np.uint16) * 500 + 1000
            save(Image.fromarray(depth_mm), root / where.format(split=split, kind=kind) / f"im{index}.png")


def brush(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio packs it: RGBA, runs of equal bytes and stretches of other ones."""
    values = np.zeros((*mask.shape, 4), np.uint8)
    values[mask] = 255
    flat, bits = (
        values.ravel().tolist(),
        [f"{values.size:032b}", "00111", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))],
    )
    place = 0
    while place < len(flat):
        length = 1
        while length < 2**16 and place + length < len(flat) and flat[place + length] == flat[place]:
            length += 1
        is_run = length > 1
        bits += [str(int(is_run)), "11", f"{length - 1:016b}", f"{flat[place]:08b}"]
        place += length
    joined = "".join(bits)
    joined += "0" * (-len(joined) % 8)
    return [int(joined[start : start + 8], 2) for start in range(0, len(joined), 8)]


def label_studio_tasks() -> list[dict[str, Any]]:
    across, down = 100 / (SIDE + 8), 100 / SIDE
    values: list[tuple[str, dict[str, Any]]] = [
        ("brushlabels", {"format": "rle", "rle": brush(labels_of(0) > 0)}),
        ("polygonlabels", {"points": [[x * across, y * down] for x, y in corners()], "closed": True}),
        (
            "rectanglelabels",
            {"x": START * across, "y": START * down, "width": 19.5 * across, "height": 19.5 * down, "rotation": 0},
        ),
    ]
    tasks = []
    for index, (kind, value) in enumerate(values):
        label = {kind: [CLASSES[1 + index % 2]]}
        region = {"original_width": SIDE + 8, "original_height": SIDE, "image_rotation": 0, "type": kind}
        region |= {"value": {**value, **label}, "from_name": "tag", "to_name": "image", "origin": "manual"}
        annotation = {"id": index, "completed_by": 1, "result": [region], "was_cancelled": False}
        tasks.append(
            {"id": index, "annotations": [annotation], "data": {"image": f"/data/upload/1/1a2b3c4d-im{index}.jpg"}}
        )
    return tasks


def write_label_studio(root: Path) -> None:
    for index in range(3):
        save(image_of(index), root / f"images/im{index}.jpg")
    write_json(root / "project-1-at-2026-01-01.json", label_studio_tasks())
