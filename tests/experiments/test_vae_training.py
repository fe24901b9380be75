"""The training loop of the autoencoder and its optimiser."""

from itertools import islice

import pytest
import torch

from experiments.autoencoder import build_autoencoder
from experiments.image_training import train_on_images
from experiments.vae_training import AutoencoderRun
from vpd.errors import UsageError

TINY = (8, 16, 16)


def new_run(seed=0, **kwargs):
    return AutoencoderRun(build_autoencoder(TINY, seed=seed), seed=seed, **kwargs)


def batches(start=0):
    step = start
    while True:
        colours = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        yield (2 * colours - 1).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        step += 1


def test_loss_falls():
    run, losses = new_run(), []
    train_on_images(run, batches(), steps=60, go_on=lambda _, loss: losses.append(loss) or True)
    assert run.step == len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_same_seed_and_steps_give_the_same_weights():
    runs = [new_run(seed) for seed in (4, 4, 5)]
    for run in runs:
        train_on_images(run, batches(), steps=3)
    first, same, other = ([weight.detach() for weight in run.network.parameters()] for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("bf16", [True, False])
def test_resumed_run_ends_with_the_same_weights(tmp_path, bf16):
    whole, part, rest = new_run(), new_run(), new_run()
    train_on_images(whole, batches(), steps=6, bf16=bf16)
    train_on_images(part, batches(), steps=6, bf16=bf16, go_on=lambda run, _: run.step < 3)
    part.save(tmp_path / "run.safetensors")
    rest.restore(tmp_path / "run.safetensors")
    assert (rest.step, rest.seconds) == (3, part.seconds)
    train_on_images(rest, batches(rest.step), steps=6, bf16=bf16)
    for one, other in zip(whole.network.parameters(), rest.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_time_ends_a_run():
    run = new_run()
    train_on_images(run, batches(), minutes=1e-6)
    assert run.step == 1


def test_without_an_end():
    with pytest.raises(ValueError, match="Neither steps nor minutes"):
        train_on_images(new_run(), batches())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: new_run(1), "seed 0, not 1"),
        (lambda: new_run(images="elsewhere"), "images here, not elsewhere"),
        (lambda: AutoencoderRun(build_autoencoder((8, 8)), images="here"), "another architecture"),
    ],
)
def test_checkpoint_of_another_run(tmp_path, other, message):
    new_run(images="here").save(tmp_path / "run.safetensors")
    run = other()
    if run.images == "" and run.seed == 1:
        run.images = "here"
    with pytest.raises(UsageError, match=message):
        run.restore(tmp_path / "run.safetensors")


def test_batches_are_taken_one_a_step():
    stream = islice(batches(), 2)
    train_on_images(new_run(), stream, steps=2)
    assert next(stream, None) is None
