import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_hub import FakeHub, serving
from vpd.cli.info import describe_source

Command = Callable[..., Any]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_diffusion: Path) -> Iterator[FakeHub]:
    shutil.copytree(tiny_diffusion, tmp_path / "hub" / "acme" / "sd")
    with serving(tmp_path, monkeypatch) as server:
        yield server


def weights_asked(hub: FakeHub) -> list[str]:
    """Requests for weights that are no glance at a header."""
    return [line for line in hub.asked if line.startswith("HEAD") and line.endswith(".safetensors")]


def test_a_diffusion_model_is_described_without_its_weights(hub: FakeHub, vpd_command: Command, tmp_path: Path) -> None:
    result = vpd_command("info", "acme/sd")
    assert result.status == 0
    shown = " ".join(result.out.split())
    for words in (
        "acme/sd",
        "licence openrail",
        "text width 16",
        " M (F32)",
        "MB in 8 files",
        "vpd train TASK --model acme/sd",
    ):
        assert words in shown
    assert not list((tmp_path / "cache").rglob("*.safetensors")) and not weights_asked(hub)


def test_a_trained_model_too(hub: FakeHub, models: dict[str, Path]) -> None:
    shutil.copytree(models["refer"], hub.root / "acme" / "refer")
    facts = describe_source("acme/refer")
    assert facts["task"] == "referring segmentation (refer)"
    assert facts["use"].startswith("vpd predict refer IMAGE... --model acme/refer")
    assert "files" in facts["download"] and not weights_asked(hub)


def test_what_is_in_the_cache_needs_no_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpd.weights.sources import find_source

    find_source("acme/sd", with_text=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nothing is to be downloaded" in describe_source("acme/sd")["hub"]


def test_gated_models_of_other_families_and_those_without_weights(hub: FakeHub) -> None:
    flux = hub.root / "acme" / "flux"
    (flux / "transformer").mkdir(parents=True)
    (flux / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert "is Flux, which is not of" in describe_source("acme/flux")["not read here"]
    pickled = hub.root / "acme" / "pickled" / "unet"
    pickled.mkdir(parents=True)
    (pickled / "config.json").write_text('{"cross_attention_dim": 768}')
    (pickled / "diffusion_pytorch_model.bin").touch()
    assert "has no unet/diffusion_pytorch_model.safetensors" in describe_source("acme/pickled")["not read here"]
    hub.gated, hub.refuse = "manual", (401, {"X-Error-Code": "GatedRepo"})
    facts = describe_source("acme/sd")
    assert "agree to its terms at" in facts["access"] and "MB in all" in facts["size"]


def test_folders_of_other_families(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert "is Flux" in describe_source(tmp_path)["not read here"]
    part = tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    assert "is a ControlNet" in describe_source(part)["not read here"]
