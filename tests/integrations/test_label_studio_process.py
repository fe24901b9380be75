"""The backend for Label Studio as a process of its own, against a server that speaks HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from block_check import commands_of
from label_studio_side import LEGACY, predict_request, setup_request, task
from page_blocks import Block, read_page

from serving_models import needs, picture_bytes, tiny_models

needs("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "httpx", "uvicorn")

import httpx  # noqa: E402

from integrations.label_studio import __main__ as backend  # noqa: E402
from integrations.label_studio.__main__ import main, parser  # noqa: E402

pytestmark = pytest.mark.extras
ROOT = Path(__file__).parents[2]


class Handler(BaseHTTPRequestHandler):
    """Label Studio's server: one picture, for those who show the token."""

    def do_GET(self) -> None:
        is_known = self.headers.get("authorization") == f"Token {LEGACY}"
        content = picture_bytes() if self.path == "/data/upload/3/a.png" and is_known else b""
        self.send_response(200 if content else 401)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def studio() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def command(*options: str | Path) -> list[str]:
    return [sys.executable, "-m", "integrations.label_studio", "--port", "0", *map(str, options)]


def test_from_the_command_line_to_a_prediction(studio: str, tiny_diffusion: Path, tmp_path: Path) -> None:
    tiny_models(tiny_diffusion)["segment"].save(tmp_path / "mugs")
    (tmp_path / "token").write_text(f"{LEGACY}\n")
    given = command("--model", tmp_path / "mugs", "--label-studio", studio, "--token-file", tmp_path / "token")
    process = subprocess.Popen(given, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "HTTP:" in line)
        where = line.split("Label Studio: ")[1].split()[0]
        assert line.startswith("mugs-")
        with httpx.Client(base_url=where, timeout=120, trust_env=False) as client:
            assert client.get("/health").json()["status"] == "UP"
            assert client.post("/setup", json=setup_request()).json()["model_version"].startswith("mugs-")
            answer = client.post("/predict", json=predict_request([task("/data/upload/3/a.png")]))
            assert answer.status_code == 200 and answer.json()["results"][0]["result"]
            assert client.get("/v1/models").json()[0]["name"] == "mugs", "the service's own paths are there too"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 128 + signal.SIGTERM, "as of vpd"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Say where Label Studio is"),
        (["--label-studio", "localhost"], "An address is written as"),
        (["--label-studio", "http://localhost:8080", "--token-file", "no/such/file"], "The token in no/such/file"),
        (["--label-studio", "http://localhost:8080", "--host", "0.0.0.0"], "must show a token"),
        (["--label-studio", "http://localhost:8080", "--max-px", "0"], "max_px"),
        (["--label-studio", "http://localhost:8080", "--model", "no/such/model"], "no/such/model"),
        (["--label-studio", "http://localhost:8080", "--model", "world-depth"], "A model for depth"),
    ],
)
def test_mistakes_are_told_in_a_line(options: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert message in told(options, monkeypatch)


def test_a_token_that_http_would_refuse_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    message = told(["--label-studio", "http://localhost:8080"], monkeypatch, LABEL_STUDIO_API_KEY=f"{LEGACY}\nx")
    assert "LABEL_STUDIO_API_KEY holds no token" in message and LEGACY not in message


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert "pip install httpx" in told(["--label-studio", "http://localhost:8080"], monkeypatch)


def told(options: list[str], monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """The line with which it ends."""
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "VPD_TOKEN", "VPD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["label_studio", "--model", "world-segment", "--port", "0", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    line = str(ended.value.code).strip()
    assert "\n" not in line
    return line


def test_the_page_starts_it_with_words_that_it_knows() -> None:
    page = (ROOT / "docs" / "labelling.md").read_text(encoding="utf-8")
    started = [
        words
        for block in read_page(page)
        if isinstance(block, Block) and block.language == "bash"
        for _, words in commands_of(block.code)
        if "integrations.label_studio" in words
    ]
    (words,) = started
    asked = parser().parse_args(words[words.index("integrations.label_studio") + 1 :])
    assert asked.model == "run" and asked.label_studio == "http://localhost:8080"
    options = {option for action in parser()._actions for option in action.option_strings}
    named = set(re.findall(r"--[a-z][a-z-]+", page.partition("## CVAT")[0].partition("## Label Studio")[2]))
    assert named <= options | {"--data", "--out"}, named - options
