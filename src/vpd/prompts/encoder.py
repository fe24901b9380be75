"""The frozen CLIP text encoder of a diffusion model."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from vpd.errors import UsageError
from vpd.prompts.tokenizer import clip_tokenizer, load_tokenizer, token_lengths
from vpd.weights.clip_text import build_text_model, pad_token
from vpd.weights.families import check_text_width, refuse_foreign_folder
from vpd.weights.single_file import read_single_file
from vpd.weights.sources import find_source, load_part, without_bars

logger = logging.getLogger(__name__)
_AT_ONCE = 256  # texts
_TURN = Lock()
"""Tokenizers keep padding and truncation as state, which threads must not change at the same time."""


class TextEncoder(nn.Module):
    """Words -> embeddings, by CLIP's text model and its tokenizer; frozen, always in eval mode."""

    def __init__(self, model: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.cut_texts = 0
        """How many texts lost their end so far, for messages; one that comes again counts again."""

    @classmethod
    def from_pretrained(cls, source: str | Path, *, dtype: torch.dtype = torch.float32) -> TextEncoder:
        """The text encoder and tokenizer of a diffusion model: a folder, hub id or single file.

        Raises:
            UsageError: If the source has no text encoder, a damaged one, or a tokenizer that is not CLIP's.
        """
        path = find_source(source, with_text=True)
        if path.is_file():
            single = read_single_file(path)
            return cls(build_text_model(single).to(dtype), clip_tokenizer(pad_token=pad_token(single)))
        refuse_foreign_folder(path)
        folder = path / "text_encoder"
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"{path} has no text encoder (text_encoder/config.json), which is needed to turn words into "
                "prompts. Take the complete diffusion model."
            )
        model = load_part(CLIPTextModel, folder, unused=r".*position_ids$", dtype=dtype)
        return cls(model, load_tokenizer(path / "tokenizer"))

    def save(self, folder: Path) -> None:
        """Write `text_encoder/` and `tokenizer/` into a folder, as `from_pretrained` reads them."""
        with without_bars():
            self.model.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self.model.config.hidden_size)

    def check_fit(self, text_dim: int, origin: str | Path) -> None:
        """Raise unless the embeddings, of an encoder from `origin`, are as wide as a UNet's text.

        Raises:
            UsageError: With both widths.
        """
        check_text_width(self.dim, text_dim, origin)

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in eval mode: the encoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def pooled(self, texts: list[str]) -> Tensor:
        """One embedding a text, `(n, dim)`: CLIP's output at the end-of-text token, not normalised."""
        chunks = [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
        return torch.cat([self.model(self._tokenize(chunk, None)).pooler_output for chunk in chunks])

    @torch.no_grad()
    def tokens(self, texts: list[str], *, length: int) -> Tensor:
        """One embedding a token, `(n, length, dim)`: CLIP's last hidden state.

        Longer texts are cut, the end-of-text token kept; shorter ones are padded, and the padding is not
        masked, as in the reference.
        """
        return self.model(self._tokenize(texts, length)).last_hidden_state

    def _tokenize(self, texts: list[str], length: int | None) -> Tensor:
        limit = length or self.model.config.max_position_embeddings
        padding = "max_length" if length else "longest"
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UsageError(f"The text {text!r} is no valid Unicode: it has half of a character.") from error
        with _TURN:
            encoded = self.tokenizer(texts, padding=padding, max_length=limit, truncation=True, return_tensors="pt")
            used = encoded.attention_mask.numpy().sum(axis=1)
            full = [text for text, length in zip(texts, used, strict=True) if length == limit]
            for text, tokens in zip(full, token_lengths(self.tokenizer, full), strict=True):
                if tokens > limit:
                    self._tell_cut(text, tokens, limit)
        return encoded.input_ids.to(self.model.device, non_blocking=True)

    def _tell_cut(self, text: str, tokens: int, limit: int) -> None:
        """Count a text that is cut, and say so at the first, the 10th, the 100th, ... of them."""
        self.cut_texts += 1
        if self.cut_texts == 1:
            logger.warning("The text %r has %d tokens; the model reads %d: its end is cut.", text, tokens, limit)
        elif str(self.cut_texts).strip("0") == "1":
            logger.warning("%d texts were cut to %d tokens so far.", self.cut_texts, limit)
