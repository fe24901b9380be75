"""Texts that are longer than a model reads lose their end, which is said and counted."""

import logging

from vpd.prompts.encoder import TextEncoder
from vpd.prompts.tokenizer import clip_tokenizer, token_lengths


def test_lengths_count_both_markers():
    texts = ["a cat", "dog " * 100, "", "красная чашка"]
    assert token_lengths(clip_tokenizer(), texts) == [4, 102, 2, 17]
    assert token_lengths(clip_tokenizer(), []) == []


def test_cut_texts_are_counted(tiny_diffusion, caplog):
    encoder = TextEncoder.from_pretrained(tiny_diffusion)
    encoder.tokens(["one two three four five six", "a cat"], length=8)  # exactly eight tokens
    assert encoder.cut_texts == 0 and not caplog.records
    encoder.tokens(["one two three four five six seven", "a cat", "dog " * 100], length=8)
    assert encoder.cut_texts == 2
    assert caplog.messages == [
        "The text 'one two three four five six seven' has 9 tokens; the model reads 8: its end is cut."
    ]
    encoder.pooled(["dog " * 100])
    assert encoder.cut_texts == 3


def test_the_warning_does_not_come_for_every_text(tiny_diffusion, caplog):
    caplog.set_level(logging.WARNING)
    encoder = TextEncoder.from_pretrained(tiny_diffusion)
    encoder.tokens(["dog " * 100] * 120, length=8)
    assert encoder.cut_texts == 120
    assert caplog.messages[1:] == ["10 texts were cut to 8 tokens so far.", "100 texts were cut to 8 tokens so far."]
