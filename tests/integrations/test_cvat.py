"""The function for CVAT, run by its own library on a task."""

from __future__ import annotations

import importlib.util
import io
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from findable import findable
from PIL import Image

import vpd
from serving_models import needs, picture_bytes, tiny_models
from vpd.errors import UsageError

needs("cvat_sdk")

import cvat_sdk.auto_annotation as cvataa  # noqa: E402
from cvat_sdk import models as cvat_models  # noqa: E402
from cvat_sdk.auto_annotation import driver  # noqa: E402
from cvat_sdk.masks import decode_mask  # noqa: E402

pytestmark = pytest.mark.extras
FILE = Path(__file__).parents[2] / "integrations" / "cvat.py"
SIZES = ((80, 64), (96, 70))


def load_file() -> Any:
    """As `cvat-cli --function-file` does."""
    spec = importlib.util.spec_from_file_location("__cvat_function__", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved model of each task."""
    root = tmp_path_factory.mktemp("models")
    for task, model in findable(tiny_models(tiny_diffusion)).items():
        model.save(root / task)
    return {task: root / task for task in ("segment", "refer", "depth")}


def images() -> list[Image.Image]:
    return [Image.open(io.BytesIO(picture_bytes(*size, seed=seed))) for seed, size in enumerate(SIZES)]


def annotate(monkeypatch: pytest.MonkeyPatch, function: Any, labels: dict[str, int], **options: Any) -> list[Any]:
    """The shapes that end on the server, where its task has two pictures and these labels, which take any shape."""
    samples = [
        SimpleNamespace(frame_index=place, frame_name=f"{place}.png", media=SimpleNamespace(load_image=lambda i=i: i))
        for place, i in enumerate(images())
    ]
    known = [
        SimpleNamespace(name=name, id=id_, type="any", sublabels=[], attributes=[]) for name, id_ in labels.items()
    ]
    dataset = SimpleNamespace(labels=known, samples=samples)
    monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: dataset)
    sent: list[Any] = []
    api = SimpleNamespace(
        partial_update_annotations=lambda action, task, patched_labeled_data_request: sent.append(
            patched_labeled_data_request
        )
    )
    client: Any = SimpleNamespace(logger=logging.getLogger("cvat"), tasks=SimpleNamespace(api=api))
    cvataa.annotate_task(client, 137, function, allow_unmatched_labels=True, **options)
    (request,) = sent
    assert isinstance(request, cvat_models.PatchedLabeledDataRequest) and not request.tags
    return list(request.shapes)


def mask_of(shape: Any) -> Any:
    width, height = SIZES[shape.frame]
    return decode_mask(shape.points, image_width=width, image_height=height)


def test_classes_become_masks(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    function = load_file().create(model=str(folders["segment"]))
    assert isinstance(function.spec, cvataa.DetectionFunctionSpec)
    assert [label.name for label in function.spec.labels] == ["sky", "road", "tree"]
    shapes = annotate(monkeypatch, function, {"road": 40, "tree": 50})
    model = vpd.load(str(folders["segment"]))
    found = {(shape.frame, shape.label_id): mask_of(shape) for shape in shapes}
    for place, image in enumerate(images()):
        for region in model.predict(image).regions():
            if region.name != "sky":
                label_id = {"road": 40, "tree": 50}[region.name]
                np.testing.assert_array_equal(found.pop((place, label_id)), region.mask)
    assert shapes and not found and {shape.source for shape in shapes} == {"auto"}


def test_texts_are_looked_for_under_labels(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    function = load_file().create(model=str(folders["refer"]), texts="mug = the mug on the left; plate=a plate = round")
    assert [label.name for label in function.spec.labels] == ["mug", "plate"]
    shapes = annotate(monkeypatch, function, {"mug": 4, "plate": 5})
    model = vpd.load(str(folders["refer"]))
    found = {(shape.frame, shape.label_id): mask_of(shape) for shape in shapes}
    for place, image in enumerate(images()):
        for text, label_id in (("the mug on the left", 4), ("a plate = round", 5)):
            expected = model.predict(image, text=text).numpy()
            np.testing.assert_array_equal(found.pop((place, label_id), expected & False), expected)
    assert shapes and not found
    function = load_file().create(model=str(folders["refer"]), texts="mug=the mug", min_presence=1.0)
    assert annotate(monkeypatch, function, {"mug": 4}) == []


def test_other_classes_than_the_models_own(folders: dict[str, Path]) -> None:
    function = load_file().create(model=str(folders["segment"]), texts="horse=zebra; street=road")
    assert [label.name for label in function.spec.labels] == ["sky", "street", "tree", "horse"]
    context: Any = SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False)
    (image, _) = images()
    shapes = function.detect(context, image)
    own = ["sky", "road", "tree", "zebra"]
    regions = vpd.load(str(folders["segment"])).predict(image, classes=own).regions()
    assert [own[shape.label_id] for shape in shapes] == [region.name for region in regions]


def test_a_text_takes_the_label_of_a_class(folders: dict[str, Path]) -> None:
    (image, _) = images()
    context: Any = SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False)
    function = load_file().create(model=str(folders["segment"]), texts="road=zebra")
    assert [label.name for label in function.spec.labels] == ["sky", "road", "tree"]
    number = {"sky": 0, "zebra": 1, "tree": 2}
    regions = vpd.load(str(folders["segment"])).predict(image, classes=["sky", "road", "tree", "zebra"]).regions()
    assert "road" in [region.name for region in regions], "and is passed over"
    expected = [number[region.name] for region in regions if region.name in number]
    assert [shape.label_id for shape in function.detect(context, image)] == expected


def test_confidence_and_polygons(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    function = load_file().create(model=str(folders["segment"]))
    assert annotate(monkeypatch, function, {"road": 40, "tree": 50, "sky": 60}, conf_threshold=1.0) == []
    shapes = annotate(monkeypatch, function, {"road": 40, "tree": 50, "sky": 60}, conf_threshold=0.01)
    assert shapes and all(0.01 <= shape.score <= 1 for shape in shapes)
    pytest.importorskip("cv2", reason="not installed: opencv-python-headless (extra `video`)")
    shapes = annotate(monkeypatch, function, {"road": 40, "tree": 50, "sky": 60}, conv_mask_to_poly=True)
    assert shapes and {shape.type.value for shape in shapes} == {"polygon"}
    for shape in shapes:
        points = np.reshape(shape.points, (-1, 2))
        assert len(points) >= 3 and (points >= 0).all() and (points <= SIZES[shape.frame]).all()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("depth", {}, "a model for depth gives none"),
        ("refer", {}, "needs texts"),
        ("refer", {"texts": "mug"}, "are written as"),
        ("refer", {"texts": "mug=a;mug=b"}, "are written as"),
        ("refer", {"texts": "mug=a;cup=a"}, "under two labels"),
        ("segment", {"min_presence": 0.5}, "min_presence is for models that refer"),
    ],
)
def test_what_cannot_be_done_is_told(folders: dict[str, Path], task: str, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_file().create(model=str(folders[task]), **options)


def test_other_classes_need_the_open_head(tiny_diffusion: Path) -> None:
    closed = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=("sky", "road"), head_channels=8)
    with pytest.raises(UsageError, match="cannot look for zebra: it knows sky, road"):
        load_file().Function(closed, texts={"horse": "zebra"})
