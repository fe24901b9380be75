"""Label Studio as a backend sees it: projects, the requests that it sends, and the server that has its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

httpx = pytest.importorskip("httpx", reason="not installed: httpx (extra `app`)")

LEGACY, PERSONAL = "0123456789abcdef0123456789abcdef01234567", "header.payload.signature"
BASE = "http://studio.test:8080"
BRUSH = """
<View>
  <Image name="photo" value="$image" zoom="true"/>
  <BrushLabels name="tag" toName="photo">
    <Label value="Road" background="#ff0000"/>
    <Label value="Tree" alias="tree" background="#00ff00"/>
  </BrushLabels>
</View>"""
POLYGON = BRUSH.replace("BrushLabels", "PolygonLabels")
EXPRESSION = """
<View>
  <Image name="photo" value="$image"/>
  <TextArea name="ask" toName="photo" value="$caption" editable="true" maxSubmissions="1"/>
  <BrushLabels name="tag" toName="photo"><Label value="cube"/><Label value="ball"/></BrushLabels>
</View>"""


def setup_request(config: str = BRUSH) -> dict[str, Any]:
    """What Label Studio posts when a backend is connected."""
    secrets = {"hostname": "http://elsewhere.test", "access_token": "of-somebody", "extra_params": None}
    return {"project": "3.1764428400", "schema": config, **secrets}


def predict_request(
    tasks: Sequence[dict[str, Any]], config: str = BRUSH, *, entered: str | None = None
) -> dict[str, Any]:
    """What Label Studio posts to have tasks predicted; `entered` is what a person typed into the text area."""
    region = {"id": "a1", "from_name": "ask", "to_name": "photo", "type": "textarea", "value": {"text": [entered]}}
    context = None if entered is None else {"annotation_id": None, "draft_id": 1, "result": [region]}
    params = {"login": "", "password": "", "hostname": "http://elsewhere.test", "context": context}
    return {"tasks": list(tasks), "project": "3.1764428400", "label_config": config, "params": params}


def task(address: Any, number: int = 7, **data: Any) -> dict[str, Any]:
    """A task as it is serialised."""
    return {"id": number, "data": {"image": address, **data}, "meta": {}, "annotations": [], "predictions": []}


class Studio:
    """The server; remembers who asked for what, and with which authorization.

    Args:
        answers: Path -> what is there: bytes, or the address that it sends to.
    """

    def __init__(self, answers: dict[str, bytes | str]) -> None:
        self.answers, self.asked, self.exchanged = answers, list[tuple[str, str]](), 0
        self.is_token_wanted: Callable[[str], bool] = lambda path: path.startswith(("/data/", "/tasks/"))

    @property
    def transport(self) -> httpx.MockTransport:
        """In the place of the network."""
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        shown = request.headers.get("authorization", "")
        self.asked.append((str(request.url), shown))
        if request.url.path == "/api/token/refresh/":
            self.exchanged += 1
            return httpx.Response(200, json={"access": f"access{self.exchanged}"})
        is_known = shown in (f"Token {LEGACY}", f"Bearer access{max(1, self.exchanged)}")
        if request.url.host == "studio.test" and self.is_token_wanted(request.url.path) and not is_known:
            return httpx.Response(401)
        found = self.answers.get(request.url.raw_path.decode(), self.answers.get(request.url.path))
        if found is None:
            return httpx.Response(404)
        if isinstance(found, str):
            return httpx.Response(302, headers={"location": found})
        return httpx.Response(200, stream=httpx.ByteStream(found))
