import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpd.datasets.check import check_data
from vpd.datasets.huggingface import HuggingFaceData
from vpd.datasets.huggingface_tables import is_hub_dataset, table_splits
from vpd.datasets.layouts import detect_format, open_data, splits_of
from vpd.errors import UsageError

datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")

LABELS = np.eye(6, 8, dtype=np.uint8)
DEPTH_MM = np.full((6, 8), 1500, dtype=np.uint16)
RUNS = {"size": [6, 8], "counts": [0, 6, 42]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` keeps must not outlive a test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


def colours(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def table(columns: dict[str, list[Any]], **features: Any) -> Any:
    """A table; pictures are given as bytes, and have the feature Image unless another is given."""
    made = datasets.Dataset.from_dict(columns)
    for name, values in columns.items():
        if isinstance(values[0], bytes) and name not in features:
            features[name] = datasets.Image()
    for name, feature in features.items():
        made = made.cast_column(name, feature)
    return made


@pytest.fixture
def saved(tmp_path) -> Path:
    """Two splits of label pictures, as `save_to_disk` writes them."""
    pictures = {"image": [png(colours(1)), png(colours(2))], "labels": [png(LABELS)] * 2, "other": ["x", "y"]}
    splits = {"train": table(pictures), "validation": table({name: values[:1] for name, values in pictures.items()})}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/classes.json").write_text('{"classes": ["sky", "line"], "ignore_index": 9}')
    return tmp_path / "saved"


def save(root: Path, columns: dict[str, list[Any]], **features: Any) -> Path:
    table(columns, **features).save_to_disk(root / "one")
    return root / "one"


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        HuggingFaceData(root, split, **options)
    return str(error.value)


def test_a_saved_dictionary_of_splits(saved):
    samples = HuggingFaceData(saved, "train")
    assert (len(samples), samples.parts, samples.classes) == (2, ("labels",), ("sky", "line"))
    sample = samples[1]
    assert sample.name == "train_000001" and np.array_equal(sample.image, colours(2))
    assert np.array_equal(sample.labels, LABELS)
    assert len(HuggingFaceData(saved, "val")) == len(HuggingFaceData(saved, "validation")) == 1
    assert detect_format(saved, "segment") == "huggingface" and splits_of(saved, "huggingface") == ["train", "val"]
    assert len(open_data(saved, "segment", classes=["a", "b"])) == 2
    assert check_data("huggingface", saved).problems == []
    again = pickle.loads(pickle.dumps(samples))
    assert np.array_equal(again[1].image, colours(2)), "as workers read it"


def test_a_folder_of_parquet_files(saved, tmp_path):
    folder = tmp_path / "parquet"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        made = datasets.load_from_disk(str(saved / split))
        made.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    samples = HuggingFaceData(folder, "train", classes=["sky", "line"])
    assert len(samples) == 2 and np.array_equal(samples[1].image, colours(2))
    assert np.array_equal(HuggingFaceData(folder, "val", classes=["a", "b"])[0].labels, LABELS)
    assert detect_format(folder) == "huggingface" and table_splits(folder) == ["train", "val"]
    assert "no split 'test'; there are: train, val" in refusal(folder, "test")
    (folder / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1 torn")
    assert "cannot be opened as a Hugging Face data set" in refusal(folder)


def test_one_table_is_train(tmp_path):
    root = save(tmp_path, {"image": [png(colours(1))], "labels": [png(LABELS)]})
    assert table_splits(root) == ["train"] and len(HuggingFaceData(root, "train", classes=["a", "b"])) == 1
    assert "no split 'val'; there are: train" in refusal(root, "val")


def test_depth_columns_and_scenes(tmp_path):
    columns = {"rgb": [png(colours(1))] * 3, "mm": [png(DEPTH_MM)] * 3, "place": [1, 0, 1], "kind": ["b", "a ", None]}
    metres = np.full((6, 8), 2.5, dtype=np.float32)
    root = save(
        tmp_path,
        {**columns, "metres": [metres] * 3},
        place=datasets.ClassLabel(names=["attic", "kitchen"]),
        metres=datasets.Array2D((6, 8), "float32"),
    )
    samples = HuggingFaceData(root, "train", image="rgb", depth="mm", scene="place", max_depth_m=10)
    assert (samples.parts, samples.scenes, samples.counted.max_depth_m) == (("depth",), ("attic", "kitchen"), 10)
    assert [samples[place].scene for place in range(3)] == ["kitchen", "attic", "kitchen"]
    assert (samples[0].depth_m == 1.5).all()
    samples = HuggingFaceData(root, "train", image="rgb", depth="metres", scene="kind")
    assert samples.scenes == ("a", "b") and [samples[place].scene for place in range(3)] == ["b", "a", None]
    assert (samples[0].depth_m == 2.5).all()
    assert HuggingFaceData(root, "train", image="rgb", depth="mm").scenes == ("scene",)
    assert "scene 1 in column place2 is no text" in refusal(
        save(tmp_path / "2", {"image": [png(colours(1))], "depth": [png(DEPTH_MM)], "place2": [1]}), scene="place2"
    )


def test_class_names_from_features(tmp_path):
    names = datasets.ClassLabel(names=["sky", "line"])
    root = save(
        tmp_path,
        {"image": [png(colours(1))], "numbers": [LABELS.tolist()], "picture": [png(LABELS)], "present": [[0, 1]]},
        numbers=datasets.List(datasets.List(names)),
        present=datasets.List(names),
    )
    of_own_column = HuggingFaceData(root, "train", labels="numbers")
    assert of_own_column.classes == ("sky", "line") and np.array_equal(of_own_column[0].labels, LABELS)
    assert HuggingFaceData(root, "train", labels="picture", classes="present").classes == ("sky", "line")
    assert HuggingFaceData(root, "train", labels="numbers", classes=["a", "b"]).classes == ("a", "b")
    ignoring = HuggingFaceData(root, "train", labels="numbers", ignore_index=1)
    assert set(np.unique(ignoring[0].labels)) == {0, 255}
    told = refusal(root, labels="numbers", classes=["a"])
    assert "classes names 1 classes, but column numbers has 2" in told
    assert "classes=picture is no column with a ClassLabel feature" in refusal(
        root, labels="picture", classes="picture"
    )
    assert "classes=gone is no column" in refusal(root, labels="picture", classes="gone")
    assert "no class list; looked for classes.json" in refusal(root, labels="picture")


def test_masks_and_expressions(tmp_path):
    columns = {"image": [png(colours(1))] * 2, "mask": [png(LABELS * 255)] * 2, "text": [["the line", "черта"], ["x"]]}
    root = save(tmp_path, {**columns, "rle": [RUNS] * 2, "one": ["line", "edge"]})
    samples = HuggingFaceData(root, "train")
    assert (len(samples), samples.parts, samples[0].texts) == (2, ("mask",), ("the line", "черта"))
    assert np.array_equal(samples[0].mask, LABELS.astype(bool))
    sentences = HuggingFaceData(root, "train", per_sentence=True)
    assert [sentences[place].name for place in range(3)] == ["train_000000_0", "train_000000_1", "train_000001_0"]
    assert [sentences[place].group for place in range(3)] == ["train_000000", "train_000000", "train_000001"]
    outlines = HuggingFaceData(root, "train", mask="rle", text="one", per_sentence=True)
    assert len(outlines) == 2 and outlines[1].texts == ("edge",) and outlines[1].mask[:, 0].all()


def test_a_row_without_expression_is_not_dropped(tmp_path):
    columns = {"image": [png(colours(1))] * 2, "mask": [png(LABELS)] * 2, "text": [["the line"], []]}
    samples = HuggingFaceData(save(tmp_path, columns), "train", per_sentence=True)
    assert len(samples) == 2 and samples[0].texts == ("the line",)
    with pytest.raises(UsageError, match="row 1: expressions must be a text or a list of texts, and at least one"):
        samples[1]


def test_pictures_keep_our_limits(tmp_path, monkeypatch):
    monkeypatch.setattr("vpd.files.decoding.MAX_PIXELS", 40)
    root = save(tmp_path, {"image": [png(colours(1))], "labels": [png(LABELS)]})
    with pytest.raises(UsageError, match="row 0, column image: 8x6: 0 megapixels; the limit is 4e-05"):
        HuggingFaceData(root, "train", classes=["a", "b"])[0]


def test_bytes_without_feature_are_pictures_too(tmp_path):
    binary = datasets.Value("binary")
    root = save(tmp_path, {"image": [png(colours(1))], "labels": [png(LABELS)]}, image=binary, labels=binary)
    assert np.array_equal(HuggingFaceData(root, "train", classes=["a", "b"])[0].image, colours(1))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("image", b"GIF89a", "column image: holds GIF"),
        ("image", {"bytes": None, "path": "/etc/passwd"}, "column image: the cell names a file instead of holding"),
        ("image", None, "column image: the cell is empty"),
        ("image", "a.png", "column image: the cell holds no picture"),
        ("labels", [[0, 1], [1]], "column labels: rows of numbers differ in length"),
        ("labels", [[0, 1]], "labels of .*row 0, column image: label size 2x1 differs from the image's 8x6"),
        ("labels", [[0.5] * 8] * 6, "labels must be whole numbers, not float64"),
        ("labels", png(LABELS * 2), "column labels: label 2 at row 0, column 0 is outside the class list"),
    ],
)
def test_wrong_cells_are_named(tmp_path, column, value, message):
    cells = {"image": [png(colours(1))], "labels": [png(LABELS)], column: [value]}
    given = {column: datasets.Value("binary")} if isinstance(value, bytes) else {}
    if value is None:
        given = {column: datasets.Value("binary")}
    samples = HuggingFaceData(save(tmp_path, cells, **given), "train", classes=["a", "b"])
    with pytest.raises(
        UsageError, match=f"one, split train, row 0, .*{message}" if "row 0" not in message else message
    ):
        samples[0]


def test_wrong_columns(saved, tmp_path):
    told = refusal(saved, labels="annotation", image="rgb")
    assert "split train: no column for image=rgb, labels=annotation. Columns: image, labels, other" in told
    root = save(tmp_path, {"picture": [png(colours(1))], "mask": [png(LABELS)]})
    assert "no column for image. Columns: picture, mask. Name them by options: image=" in refusal(root)
    assert "masks need expressions. Columns: picture, mask. Name theirs: text=" in refusal(root, image="picture")
    root = save(tmp_path / "2", {"image": [png(colours(1))], "label": [3]})
    assert "no column of labels, depth or mask. Columns: image, label. Name one by an option" in refusal(root)


def test_empty_and_damaged_tables(saved, tmp_path):
    datasets.load_from_disk(str(saved / "train")).select([]).save_to_disk(tmp_path / "empty")
    assert "empty: the train split is empty" in refusal(tmp_path / "empty")
    (tmp_path / "parquet").mkdir()
    datasets.load_from_disk(str(saved / "train")).select([]).to_parquet(tmp_path / "parquet/train.parquet")
    assert "parquet: the train split is empty" in refusal(tmp_path / "parquet")
    assert "no split 'test'; there are: train, val" in refusal(saved, "test")
    state = saved / "train/state.json"
    kept = state.read_text()
    state.write_text(json.dumps({**json.loads(kept), "_data_files": [{"filename": "../../x.arrow"}]}))
    assert "state.json: '../../x.arrow' leads out of the data folder" in refusal(saved)
    state.write_text("[]")
    assert "state.json: '_data_files' is missing or of the wrong type" in refusal(saved)
    state.write_text(kept)
    (arrow,) = (saved / "train").glob("*.arrow")
    arrow.write_bytes(b"torn")
    assert "cannot be opened as a Hugging Face data set" in refusal(saved)


def test_other_formats_are_refused(tmp_path):
    (tmp_path / "folder/train").mkdir(parents=True)
    Image.fromarray(colours(1)).save(tmp_path / "folder/train/a.png")
    assert "its files are imagefolder; parquet and arrow are read" in refusal(tmp_path / "folder")


# Data sets of the hub


def test_form_of_a_hub_id(tmp_path, monkeypatch):
    assert is_hub_dataset("owner/name") and is_hub_dataset(Path("scene-parse/ade.20k_full"))
    assert not any(is_hub_dataset(name) for name in ("name", "a/b/c", "/a/b", "./a", "~/a", "../a", ""))
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_dataset("owner/name"), "a folder that is there comes first"


def test_a_hub_id_reaches_datasets_as_it_is(saved, tmp_path, monkeypatch):
    """The hub itself is played by a folder of parquet files; everything after finding it is real."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    datasets.load_from_disk(str(saved / "train")).to_parquet(folder / "train.parquet")
    asked = []
    real = datasets.load_dataset_builder

    def hub(source: str, subset: str | None, *, revision: str | None) -> Any:
        asked.append((source, subset, revision))
        return real(str(folder))

    monkeypatch.setattr(datasets, "load_dataset_builder", hub)
    options = {"classes": ["sky", "line"], "subset": "full", "revision": "abc"}
    samples = open_data("owner/name", "segment", format="huggingface", **options)
    assert len(samples) == 2 and np.array_equal(samples[0].labels, LABELS)
    assert set(asked) == {("owner/name", "full", "abc")}
    assert splits_of("owner/name", "huggingface") == ["train"]


def test_training_leaves_a_hub_id_alone(saved, monkeypatch):
    from vpd.training.settings import resolve_config
    from vpd.training.setup import pin_sources

    monkeypatch.chdir(saved.parent)
    settings = {"model": "x", "data": {"root": "owner/name", "format": "huggingface", "validation_split": None}}
    assert pin_sources(resolve_config("segment", settings)).data.root == "owner/name"
    settings["data"] = {"root": "saved"}
    pinned = pin_sources(resolve_config("segment", settings)).data
    assert (pinned.root, pinned.format, pinned.validation_split) == (str(saved), "huggingface", "val")


def test_a_hub_that_is_not_there():
    assert "owner/no-such-name: cannot be opened as a Hugging Face data set (" in refusal("owner/no-such-name")


def test_without_the_package(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    told = refusal(saved)
    assert "reading it needs the package `datasets`: pip install 'vpd-perception[datasets]'" in told
