"""Users' own data in the real training: every layout gives the same samples, and depth needs no scenes."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tiny_data import write_segment_data
from vpd.data.batches import SampleStream
from vpd.datasets.layouts import LAYOUTS, open_data, option_names, splits_of
from vpd.errors import UsageError
from vpd.tasks.depth import DepthModel
from vpd.tasks.table import TASKS
from vpd.training.settings import resolve_config
from vpd.training.setup import build_data, pin_sources, start_model, training_transform

DEPTH_HEAD = {"head_channels": 16, "feature_channels": 16, "deconv_channels": [8, 8, 8]}


def as_records(folder: Path, root: Path) -> None:
    for split in ("train", "val"):
        names = sorted(path.name for path in (folder / "images" / split).iterdir())
        lines = [json.dumps({"image": f"images/{split}/{name}", "labels": f"labels/{split}/{name}"}) for name in names]
        (root / f"{split}.jsonl").write_text("\n".join(lines))
    for kind in ("images", "labels"):
        (root / kind).symlink_to(folder / kind)


def as_shards(folder: Path, root: Path) -> None:
    for split in ("train", "val"):
        for number, path in enumerate(sorted((folder / "images" / split).iterdir())):
            with tarfile.open(root / f"{split}-{number // 4:06d}.tar", "a") as archive:
                archive.add(path, f"{path.stem}.png")
                archive.add(folder / "labels" / split / path.name, f"{path.stem}.labels.png")


def as_table(folder: Path, root: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    splits = {}
    for split in ("train", "val"):
        columns = {
            part: [path.read_bytes() for path in sorted((folder / kind / split).iterdir())]
            for part, kind in (("image", "images"), ("labels", "labels"))
        }
        made = datasets.Dataset.from_dict(columns)
        splits[split] = made.cast_column("image", datasets.Image()).cast_column("labels", datasets.Image())
    datasets.DatasetDict(splits).save_to_disk(root)


@pytest.mark.parametrize(
    ("layout", "write"), [("records", as_records), ("shards", as_shards), ("huggingface", as_table)]
)
def test_batches_are_those_of_the_folder(layout, write, tmp_path):
    folder, root = write_segment_data(tmp_path / "folder"), tmp_path / "other"
    root.mkdir()
    write(folder, root)
    (root / "classes.json").write_text((folder / "classes.json").read_text())
    assert splits_of(root, layout) == ["train", "val"]
    transform = TASKS["segment"].augmentation("default", 32)
    streams = []
    for source, name, workers in ((folder, "folder", 0), (root, layout, 2)):
        samples = open_data(source, "segment", format=name)
        streams.append(SampleStream(samples, transform, seed=3, batch_size=2, workers=workers))
    for _, ours, theirs in zip(range(4), *streams, strict=False):
        assert (ours.images == theirs.images).all() and (ours.labels == theirs.labels).all()


def test_every_layout_can_be_opened_without_a_task(folder_root, nyu_root):
    assert len(open_data(folder_root, None, format="folder")) == 2
    assert len(open_data(nyu_root, None, format="nyu", split="test")) == 1
    for name, layout in LAYOUTS.items():
        assert "root" not in option_names(layout) and layout.signs, name
    with pytest.raises(UsageError, match="unknown data format 'excel'; choose one of: folder, "):
        open_data(folder_root, None, format="excel")
    with pytest.raises(UsageError, match="format 'excel' is not for depth; choose one of: nyu"):
        open_data(folder_root, "depth", format="excel")


@pytest.fixture
def rooms(tmp_path) -> Path:
    for index in range(3):
        for kind, values in (
            ("images", np.zeros((60, 80, 3), np.uint8)),
            ("depth", np.full((60, 80), 1500, np.uint16)),
        ):
            path = tmp_path / "rooms" / kind / "train" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            Image.fromarray(values).save(file, format="PNG")
            path.write_bytes(file.getvalue())
    return tmp_path / "rooms"


def built(root: Path, model: Path, **settings: Any) -> DepthModel:
    """The model that a run would train, after it has taken a batch."""
    given = {"crop_px": 64, "steps": 1, "batch_size": 2, **settings}
    config = pin_sources(resolve_config("depth", given, {"model": str(model), "data": {"root": str(root)}}))
    samples, _ = build_data(config)
    made = start_model(config, samples)
    stream = SampleStream(samples, training_transform(config, made), seed=0, batch_size=2)
    assert isinstance(made, DepthModel) and made.loss(next(iter(stream))).isfinite()
    return made


def test_depth_without_scenes_trains_with_one_prompt(rooms, tiny_diffusion):
    assert built(rooms, tiny_diffusion, model_options=DEPTH_HEAD).config.scenes == ("scene",)
    worded = built(rooms, tiny_diffusion, model_options=DEPTH_HEAD, scenes=["room"])
    assert worded.config.scenes == ("room",)


def test_a_model_of_many_scenes_goes_on_without_any(rooms, tiny_diffusion, tmp_path):
    DepthModel.from_diffusion(tiny_diffusion, scenes=("kitchen", "attic"), **DEPTH_HEAD).save(tmp_path / "model")
    assert built(rooms, tmp_path / "model").config.scenes == ("kitchen", "attic")
    (rooms / "train.csv").write_text("image,depth,scene\nimages/train/0.png,depth/train/0.png,cellar\n")
    with pytest.raises(UsageError, match=r"has no prompts for the scenes cellar\. It knows: kitchen, attic"):
        built(rooms, tmp_path / "model")
