"""The frozen CLIP text encoder of a diffusion model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from vpd.backbones.sources import find_source, load_part
from vpd.errors import UsageError
from vpd.prompts.tokenizer import clip_tokenizer, load_tokenizer
from vpd.reference.single_file import read_single_file
from vpd.reference.text_weights import build_text_model, pad_token


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

    @classmethod
    def from_pretrained(cls, source: str | Path) -> TextEncoder:
        """The text encoder and tokenizer of a diffusion model (folder, hub id, single file), in float32.

        Raises:
            UsageError: If the source has no text encoder, a damaged one, or a tokenizer that is not CLIP's.
        """
        path = find_source(source, with_text=True)
        if path.is_file():
            single = read_single_file(path)
            return cls(build_text_model(single), clip_tokenizer(pad_token=pad_token(single)))
        folder = path / "text_encoder"
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"{path} has no text encoder (text_encoder/config.json), which is needed to turn words into "
                "prompts. Take the complete diffusion model."
            )
        model = load_part(CLIPTextModel, folder, unused=r".*position_ids$", dtype=torch.float32)
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
        encoded = self.tokenizer(
            texts,
            padding="max_length" if length else "longest",
            max_length=length or self.model.config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        )
        return encoded.input_ids.to(self.model.device)
