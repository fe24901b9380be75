"""The CLIP tokenizer: from a diffusion model's own folder, or built from the shipped merges file."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

from transformers import CLIPTokenizer

from vpd.errors import UsageError

VOCABULARY_SIZE = 49408
_NUM_MERGES = 48_894  # lines 1..48,894 of the file; 512 byte symbols and two markers complete the vocabulary


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's order (Radford et al. 2019, byte-level BPE)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


@lru_cache(maxsize=1)
def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, built from the merges file that ships with this package; needs no network."""
    with as_file(files("vpd.prompts") / "clip" / "bpe_simple_vocab_16e6.txt.gz") as path:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : _NUM_MERGES + 1]]
    symbols = _byte_symbols()
    words = symbols + [f"{symbol}</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return check_tokenizer(CLIPTokenizer(vocab=vocabulary, merges=merges), "the shipped merges file")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a diffusion model's `tokenizer` folder, or the shipped one where there is none.

    Raises:
        UsageError: If the folder's tokenizer is not CLIP's.
    """
    if not folder.is_dir():
        return clip_tokenizer()
    return check_tokenizer(CLIPTokenizer.from_pretrained(folder, local_files_only=True), str(folder))


def check_tokenizer(tokenizer: CLIPTokenizer, origin: str) -> CLIPTokenizer:
    """`tokenizer` itself, if it has CLIP's vocabulary; transformers returns an empty one where files are missing."""
    if len(tokenizer) != VOCABULARY_SIZE:
        raise UsageError(
            f"The tokenizer in {origin} has {len(tokenizer)} tokens; CLIP's has {VOCABULARY_SIZE}. "
            "Its files are missing or damaged: download the folder again, with vocab.json and merges.txt."
        )
    return tokenizer
