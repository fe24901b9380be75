import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vpd
from many_images import assert_same_outputs, lines_of, wait_until, write_pictures, write_quick_model
from vpd.errors import UsageError
from vpd.prediction_jobs.output_names import Item
from vpd.prediction_jobs.ray_engine import Worker, check_ray, predict_by_ray, worker_needs
from vpd.prediction_jobs.worker import Chunk, Predictor

ORIGIN = {"model": "m", "fingerprint": "f"}


def test_ray_must_be_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(UsageError, match=r'--engine ray needs Ray Data.*pip install "vpd-perception\[ray\]"'):
        check_ray()


def test_one_gpu_of_several_is_no_device_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vpd.prediction_jobs.ray_engine.check_ray", lambda: None)
    with pytest.raises(UsageError, match="give --device cuda instead of cuda:1"):
        list(predict_by_ray([], model="m", out=tmp_path, origin=ORIGIN, options={}, device="cuda:1"))


@pytest.mark.parametrize(
    ("resources", "device", "workers", "needs"),
    [
        ({"CPU": 8.0}, "auto", None, (1, 8, 0)),
        ({"CPU": 8.0}, "auto", 3, (3, 2, 0)),
        ({"CPU": 8.0, "GPU": 4.0}, "auto", None, (4, 2, 1)),
        ({"CPU": 2.0, "GPU": 4.0}, "cuda", None, (4, 1, 1)),
        ({"CPU": 8.0, "GPU": 4.0}, "cpu", 8, (8, 1, 0)),
    ],
)
def test_workers_share_what_there_is(
    resources: dict[str, float], device: str, workers: int | None, needs: tuple[int, int, int]
):
    found = worker_needs(resources, device=device, workers=workers)
    assert found == dict(zip(("workers", "num_cpus", "num_gpus"), needs, strict=True))


@pytest.mark.parametrize(
    ("device", "workers", "said"),
    [("cuda", None, "0 GPUs for 1 workers"), ("auto", 9, "8 processors for 9 workers. Give fewer --workers")],
)
def test_more_workers_than_there_is_room_for(device: str, workers: int | None, said: str):
    with pytest.raises(UsageError, match=said):
        worker_needs({"CPU": 8.0}, device=device, workers=workers)


def test_workers_refuse_another_model_and_say_what_they_cannot_write(tmp_path: Path):
    model = write_quick_model(tmp_path)
    loading = {"source": str(model), "device": "cpu", "dtype": "auto"}
    predicting = {"out": str(tmp_path / "out"), "model_name": "m", "options": {}}
    rows = {"chunk": [json.dumps([[str(write_pictures(tmp_path / "photos", 1) / "part-0" / "0.png"), "a", True]])]}
    fingerprint = Predictor(vpd.load(model), tmp_path, model_name="m", options={}).origin["fingerprint"]

    def answer(fingerprint: str) -> dict[str, Any]:
        (result,) = Worker(loading, predicting, fingerprint)(rows)["result"]
        return json.loads(result)

    assert "is not the same model on every node" in answer("another")["refused"]
    assert answer(fingerprint)["line"]["data"] == "a.png"
    (tmp_path / "out" / "a.png").unlink()
    (tmp_path / "out" / "a.png").mkdir()
    assert re.search("A worker cannot go on: .*a.png", answer(fingerprint)["refused"])


def one_picture(folder: Path) -> Chunk:
    return Chunk((Item(str(folder / "a.png"), "a"),), frozenset([str(folder / "a.png")]))


def start(*words: object) -> subprocess.Popen[str]:
    """`vpd` in a process of its own: Ray holds on to the process it was started in."""
    command = [sys.executable, "-m", "vpd", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.extras
class TestRay:
    """On this machine, with a model that is quick and real."""

    @pytest.fixture(scope="class", autouse=True)
    def _ray(self) -> None:
        pytest.importorskip("ray.data", reason="the extra `ray` is not installed")

    @pytest.fixture(scope="class")
    def words(self, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
        """Begin of a command over 1,000 images."""
        root = tmp_path_factory.mktemp("ray")
        sources = write_pictures(root / "photos", 1000)
        return ["predict", "segment", sources, "--model", write_quick_model(root), "--batch", 8]

    @pytest.fixture(scope="class")
    def alone(self, words: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
        """What one process without Ray makes."""
        out = tmp_path_factory.mktemp("alone") / "out"
        assert start(*words, "--out", out, "--device", "cpu").wait() == 0
        return out

    def test_a_thousand_images_with_workers_killed(self, words: list[object], alone: Path, tmp_path: Path):
        out = tmp_path / "out"
        run = start(*words, "--out", out, "--engine", "ray", "--workers", 2, "--device", "cpu")
        for listed in (100, 400):
            wait_until(
                lambda listed=listed: len(lines_of(out / "predictions.jsonl")) > listed, "Ray does not get going"
            )
            wait_until(lambda: bool(workers_of(run.pid)), "there is no worker")
            os.kill(workers_of(run.pid)[0], signal.SIGKILL)
        told, _ = run.communicate(timeout=300)
        assert run.returncode == 0
        assert told.endswith(f"1000 images predicted, 0 were there already, 0 skipped: {out}\n")  # Ray speaks before
        assert_same_outputs(out, alone, number=1000)

    def test_a_run_that_was_killed_goes_on(self, words: list[object], alone: Path, tmp_path: Path):
        out = tmp_path / "out"
        words = [*words, "--out", out, "--engine", "ray", "--workers", 1, "--device", "cpu"]
        run = start(*words)
        wait_until(lambda: len(lines_of(out / "predictions.jsonl")) > 200, "Ray does not get going")
        run.kill()
        run.communicate()
        done = len(lines_of(out / "predictions.jsonl"))
        assert 200 < done < 1000
        again = start(*words)
        told, _ = again.communicate(timeout=300)
        assert told.endswith(f"{1000 - done} images predicted, {done} were there already, 0 skipped: {out}\n")
        assert_same_outputs(out, alone, number=1000)

    def test_one_shard_by_ray_and_one_without(self, words: list[object], tmp_path: Path):
        sources = write_pictures(tmp_path / "photos", 12)
        (sources / "part-0" / "0.png").write_bytes(b"")
        words = [*words[:2], sources, *words[3:], "--out", tmp_path / "out", "--device", "cpu"]
        by_ray = start(*words, "--shard", "1/2", "--engine", "ray")
        _, complaints = by_ray.communicate(timeout=300)
        assert by_ray.returncode == 1
        assert f"vpd: skipped {sources / 'part-0' / '0.png'}: " in complaints
        assert start(*words, "--shard", "2/2").wait() == 0
        listed = [line["source"] for line in lines_of(tmp_path / "out" / "predictions.jsonl")]
        assert len(listed) == len(set(listed)) == 11

    def test_what_a_worker_refuses_ends_the_run(self, words: list[object], tmp_path: Path):
        given = {"model": str(words[4]), "out": tmp_path, "origin": ORIGIN, "options": {}, "device": "abacus"}
        with pytest.raises(UsageError, match="There is no device 'abacus' here"):
            list(predict_by_ray([one_picture(tmp_path)], **given))


def workers_of(pid: int) -> list[int]:
    """Processes of Ray actors that are at work, below a process."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:  # has just ended
                continue
            children.setdefault(parent, []).append(int(path.name))
    found, look_at = [], [pid]
    while look_at:
        for child in children.get(look_at.pop(), []):
            look_at.append(child)
            if "submit" in name_of(child):
                found.append(child)
    return found


def name_of(pid: int) -> str:
    """Command line of a process, which Ray sets to what an actor is doing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
