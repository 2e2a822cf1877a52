"""What is read is what was written, or the step says which file is not."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import fastavro
import pytest

from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import Sample
from tests.conftest import SMALL
from tests.processes import captionflow

pytestmark = pytest.mark.security

TRAIN = ["--epochs=1", *(f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items())]


def cut_at_a_block(path: Path) -> None:
    """Leave the first block: a whole Avro file with fewer records."""
    with path.open("rb") as file:
        first = next(iter(fastavro.block_reader(file, Sample.AVRO_SCHEMA)))
    path.write_bytes(path.read_bytes()[: first.offset + first.size])


def cut_within_a_block(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def change_a_caption(path: Path) -> None:
    data = path.read_bytes()
    assert b"circle" in data
    path.write_bytes(data.replace(b"circle", b"zircle", 1))


def remove(path: Path) -> None:
    path.unlink()


DAMAGE: list[Callable[[Path], None]] = [cut_at_a_block, cut_within_a_block, change_a_caption, remove]


def damaged(artifact: str, pattern: str, harm: Callable[[Path], None], tmp_path: Path) -> tuple[str, str]:
    """A copy of an artifact with one file of it changed, and that file's name."""
    copy = tmp_path / "damaged"
    shutil.copytree(artifact, copy)
    file = max(copy.glob(pattern), key=lambda path: path.stat().st_size)
    harm(file)
    return str(copy), str(file.relative_to(copy))


def assert_told(name: str, *command: str) -> None:
    done = captionflow(*command)
    assert done.returncode == 2, done.stderr
    assert name in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def blocks(trainable: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small sample in shards of several blocks, as those of large pictures are."""
    copy = tmp_path_factory.mktemp("blocks") / "preprocessed"
    shutil.copytree(trainable, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    for file in manifest["files"]:
        if not file["path"].endswith(".avro"):
            continue
        path = copy / file["path"]
        records = list(fastavro.reader(path.open("rb")))
        with path.open("wb") as out:
            fastavro.writer(out, Sample.AVRO_SCHEMA, records, sync_interval=4000, sync_marker=b"0123456789abcdef")
        file |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return str(copy)


@pytest.mark.parametrize("harm", DAMAGE)
@pytest.mark.parametrize("split", ["train", "val"])
def test_training_reads_no_shard_that_was_changed(
    split: str, harm: Callable[[Path], None], blocks: str, tmp_path: Path
) -> None:
    data, name = damaged(blocks, f"{split}/*.avro", harm, tmp_path)
    assert_told(name, "train", f"--preprocessed={data}", f"--output={tmp_path}/model", *TRAIN)
    assert not (tmp_path / "model" / "manifest.json").exists()


@pytest.mark.parametrize("harm", DAMAGE)
def test_evaluation_reads_no_shard_that_was_changed(
    harm: Callable[[Path], None], blocks: str, model: str, tmp_path: Path
) -> None:
    data, name = damaged(blocks, "test/*.avro", harm, tmp_path)
    assert_told(name, "evaluate", f"--model={model}", f"--preprocessed={data}", f"--output={tmp_path}/evaluation")
    assert not (tmp_path / "evaluation" / "manifest.json").exists()


def test_whole_shards_are_trained_on(blocks: str, tmp_path: Path) -> None:
    done = captionflow("train", f"--preprocessed={blocks}", f"--output={tmp_path}/model", *TRAIN)
    assert done.returncode == 0, done.stderr


def test_a_manifest_without_one_of_its_shards_is_found_out(blocks: str, tmp_path: Path) -> None:
    copy = tmp_path / "fewer"
    shutil.copytree(blocks, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["counts"]["splits"]["train"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert_told("its manifest says", "train", f"--preprocessed={copy}", f"--output={tmp_path}/model", *TRAIN)


@pytest.mark.parametrize("file", ["model.safetensors", "vocabulary.json", "config.json"])
@pytest.mark.parametrize("use", ["caption", "evaluate"])
def test_weights_that_were_changed_caption_nothing(
    use: str, file: str, model: str, trainable: str, small_sample: Path, tmp_path: Path
) -> None:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)

    copy, name = damaged(model, file, change, tmp_path)
    picture = next((small_sample / "images").iterdir())
    command = {
        "caption": ["caption", f"--model={copy}", str(picture)],
        "evaluate": ["evaluate", f"--model={copy}", f"--preprocessed={trainable}", f"--output={tmp_path}/evaluation"],
    }
    assert_told(name, *command[use])


@pytest.mark.parametrize("harm", [cut_within_a_block, change_a_caption, remove])
@pytest.mark.parametrize("use", ["csv", "preprocess"])
def test_captions_that_were_changed_go_no_further(
    use: str, harm: Callable[[Path], None], ingested: str, tmp_path: Path
) -> None:
    copy, name = damaged(ingested, "captions.jsonl", harm, tmp_path)
    assert_told(name, use, f"--ingested={copy}", f"--output={tmp_path}/out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_file_beside_the_manifest_is_none_of_the_artifact(model: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (copy / "more.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"lists no more\.json"):
        open_artifact(str(copy)).read("more.json")


@pytest.mark.parametrize("counts", [{}, {"splits": 5}, {"splits": {"train": "many"}}, {"splits": {"train": -1}}])
def test_training_on_a_manifest_that_lacks_a_count_is_one_line(
    counts: dict[str, object], trainable: str, tmp_path: Path
) -> None:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "counts": counts}))

    copy, _ = damaged(trainable, "manifest.json", change, tmp_path)
    assert_told("manifest.json: its counts hold no", "train", f"--preprocessed={copy}", f"--output={tmp_path}/model")


def test_a_summary_of_manifests_that_lack_a_count_is_one_line(ingested: str, tmp_path: Path) -> None:
    shutil.copytree(ingested, tmp_path / "ingested")
    path = tmp_path / "ingested" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "counts": {"captions": 5}}))
    assert_told("manifest.json: its counts hold no number for captions out", "summary", str(tmp_path))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    os.truncate(path, 40 << 30)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("harm", [pipe, endless, sparse, folder, circle])
def test_a_file_in_whose_place_is_something_else_is_neither_waited_for_nor_read_to_its_end(
    harm: Callable[[Path], None], model: str, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "copy")
    harm(tmp_path / "copy" / "config.json")
    began = time.monotonic()
    with pytest.raises(InvalidInputError, match=r"config\.json: "):
        open_artifact(str(tmp_path / "copy")).read("config.json")
    assert time.monotonic() - began < 10
