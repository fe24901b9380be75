"""The CLIP tokenizer: from a diffusion model's own folder, or built from the shipped merges file."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

from transformers import CLIPTokenizer

from vpd.errors import UsageError

VOCABULARY_SIZE = 49408
END_OF_TEXT = "<|endoftext|>"
_NUM_MERGES = 48_894  # lines 1..48,894 of the file; 512 byte symbols and two markers complete the vocabulary


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's order (Radford et al. 2019, byte-level BPE)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(code) for code in (*printable, *range(256, 512 - len(printable)))]


@lru_cache(maxsize=2)
def clip_tokenizer(pad_token: str = END_OF_TEXT) -> CLIPTokenizer:
    """CLIP's tokenizer, built from the merges file that ships with this package; needs no network.

    Args:
        pad_token: What fills texts up: the end-of-text token, or `!` (id 0) in Stable Diffusion 2.x.
    """
    with as_file(files("vpd.prompts") / "clip" / "bpe_simple_vocab_16e6.txt.gz") as path:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : _NUM_MERGES + 1]]
    symbols = _byte_symbols()
    words = symbols + [f"{symbol}</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", END_OF_TEXT])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=pad_token)
    return _checked(tokenizer, "the shipped merges file")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a diffusion model's `tokenizer` folder, or the shipped one where there is none.

    Raises:
        UsageError: If the folder's tokenizer is damaged or not CLIP's.
    """
    if not folder.is_dir():
        return clip_tokenizer()
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and its Rust tokenizers raise what their readers raise
        raise UsageError(
            f"The tokenizer in {folder} cannot be read ({error}). Its files are missing or damaged: download the "
            "folder again, with vocab.json and merges.txt."
        ) from error
    return _checked(tokenizer, str(folder))


def token_lengths(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, the two markers included; a model that reads fewer cuts its end."""
    return [len(ids) for ids in tokenizer(list(texts), verbose=False).input_ids] if texts else []


def _checked(tokenizer: CLIPTokenizer, origin: str) -> CLIPTokenizer:
    """`tokenizer` itself, if it has CLIP's vocabulary; transformers returns an empty one where files are missing."""
    if len(tokenizer) != VOCABULARY_SIZE:
        raise UsageError(
            f"The tokenizer in {origin} has {len(tokenizer)} tokens; CLIP's has {VOCABULARY_SIZE}. "
            "Its files are missing or damaged: download the folder again, with vocab.json and merges.txt."
        )
    return tokenizer
