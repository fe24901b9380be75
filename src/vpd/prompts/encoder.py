"""The frozen CLIP text encoder of a diffusion model."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from vpd.errors import UsageError
from vpd.prompts.tokenizer import clip_tokenizer, load_tokenizer, token_lengths
from vpd.weights.clip_text import build_text_model, pad_token
from vpd.weights.single_file import read_single_file
from vpd.weights.sources import find_source, load_part

logger = logging.getLogger(__name__)


class CutTexts:
    """Counts texts that lose their end, and says so at the first, the 10th, the 100th, ... of them."""

    def __init__(self) -> None:
        self.count = 0
        """Texts so far; one that comes again counts again."""

    def add(self, text: str, tokens: int, length: int) -> None:
        """Count a text of `tokens` tokens of which the model reads `length`."""
        self.count += 1
        if self.count == 1:
            logger.warning("The text %r has %d tokens; the model reads %d: its end is cut.", text, tokens, length)
        elif str(self.count).strip("0") == "1":
            logger.warning("%d texts were cut to %d tokens so far.", self.count, length)


class TextEncoder(nn.Module):
    """Words -> embeddings; frozen, always in eval mode.

    Args:
        model: CLIP's text model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.cut_texts = CutTexts()
        """How many texts lost their end; a tally for messages."""

    @classmethod
    def from_pretrained(cls, source: str | Path, *, dtype: torch.dtype = torch.float32) -> TextEncoder:
        """The text encoder and tokenizer of a diffusion model.

        Args:
            source: Folder, hub id or single file.
            dtype: Type of the weights.

        Raises:
            UsageError: If the source has no text encoder, a damaged one, or a tokenizer that is not CLIP's.
        """
        path = find_source(source, with_text=True)
        if path.is_file():
            single = read_single_file(path)
            return cls(build_text_model(single).to(dtype), clip_tokenizer(pad_token=pad_token(single)))
        folder = path / "text_encoder"
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"{path} has no text encoder (text_encoder/config.json), which is needed to turn words into "
                "prompts. Take the complete diffusion model."
            )
        model = load_part(CLIPTextModel, folder, unused=r".*position_ids$", dtype=dtype)
        return cls(model, load_tokenizer(path / "tokenizer"))

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self.model.config.hidden_size)

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in eval mode: the encoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def pooled(self, texts: list[str], *, batch_size: int = 256) -> Tensor:
        """One embedding a text, `(n, dim)`: CLIP's output at the end-of-text token, not normalised."""
        chunks = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
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
        encoded = self.tokenizer(
            texts,
            padding="max_length" if length else "longest",
            max_length=limit,
            truncation=True,
            return_tensors="pt",
        )
        full = [text for text, used in zip(texts, encoded.attention_mask.sum(dim=1), strict=True) if used == limit]
        for text, tokens in zip(full, token_lengths(self.tokenizer, full), strict=True):
            if tokens > limit:
                self.cut_texts.add(text, tokens, limit)
        return encoded.input_ids.to(self.model.device)
