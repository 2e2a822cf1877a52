"""The command line: quick help, short errors, exit codes, and nothing but the result on stdout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from captionflow.cli.main import app, main
from captionflow.core.artifact import open_artifact
from captionflow.core.code_version import code_version

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
CAPTIONS = b"".join(
    b'{"image_id":7,"id":%d,"caption":"a cat","image_url":"u","image_name":"n","image_license":"l"}\n' % n
    for n in (1, 1, 2)
)

# Asks for the help of every command in one process, and prints exit code and heavy imports after each.
HELP = """
import io, json, sys
from contextlib import redirect_stdout
from captionflow.cli.main import main
heavy = {"torch", "apache_beam", "airflow", "tensorflow", "tfx", "kfp", "matplotlib"}
for command in json.loads(sys.argv[1]):
    sys.argv = ["captionflow", *command, "--help"]
    page = io.StringIO()
    try:
        with redirect_stdout(page):
            main()
        code = None
    except SystemExit as end:
        code = end.code
    print(json.dumps([code, sorted(heavy & set(sys.modules)), page.getvalue()]))
"""


@pytest.fixture(scope="module")
def helped() -> dict[str, list[object]]:
    """Exit code, heavy imports and text of `captionflow [--version|COMMAND] --help`."""
    commands = [[], ["--version"], *([command] for command in COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    return dict(zip(["", "--version", *COMMANDS], map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_there_and_imports_nothing_heavy(command: str, helped: dict[str, list[object]]) -> None:
    code, heavy, page = helped[command]
    assert (code, heavy) == (0, [])
    assert "Usage: captionflow" in str(page)


def test_the_version_is_that_of_the_code_and_imports_nothing_heavy(helped: dict[str, list[object]]) -> None:
    assert helped["--version"] == [0, [], f"{code_version()}\n"]


def test_the_help_names_every_command(helped: dict[str, list[object]]) -> None:
    assert {"sample", "ingest", "validate", "preprocess", "train", "evaluate", "caption", "lineage"} <= set(COMMANDS)
    assert all(command in str(helped[""][2]) for command in COMMANDS)


class Ended:
    """The exit code, stdout and stderr of `captionflow ARGUMENTS`."""

    def __init__(self, capfd: pytest.CaptureFixture[str], *arguments: str) -> None:
        capfd.readouterr()
        self.code: object = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["captionflow", *arguments])
            try:
                main()
            except SystemExit as end:
                self.code = end.code or 0
        self.out, self.err = capfd.readouterr()


def source(folder: Path) -> str:
    path = folder / "captions.jsonl"
    path.write_bytes(CAPTIONS)
    return str(path)


WRONG = {
    "a command that is none": "nonsense",
    "an option that is none": "ingest --output {folder}/out --nonsense 1",
    "no output": "ingest --sources a.json",
    "no source": "ingest --output {folder}/out",
    "a source that is not there": "ingest --output {folder}/out --sources {folder}/missing.json",
    "a source that is a folder": "ingest --output {folder}/out --sources {folder}",
    "an unknown choice": "ingest --output {folder}/out --sources a.json --url-field my_url",
    "a ratio above 1": "ingest --output {folder}/out --sources a.json --max-reject-ratio 1.5",
    "a ratio that is no number": "ingest --output {folder}/out --sources a.json --max-reject-ratio nan",
    "a ratio that is text": "ingest --output {folder}/out --sources a.json --max-reject-ratio half",
    "an output in use": "ingest --output {folder} --sources {folder}/captions.jsonl",
    "an output below a file": "ingest --output {folder}/captions.jsonl/out --sources {folder}/captions.jsonl",
    "no pictures": "sample --output {folder}/out --images 0",
    "lineage of no artifact": "lineage {folder}",
    "lineage of nothing": "lineage {folder}/missing",
    "lineage of an unknown scheme": "lineage nowhere://bucket/model",
    "training on no artifact": "train --preprocessed {folder} --output {folder}/out",
    "training out of bounds": "train --preprocessed {folder} --output {folder}/out --epochs 0",
    "training on a file": "train --preprocessed {folder}/captions.jsonl --output {folder}/out",
    "evaluating no model": "evaluate --model {folder} --preprocessed {folder} --output {folder}/out",
    "captioning with no model": "caption picture.jpg --model {folder}",
    "the summary of no run": "summary {folder}",
    "what is in no artifact": "show {folder}",
    "what is in nothing": "show {folder}/missing",
    "the rejects of no artifact": "rejects {folder}",
    "the rejects of nothing": "rejects {folder}/missing",
    "the rejects of a file": "rejects {folder}/captions.jsonl",
    "captioning no picture": "caption --model {folder}",
    "validating no artifact": "validate --ingested {folder} --output {folder}/out",
    "preprocessing to an unknown size": "preprocess --ingested {folder} --output {folder}/out --image-size 3",
}


@pytest.mark.parametrize("command", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_argument_is_exit_code_2_and_a_few_lines(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source(tmp_path)
    ended = Ended(capfd, *(word.format(folder=tmp_path) for word in command.split()))
    assert ended.code == 2
    assert ended.out == ""
    assert 1 <= len(ended.err.splitlines()) <= 8
    assert "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


def test_preprocessing_no_artifact_is_exit_code_2(tmp_path: Path) -> None:
    """In a process of its own: Airflow's logging, which pytest's has, would catch Beam's warnings."""
    command = ["preprocess", "--ingested", str(tmp_path), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "captionflow", *command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"captionflow: {tmp_path}: has no manifest.json")
    assert "Traceback" not in done.stderr


def test_dataflow_without_a_place_is_exit_code_2(ingested: str, small_sample: Path, tmp_path: Path) -> None:
    command = ["preprocess", "--ingested", ingested, "--output", str(tmp_path / "out"), "--runner=DataflowRunner"]
    command += ["--allow-url-prefix", str(small_sample)]
    done = subprocess.run([sys.executable, "-m", "captionflow", *command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    message = done.stderr.splitlines()[-1]
    assert message.startswith("captionflow: --runner: DataflowRunner: ")
    assert all(name in message for name in ("temp_location", "project", "region"))
    assert "Traceback" not in done.stderr


def test_an_artifact_of_another_kind_is_exit_code_2(
    ingested: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["train", "--preprocessed", ingested, "--output", str(tmp_path / "out")],
        ["caption", "picture.jpg", "--model", ingested],
        ["evaluate", "--model", ingested, "--preprocessed", ingested, "--output", str(tmp_path / "out")],
    ):
        ended = Ended(capfd, *command)
        assert ended.code == 2
        assert ended.err.startswith(f"captionflow: {ingested}: is an artifact of kind ingested; expected ")


def test_too_many_rejects_are_exit_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "out")
    ended = Ended(capfd, "ingest", "--sources", source(tmp_path), "--output", output, "--max-reject-ratio", "0.1")
    assert ended.code == 1
    assert ended.out == ""
    assert "captionflow: 1 of 3 rows were rejected (duplicate_id 1)" in ended.err
    assert "Traceback" not in ended.err


def test_ingest_prints_the_uri_and_nothing_else(tmp_path: Path) -> None:
    """In a process of its own, through the installed command, from another folder."""
    source(tmp_path)
    program = Path(sys.executable).parent / "captionflow"
    done = subprocess.run(
        [program, "ingest", "--sources", "captions.jsonl", "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert open_artifact(done.stdout.strip(), "ingested").manifest.counts["captions"]["out"] == 2


def test_options_may_be_repeated_or_given_as_one_json_array(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = source(tmp_path), str(tmp_path / "second.jsonl")
    Path(second).write_bytes(CAPTIONS.replace(b'"id":2', b'"id":3'))
    output = str(tmp_path / "out")
    for sources in (["--sources", first, "--sources", second], ["--sources", json.dumps([first, second])]):
        assert Ended(capfd, "ingest", "--output", output, *sources).code == 0
        assert open_artifact(output).manifest.counts["captions"] == {"in": 6, "out": 3, "rejected": 3}


def test_lineage_shows_sources_parameters_and_counts(ingested: str, capfd: pytest.CaptureFixture[str]) -> None:
    (parent,) = open_artifact(ingested).manifest.parents
    text = Ended(capfd, "lineage", ingested).out
    for text_part in (ingested, parent.uri, parent.sha256, "max_reject_ratio=0.5", "in 300, out 300, rejected 0"):
        assert text_part in text
    node = json.loads(Ended(capfd, "lineage", ingested, "--json").out)
    assert (node["kind"], node["uri"]) == ("ingested", ingested)
    assert node["counts"]["captions"]["out"] == 300
    assert node["parameters"]["sources"] == [parent.uri]
    assert [(p["kind"], p["uri"], p["sha256"]) for p in node["parents"]] == [("source", parent.uri, parent.sha256)]


def test_verify_finds_a_tampered_and_a_missing_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    uri = Ended(capfd, "ingest", "--sources", source(tmp_path), "--output", str(tmp_path / "out")).out.strip()
    assert Ended(capfd, "lineage", uri, "--verify").code == 0
    captions = Path(uri, "captions.jsonl")
    captions.write_bytes(captions.read_bytes().replace(b"cat", b"dog"))
    assert Ended(capfd, "lineage", uri).code == 0
    tampered = Ended(capfd, "lineage", uri, "--verify")
    assert (tampered.code, tampered.out) == (2, "")
    assert tampered.err.startswith(f"captionflow: {captions}: differs")
    captions.unlink()
    missing = Ended(capfd, "lineage", uri, "--verify")
    assert (missing.code, missing.err) == (2, f"captionflow: {captions}: is missing; make the artifact again\n")


def test_an_artifact_goes_to_the_folder_of_a_run_and_its_uri_to_a_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ingest = ("ingest", "--output", str(tmp_path / "root"), "--sources", source(tmp_path))
    ended = Ended(capfd, *ingest, "--run-id", "one", "--uri-file", str(tmp_path / "outputs" / "uri"))
    assert ended.out.strip() == (tmp_path / "outputs" / "uri").read_text()
    assert ended.out.strip() == str(tmp_path / "root" / "image_captioning" / "one" / "ingested")
    assert open_artifact(ended.out.strip(), "ingested")
    ended = Ended(capfd, *ingest, "--run-id", "one", "--uri-file", f"{source(tmp_path)}/uri")
    assert (ended.code, ended.out) == (2, "")
    assert "--uri-file: " in ended.err


def test_runs_with_the_same_options_share_a_folder_and_others_do_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ingest = ("ingest", "--output", str(tmp_path / "root"), "--sources", source(tmp_path), "--run-id", "all/{inputs}")
    uris = [Ended(capfd, *ingest, *more).out for more in ((), (), ("--max-reject-ratio", "0.7"))]
    assert uris[0] == uris[1] != uris[2]
    assert all("/root/image_captioning/all/" in uri for uri in uris)
