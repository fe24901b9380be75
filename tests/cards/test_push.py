"""A model goes to a hub on this machine and comes back, with a card that says what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import vpd
from fake_hub import FakeHub, serving
from vpd.cards.card import MARK, Origin, model_card
from vpd.config import Resize
from vpd.errors import UsageError
from vpd.tasks.segmentation import SegmentationModel

HUB_ID = "me/my-model"
TRAINING = {"data": "camvid", "split": "train", "recipe": "default", "mode": "lora", "steps": 300, "seed": 7}
MEASURED = {
    "split": "val",
    "step": 200,
    "samples": 101,
    "groups": 2,
    "metrics": {"mIoU": 0.5, "aAcc": 0.75},
    "intervals": {"mIoU": [0.45, 0.55], "aAcc": [None, None]},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def model(tiny_diffusion: Path) -> SegmentationModel:
    torch.manual_seed(0)
    options: dict[str, Any] = {"classes": ("sky", "a|b", "<i>tree</i>"), "head_channels": 8, "fit": Resize(size_px=64)}
    made = SegmentationModel.from_diffusion(tiny_diffusion, **options)
    made.config = made.config.model_copy(update={"notes": {"training": TRAINING, "measured": MEASURED}})
    return made


def header_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_there_and_back(hub: FakeHub, model: SegmentationModel, tiny_diffusion: Path):
    url = model.push_to_hub(HUB_ID, token="writer", licence="apache-2.0")
    assert url == f"{hub.url}/{HUB_ID}/commit/{'1' * 40}"
    again = vpd.load(HUB_ID)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert again.config.licence == "apache-2.0" and again.config.classes == model.config.classes
    assert again.config.backbone.source == tiny_diffusion.name  # no path of this machine
    assert str(tiny_diffusion) not in "".join(
        path.read_text() for path in (hub.root / HUB_ID).iterdir() if path.suffix in (".json", ".md")
    )
    assert model.config.licence == "unknown"  # of the one here, nothing was changed


@pytest.mark.parametrize("recorded", ["in full", "models/sd15", "checkpoints/vpd.pth", "checkpoints/vpd.SafeTensors"])
def test_a_local_path_is_no_model_of_the_hub(
    hub: FakeHub, tiny_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str
):
    """Nobody's model of that name is asked for, told as the base, or lends its licence."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sd15").symlink_to(tiny_diffusion)
    monkeypatch.chdir(tmp_path)
    local = SegmentationModel.from_diffusion("models/sd15", classes=("sky",), head_channels=8, fit=Resize(size_px=64))
    assert local.config.backbone.source == str(tmp_path / "models" / "sd15")
    if recorded != "in full":  # as older versions did
        backbone = local.config.backbone.model_copy(update={"source": recorded})
        local.config = local.config.model_copy(update={"backbone": backbone})
    name = Path(local.config.backbone.source).name
    local.push_to_hub(HUB_ID, token="writer")
    card = (hub.root / HUB_ID / "README.md").read_text()
    assert "base_model" not in header_of(card) and f"| origin | {name.replace('_', chr(92) + '_')} |" in card
    assert vpd.load(HUB_ID).config.backbone.source == name
    assert not [path for path in hub.asked if "models/sd15" in str(path) or "checkpoints/" in str(path)]


def test_a_card_says_what_the_record_says(hub: FakeHub, model: SegmentationModel):
    model.push_to_hub(HUB_ID, token="writer", licence="apache-2.0")
    card = (hub.root / HUB_ID / "README.md").read_text()
    header = header_of(card)
    assert (header["license"], header["pipeline_tag"], header["library_name"]) == (
        "apache-2.0",
        "image-segmentation",
        "vpd",
    )
    (results,) = header["model-index"][0]["results"]
    assert results["metrics"][0] == {"type": "mIoU", "name": "mIoU", "value": 0.5}
    assert results["dataset"] == {"type": "camvid", "name": "camvid", "split": "val"}
    for line in (
        "| mIoU | 50.00 % | 45.00 % to 55.00 % |",
        "| aAcc | 75.00 % |  |",
        "On 101 samples in 2 groups that resemble each other of `camvid`, val",
        "Measured in training, after step 200",
        "| what trained | lora |",
        "| steps | 300 |",
        f'model = vpd.load("{HUB_ID}")',
        f"vpd predict segment photo.jpg --model {HUB_ID} --out predictions",
        "a\\|b, \\<i\\>tree\\</i\\>",
        "These weights: apache-2.0. The model that they were adapted from: not told.",
    ):
        assert line in card, line


def test_an_evaluation_stands_in_the_card_instead(hub: FakeHub, model: SegmentationModel, tmp_path: Path):
    told = {**MEASURED, "data": "/home/me/camvid", "split": "test", "metrics": {"mIoU": 0.25}, "intervals": {}}
    del told["step"]
    (tmp_path / "scores.json").write_text(json.dumps(told))
    for evaluation in (told, tmp_path / "scores.json"):
        model.push_to_hub(HUB_ID, token="writer", evaluation=evaluation)
        card = (hub.root / HUB_ID / "README.md").read_text()
        assert "| mIoU | 25.00 % |  |" in card and "`camvid`, test" in card and "/home" not in card
        assert "Measured in training" not in card
    with pytest.raises(UsageError, match="give what evaluate returned"):
        model.push_to_hub(HUB_ID, token="writer", evaluation={"mIoU": 0.5})


def test_a_card_written_by_hand_stays(hub: FakeHub, model: SegmentationModel):
    model.push_to_hub(HUB_ID, token="writer")
    card = hub.root / HUB_ID / "README.md"
    assert MARK in card.read_text()
    card.write_text("# My own words")
    model.push_to_hub(HUB_ID, token="writer")
    assert card.read_text() == "# My own words"


def test_revisions(hub: FakeHub, model: SegmentationModel):
    model.push_to_hub(HUB_ID, token="writer")
    other = vpd.load(HUB_ID)
    with torch.no_grad():
        other.class_embeddings.add_(1)
    other.push_to_hub(HUB_ID, token="writer", revision="v2", message="Moved")
    first, second = vpd.load(HUB_ID, revision="main"), vpd.load(HUB_ID, revision="v2")
    assert torch.equal(first.class_embeddings + 1, second.class_embeddings)
    assert torch.equal(vpd.load(f"{HUB_ID}@v2").class_embeddings, second.class_embeddings)
    asked = len(hub.asked)
    vpd.load(f"{HUB_ID}@v2")
    assert len(hub.asked) == asked  # from the cache
    with pytest.raises(UsageError, match="has me/my-model, but no branch, tag or commit v3 of it"):
        vpd.load(HUB_ID, revision="v3")
    with pytest.raises(UsageError, match="only a hub id"):
        vpd.load("world-segment", revision="v2")


def test_who_may_not_write_is_told(hub: FakeHub, model: SegmentationModel):
    with pytest.raises(UsageError, match="does not let you write to me/my-model: that needs a token which may write"):
        model.push_to_hub(HUB_ID, token="reader")
    assert not (hub.root / HUB_ID).exists()
    for name in ("my-model", "me/my-model@v2", "/tmp/x"):
        with pytest.raises(UsageError, match="give owner/name"):
            model.push_to_hub(name, token="writer")


def test_a_hub_that_does_not_answer(hub: FakeHub, model: SegmentationModel):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UsageError, match="cannot be reached|does not answer|broke off"):
        model.push_to_hub(HUB_ID, token="writer")


def test_a_card_without_a_record(model: SegmentationModel):
    bare = model.config.model_copy(update={"notes": {}, "licence": "Somebody's own 1.0"})
    card = model_card(bare, HUB_ID, Origin("runwayml/sd@main", "creativeml-openrail-m"))
    header = header_of(card)
    assert (header["license"], header["license_name"]) == ("other", "Somebody's own 1.0")
    assert header["base_model"] == "runwayml/sd" and "model-index" not in header
    assert "Nothing was measured." in card and "adapted from: creativeml-openrail-m." in card
