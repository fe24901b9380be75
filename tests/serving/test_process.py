"""The service as a process: hostile clients, many at once, memory, and a stop that loses nothing."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving_models import malformed, needs, picture_bytes, tiny_models
from serving_process import App, running_app

needs("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "httpx")

import httpx  # noqa: E402

pytestmark = pytest.mark.extras
CLIENTS, EACH = 50, 4
MOST_GROWTH_BYTES = 50_000_000


@pytest.fixture(scope="module")
def folders(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("models")
    for task, model in tiny_models(tiny_diffusion).items():
        model.save(root / task)
    return [part for task in ("segment", "refer", "depth") for part in ("--model", str(root / task))]


@pytest.fixture
def app(folders: list[str], tmp_path: Path) -> Iterator[App]:
    with running_app("--no-page", "--max-upload-mb", "1", "--timeout", "900", *folders, temporary=tmp_path) as running:
        yield running


def good_ones(app: App, clients: int, each: int) -> list[int]:
    """Statuses of good requests by so many clients at once, who come back when they are told to."""

    def client(number: int) -> list[int]:
        statuses = []
        with httpx.Client(base_url=app.url, timeout=900) as http:
            for turn in range(each):
                task = ("segment", "refer", "depth")[(number + turn) % 3]
                files = {"image": ("x.png", picture_bytes(64 + 16 * (number % 3), 64, seed=number))}
                answer = http.post(
                    f"/v1/{task}", files=files, data={"text": f"cube {number}"} if task == "refer" else {}
                )
                while answer.status_code == 429:
                    time.sleep(min(1.0, float(answer.headers["retry-after"])))
                    answer = http.post(f"/v1/{task}", files=files, data={"text": "cube"} if task == "refer" else {})
                statuses.append(answer.status_code)
        return statuses

    with ThreadPoolExecutor(clients) as pool:
        return [status for statuses in pool.map(client, range(clients)) for status in statuses]


def vanish(app: App, number: int) -> None:
    """Begin to send a picture, and hang up."""
    content = picture_bytes(200, 200, seed=number)
    with socket.create_connection(("127.0.0.1", app.port)) as connection:
        head = "POST /v1/depth HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[: len(content) * (number % 4) // 3])


def test_hostile_clients_cost_no_memory_and_no_good_answer(app: App, tmp_path: Path) -> None:
    assert set(good_ones(app, CLIENTS, EACH)) == {200}
    before = app.memory_bytes()
    with httpx.Client(base_url=app.url, timeout=900) as http:
        for number, (name, content) in enumerate(malformed(500)):
            answer = http.post("/v1/segment", files={"image": (name, content)})
            assert answer.status_code in (200, 413, 422)
            if number % 5 == 0:
                vanish(app, number)
    assert set(good_ones(app, CLIENTS, EACH)) == {200}
    grown = app.memory_bytes() - before
    assert grown < MOST_GROWTH_BYTES, f"{grown / 1e6:.0f} MB"
    deadline = time.monotonic() + 60
    while "vpd_open_requests 0.0" not in httpx.get(f"{app.url}/metrics").text:  # those who hung up hold no place
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert app.stop() == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in "".join(app.said)


def test_a_stop_answers_what_was_accepted(app: App) -> None:
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(good_ones, app, 1, 1) for _ in range(12)]
        while "vpd_open_requests 12.0" not in httpx.get(f"{app.url}/metrics").text:
            if all(call.done() for call in calls):  # quicker than we could look
                break
        status = app.stop()
        assert [call.result() for call in calls] == [[200]] * 12
    assert status == 128 + signal.SIGTERM
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{app.url}/healthz")
