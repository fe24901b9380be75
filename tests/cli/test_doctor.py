import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vpd.cli import doctor
from vpd.cli.doctor import Finding, diagnose

Command = Callable[..., Any]


def test_this_installation_is_well():
    findings = list(diagnose())
    assert [finding for finding in findings if finding.verdict == "bad"] == []
    assert {"python", "packages", "torchvision", "imports", "device", "tokenizer", "hub cache"} <= {
        finding.subject for finding in findings
    }


def test_a_torchvision_that_does_not_fit_is_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    finding = doctor.check_torchvision()
    assert finding.verdict == "bad"
    assert "nms does not exist" in finding.message
    assert "pip uninstall torchvision" in finding.message


def test_versions_that_do_not_fit(monkeypatch: pytest.MonkeyPatch):
    versions = {"transformers": "4.57.0", "torch": "2.13.0+cpu"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(
        metadata, "requires", lambda _: ["transformers<6,>=5", "torch>=2.6", "einops>=0.8", 'h5py; extra == "nyu"']
    )
    findings = {finding.subject: finding for finding in doctor.check_packages()}
    assert findings["transformers"].verdict == "bad"
    assert "4.57.0 does not fit" in findings["transformers"].message
    assert "pip install 'transformers<6,>=5'" in findings["transformers"].message
    assert "is not installed" in findings["einops"].message
    assert findings["packages"].message == "torch 2.13.0+cpu"
    assert "h5py" not in findings


def test_running_from_sources_is_said(monkeypatch: pytest.MonkeyPatch):
    def requires(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", requires)
    (finding,) = doctor.check_packages()
    assert finding.verdict == "warn"
    assert "not installed" in finding.message


def test_a_library_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    finding = doctor.check_imports()
    assert (finding.verdict, finding.subject) == ("bad", "diffusers")
    assert "cannot be imported" in finding.message


def test_an_empty_tokenizer_is_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vpd.prompts.tokenizer.clip_tokenizer", lambda: lambda _: SimpleNamespace(input_ids=[0, 1]))
    finding = doctor.check_tokenizer()
    assert finding.verdict == "bad"
    assert "wrong tokens [0, 1]" in finding.message


def test_a_tokenizer_that_cannot_be_built_is_said(monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise FileNotFoundError("no merges")

    monkeypatch.setattr("vpd.prompts.tokenizer.clip_tokenizer", fail)
    finding = doctor.check_tokenizer()
    assert finding.verdict == "bad"
    assert "no merges" in finding.message


def test_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "models--stable-diffusion-v1-5--stable-diffusion-v1-5").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "holds stable-diffusion-v1-5/stable-diffusion-v1-5" in doctor.check_hub_cache().message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    finding = doctor.check_hub_cache()
    assert finding.verdict == "warn"
    assert "HF_HUB_OFFLINE is set" in finding.message


def test_a_hub_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    finding = doctor.check_hub_cache()
    assert finding.verdict == "warn"
    assert "Set HF_HOME" in finding.message


def test_how_the_hub_is_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    told = doctor.check_hub_access().message
    assert told == "https://huggingface.co; proxy http://proxy.example:3128; a token is set"


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1e9))
    assert "1.0 GB free" in doctor.check_hub_cache().message
    monkeypatch.setattr("os.sysconf", lambda _: 2**15)
    assert doctor.check_memory().verdict == "warn"


@pytest.mark.parametrize(
    ("flags", "said"), [("fpu avx512_bf16 amx_bf16", "AMX, AVX-512 BF16"), ("fpu avx2", "no fast bfloat16")]
)
def test_the_processors_bfloat16(tmp_path: Path, flags: str, said: str):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert said in doctor.check_processor(tmp_path / "cpuinfo").message
    assert "not told" in doctor.check_processor(tmp_path / "absent").message


@pytest.mark.parametrize(
    ("verdicts", "status", "last"),
    [(["ok", "ok"], 0, "All is well."), (["ok", "warn"], 0, "0 bad, 1 to look at."), (["bad", "warn"], 1, "1 bad, 1")],
)
def test_status_1_when_something_is_bad(
    vpd_command: Command, monkeypatch: pytest.MonkeyPatch, verdicts: list[Any], status: int, last: str
):
    findings = [Finding(verdict, "disk", "is full: make room") for verdict in verdicts]
    monkeypatch.setattr("vpd.cli.doctor.diagnose", lambda: iter(findings))
    result = vpd_command("doctor")
    assert result.status == status
    assert result.out.splitlines()[0] == f"{verdicts[0]:<5} disk: is full: make room"
    assert result.out.splitlines()[-1].startswith(last)
