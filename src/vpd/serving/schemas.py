"""What the service is asked and answers, as types; the OpenAPI page is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from vpd.config import Frozen, listed_names

MOST_CLASSES, MOST_LETTERS, MOST_SIDE_PX = 300, 500, 8192
_Words = Annotated[str, Field(min_length=1, max_length=MOST_LETTERS)]


class Request(Frozen):
    """What every task may be asked."""

    model: Annotated[str | None, Field(max_length=MOST_LETTERS)] = None
    """Name of the model, as `/v1/models` has it; none = the first one of the task."""
    size: Annotated[int | None, Field(ge=8, le=MOST_SIDE_PX)] = None
    """Short side to run at, pixels, up to `--max-size`; none = the model's own."""

    def words(self) -> dict[str, Any]:
        """Words for the model's `predict`; those that are not given are left out."""
        given = self.model_dump(exclude={"model", "size", "format", "fov_deg"})
        return {name: value for name, value in given.items() if value is not None}


class SegmentRequest(Request):
    """Which class each pixel has."""

    format: Literal["json", "png", "npy", "overlay"] = "json"
    """`json`: classes with their masks as COCO RLE; `png`: labels, as `vpd predict` writes them; `npy`: the same as an
    array; `overlay`: a picture to look at."""
    classes: Annotated[list[_Words] | None, Field(max_length=MOST_CLASSES)] = None
    """Other class names, with `;` or commas between them; needs a model with text encoder and the open head, or they
    must be among its own. `--max-new-classes` says how many may be others than its own."""

    @field_validator("classes", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        if isinstance(given, str):
            return listed_names(given) if given.strip() else None
        return given


class ReferRequest(Request):
    """Which pixels an expression means."""

    format: Literal["json", "png", "npy", "overlay"] = "json"
    """`json`: box, share and the mask as COCO RLE; `png`: mask of 0 and 255; `npy`: probabilities, float32;
    `overlay`: a picture to look at."""
    text: _Words
    """What to look for, such as `the zebra on the left`."""
    threshold: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Probability above which a pixel belongs to the object; none = what the model was calibrated to, else 0.5."""
    min_presence: Annotated[float | None, Field(ge=0, le=1)] = None
    """Below this presence score the text fits nothing: an empty mask."""

    @field_validator("text")
    @classmethod
    def _not_blank(cls, given: str) -> str:
        if not given.strip():
            raise ValueError("an expression must say something, such as 'the zebra on the left'")
        return given


class DepthRequest(Request):
    """How far each pixel is."""

    format: Literal["json", "png", "npy", "overlay", "ply"] = "json"
    """`json`: the range; `png`: 16 bits, `metres_per_step` in its text; `npy`: metres, float32; `overlay`: a picture
    to look at; `ply`: coloured points, which needs `fov_deg`."""
    scene: Annotated[str | None, Field(max_length=MOST_LETTERS)] = None
    """Kind of room, one of the model's; none = the mean of all."""
    near_m: float | None = None
    """Depth of the first colour of `overlay`, metres, and nearest point of `ply`; alone it goes with the model's range.
    Without `far_m` too, each picture has its own colours, and all points are there."""
    far_m: float | None = None
    """Depth of the last colour of `overlay`, metres, and farthest point of `ply`; alone it goes with 0."""
    fov_deg: Annotated[float | None, Field(ge=1, le=170)] = None
    """Field of view of the camera from the left to the right border, degrees."""


class Rle(BaseModel):
    """A mask in COCO's compressed run-length code; `pycocotools.mask.decode` reads it."""

    size: tuple[int, int]
    """Height and width."""
    counts: str
    """Runs, by columns."""


class FoundClass(BaseModel):
    """A class in the picture."""

    label: int
    """Its number in the label files."""
    name: str
    """Its name."""
    share: float
    """Of the pixels."""
    rle: Rle
    """Where it is."""


class Answer(BaseModel, use_attribute_docstrings=True):
    """What every task answers."""

    model: str
    """Who said it."""
    height: int
    """Of the picture, upright, and of every mask."""
    width: int
    """Likewise."""
    notes: list[str] = []
    """What is to be said of how the picture was read and run."""


class SegmentAnswer(Answer):
    """Classes in the picture, largest first."""

    classes: list[FoundClass]


class ReferAnswer(Answer, use_attribute_docstrings=True):
    """The object that an expression means."""

    text: str
    """The expression."""
    share: float
    """Of the pixels; 0 = nothing was found."""
    box: tuple[int, int, int, int] | None
    """Left, top, right, bottom, pixels; none = nothing was found."""
    presence: float | None = None
    """Score in [0, 1] that the expression fits anything."""
    presence_is_calibrated: bool = False
    """Whether that is a probability."""
    rle: Rle
    """The mask."""


class DepthAnswer(Answer, use_attribute_docstrings=True):
    """The range of the depth; the map itself comes as `png` or `npy`."""

    nearest_m: float
    """Metres."""
    farthest_m: float
    """Metres."""
    max_depth_m: float
    """Largest value that the model can say, metres."""
    metres_per_step: float
    """Of the 16-bit PNG."""
    scene: str | None
    """What the model was told of the scene."""


class ModelInfo(BaseModel, use_attribute_docstrings=True):
    """A model that is served."""

    name: str
    """For the field `model`."""
    task: str
    """Of it: `/v1/` and this word is where it is asked."""
    knows: dict[str, Any]
    """What it knows by name: classes or scenes."""
    size_px: int
    """Short side that it runs at."""
    is_miniature: bool
    """Whether it is one of the package's own, which know rendered scenes and nothing of photographs."""
    licence: str
    """Of its weights."""


class Health(BaseModel, use_attribute_docstrings=True):
    """Whether the service takes requests."""

    status: Literal["ok", "stopping"]
    """`stopping`: it finishes what it took, and takes no more."""
    waiting: int
    """Pictures that wait."""


class Problem(BaseModel, use_attribute_docstrings=True):
    """Why there is no answer."""

    detail: str
    """What was got, what is needed, what to do."""
