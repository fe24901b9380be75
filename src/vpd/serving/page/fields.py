"""The words that people may give on the page, and the fields for them, which show what is of the chosen model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from vpd.serving.routes import REQUESTS
from vpd.serving.served import Served
from vpd.tasks.presence import read_thresholds


def word_fields(task: str, served: Served) -> tuple[list[str], list[Any]]:
    """Names of the words that people may give about one picture, and the fields for them."""
    own = _of_model(task, served)
    if task == "segment":
        info = "Names with ; or commas between them; empty = all that the model knows."
        return ["classes"], [gr.Textbox(label="Classes", info=info, **own["classes"])]
    if task == "refer":
        text = gr.Textbox(label="Expression", info="What to look for.", placeholder="the red cube on the left")
        attention = gr.Checkbox(True, label="Show attention to each word")
        with gr.Accordion("Thresholds", open=False):
            options: dict[str, Any] = {"step": 0.01, "buttons": []}  # its reset would be to the first model's
            threshold = gr.Slider(0.01, 0.99, label="Probability of a pixel", **options, **own["threshold"])
            presence = gr.Slider(0, 1, 0, step=0.05, label="Least presence score; below it nothing fits")
        return ["text", "attention", "threshold", "min_presence"], [text, attention, threshold, presence]
    return ["scene"], [gr.Dropdown(label="Scene", **own["scene"])]


def changed_fields(task: str, names: Sequence[str], served: Served) -> Any:
    """What to show in the fields of these words once another model is chosen."""
    own = _of_model(task, served)
    updates = [gr.update(**own.get(name, {})) for name in names]
    return updates if len(updates) > 1 else updates[0]


def _of_model(task: str, served: Served) -> dict[str, dict[str, Any]]:
    """By word what its field shows that another model has otherwise."""
    config = served.model.config
    if task == "segment":
        return {"classes": {"placeholder": ", ".join(config.classes[:12])}}
    if task == "refer":
        return {"threshold": {"value": read_thresholds(None, None, of_model=config.threshold)[0]}}
    return {"scene": {"choices": [("mean of all scenes", ""), *((s, s) for s in config.scenes)], "value": ""}}


def batch_fields(task: str) -> tuple[list[str], list[Any]]:
    """Names of the words about many pictures, and the fields for them: those that a task has are shown."""
    shown = _shown(task)
    word = gr.Textbox(
        label="Expression or classes",
        info="For referring what to look for; for segmentation class names, if not the model's.",
        visible=shown["word"],
    )
    # fields for numbers could not be left empty
    info = "Of the colours in all pictures; none = each picture has its own."
    near = gr.Textbox(label="Near limit, m", info=info, visible=shown["near_m"])
    far = gr.Textbox(label="Far limit, m", info=info, visible=shown["far_m"])
    return [*shown], [word, near, far]


def changed_batch_fields(task: str) -> list[Any]:
    """Which fields of `batch_fields` to show once a model of a task is chosen."""
    return [gr.update(visible=is_shown) for is_shown in _shown(task).values()]


def _shown(task: str) -> dict[str, bool]:
    asked = REQUESTS[task][0].model_fields
    return {"word": "text" in asked or "classes" in asked, "near_m": "near_m" in asked, "far_m": "far_m" in asked}
