from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import close_session
from safetensors.torch import load_file, save_file

import vpd
from tiny import write_tiny_diffusion
from vpd import ReferringModel, StableDiffusionBackbone, UsageError
from vpd.prompts.encoder import TextEncoder
from vpd.weights.hub import is_hub_id
from vpd.weights.sources import find_source

HUB_ID = "no-such-owner/no-such-model"
NO_HUB_IDS = ["../missing", "./x", "~/x", "/a/b", "a--b/c", "a/b.git", "x/..", "a", "a/b/c", ""]
WEIGHTS = "diffusion_pytorch_model.safetensors"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nX-Error-Code: RepoNotFound\r\nContent-Length: 0\r\n\r\n"


def test_form_of_a_hub_id() -> None:
    assert is_hub_id("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert is_hub_id("a.b/c_d.e")
    assert not [name for name in NO_HUB_IDS if is_hub_id(name)]


@pytest.mark.parametrize("source", [name for name in NO_HUB_IDS if name])
def test_what_is_neither_here_nor_a_hub_id(source: str) -> None:
    with pytest.raises(UsageError, match=f"There is no {source}. Give a folder"):
        find_source(source)


def close_at_once(connection: socket.socket) -> None:
    connection.close()


def stay_silent(connection: socket.socket) -> None:
    time.sleep(8)


def trickle(connection: socket.socket) -> None:
    """A header that never ends: each byte is in time, the answer is not."""
    for _ in range(16):
        connection.send(b"H")
        time.sleep(0.5)


def not_found(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(NOT_FOUND)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Takes what answers a connection, and makes a server of it the hub; an empty cache."""
    close_session()  # forget connections and proxies of before
    listeners = []

    def serve(answer: Callable[[socket.socket], None]) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            with closing(listener):
                while True:
                    connection, _ = listener.accept()
                    Thread(target=reply, args=(connection,), daemon=True).start()

        def reply(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # the client may have given up
                answer(connection)

        Thread(target=accept, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # refuses, until serve is called
    yield serve
    close_session()


@pytest.mark.parametrize("answer", [None, close_at_once, stay_silent, trickle])
def test_hub_id_without_network_answers_at_once(hub: Callable, answer: Callable | None) -> None:
    if answer:
        hub(answer)
    started = time.monotonic()
    with pytest.raises(UsageError, match=f"not in the local cache.*hf download {HUB_ID}"):
        StableDiffusionBackbone.from_pretrained(HUB_ID)
    assert time.monotonic() - started < 4  # seconds; two are promised, the test machine may be busy


def test_a_name_that_the_hub_does_not_know(hub: Callable) -> None:
    hub(not_found)
    with pytest.raises(UsageError, match=f"has no {HUB_ID}, or it is private"):
        find_source(HUB_ID)


def write_cache(cache: Path, model: Path, *, without: tuple[str, ...] = ()) -> Path:
    """What the hub's client leaves of a download of `model`, but for some files."""
    repository = cache / f"models--{HUB_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(model, snapshot)
    for name in without:
        (snapshot / name).unlink()
    return snapshot


def test_complete_cache_needs_no_network(hub: Callable, tmp_path: Path, tiny_diffusion: Path) -> None:
    snapshot = write_cache(tmp_path / "cache", tiny_diffusion)
    assert find_source(HUB_ID, with_text=True) == snapshot


PARTS = [f"unet/{WEIGHTS}", f"vae/{WEIGHTS}", "vae/config.json"]
TEXT_PARTS = ["text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"]


@pytest.mark.parametrize("name", PARTS + TEXT_PARTS)
def test_partial_cache_is_no_cache(tmp_path: Path, hub: Callable, tiny_diffusion: Path, name: str) -> None:
    snapshot = write_cache(tmp_path / "cache", tiny_diffusion, without=(name,))
    if name in TEXT_PARTS:
        assert find_source(HUB_ID) == snapshot
    with pytest.raises(UsageError, match="or only in part"):
        find_source(HUB_ID, with_text=True)


def test_half_precision_variant_will_do(hub: Callable, tmp_path: Path, tiny_diffusion: Path) -> None:
    snapshot = write_cache(tmp_path / "cache", tiny_diffusion)
    (snapshot / "unet" / WEIGHTS).rename(snapshot / "unet" / WEIGHTS.replace(".", ".fp16.", 1))
    assert find_source(HUB_ID) == snapshot


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/at/all", "There is no nowhere/at/all"),
        ("file.txt", "neither a folder nor a single-file checkpoint"),
        ("empty", "has no unet/config.json"),
        ("weights.safetensors", "is not a Stable Diffusion checkpoint"),
        ("damaged", "unet cannot be read"),
        ("pickled", "vae has pickled weights only.*Convert them to safetensors"),
        ("listed", "holds a list, not a configuration"),
        ("unlisted", "unet/config.json cannot be read as JSON"),
    ],
)
def test_bad_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("no")
    (tmp_path / "empty").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    write_tiny_diffusion(tmp_path / "damaged")
    weights = tmp_path / "damaged" / "unet" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    write_tiny_diffusion(tmp_path / "pickled")
    (tmp_path / "pickled" / "vae" / WEIGHTS).rename(tmp_path / "pickled" / "vae" / "diffusion_pytorch_model.bin")
    write_tiny_diffusion(tmp_path / "listed")
    (tmp_path / "listed" / "unet" / "config.json").write_text("[]")
    write_tiny_diffusion(tmp_path / "unlisted")
    (tmp_path / "unlisted" / "unet" / "config.json").write_text("{")
    with pytest.raises(UsageError, match=message):
        StableDiffusionBackbone.from_pretrained(source)


def drop_keys(path: Path, *prefixes: str) -> list[str]:
    """Take tensors out of a weight file; the names of those taken."""
    state = load_file(path)
    dropped = [key for key in state if key.startswith(prefixes)]
    save_file({key: value for key, value in state.items() if key not in dropped}, path, metadata={"format": "pt"})
    return dropped


@pytest.mark.parametrize(
    ("part", "name", "prefix"),
    [
        ("unet", WEIGHTS, "up_blocks.1.resnets.0."),
        ("vae", WEIGHTS, "encoder.conv_in."),
        ("text_encoder", "model.safetensors", "final_layer_norm."),
    ],
)
def test_missing_weights_are_named(tmp_path: Path, part: str, name: str, prefix: str) -> None:
    folder = write_tiny_diffusion(tmp_path / "model")
    dropped = drop_keys(folder / part / name, prefix, f"text_model.{prefix}")
    load = TextEncoder if part == "text_encoder" else StableDiffusionBackbone
    with pytest.raises(UsageError, match=f"{part} do not fit its config.json") as caught:
        load.from_pretrained(folder)
    assert dropped
    assert all(f"missing {key.removeprefix('text_model.')}" in str(caught.value) for key in dropped)


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_diffusion(tmp_path / "model")
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    key = next(key for key in state if key.endswith("final_layer_norm.weight"))
    save_file({**state, key: torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="text_encoder"):
        TextEncoder.from_pretrained(folder)


@torch.no_grad()
def test_weights_that_nothing_uses_may_be_missing(tmp_path: Path) -> None:
    folder = write_tiny_diffusion(tmp_path / "model")
    images, text = torch.rand(1, 3, 64, 64), torch.randn(1, 2, 16)
    wanted = StableDiffusionBackbone.from_pretrained(folder)(images, text).maps[0]
    assert drop_keys(folder / "unet" / WEIGHTS, "conv_out.", "conv_norm_out.")
    assert drop_keys(folder / "vae" / WEIGHTS, "decoder.", "post_quant_conv.")
    torch.testing.assert_close(StableDiffusionBackbone.from_pretrained(folder)(images, text).maps[0], wanted)


def test_bars_of_other_packages_are_not_drawn(
    tiny_diffusion: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_progress_bar()
    ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8).save(tmp_path / "model")
    vpd.load(tmp_path / "model")
    assert capfd.readouterr().err == ""
    assert transformers_logging.is_progress_bar_enabled()
