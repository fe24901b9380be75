from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import ToyData

import vpd
from tiny_data import write_segment_data
from vpd.config import Resize
from vpd.data.sample import Sample
from vpd.datasets.layouts import held_out_split, reader_options
from vpd.errors import UsageError
from vpd.tasks.depth import REFERENCE_FIT, DepthModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.training.config import TrainConfig
from vpd.training.run import train
from vpd.training.settings import resolve_config
from vpd.training.setup import build_data, data_identity, pin_sources, start_model


class Data(list[Sample]):
    """One picture of 300x200, and the names that a data set tells."""

    def __init__(self, classes: tuple[str, ...] = (), scenes: tuple[str, ...] = ()) -> None:
        super().__init__([Sample("a", np.zeros((200, 300, 3), np.uint8))])
        self.classes, self.scenes = classes, scenes


@pytest.fixture
def config(settings: dict[str, Any]) -> Any:
    def make(task: str = "segment", **changes: Any) -> TrainConfig:
        options = {} if task != "segment" else settings["model_options"]
        return resolve_config(task, {**settings, "model_options": options}, changes)

    return make


@pytest.fixture(scope="module")
def adapted(diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved model of each task."""
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    models = {
        "segment": SegmentationModel.from_diffusion(diffusion, classes=("left", "right"), head_channels=8),
        "refer": ReferringModel.from_diffusion(diffusion, head_channels=8, token_length=8),
        "depth": DepthModel.from_diffusion(diffusion, scenes=("kitchen", "attic"), **small),
    }
    folders = {}
    for task, model in models.items():
        folders[task] = tmp_path_factory.mktemp(task) / "model"
        model.save(folders[task])
    return folders


def test_new_weights_come_from_the_seed(config: Any):
    first, same, other = (start_model(config(seed=seed), Data(("a", "b"))) for seed in (1, 1, 2))
    assert torch.equal(first.head.classifier.weight, same.head.classifier.weight)
    assert not torch.equal(first.head.classifier.weight, other.head.classifier.weight)
    assert first.config.classes == ("a", "b")


def test_what_learnt_nothing_but_what_is_shipped_has_its_licence(config: Any):
    def licence(**changes: Any) -> str:
        options = {"head_channels": 8, **changes.pop("model_options", {})}
        return start_model(config(model_options=options, **changes), Data(("a", "b"))).config.licence

    world = {"model": "world", "data": {"root": "world"}}
    assert licence(**world) == "Apache-2.0"
    assert licence(model="world") == licence() == "unknown"  # other data may have terms
    assert licence(**world, model_options={"licence": "MIT"}) == "MIT"


def test_settings_may_word_the_classes_better(config: Any):
    model = start_model(config(classes=["traffic sign", "road"]), Data(("sign_symbol", "road")))
    assert model.config.classes == ("traffic sign", "road")
    with pytest.raises(UsageError, match="classes names 3 classes, but the data has 2: a, b"):
        start_model(config(classes=["x", "y", "z"]), Data(("a", "b")))
    with pytest.raises(UsageError, match="The data names no classes: set classes="):
        start_model(config(), Data())


def test_depth_needs_scenes(config: Any):
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": [8, 8, 8]}
    with pytest.raises(UsageError, match="The data names no scenes"):
        start_model(config("depth", model_options=small), Data())
    model = start_model(config("depth", model_options=small, scenes=["room"], max_depth_m=30), Data())
    assert isinstance(model, DepthModel)
    assert (model.config.scenes, model.config.max_depth_m) == (("room",), 30.0)


def test_backbone_options_are_keys(config: Any):
    with pytest.raises(UsageError, match=r"backbone_options is 3; set its keys: .*backbone_options\.latent_scaling"):
        start_model(config("segment", model_options={"backbone_options": 3}), Data())


def test_unknown_model_options_are_named(config: Any):
    known = (
        r"Unknown model_options for segment: channels, task\. Did you mean model_options\.head_channels\? Known: backb"
    )
    with pytest.raises(UsageError, match=known):
        start_model(config(model_options={"channels": 8, "task": "depth"}), Data(("a",)))


def test_fit_is_the_scale_of_the_training_crops():
    assert SegmentationModel.training_fit("default", 96) == Resize(size_px=96, max_long_px=384, antialias=True)
    assert not SegmentationModel.training_fit("reference", 96).antialias
    assert ReferringModel.training_fit("default", 96) == Resize(mode="squash", size_px=96)
    assert DepthModel.training_fit("reference", 480) == REFERENCE_FIT
    assert DepthModel.training_fit("default", 480) == REFERENCE_FIT.model_copy(update={"blend": True})


def test_depth_pictures_of_any_size_are_brought_to_the_scale_of_prediction():
    depth_m = np.ones((200, 300), np.float32)
    depth_m[:, :150] = 2.0
    sample = Sample("a", np.zeros((200, 300, 3), np.uint8), depth_m=depth_m)
    default = DepthModel.augmentation("default", 96)
    assert default.steps[0](sample, np.random.default_rng(0)).depth_m.shape == (96, 144)
    cropped = default(sample, np.random.default_rng(0))
    assert cropped.image.shape == (96, 96, 3) and set(np.unique(cropped.depth_m)) <= {1.0, 2.0}
    reference = DepthModel.augmentation("reference", 96)
    assert len(reference.steps) == len(default.steps) - 1


def test_adapted_model_goes_on_with_its_weights(config: Any, adapted: dict[str, Path]):
    model = start_model(config(model=str(adapted["segment"])), Data(("left", "right")))
    before = vpd.load(adapted["segment"], device="cpu")
    for name, value in before.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_classes_are_added_to_an_adapted_model(config: Any, adapted: dict[str, Path], caplog: pytest.LogCaptureFixture):
    before = vpd.load(adapted["segment"], device="cpu")
    with caplog.at_level(logging.INFO):
        model = start_model(config(model=str(adapted["segment"])), Data(("right", "square", "left")))
    assert "new: square" in caplog.text
    assert model.config.classes == ("right", "square", "left")
    for place, name in ((0, "right"), (2, "left")):
        old = before.config.classes.index(name)
        assert torch.equal(model.head.classifier.weight[place], before.head.classifier.weight[old])


def test_going_on_with_added_classes_trains_and_predicts(
    settings: dict[str, Any], adapted: dict[str, Path], tmp_path: Path
):
    changes = {"model": str(adapted["segment"]), "steps": 1}
    folder = train("segment", tmp_path / "run", settings | changes)
    assert vpd.load(folder).config.classes == ("left", "right", "square")


def test_scale_follows_when_the_crop_is_another(config: Any, adapted: dict[str, Path]):
    model = start_model(config(model=str(adapted["segment"]), crop_px=96), Data(("left", "right")))
    assert model.config.fit.size_px == 96


def test_what_cannot_go_on_is_refused(config: Any, adapted: dict[str, Path]):
    with pytest.raises(UsageError, match="is a model for depth, but segment was asked for"):
        start_model(config(model=str(adapted["depth"])), Data(("a",)))
    with pytest.raises(UsageError, match=r"model_options.head_channels is 9, but the adapted model .* has 8"):
        start_model(config(model=str(adapted["segment"]), model_options={"head_channels": 9}), Data(("left", "right")))
    with pytest.raises(UsageError, match=r"has no prompts for the scenes hall. It knows: kitchen, attic"):
        start_model(config("depth", model=str(adapted["depth"])), Data(scenes=("kitchen", "hall")))


def test_a_recipe_page_goes_on_from_an_adapted_model_that_has_its_options(config: Any, adapted: dict[str, Path]):
    options = {"published_prompts": True, "backbone_options": {"latent_scaling": "scaled", "detach_maps": False}}
    given = config(model=str(adapted["segment"]), model_options=options)
    assert start_model(given, Data(("left", "right"))).config.classes == ("left", "right")
    other = config(model=str(adapted["segment"]), model_options={"backbone_options": {"latent_scaling": "none"}})
    with pytest.raises(UsageError, match=r"backbone_options is .*'latent_scaling': 'none'.* has .*'scaled'"):
        start_model(other, Data(("left", "right")))


def test_missing_model_is_named(config: Any):
    with pytest.raises(UsageError, match="nowhere"):
        start_model(config(model="nowhere"), Data(("a",)))


def test_validation_takes_val_else_test_else_nothing(data_of: dict[str, Path], config: Any, tmp_path: Path):
    assert held_out_split(data_of["segment"], "folder") == "val"
    assert held_out_split(data_of["depth"], "nyu") == "test"
    pinned = pin_sources(config())
    assert (pinned.data.format, pinned.data.validation_split) == ("folder", "val")
    assert [len(part) for part in build_data(pinned)] == [6, 3]
    _, validation = build_data(pin_sources(config(data={"validation_split": None})))
    assert validation is None
    _, validation = build_data(pin_sources(config(data={"validation_split": "train"})))
    assert len(validation) == 6
    with pytest.raises(UsageError, match="data.split is empty"):
        build_data(pin_sources(config(data={"split": ""})))


def test_paths_are_pinned_and_hub_ids_left(config: Any, data_of: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(data_of["segment"].parent)
    pinned = pin_sources(config(data={"root": data_of["segment"].name}, model="some/model"))
    assert (pinned.data.root, pinned.model) == (str(data_of["segment"]), "some/model")


def test_reference_counts_overlapping_polygons_as_background():
    assert reader_options("refcoco", "reference", {"split_by": "unc"}) == {"overlap": "background", "split_by": "unc"}
    assert reader_options("refcoco", "reference", {"overlap": "union"}) == {"overlap": "union"}
    assert reader_options("refcoco", "default", {}) == {}
    assert reader_options("nyu", "reference", {}) == {}


def test_a_shipped_adapted_model_can_be_gone_on_from(config: Any):
    model = start_model(config(model="world-segment", model_options={"head_channels": 48}), Data(("floor", "lamp")))
    assert model.config.classes == ("floor", "lamp")
    with pytest.raises(UsageError, match="world-refer is a model for refer"):
        start_model(config(model="world-refer"), Data(("floor",)))


class Named(ToyData):
    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def sample_keys(self) -> tuple[str, ...]:
        return self.keys


def test_number_names_and_order_count():
    assert data_identity(ToyData()) == {"samples": 7, "keys_sha256": None, "classes": ["no", "yes"]}
    found = [data_identity(Named(*keys))["keys_sha256"] for keys in (("a", "b"), ("b", "a"), ("ab",), ("a", "b"))]
    assert found[0] == found[3] and len(set(found)) == 3


@pytest.fixture
def stopped(tmp_path: Path, settings: dict[str, Any]) -> Path:
    """A run of two steps on data that can be changed, which shall do two more."""
    data = write_segment_data(tmp_path / "data")
    train("segment", tmp_path / "run", settings | {"data": {"root": str(data)}, "steps": 2, "validate_every": 100})
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 2\n", "steps: 4\n"))
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    return tmp_path / "run"


def test_other_samples_are_refused_or_said(stopped: Path, caplog: pytest.LogCaptureFixture):
    images = sorted((stopped.parent / "data" / "images" / "train").iterdir())
    labels = stopped.parent / "data" / "labels" / "train"
    for path in (images[0], labels / f"{images[0].stem}.png"):
        path.rename(path.with_stem("zebra"))
    with pytest.raises(UsageError, match="still has 6 samples, but other names.*on_changed_data=go_on.*--model "):
        train("segment", stopped, resume=True)
    for path in (images[0].with_stem("zebra"), labels / "zebra.png"):
        path.unlink()
    with pytest.raises(UsageError, match="The training set had 6 samples and has 5 now"):
        train("segment", stopped, resume=True)
    with caplog.at_level(logging.WARNING):
        train("segment", stopped, {"on_changed_data": "go_on"}, resume=True)
    assert "had 6 samples and has 5 now" in caplog.text and "goes on with it from step 2" in caplog.text
    state = json.loads((stopped / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["data"]["samples"] == 5


def test_checkpoints_of_older_releases_go_on(stopped: Path):
    path = stopped / "checkpoints" / "step-00000002" / "state.json"
    state = json.loads(path.read_text())
    del state["data"]
    path.write_text(json.dumps(state))
    train("segment", stopped, resume=True)
