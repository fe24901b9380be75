"""What all tasks share: backbone, text adapter, and the one way that a picture takes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.cards.push import push, travelling
from vpd.config import LoraSettings, Resize, TaskConfig
from vpd.errors import UsageError
from vpd.files.images import pad_to_multiple
from vpd.inference.cache import FrozenCaches, image_key
from vpd.inference.graphs import Graphs
from vpd.inference.inputs import ImageSource, list_sources, source_name, whole_number
from vpd.inference.memory import Memory
from vpd.inference.outputs import Watch
from vpd.inference.overlapped import overlapped, threads_for
from vpd.inference.plan import MOST_SIZE_PX, Asked, Group, plan
from vpd.inference.precision import note_plain_device, warn_of_slow
from vpd.inference.run import run_windows
from vpd.inference.smoothing import Smoother
from vpd.model_folder import save_model
from vpd.prompts.adapter import PreparedText, ReadingAdapter, TextAdapter
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.losses import mean_loss
from vpd.tasks.streaming import stream
from vpd.tasks.task import P, Run, Seen, Task
from vpd.tensors import Batch, Text, check_text

_PREDICTING: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
"""How many threads predict with a model now, and which of its modules were in training mode before."""
_LOCK = Lock()


class PerceptionModel(Task[P], nn.Module):
    """Backbone, text adapter and head of one task; subclasses are the tasks.

    Args:
        config: What the model is; travels with the saved model.
        backbone: The diffusion model.
        head: Feature maps -> outputs of the task.
        adapter: Refines the text; none = word by word, as published.
        text_encoder: Where the task turns words into prompts while predicting or training.
    """

    config: Any
    prepared_text: PreparedText | None
    """The model's own prompts as constants, in a model made by `vpd.optimise`."""

    def __init__(
        self,
        config: TaskConfig,
        *,
        backbone: StableDiffusionBackbone,
        head: nn.Module,
        adapter: TextAdapter | ReadingAdapter | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.adapter = adapter or TextAdapter(backbone.text_dim)
        self.head = head
        if text_encoder is not None:
            text_encoder.check_fit(backbone.text_dim, config.backbone.source or "This model")
        self.text_encoder = text_encoder
        self.prepared_text = None
        self.is_optimised = False
        """Whether `vpd.optimise` made it: then it predicts, and does nothing else."""
        self.is_of_one_thread = False
        """Whether `torch.compile` records graphs for it, which are those of the thread that recorded them."""
        self.graphs: Graphs | None = None
        """Recordings of the whole network, in a model that `vpd.optimise` made on a GPU."""

    def __repr__(self) -> str:
        """One line; `print(model.backbone)` and `print(model.head)` show the layers."""
        fit, weights = self.config.fit, sum(parameter.numel() for parameter in self.parameters())
        facts = [  # in a model that was optimised, some weights are no parameters
            self.config.in_short(),
            "at their own size" if fit.mode == "native" else f"{fit.size_px} px",
            f"from {source}" if (source := Path(self.config.backbone.source).name) else "",
            "optimised" if self.is_optimised else f"{weights / 1e6:.1f} M parameters",
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}",
        ]
        return f"{type(self).__name__}({'; '.join(filter(None, facts))})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.adapter.gamma.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.adapter.gamma.dtype

    @property
    def network(self) -> Callable[..., Tensor]:
        """What runs a prediction: called as the model itself, and that too but where there are `graphs`."""
        return self if self.graphs is None else partial(self.graphs.run, self)

    @property
    def output_multiple_px(self) -> int:
        """Images are padded to a multiple of this, the stride of the coarsest map."""
        return self.backbone.strides[-1]

    @property
    def export_multiple_px(self) -> int:
        """What height and width of images must be multiples of in a graph that pads as `forward` does."""
        return self.output_multiple_px

    @overload
    def predict(self, images: ImageSource, **options: Any) -> P: ...

    @overload
    def predict(self, images: Iterable[ImageSource], **options: Any) -> list[P]: ...

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        size: int | None = None,
        batch_size: int = 1,
        memory: Memory | None = None,
        caches: FrozenCaches | None = None,
        smoother: Smoother | None = None,
        **words: Any,
    ) -> P | list[P]:
        """Predictions at each image's own size.

        Args:
            images: Of any size: a path; a PIL image; an array `(H, W, 3)` or tensor `(3, H, W)` of uint8, uint16 or
                floats in [0, 1]; the bytes of an image file, or one opened for reading them. Or several: a list, tuple
                or generator of these, a batch `(n, H, W, 3)` as array or `(n, 3, H, W)` as tensor.
            size: Short side to run at, pixels; none = what the model was trained at.
            batch_size: Images of equal fitted size that go through the network together.
            memory: What the call may take, bytes or a text such as `4GB`: pictures, activations and outputs, over
                what the process holds. A picture that is too big for one pass is run in windows, blended without
                seams (referring: smaller, as windows would change what "on the left" means), and its prediction's
                `note` says so; none = whatever it takes.
            caches: Where results of the frozen parts are kept from call to call, if anywhere.
            smoother: Averages over the frames of a clip, which then are the images, in their order, of one call after
                the other; `stream` has one where it is told to smooth.
            words: What the task asks, as its model's docstring has them.

        Returns:
            One prediction for one image, a list for several.

        Raises:
            UsageError: If an image cannot be read, the words do not fit, or memory does not suffice for the smallest
                windows.
            OutputError: If the network makes NaN or infinity of an image, a `UsageError` too: it names the image, and
                there are no predictions, not for the others of the list either.
        """
        sources, is_list = list_sources(images)
        if unknown := sorted(set(words) - set(self.words)):
            known = ", ".join(self.words) or "none"
            raise UsageError(f"A model for {self.task} takes no {', '.join(unknown)}; words that it takes: {known}.")
        if not isinstance(caches, (FrozenCaches, type(None))):
            raise UsageError(f"caches={caches!r}: give vpd.inference.cache.FrozenCaches, or None.")
        if sources:
            warn_of_slow(self.device, self.dtype)
            note_plain_device(self.device.type)
        asked = self.prompts(len(sources), **words)
        network = self.network if memory is None else self  # recordings hold memory from call to call
        with self.predicting(), closing(plan(self, asked, sources, self.fit_at(size), batch_size, memory)) as groups:
            names = [source_name(source, number, len(sources)) for number, source in enumerate(sources)]
            answers = partial(self._answers, asked, names, caches, network, smoother)
            is_free = memory is None and smoother is None  # frames are averaged in their order
            threads = threads_for(self).network if is_free and len(sources) > batch_size else 0
            made = overlapped(answers, groups, threads=threads, device=self.device) if threads else map(answers, groups)
            predictions = list(chain.from_iterable(made))
        return predictions if is_list else predictions[0]

    def stream(
        self,
        source: Any,
        *,
        smooth: int | None = None,
        fps: float | None = None,
        frames: int | None = None,
        size: int | None = None,
        batch_size: int = 1,
        memory: Memory | None = None,
        **words: Any,
    ) -> Iterator[P]:
        """Predictions for the frames of a clip or stream as they come, each with `frame` and `time_s`.

        Frames are read ahead by threads, and only a few are in memory at a time. A frame that cannot be read is
        named in a warning of the logger `vpd` and left out. Of a camera or live stream the one that came last is
        predicted, and those that come while the network is busy are left out.

        Args:
            source: A video file; a GIF or WebP animation; `frames/%06d.png`; a folder or pattern of pictures; the
                address of a stream, such as `rtsp://...`; `webcam`, `webcam:1`; a list or generator of pictures as
                `predict` takes them. Videos, addresses and cameras need `pip install "vpd-perception[video]"`.
            smooth: Average over about so many frames, along what moves; none = each frame alone.
            fps: Frames a second of pictures, which do not tell; none = 25.
            frames: How many to take; none = all, at most a million.
            size: As for `predict`.
            batch_size: Frames that go through the network together.
            memory: As for `predict`.
            words: As for `predict`.

        Raises:
            UsageError: If the source cannot be opened, or as `predict` does.
        """
        asked = {"size": size, "batch_size": batch_size, "memory": memory, **words}
        return stream(self, source, smooth=smooth, fps=fps, frames=frames, **asked)

    def _answers(
        self,
        asked: Asked,
        names: Sequence[str],
        caches: FrozenCaches | None,
        network: Callable[..., Tensor],
        smoother: Smoother | None,
        group: Group,
    ) -> list[P]:
        """Predictions for pictures that go through the network together; `names` has those of the whole call."""
        numbers = [picture.number for picture in group.pictures]
        text = asked.text(numbers, caches)
        watch = Watch([(number, names[number]) for number in numbers], self.dtype, self.device)
        runs, predictions = list[Run](), list[P]()
        total: Tensor | None = None
        if smoother is not None:
            smoother.begin(in_strips=bool(group.rows))
        for variant, (pixels, height, is_mirrored) in enumerate(group.variants()):
            rows = group.rows or None
            made = run_windows(self, pixels, text, group.cuts, rows=rows, caches=caches, network=network)
            strips = map(watch.see, made)
            if group.rows:  # one picture, of which nothing is kept as a whole
                runs.append(Run((strip[0] for strip in strips), height, is_mirrored))
                continue
            outputs = torch.cat(list(strips), dim=-2)
            if smoother is not None and isinstance(pixels, Tensor):
                outputs = smoother.smoothed(variant, outputs, pixels, use_logs=self.output_is_positive)
            runs.append(Run(outputs, height, is_mirrored))
            if len(group.fit.scales) > 1:  # kept one at a time: together they would take more than their sum
                seen = Seen(numbers[0], group.pictures[0].image, [runs.pop().of(0)], group.rows, group.note)
                total = _add(total, self.combine(asked, seen), *seen.size)
                del seen, strips
        for place, picture in enumerate(group.pictures):
            seen = Seen(picture.number, picture.image, [run.of(place) for run in runs], group.rows, group.note)
            combined = self.combine(asked, seen) if total is None else iter([total.div_(group.num_variants)])
            predictions.append(self.answer(asked, seen, watch.until_known(combined)))
            del seen, combined
        if smoother is not None:
            smoother.keep()
        return predictions

    def add_lora(self, settings: LoraSettings) -> None:
        """Put low-rank layers on the UNet's attention and freeze its other weights; outputs stay what they were.

        Raises:
            UsageError: If PEFT is not installed, or the model was optimised.
        """
        self.check_plain()
        self.backbone.add_lora(settings)
        self._tell_lora()

    def merge_lora(self) -> None:
        """Turn low-rank layers into plain weights, with outputs equal but for rounding; no layers, no change."""
        if self.backbone.config.lora is not None:
            self.backbone.merge_lora()
            self._tell_lora()

    def _tell_lora(self) -> None:
        backbone = self.config.backbone.model_copy(update={"lora": self.backbone.config.lora})
        self.config = self.config.model_copy(update={"backbone": backbone})

    def loss(self, batch: Batch) -> Tensor:
        """Training loss of a batch, a scalar."""
        return mean_loss(*self.loss_sum(batch))

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Eval mode without gradients; the mode is put back at the end, of several threads by the last."""
        with _LOCK:
            inside, training = _PREDICTING.get(self, (0, []))
            if not inside:
                training = [module for module in self.modules() if module.training]
                self.eval()
            _PREDICTING[self] = inside + 1, training
        try:
            with torch.no_grad():
                yield
        finally:
            with _LOCK:
                inside, training = _PREDICTING.pop(self)
                if inside > 1:
                    _PREDICTING[self] = inside - 1, training
                for module in training if inside == 1 else ():
                    module.training = True

    def save(self, folder: str | Path, *, base: str | None = None, half: bool = False) -> None:
        """Write the model into a folder that `vpd.load` reads back bit-equal.

        Args:
            folder: Made if missing.
            base: `world`, or the hub id of the diffusion model that this one was adapted from. What they share is
                left out, and loading takes it from there: a model of mode `lora`, `frozen` or `head` then takes
                megabytes. Merged LoRA comes back equal to a millionth of the weights, all else bit-equal.
            half: Store in float16, rounded.

        Raises:
            UsageError: If the folder cannot be written, the base cannot be loaded, or the model was optimised.
        """
        self.check_plain()
        save_model(self.config, self.state_dict(), folder, text_encoder=self.text_encoder, base=base, half=half)

    def push_to_hub(
        self,
        hub_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        message: str | None = None,
        token: str | None = None,
        licence: str | None = None,
        evaluation: Mapping[str, Any] | str | Path | None = None,
        base: str | None = None,
        half: bool = False,
    ) -> str:
        """Upload the model to the Hugging Face hub, with a card made from its training record.

        Args:
            hub_id: `owner/name`; made if missing.
            private: Whether only its owner sees it, where it is made.
            revision: Branch to upload to, made if missing; none = the main one.
            message: Of the commit.
            token: That may write; none = that of `hf auth login` or HF_TOKEN.
            licence: Of the weights, such as `apache-2.0`, where the model does not say.
            evaluation: What `evaluate` returned, or a file of `vpd eval --out`, for the card; none = what was measured
                in training.
            base: As for `save`.
            half: As for `save`.

        Returns:
            Address of the commit.

        Raises:
            UsageError: As `save`; or if the hub does not take it.
        """
        self.check_plain()
        config = travelling(self.config, licence)

        def save(folder: Path) -> None:
            save_model(config, self.state_dict(), folder, text_encoder=self.text_encoder, base=base, half=half)

        told: dict[str, Any] = {"private": private, "revision": revision, "message": message, "token": token}
        return push(config, hub_id, save, evaluation=evaluation, **told)

    def check_plain(self) -> None:
        """Refuse to save or change a model whose weights are no longer those it was made from.

        Raises:
            UsageError: If it was made by `vpd.optimise`.
        """
        if self.is_optimised:
            raise UsageError(
                "A model made by vpd.optimise only predicts. Save, train or change the model that it was made from."
            )

    def padded(self, images: Tensor, caches: FrozenCaches | None = None) -> tuple[Tensor, Tensor | None]:
        """Images with zeros (mid-grey) at right and bottom, to `output_multiple_px`; and their latents, if kept."""
        padded, _ = pad_to_multiple(images, self.output_multiple_px)
        if caches is None or caches.latents is None:
            return padded, None
        latents = caches.latents.rows(
            [image_key(image) for image in padded],
            lambda index: self.backbone.encode(padded[index : index + 1])[0],
            device=padded.device,
        )
        return padded, latents

    def read_prompts(self, text_embeds: Tensor | None) -> tuple[Tensor, Text]:
        """Prompts after the adapter, `(b, k, d)` or `(1, k, d)`, and what the UNet is given of them.

        Args:
            text_embeds: `(b, k, d)`, or `(k, d)` for all images; none = `constant_prompts`.
        """
        if text_embeds is None and self.prepared_text is not None:
            return self.prepared_text.embeds, self.prepared_text.layers
        text_embeds = self.constant_prompts() if text_embeds is None else text_embeds
        if text_embeds is None:
            raise ValueError(f"{type(self).__name__} has no prompts of its own: give text_embeds.")
        text_embeds = text_embeds[None] if text_embeds.ndim == 2 else text_embeds
        check_text(text_embeds, self.backbone.text_dim)
        adapted = self.adapter(text_embeds)
        return adapted, adapted

    def fit_at(self, size: int | None) -> Resize:
        """How images are fitted, with another short side where the caller wants one.

        Raises:
            UsageError: If it is no number of pixels, or too large.
        """
        fit: Resize = self.config.fit
        if size is None:
            return fit
        size = whole_number(size, "size", most=MOST_SIZE_PX, meaning=" of pixels, the short side to run at")
        scale = size / fit.size_px
        changes: dict[str, Any] = {"size_px": size, "max_long_px": max(1, round(fit.max_long_px * scale))}
        if fit.mode == "native":
            changes["mode"] = "resize_short"
        return Resize.model_validate({**fit.model_dump(), **changes})


def _add(total: Tensor | None, strips: Iterable[Tensor], height: int, width: int) -> Tensor:
    """The sum of what came before, none or `(c, height, width)`, and of strips from top to bottom."""
    done = 0
    for strip in strips:
        total = strip.new_zeros((len(strip), height, width)) if total is None else total
        total[:, done : done + strip.shape[1]] += strip
        done += strip.shape[1]
    if total is None:
        raise ValueError("There are no strips to add.")
    return total
