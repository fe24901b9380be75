from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tiny import TEXT_DIM
from vpd.errors import UsageError
from vpd.prompts.adapter import TextAdapter
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import embed_names, imagenet_templates
from vpd.prompts.tokenizer import clip_tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def encoder(tiny_diffusion: Path) -> TextEncoder:
    return TextEncoder.from_pretrained(tiny_diffusion)


def test_tokenizer_is_clips() -> None:
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a dog").input_ids == [49406, 320, 1125, 539, 320, 1929, 49407]
    assert tokenizer("").input_ids == [49406, 49407]
    assert tokenizer("zebra", padding="max_length", max_length=5).input_ids[-2:] == [49407, 49407]


def test_all_real_expressions_fit_into_forty_tokens(test_data: Path) -> None:
    """Longest RefCOCO val expression: 21 words; all of them are tokenised without loss."""
    rows = json.loads((test_data / "refer" / "refcoco_expressions_val.json").read_text())
    tokenizer = clip_tokenizer()
    ids = tokenizer([row[3] for row in rows]).input_ids
    assert len(rows) == 10_834
    assert max(map(len, ids)) <= 40


def test_folder_without_tokenizer_gets_the_shipped_one(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path / "tokenizer") is clip_tokenizer()


def test_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    with pytest.raises(UsageError, match="CLIP's has 49408"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_truncated_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    clip_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UsageError, match="The tokenizer in .* cannot be read.*download the folder again"):
        load_tokenizer(tmp_path)


def test_padding_of_sd2(tmp_path: Path) -> None:
    tokenizer = clip_tokenizer(pad_token="!")
    wanted = [49406, 22548, 49407, 0, 0]
    assert tokenizer("zebra", padding="max_length", max_length=5).input_ids == wanted
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("zebra", padding="max_length", max_length=5).input_ids == wanted
    assert clip_tokenizer() is not tokenizer
    assert clip_tokenizer().pad_token_id == 49407


@torch.no_grad()
def test_pooled_is_the_hidden_state_at_the_end_of_text(encoder: TextEncoder) -> None:
    texts = ["a dog", "the big red car on the right"]
    tokens = encoder.tokens(texts, length=12)
    assert tokens.shape == (2, 12, TEXT_DIM)
    ends = [encoder.tokenizer(text).input_ids.index(49407) for text in texts]
    torch.testing.assert_close(encoder.pooled(texts), tokens[torch.arange(2), ends], atol=1e-5, rtol=1e-4)


def test_long_expressions_keep_their_end(encoder: TextEncoder) -> None:
    ids = encoder._tokenize(["dog " * 60], 40)
    assert ids.shape == (1, 40)
    assert ids[0, -1] == 49407


def test_names_average_over_templates(encoder: TextEncoder) -> None:
    assert len(imagenet_templates()) == 80
    templates = ("a photo of a {}.", "the {}.")
    got = embed_names(encoder, ["dining_room"], templates=templates)
    wanted = encoder.pooled(["a photo of a dining room.", "the dining room."]).mean(0, keepdim=True)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    for names in ([], ["sky", " "]):
        with pytest.raises(UsageError, match="must not be empty"):
            embed_names(encoder, names)


def test_encoder_is_frozen(encoder: TextEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.train().model.training


def test_sources_without_a_text_encoder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no text encoder"):
        TextEncoder.from_pretrained(tmp_path)
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        TextEncoder.from_pretrained(tmp_path)


def test_adapter_by_hand() -> None:
    adapter = TextAdapter(4)
    assert torch.equal(adapter.gamma, torch.full((4,), 1e-4))
    text = torch.randn(2, 3, 4)
    wanted = text + 1e-4 * adapter.mlp(text)
    assert torch.equal(adapter(text), wanted)
