"""The page of a running `vpd app`, asked as its own scripts in a browser ask it."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx


class PageScripts:
    """What they know of it, and do.

    Args:
        http: Of the service.
    """

    def __init__(self, http: httpx.Client) -> None:
        self._http, self._number = http, 0
        self._config = http.get("/config").json()
        self._components = {each["id"]: each for each in self._config["components"]}

    def upload(self, *contents: bytes) -> list[dict[str, Any]]:
        """Files as the page names them, once they are uploaded."""
        parts = [("files", (f"{number}.png", content)) for number, content in enumerate(contents)]
        stored = self._http.post("/gradio_api/upload", files=parts).raise_for_status().json()
        return [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in stored]

    def fields(self, elem_id: str, event: str = "click") -> dict[str, Any]:
        """What the fields that go with an event show at first, by their labels."""
        fields = [self._components[each]["props"] for each in self._event(elem_id, event)["inputs"]]
        return {field["label"]: field.get("value") for field in fields}

    def press(self, elem_id: str, **changes: Any) -> str:
        """What the page shows at last, once a button is pressed; changes are of fields, by their labels."""
        event, session = self._event(elem_id, "click"), f"session{self._number}"
        self._number += 1
        data = {**self.fields(elem_id), **changes}
        asked = {"data": list(data.values()), "fn_index": event["id"], "session_hash": session}
        self._http.post("/gradio_api/queue/join", json=asked).raise_for_status()
        with self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if told.get("msg") == "process_completed":
                    return str(told["output"]["data"][0])
        raise AssertionError("The page said nothing.")

    def choose(self, elem_id: str, value: str) -> list[dict[str, Any]]:
        """What changes in the fields once a model is chosen."""
        asked = {"data": [value], "fn_index": self._event(elem_id, "change")["id"], "session_hash": "choice"}
        updates: list[dict[str, Any]] = (
            self._http.post("/gradio_api/run/predict", json=asked).raise_for_status().json()["data"]
        )
        return updates

    def _event(self, elem_id: str, event: str) -> dict[str, Any]:
        (of,) = [each["id"] for each in self._components.values() if each["props"].get("elem_id") == elem_id]
        events: list[dict[str, Any]] = self._config["dependencies"]
        return next(each for each in events if [of, event] in [list(target) for target in each["targets"]])


def source_of(shown: str) -> str:
    """Where the parts of an answer lie that the page shows."""
    found = re.search(r'"(page/results/[^"]+)"', shown)
    assert found, shown
    return f"/{found[1]}"
