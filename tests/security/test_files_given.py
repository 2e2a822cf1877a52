"""What a stranger may have made, given to `captionflow kfp` and `captionflow tfx`: one line, no traceback."""

from pathlib import Path

import pytest

from captionflow.sources.csv_export import COLUMNS
from tests.processes import captionflow

pytestmark = pytest.mark.security

HEADER = ",".join(COLUMNS)
ROW = "1,1,A dog.,http://a.example/1.jpg,1.jpg,Attribution License"
PIPELINE = "pipelineInfo: {name: x}\nroot: {dag: {tasks: {}}}\n"
# Nine lines that are 9 ** 9 words when they are written out.
BOMB = PIPELINE + "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
BOMB += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))


def assert_one_line(expected: str, *command: str) -> None:
    done = captionflow(*command)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert expected in line


@pytest.mark.parametrize(
    "content", [BOMB, "[" * 20_000, PIPELINE.replace("dag:", "inputDefinitions: [], dag:"), "!!python/name:os.system"]
)
def test_a_file_that_is_no_pipeline_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(content)
    assert_one_line(f"{file}: no compiled pipeline", "kfp", "submit", str(file), "--host", "http://127.0.0.1:1")


def test_arguments_nested_without_end_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE)
    command = ("kfp", "submit", str(file), "--host", "http://127.0.0.1:1", "--parameters", "[" * 100_000)
    assert_one_line("--parameters: not JSON", *command)


def test_a_csv_with_bare_carriage_returns_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_bytes(f"{HEADER}\r{ROW}\r".encode())
    command = ("tfx", "run", "--csv", str(tmp_path / "captions.csv"), "--pipeline-root", str(tmp_path / "root"))
    assert_one_line("captions.csv: is not CSV", *command)


def test_a_folder_that_is_named_like_a_csv_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").mkdir()
    command = ("tfx", "run", "--csv", str(tmp_path / "captions.csv"), "--pipeline-root", str(tmp_path / "root"))
    assert_one_line("captions.csv: cannot be read", *command)


def test_a_module_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "module.py").write_text("x = " + "-" * 200_000 + "1\n")
    command = ("--pipeline-root", str(tmp_path / "root"), "--module-file", str(tmp_path / "module.py"))
    assert_one_line("module.py: is not Python", "tfx", "run", "--csv", str(tmp_path / "captions.csv"), *command)


def test_the_probe_of_a_shared_root_follows_no_link(tmp_path: Path) -> None:
    from tfx_pipeline.checks import check_inputs
    from tfx_pipeline.parameters import TfxParameters

    (tmp_path / "captions.csv").write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / ".writable").symlink_to(tmp_path / "elsewhere")
    check_inputs(TfxParameters(csv=str(tmp_path / "captions.csv"), pipeline_root=str(tmp_path / "root")))
    assert not (tmp_path / "elsewhere").exists()
