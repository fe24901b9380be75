from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import FakeHub, point_to, serving
from vpd import UsageError
from vpd.prompts.encoder import TextEncoder
from vpd.weights.folder_files import diffusion_files
from vpd.weights.hub import download
from vpd.weights.sources import find_source

HUB_ID = "acme/tiny"
WEIGHTS = "diffusion_pytorch_model"
TOKEN = "hf_" + "x" * 20


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_diffusion: Path) -> Iterator[FakeHub]:
    """A hub that has the tiny model under `acme/tiny`, with an empty cache here and no token."""
    shutil.copytree(tiny_diffusion, tmp_path / "hub" / HUB_ID)
    with serving(tmp_path, monkeypatch) as server:
        yield server


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_needed_is_downloaded_and_then_no_network_is_needed(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = hub.root / HUB_ID
    for name in (f"unet/{WEIGHTS}.bin", f"unet/{WEIGHTS}.fp16.safetensors", "whole.ckpt", "safety_checker/config.json"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("not needed")
    folder = find_source(HUB_ID)
    wanted = ("config.json", f"{WEIGHTS}.safetensors")
    names = {f"{part}/{name}" for part in ("unet", "vae") for name in wanted}
    assert files_in(folder) == names | {"text_encoder/config.json"}
    folder = find_source(HUB_ID, with_text=True)
    assert {"tokenizer/tokenizer.json", "text_encoder/model.safetensors"} <= files_in(folder)
    assert "bin" not in " ".join(files_in(folder))
    asked = len(hub.asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_source(HUB_ID, with_text=True) == folder and len(hub.asked) == asked
    assert capfd.readouterr().err == "", "bars of other packages"


def test_a_hub_that_has_the_variant_only(hub: FakeHub) -> None:
    for part, stem in (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model")):
        plain = hub.root / HUB_ID / part / f"{stem}.safetensors"
        plain.rename(plain.with_name(f"{stem}.fp16.safetensors"))
    assert TextEncoder.from_pretrained(HUB_ID).dim == 16
    names = files_in(find_source(HUB_ID))
    assert f"unet/{WEIGHTS}.fp16.safetensors" in names and f"unet/{WEIGHTS}.safetensors" not in names


GATED = {"X-Error-Code": "GatedRepo"}
INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}


@pytest.mark.parametrize(
    ("refuse", "of_all", "token", "said"),
    [
        ((401, GATED), False, None, "acme/tiny is gated, and no token is set. Agree .*/acme/tiny.*hf auth login"),
        ((403, GATED), False, TOKEN, "acme/tiny is gated, and the account of your token has not been let in"),
        ((401, INVALID), True, TOKEN, "does not accept your token for acme/tiny .401."),
        ((404, {"X-Error-Code": "RepoNotFound"}), True, None, "has no acme/tiny, or it is private and no token is set"),
        ((404, {"X-Error-Code": "RepoNotFound"}), True, TOKEN, "has no acme/tiny, .* your token may not read it"),
        ((403, {}), True, TOKEN, "forbids acme/tiny .403."),
        ((429, {}), True, None, "too many requests"),
        ((500, {}), True, None, "answers with error 500: it is out of order"),
        ((200, {"body": "<html>log in</html>"}), True, None, "does not answer as a hub does.*HF_ENDPOINT"),
        ((407, {}), True, None, "the proxy that is set refuses"),
    ],
)
def test_each_refusal_says_which_it_was(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, refuse: tuple, of_all: bool, token: str | None, said: str
) -> None:
    hub.refuse, hub.of_all = refuse, of_all
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=said) as caught:
        find_source(HUB_ID)
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)


def test_proxy_that_is_not_there(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    point_to(monkeypatch, "http://hub.invalid")
    with pytest.raises(UsageError, match="through the proxy http://127.0.0.1:9 .*Check HTTPS_PROXY") as caught:
        find_source(HUB_ID)
    assert "secret" not in str(caught.value)


def test_name_that_cannot_be_looked_up(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to(monkeypatch, "http://hub.invalid")
    with pytest.raises(UsageError, match="hub.invalid .HF_ENDPOINT. cannot be looked up|gives no answer in time"):
        find_source(HUB_ID)


def test_offline_without_the_model(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="not in the local cache.*HF_HUB_OFFLINE is set.*Unset it"):
        find_source(HUB_ID)
    assert not hub.asked


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full: acme/tiny does not fit into"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written.*Set HF_HOME"),
        (OSError("Consistency check failed: file should be of size 9 but has size 5"), "broke off. Start again"),
        (OSError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), "is not trusted.*SSL_CERT_FILE"),
    ],
)
def test_what_goes_wrong_here(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("vpd.weights.hub.snapshot_download", fail)
    with pytest.raises(UsageError, match=said):
        find_source(HUB_ID)


def test_a_disk_that_is_too_small_is_told_before(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    room = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr("vpd.weights.hub.shutil.disk_usage", lambda _path: room)
    with pytest.raises(UsageError, match=r"acme/tiny takes \d+ MB, and .* has 1 MB free"):
        find_source(HUB_ID)
    assert not [line for line in hub.asked if line.endswith(".safetensors")]


def test_repository_of_something_else(hub: FakeHub) -> None:
    source = hub.root / HUB_ID
    (source / "unet" / f"{WEIGHTS}.safetensors").rename(source / "unet" / f"{WEIGHTS}.bin")
    with pytest.raises(UsageError, match="has no unet/diffusion_pytorch_model.safetensors.*convert pickled ones"):
        download(HUB_ID, diffusion_files(with_text=False))
    shutil.rmtree(source / "unet")
    (source / "sd.safetensors").write_text("")
    with pytest.raises(UsageError, match="If sd.safetensors is a whole model: `hf download acme/tiny sd.safetensors`"):
        download(HUB_ID, diffusion_files(with_text=False))


def test_another_family_is_refused_before_its_weights_are_downloaded(hub: FakeHub) -> None:
    config = hub.root / HUB_ID / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "addition_embed_type": "text_time"}))
    with pytest.raises(UsageError, match="is Stable Diffusion XL"):
        find_source(HUB_ID)
    assert not [line for line in hub.asked if line.endswith(".safetensors")]
