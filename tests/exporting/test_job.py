"""`vpd.export`: what is written equals the model, and nothing is left where it does not."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import vpd
from tiff_files import grey_tiff
from tiny import CLASSES, write_tiny_diffusion
from vpd.config import Resize
from vpd.errors import UsageError
from vpd.exporting.formats import SUFFIXES, check_target, read
from vpd.exporting.networks import image_step_px
from vpd.files.images import read_image
from vpd.tasks.model import PerceptionModel

PICTURES: dict[str, Callable[[Path], None]] = {
    "rgba.png": lambda path: Image.effect_noise((20, 16), 90).convert("RGBA").save(path),
    "clear.png": lambda path: Image.new("RGBA", (20, 16), (250, 20, 10, 60)).save(path),
    "grey.png": lambda path: Image.fromarray(GREY).save(path),
    "grey16.tif": lambda path: path.write_bytes(grey_tiff(GREY.astype(">u2"), order=">")) and None,
    "signed.tif": lambda path: path.write_bytes(grey_tiff((GREY // 2 - 9000).astype(np.int16))) and None,
    "unsigned.tif": lambda path: path.write_bytes(grey_tiff(GREY.astype(np.uint32) * 65535)) and None,
    "eight.tif": lambda path: path.write_bytes(grey_tiff((GREY // 600 - 20).astype(np.int8))) and None,
    "turned.tif": lambda path: path.write_bytes(grey_tiff(GREY, tags={262: 0})) and None,
    "float.tif": lambda path: Image.fromarray(GREY.astype(np.float32) / 60000).save(path),
    "palette.png": lambda path: Image.effect_noise((20, 16), 90).convert("P").save(path, transparency=9),
    "one_bit.png": lambda path: Image.effect_noise((20, 16), 90).convert("1").save(path),
    "cmyk.jpg": lambda path: Image.effect_noise((20, 16), 90).convert("CMYK").save(path),
    "photo.jpg": lambda path: Image.effect_noise((20, 16), 90).convert("RGB").save(path, exif=TURNED),
    "photo.tif": lambda path: Image.effect_noise((20, 16), 90).convert("RGB").save(path, exif=TURNED),
}
GREY = np.linspace(0, 60000, 320).reshape(16, 20).astype(np.uint16)
TURNED = Image.Exif()
TURNED[274] = 6
SCRIPT = Path(__file__).parents[2] / "examples" / "onnx_without_torch.py"
OPTIONS: dict[str, dict[str, Any]] = {
    "segment": {},
    "open": {"prompts": "input", "text_encoder": True},
    "refer": {"text_encoder": True},
    "depth": {},
}
WORDS: dict[str, dict[str, Any]] = {"segment": {}, "refer": {"text": "the left dog"}, "depth": {}}
Export = Callable[..., Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PerceptionModel]:
    """Models of two levels, depth of four, which is what its head takes: tracing costs by the layer."""
    root = tmp_path_factory.mktemp("models")
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    small = {"block_out_channels": (8, 16), "layers_per_block": 1}
    two = write_tiny_diffusion(root / "two", **blocks, **small)
    four = write_tiny_diffusion(root / "four", block_out_channels=(16, 16, 16, 16), layers_per_block=1)
    fit = Resize(size_px=60)
    depth = {"head_channels": 8, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    made: dict[str, PerceptionModel] = {
        "segment": vpd.SegmentationModel.from_diffusion(two, classes=CLASSES, head_channels=8, fit=fit),
        "open": vpd.SegmentationModel.from_diffusion(two, classes=CLASSES, head="open", head_channels=8),
        "refer": vpd.ReferringModel.from_diffusion(
            two, token_length=8, head_channels=8, fit=Resize(mode="squash", size_px=56)
        ),
        "depth": vpd.DepthModel.from_diffusion(
            four, scenes=["kitchen", "office"], fit=Resize(size_px=60, flip=True, antialias=False), **depth
        ),
    }
    for model in made.values():
        nn.init.uniform_(model.adapter.gamma, 0.2, 0.6)  # it starts as next to nothing
        nn.init.normal_([*model.head.parameters()][-2], std=2)  # or all pixels get the same class
        model.eval()
    return made


@pytest.fixture(scope="module")
def exported(models: dict[str, PerceptionModel], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports each model once."""
    root, done = tmp_path_factory.mktemp("exported"), {}

    def export(name: str, target: Any) -> Path:
        if (name, target) not in done:
            folder = root / f"{name}-{target}"
            report = vpd.export(models[name], folder, target=target, **OPTIONS[name])
            assert max(check.relative_error for check in report.checks) < 1e-5
            done[name, target] = report.folder
        return done[name, target]

    return export


def outputs_of(folder: Path, *inputs: Tensor, network: str = "model") -> Tensor:
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    return read(folder / facts["networks"][network]["file"], facts["target"])(*inputs)


def check_files(name: str, folder: Path, model: PerceptionModel) -> None:
    """The files of an export give what the model does, at a size of its own, one image and two."""
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    step = facts["images"]["multiple_px"]
    assert step == image_step_px(model, facts["target"])
    assert facts["task"] == model.config.task
    assert facts["fit"]["size_px"] == model.config.fit.size_px
    assert max(check["relative_error"] for check in facts["parity"]) <= facts["tolerance"]
    model.eval()
    for number in (1, 2):
        images = torch.rand(number, 3, 5 * step, 3 * step) * 2 - 1
        text: list[Tensor] = []
        with torch.no_grad():
            if name == "refer":
                text = [model.encode_texts(["a dog", "the red car"][:number])]
            elif name == "open":
                text = [torch.from_numpy(np.load(folder / facts["prompts_file"]))[[0, 2, 1, 1]]]
            wanted = model(images, *text)
        torch.testing.assert_close(outputs_of(folder, images, *text), wanted, rtol=0, atol=1e-5 * wanted.abs().max())


@pytest.mark.parametrize("name", ["open", "refer", "depth"])
def test_a_torch_file_gives_what_the_model_gives(
    name: str, models: dict[str, PerceptionModel], exported: Export
) -> None:
    folder = exported(name, "torch")
    check_files(name, folder, models[name])
    there = {path.name for path in folder.iterdir()}
    text = {"text_encoder.pt2", "tokenizer.json"} if OPTIONS[name].get("text_encoder") else set()
    assert there == {"export.json", "model.pt2"} | text | ({"prompts.npy"} if name == "open" else set())
    assert models[name].text_encoder is not None or name == "depth"


def test_facts_say_what_numbers_mean(exported: Export) -> None:
    facts = json.loads((exported("depth", "torch") / "export.json").read_text(encoding="utf-8"))
    assert facts["scenes"] == ["kitchen", "office"]
    assert (facts["max_depth_m"], facts["metres_per_step"]) == (10.0, 0.001)
    assert facts["networks"] == {"model": {"file": "model.pt2", "inputs": ["images"], "output": "depth_m"}}
    facts = json.loads((exported("open", "torch") / "export.json").read_text(encoding="utf-8"))
    assert facts["classes"] == list(CLASSES)
    assert facts["networks"]["text_encoder"]["inputs"] == ["token_ids"]
    assert (facts["prompts"], facts["token_length"]) == ("input", 77)


def test_text_graph_and_tokenizer_make_the_prompts_of_other_classes(
    models: dict[str, PerceptionModel], exported: Export
) -> None:
    from tokenizers import Tokenizer

    folder, model = exported("open", "torch"), models["open"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(text).ids for text in ("a photo of a cow.", "a tree")])
    wanted = model.text_encoder.pooled(["a photo of a cow.", "a tree"])
    torch.testing.assert_close(outputs_of(folder, ids, network="text_encoder"), wanted, rtol=0, atol=1e-5)


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Exports that trace nothing: what is read back is the module itself, plus the number in this list."""
    networks, shift = [], [0.0]

    def write(network: Any, path: Path, target: str) -> None:
        networks.append(network)
        path.write_bytes(b"graph")

    monkeypatch.setattr("vpd.exporting.job.write", write)
    monkeypatch.setattr(
        "vpd.exporting.job.read", lambda path, target: lambda *inputs: networks[-1].module(*inputs) + shift[0]
    )
    return shift


@pytest.mark.parametrize("prompts", ["constant", "input"])
@pytest.mark.parametrize("name", ["segment", "open", "depth"])
def test_prompts_are_constants_or_an_input(
    name: str, prompts: Any, models: dict[str, PerceptionModel], untraced: list[float], tmp_path: Path
) -> None:
    report = vpd.export(models[name], tmp_path / "out", target="torch", prompts=prompts)
    facts = json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))
    inputs = facts["networks"]["model"]["inputs"]
    assert inputs == (["images"] if prompts == "constant" else ["images", "text_embeds"])
    assert (tmp_path / "out" / "prompts.npy").is_file() == (prompts == "input")
    assert len(report.checks) >= 3
    assert report.bytes == sum(path.stat().st_size for path in report.folder.iterdir())


@pytest.mark.parametrize("shift", [1.0, float("nan")])
def test_a_graph_that_differs_leaves_nothing(
    shift: float, models: dict[str, PerceptionModel], untraced: list[float], tmp_path: Path
) -> None:
    untraced[0] = shift
    models["depth"].train()
    with pytest.raises(UsageError, match=r"model differs from the model by .* nothing was written\. .*--tolerance"):
        vpd.export(models["depth"], tmp_path / "out", target="torch")
    assert list(tmp_path.iterdir()) == []
    assert models["depth"].training
    models["depth"].eval()


def test_a_graph_of_another_shape_differs(models: dict[str, PerceptionModel], tmp_path: Path) -> None:
    from vpd.exporting.job import compare
    from vpd.exporting.networks import image_network

    with pytest.raises(UsageError, match="differs from the model by inf"):
        compare(image_network(models["depth"], "constant", target="onnx"), lambda images: images[:, :1, ::2], 1e-4)


def test_requests_that_cannot_be_met(models: dict[str, PerceptionModel], tmp_path: Path) -> None:
    def refused(name: str, said: str, **options: Any) -> None:
        with pytest.raises(UsageError, match=said):
            vpd.export(models[name], **{"out": tmp_path / "out", "target": "torch", **options})
        assert not (tmp_path / "out").exists()

    refused("depth", "Unknown target 'tflite'. Choose one of: torch, onnx, openvino", target="tflite")
    refused("refer", "every expression is another. Export it with prompts=input", prompts="constant")
    refused("depth", "prompts='mine': choose constant or input", prompts="mine")
    refused("depth", "saved without text encoder, so none can be exported", text_encoder=True)
    refused("depth", "tolerance=0: give a number above 0", tolerance=0)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").touch()
    refused("depth", "used holds files already. Give a folder that is empty", out=tmp_path / "used")
    refused("depth", "mine.txt: it is a file", out=tmp_path / "used" / "mine.txt")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="This model is bfloat16; load it in float32"):
        vpd.export(vpd.optimise(models["depth"], dtype="bfloat16"), tmp_path / "out", target="torch")
    with pytest.raises(UsageError, match="Give it the model that it was made from"):
        vpd.export(vpd.optimise(models["depth"], dtype="float32"), tmp_path / "out", target="torch")


@pytest.mark.parametrize(("target", "package"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_packages_that_are_missing_are_named(target: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    check_target(target)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf'needs {package} .*pip install "vpd-perception\[export\]"'):
        check_target(target)
    assert set(SUFFIXES) == {"torch", "onnx", "openvino"}


def test_the_script_is_short() -> None:
    """Half of it makes the pixels that `vpd predict` sees of any picture, a quarter finds who computes."""
    code = SCRIPT.read_text(encoding="utf-8").split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 85
    assert "torch" not in code


@pytest.mark.extras
@pytest.mark.parametrize("name", ["segment", "open", "refer", "depth"])
def test_an_onnx_file_gives_what_the_model_gives(
    name: str, models: dict[str, PerceptionModel], exported: Export
) -> None:
    check_files(name, exported(name, "onnx"), models[name])


@pytest.mark.extras
@pytest.mark.parametrize("name", ["refer", "depth"])
def test_openvino_files_give_what_the_model_gives(
    name: str, models: dict[str, PerceptionModel], exported: Export
) -> None:
    folder = exported(name, "openvino")
    check_files(name, folder, models[name])
    assert not list(folder.glob("*.onnx*"))


@pytest.mark.extras
@pytest.mark.parametrize("name", ["segment", "refer", "depth"])
@pytest.mark.parametrize("size", [(100, 70), (31, 44)])  # larger and smaller than what the network sees
def test_the_script_predicts_what_the_model_does_without_torch(
    name: str, size: tuple[int, int], models: dict[str, PerceptionModel], exported: Export, tmp_path: Path
) -> None:
    folder, model = exported(name, "onnx"), models[name]
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    Image.effect_noise(size, 80).resize(size).convert("RGB").save(photo)
    code = (
        "import runpy, sys; sys.modules.update(torch=None, vpd=None, transformers=None); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [str(SCRIPT), str(folder), str(photo), str(out), *WORDS[name].values()]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    prediction = model.predict(photo, **WORDS[name], **({"scores": True} if name == "segment" else {}))
    prediction.save(tmp_path / "own.png")
    got, own = (np.asarray(Image.open(path)).astype(np.int64) for path in (out, tmp_path / "own.png"))
    assert len(np.unique(own)) > 1 or size != (100, 70)  # all of a very small picture may be the object
    if name == "depth":
        assert np.abs(got - own).max() <= 1  # millimetres: halves may round either way
        return
    probs = prediction.probability if name == "refer" else prediction.scores
    top = torch.stack([probs, 1 - probs]) if name == "refer" else probs
    is_clear = (top.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-4).numpy()
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(got[is_clear], own[is_clear])


@pytest.mark.parametrize(
    ("there", "started", "said"),
    [
        (["CPUExecutionProvider"], [], "--provider cuda: onnxruntime has no CUDAExecutionProvider here, only CPUExec"),
        (["CUDAExecutionProvider"], ["CPUExecutionProvider"], "--provider cuda: CUDAExecutionProvider did not start"),
        (["CUDAExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"], ""),
    ],
)
def test_the_script_names_a_provider_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, there: list[str], started: list[str], said: str
) -> None:
    """It never goes on quietly on the CPU, as onnxruntime would."""
    asked: dict[str, Any] = {}

    def session(path: Path, *, providers: list[Any]) -> Any:
        asked["providers"] = providers
        return SimpleNamespace(get_providers=lambda: started)

    fake = SimpleNamespace(InferenceSession=session, get_available_providers=lambda: there)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    start = runpy.run_path(str(SCRIPT))["start"]
    if not said:
        assert start(Path("model.onnx"), "cuda").get_providers() == started
        assert asked["providers"] == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
        return
    with pytest.raises(SystemExit, match=said) as stop:
        start(Path("model.onnx"), "cuda")
    assert "onnxruntime-gpu" in str(stop.value)


def test_the_script_sees_the_pixels_that_predict_sees(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    read = runpy.run_path(str(SCRIPT))["read"]
    for name, write in PICTURES.items():
        write(tmp_path / name)
        wanted = read_image(tmp_path / name)
        assert np.array_equal(np.asarray(read(tmp_path / name)), np.asarray(wanted)), name
