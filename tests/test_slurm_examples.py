"""The scripts for SLURM do what they say, with a scheduler of three lines."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from processes import descendants, is_running

from many_images import lines_of, wait_until, write_pictures, write_quick_model
from tiny import write_tiny_diffusion
from tiny_data import write_segment_data

SCRIPTS = Path(__file__).parents[1] / "examples" / "slurm"
COMMANDS = {
    "srun": 'while [[ "$1" == -* ]]; do shift; done; exec "$@"',
    "scontrol": 'if [[ "$1" == show ]]; then echo localhost; else echo "scontrol $*"; fi',
    "torchrun": 'exec "$PYTHON" -m torch.distributed.run "$@"',
    "vpd": 'exec "$PYTHON" -m vpd "$@"',
}


@pytest.fixture
def scheduler(tmp_path: Path) -> dict[str, str]:
    """Environment of a job."""
    (tmp_path / "bin").mkdir()
    for name, body in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable}


def start(script: str, *words: object, **environment: str) -> subprocess.Popen[str]:
    command = ["bash", str(SCRIPTS / script), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(script: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    job = start(script, *words, **environment)
    said, complaints = job.communicate(timeout=600)
    return subprocess.CompletedProcess(job.args, job.returncode, said, complaints)


@pytest.mark.parametrize("script", ["train.sh", "predict.sh"])
def test_usage(script: str):
    done = run(script, "segment", **os.environ)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


@pytest.mark.extras
def test_an_array_predicts_into_one_folder(scheduler: dict[str, str], tmp_path: Path):
    photos = write_pictures(tmp_path / "photos", 5)
    words = ("segment", write_quick_model(tmp_path), photos, tmp_path / "out", "--batch", 1, "--device", "cpu")
    for member in "01":
        array = {"ID": member, "MIN": "0", "MAX": "1", "COUNT": "2"}
        job = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
        done = run("predict.sh", *words, **scheduler, **job)
        assert done.returncode == 0, done.stderr
    lines = lines_of(tmp_path / "out" / "predictions.jsonl")
    assert [line["options"]["dtype"] for line in lines] == ["bfloat16"] * 5
    with Image.open(tmp_path / "out" / lines[0]["data"]) as labels:
        assert labels.size == (32, 32)


@pytest.mark.extras
def test_a_training_that_loses_a_process_and_runs_out_of_time_goes_on(scheduler: dict[str, str], tmp_path: Path):
    settings = {
        "model": str(write_tiny_diffusion(tmp_path / "diffusion", block_out_channels=(16, 16, 16, 16))),
        "data": {"root": str(write_segment_data(tmp_path / "data"))},
        "model_options": {"head_channels": 8},
        "crop_px": 64,
        "steps": 30,
        "log_every": 1,
        "checkpoint_every": 2,
        "batch_size": 4,
        "workers": 0,
        "pictures": 1,
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost"}
    job |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    words = ("segment", tmp_path / "settings.yaml", tmp_path / "run", "-s", "sharding=fsdp")
    first = start("train.sh", *words, **scheduler, **job)
    wait_until(lambda: step_of(tmp_path / "run") >= 3, "the run does not get going")
    trainers = [process for process in descendants(first.pid) if is_trainer(process)]
    os.kill(trainers[1], signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, trainers)), "the other process stays")
    killed_at = step_of(tmp_path / "run")
    wait_until(lambda: step_of(tmp_path / "run") > killed_at, "the run does not get going again")
    first.send_signal(signal.SIGUSR1)  # the time is nearly up
    said, complaints = first.communicate(timeout=300)
    assert "scontrol requeue 7" in said, complaints
    assert not (tmp_path / "run" / "model").exists()
    assert killed_at < step_of(tmp_path / "run") < 30
    done = run("train.sh", *words, **scheduler, **job)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Trained:") == 1
    assert "requeue" not in done.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    steps = [line["step"] for line in lines_of(tmp_path / "run" / "log.jsonl") if line["kind"] == "train"]
    assert steps == list(range(1, 31))


def step_of(folder: Path) -> int:
    return max([0, *(line["step"] for line in lines_of(folder / "log.jsonl"))])


def is_trainer(process: int) -> bool:
    """Whether a process is one of those that torchrun started."""
    words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    return b"train" in words and b"torch.distributed.run" not in words
