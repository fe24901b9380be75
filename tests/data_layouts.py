"""Small synthetic copies of the benchmarks in their true layouts, with what their formats are known to trip over.

Every writer takes a folder, makes it, and returns it. Names, encodings, list styles and sizes that benchmarks fix
(NYU, KITTI) are the true ones; only the number of pictures is small.
"""

from __future__ import annotations

import json
import pickle
import pickletools
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

ADE20K_SIZES = ((64, 48), (48, 64), (70, 50))
COCO_SPLITS = {
    "refcoco": ("unc", ("train", "val", "testA", "testB")),
    "refcoco+": ("unc", ("train", "val", "testA", "testB")),
    "refcocog": ("umd", ("train", "val", "test")),
}
NYU_TRAIN = ("kitchen_0028b", "study_room_0004", "office_kitchen_0001a")
NYU_TEST = ("bathroom", "nyu_office")
KITTI_SIZES = ((1242, 375), (1224, 370), (1241, 376))


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours, another for each seed: quick to compress, not all the same."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    waves = [np.sin((3 + channel) * (rows + columns) + seed + channel) for channel in range(3)]
    return Image.fromarray((127.5 * (np.stack(waves, axis=-1) + 1)).astype(np.uint8))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_ade20k(root: Path) -> Path:
    """ADEChallengeData2016: five training pictures, one of them grey and one CMYK, and three for validation.

    The labels hold 0 and 150, so that a wrong order of reduce_zero_label shows.
    """
    for folder, prefix, number in (("training", "ADE_train", 5), ("validation", "ADE_val", 3)):
        for index in range(number):
            width, height = ADE20K_SIZES[index % 3]
            mode = {1: "L", 2: "CMYK"}.get(index, "RGB") if folder == "training" else "RGB"
            name = f"{prefix}_{index + 1:08d}"
            save(picture(width, height, index).convert(mode), root / "images" / folder / f"{name}.jpg")
            labels = np.zeros((height, width), np.uint8)
            labels[2:, : width // 2] = 1 + index
            labels[2:, width // 2 :] = 150
            save(Image.fromarray(labels), root / "annotations" / folder / f"{name}.png")
    rows = "".join(f"{number}\t0.01\t10\t1\tclass {number}, synonym\n" for number in range(1, 151))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + rows)
    (root / "sceneCategories.txt").write_text("ADE_train_00000001 bathroom\n")
    return root


def write_cityscapes(root: Path, *, width: int = 256, height: int = 128) -> Path:
    """Two cities for training, one for validation, dummy labels for test; void, licence plate and all classes."""
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("frankfurt",)), ("test", ("berlin",))):
        for city in cities:
            for frame in (19, 20):
                name = f"{city}_000000_{frame:06d}"
                save(picture(width, height, frame), root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
                labels = np.broadcast_to((np.arange(width) * 34 // width).astype(np.uint8), (height, width)).copy()
                labels[:2] = 255  # licence plate: -1 in 8 bits
                if split == "test":
                    labels[:] = 0
                stem = root / f"gtFine/{split}/{city}/{name}_gtFine"
                save(Image.fromarray(labels), stem.with_name(f"{stem.name}_labelIds.png"))
                save(Image.fromarray(labels.astype(np.uint16)), stem.with_name(f"{stem.name}_instanceIds.png"))
                save(picture(width, height, frame).convert("RGBA"), stem.with_name(f"{stem.name}_color.png"))
                road = {"label": "road", "polygon": [[0, 0], [width, 0], [width, height]]}
                polygons = {"imgHeight": height, "imgWidth": width, "objects": [road]}
                stem.with_name(f"{stem.name}_polygons.json").write_text(json.dumps(polygons))
    return root


def write_nyu(root: Path) -> Path:
    """BTS's sync/, the official test split and the published lists: leading slashes, no newline at the end."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for split, folder, scenes in (("train", "sync", NYU_TRAIN), ("test", "official_splits/test", NYU_TEST)):
        for place, scene in enumerate(scenes):
            for number in (45 + place, 278 + place):
                save(picture(640, 480, number), root / folder / scene / f"rgb_{number:05d}.jpg")
                depth_mm = np.broadcast_to(np.linspace(700, 9700, 640).astype(np.uint16), (480, 640)).copy()
                depth_mm[:5] = 0
                save(Image.fromarray(depth_mm), root / folder / scene / f"sync_depth_{number:05d}.png")
                lists[split].append(f"/{scene}/rgb_{number:05d}.jpg /{scene}/sync_depth_{number:05d}.png")
    for split, lines in lists.items():
        (root / f"{split}_list.txt").write_text("\n".join(lines))
    return root


def write_nyu_mat(path: Path, *, number: int = 4) -> Path:
    """The labelled file: HDF5 behind MATLAB's header, axes reversed, words as references to columns of characters."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.stack([np.asarray(picture(640, 480, seed)).T for seed in range(number)])  # (N, 3, 640, 480)
    depth_m = np.broadcast_to(np.linspace(0.7006, 9.9999, 640, dtype=np.float32)[:, None], (number, 640, 480)).copy()
    depth_m[:, :, :9] = 0  # rows 0..8: missing
    kinds = ("kitchen", "home_office", "bathroom", "study_room")
    with h5py.File(path, "w", userblock_size=512) as file:
        file["images"] = images
        file["rawDepths"] = depth_m
        file["depths"] = np.maximum(depth_m, 0.7)
        file["labels"] = np.zeros((number, 640, 480), np.uint16)
        for key, words in (
            ("sceneTypes", [kinds[index % 4] for index in range(number)]),
            ("scenes", [f"{kinds[index % 4]}_{index // 8 + 1:04d}" for index in range(number)]),
        ):
            references = np.empty((1, number), dtype=h5py.ref_dtype)
            for index, word in enumerate(words):
                name = f"#refs#/{key}{index}"
                file[name] = np.array([[ord(letter)] for letter in word], np.uint16)
                references[0, index] = file[name].ref
            file.create_dataset(key, data=references, dtype=h5py.ref_dtype)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Wed Jun  6 14:22:01 2012 HDF5 schema 1.00 .")
    return path


def write_kitti(root: Path, *, style: Literal["vpd", "bts"] = "vpd") -> Path:
    """Raw drives and annotated depth of both folders, train and test lists in either published style.

    `vpd`: leading slashes, raw_data/ and data_depth_annotated/{train,val}/ in the names. `bts`: none of these, a third
    column, and `None` for a picture without depth.
    """
    drives = {
        "train": (("2011_09_26_drive_0057_sync", "train", 5), ("2011_09_30_drive_0020_sync", "train", 116)),
        "test": (("2011_09_26_drive_0002_sync", "val", 69), ("2011_09_28_drive_0002_sync", "train", 6)),
    }
    raw = root / "raw_data" if style == "vpd" else root
    for split, entries in drives.items():
        lines = []
        for place, (drive, part, first) in enumerate(entries):
            for frame in (first, first + 1):
                width, height = KITTI_SIZES[place]
                name = f"{drive[:10]}/{drive}/image_02/data/{frame:010d}.png"
                truth = f"{drive}/proj_depth/groundtruth/image_02/{frame:010d}.png"
                if style == "vpd":
                    truth = f"{part}/{truth}"
                save(picture(width, height, frame), raw / name)
                depth = np.zeros((height, width), np.uint16)  # sparse, as a laser leaves it: every fourth row
                depth[height // 3 :: 4, ::3] = np.linspace(256 * 80, 256 * 3, width)[::3]
                save(Image.fromarray(depth), root / "data_depth_annotated" / truth)
                lines.append(
                    f"/raw_data/{name} /data_depth_annotated/{truth}" if style == "vpd" else f"{name} {truth} 721.5377"
                )
        if style == "bts":
            lines.insert(1, f"{entries[0][0][:10]}/{entries[0][0]}/image_02/data/0000000000.png None 721.5377")
        name = "{}_list.txt" if style == "vpd" else "eigen_{}_files_with_gt.txt"
        (root / name.format(split)).write_text("\n".join(lines) + "\n")
    return root


def write_refcoco(root: Path, *, dataset: str = "refcoco", split_by: str | None = None) -> Path:
    """One of REFER's data sets as Python 2 pickled it; several may be written into one folder.

    In each split: an object of two polygons and one where polygons overlap, on one picture; run lengths packed and
    plain, as one dictionary and in a list, on others. Three sentences in one reference, one or two in the rest; raw
    text in capitals, one with a letter that is not ASCII. With `google`, train and val share their pictures.
    """
    usual, splits = COCO_SPLITS[dataset]
    if split_by == "google":
        splits = ("train", "val", "test") if dataset == "refcoco" else ("train", "val")
    images: dict[int, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    for place, split in enumerate(splits):
        shared = split_by == "google" and split == "val"
        for index in range(4):
            image_id = 581857 - 10 * (0 if shared else place) - (index + 1) // 2  # two objects on the first picture
            name = f"COCO_train2014_{image_id:012d}.jpg"
            width, height = 96, 64
            save(picture(width, height, image_id), root / "images/mscoco/images/train2014" / name)
            images[image_id] = {
                "id": image_id,
                "file_name": name,
                "height": height,
                "width": width,
                "license": 1,
                "coco_url": f"http://mscoco.org/images/{image_id}",
                "flickr_url": "http://farm1.staticflickr.com/1/1_1_z.jpg",
                "date_captured": "2013-11-14 21:00:00",
            }
            ann_id, ref_id = 1719310 + 10 * place + index, 4 * place + index
            annotations.append(_annotation(ann_id, image_id, index, width, height))
            refs.append(_reference(ref_id, ann_id, image_id, split, index))
    folder = root / dataset
    folder.mkdir(parents=True, exist_ok=True)
    instances = {
        "info": {"description": "COCO 2014", "version": "1.0", "year": 2014},
        "licenses": [{"id": 1, "name": "Attribution-NonCommercial License", "url": "http://creativecommons.org/"}],
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    refs.sort(key=lambda ref: -ref["image_id"])
    (folder / f"refs({split_by or usual}).p").write_bytes(as_python_2(refs))
    return root


def as_python_2(records: Any) -> bytes:
    """The records pickled with protocol 0 and their text as byte strings, as Python 2 wrote them."""
    modern = pickle.dumps(records, protocol=0)
    parts, end = [], 0
    for opcode, argument, position in pickletools.genops(modern):
        if opcode.name == "UNICODE" and argument is not None and position is not None:
            line_end = modern.index(b"\n", position) + 1
            parts += [modern[end:position], b"S" + repr(argument.encode())[1:].encode() + b"\n"]
            end = line_end
    return b"".join([*parts, modern[end:]])


def _annotation(ann_id: int, image_id: int, kind: int, width: int, height: int) -> dict[str, Any]:
    def box(left: float, top: float, size: float) -> list[float]:
        return [left, top, left + size, top, left + size, top + size, left, top + size]

    segmentation: Any
    if kind == 0:
        segmentation = [box(4, 4, 20), box(60.5, 30, 20)]
    elif kind == 1:
        segmentation = [box(10, 10, 30), box(20, 20, 30)]
    else:
        inside = np.zeros((height, width), np.uint8, order="F")
        inside[20:40, 30:80] = 1
        columns = inside.ravel(order="F")
        edges = np.flatnonzero(np.diff(columns)) + 1
        runs = np.diff([0, *edges.tolist(), columns.size]).tolist()
        if kind == 2:
            segmentation = [{"size": [height, width], "counts": runs}]
        else:
            from pycocotools import mask as coco

            packed = coco.encode(inside)
            segmentation = {"size": [height, width], "counts": packed["counts"].decode()}
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": int(isinstance(segmentation, dict)),
        "area": 400.0,
        "bbox": [4, 4, 76.5, 46],
        "segmentation": segmentation,
    }


def _reference(ref_id: int, ann_id: int, image_id: int, split: str, kind: int) -> dict[str, Any]:
    texts = (
        ("the lady with the blue shirt", "lady on the left", "she"),
        ("two cups, one behind the other",),
        ("caf\u00e9 sign", "the sign"),
        ("bench in the middle",),
    )[kind]
    return {
        "sent_ids": [10 * ref_id + place for place in range(len(texts))],
        "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",  # a name that opens nothing
        "ann_id": ann_id,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "category_id": 1,
        "sentences": [
            {"tokens": text.split(), "raw": text.upper(), "sent_id": 10 * ref_id + place, "sent": text}
            for place, text in enumerate(texts)
        ],
    }
