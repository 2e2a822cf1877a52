#!/usr/bin/env python3
"""What deploy.sh calls gcloud, on a folder: it notes each command, and keeps the environment and its bucket.

Called by the name uv it notes the command too, and hands it to the real one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

HOME = Path(os.environ["GCLOUD_HOME"])
ENVIRONMENT = HOME / "environment.json"
PUBLISHED = HOME / "published"
"""What the Python repository holds, which tests.package_index serves."""


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def load() -> dict:
    return json.loads(ENVIRONMENT.read_text())


def software(environment: dict, section: str, values: dict) -> None:
    environment["config"]["softwareConfig"][section] = values
    ENVIRONMENT.write_text(json.dumps(environment))


def variables(text: str) -> dict:
    """As gcloud reads them: text that begins with ^|^ has a | between its parts."""
    _, sign, pairs = text.split("^", 2) if text.startswith("^") else ("", ",", text)
    return dict(pair.split("=", 1) for pair in pairs.split(sign))


def create(arguments: list[str]) -> None:
    environment = {"config": {"dagGcsPrefix": "gs://the-bucket/dags", "softwareConfig": {"envVariables": {}}}}
    software(environment, "envVariables", variables(option(arguments, "--env-variables")))


def update(arguments: list[str]) -> None:
    environment = load()
    if "--update-env-variables" in arguments:
        present = environment["config"]["softwareConfig"]["envVariables"]
        software(environment, "envVariables", present | variables(option(arguments, "--update-env-variables")))
    else:
        lines = Path(option(arguments, "--update-pypi-packages-from-file")).read_text().split()
        software(environment, "pypiPackages", {name: f"=={v}" for name, v in (line.split("==") for line in lines)})


def local(uri: str) -> Path:
    return HOME / uri.removeprefix("gs://")


def rsync(arguments: list[str]) -> None:
    source, target = Path(arguments[-2]), local(arguments[-1])
    excluded = option(arguments, "--exclude") if "--exclude" in arguments else "(?!)"
    for path in [path for path in target.rglob("*") if path.is_file()]:
        name = str(path.relative_to(target))
        gone = "--delete-unmatched-destination-objects" in arguments and not (source / name).exists()
        if gone and not re.search(excluded, name):
            path.unlink()
    shutil.copytree(source, target, dirs_exist_ok=True)


def copy(arguments: list[str]) -> None:
    local(arguments[-1]).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(arguments[-2], local(arguments[-1]))


def run(arguments: list[str]) -> None:
    """Run the command in a real Airflow, or tell the state of the run: the next in the file, the last for ever."""
    if python := os.environ.get("GCLOUD_AIRFLOW"):
        nested, dashes = arguments[8:10], arguments.index("--")
        mounted = str(HOME / "the-bucket") + "/"
        given = [text.replace("/home/airflow/gcs/", mounted) for text in arguments[dashes + 1 :]]
        sys.exit(subprocess.run([python, "-m", "airflow", *nested, *given], check=False).returncode)
    if "state" in arguments:
        first, *later = (HOME / "states").read_text().split()
        print(first)
        (HOME / "states").write_text(" ".join(later or [first]))


def remove(arguments: list[str]) -> None:
    if not local(arguments[-1]).exists():
        sys.exit("ERROR: (gcloud.storage.rm) The following URLs matched no objects or files")
    print(f"Removing {arguments[-1]}...", file=sys.stderr, flush=True)
    local(arguments[-1]).unlink()


def describe_version(arguments: list[str]) -> None:
    if not list(PUBLISHED.glob(f"{option(arguments, '--package')}-{arguments[3]}-*.whl")):
        sys.exit("ERROR: (gcloud.artifacts.versions.describe) NOT_FOUND")


def describe_repository(_: list[str]) -> None:
    if not PUBLISHED.exists():
        sys.exit("ERROR: (gcloud.artifacts.repositories.describe) NOT_FOUND")


def print_settings(arguments: list[str]) -> None:
    """As the real one, but for the host: first what belongs into .pypirc, then what belongs into pip.conf."""
    name = option(arguments, "--repository")
    url = f"{os.environ['GCLOUD_INDEX']}/{option(arguments, '--project')}/{name}"
    pypirc, pip_conf = (ConfigParser(delimiters=(delimiter,)) for delimiter in ":=")
    pypirc["distutils"] = {"index-servers": f"\n{name}"}
    pypirc[name] = {"repository": f"{url}/"}
    pip_conf["global"] = {"extra-index-url": f"{url}/simple/"}
    for file, content in ((".pypirc", pypirc), ("pip.conf", pip_conf)):
        print(f"# Insert the following snippet into your {file}\n")
        content.write(sys.stdout, space_around_delimiters=False)


ANSWERS = {
    "artifacts print-settings python": print_settings,
    "artifacts repositories describe": describe_repository,
    "artifacts repositories create": lambda _: PUBLISHED.mkdir(),
    "artifacts versions describe": describe_version,
    "auth print-access-token": lambda _: print(os.environ["GCLOUD_TOKEN"]),
    "composer environments list": lambda _: print("captionflow-old", *["captionflow"] * ENVIRONMENT.exists(), sep="\n"),
    "composer environments describe": lambda _: print(ENVIRONMENT.read_text()),
    "composer environments create": create,
    "composer environments update": update,
    "composer environments run": run,
    "storage rsync": rsync,
    "storage cp": copy,
    "storage rm": remove,
}


def main(arguments: list[str]) -> int:
    if Path(sys.argv[0]).name == "uv":
        arguments = ["uv", *arguments]
    with (HOME / "commands").open("a") as commands:
        commands.write(json.dumps(arguments) + "\n")
    said = " ".join(arguments)
    if (fault := os.environ.get("GCLOUD_FAILS_AT")) and fault in said:
        print(f"ERROR: (gcloud) {fault}: denied", file=sys.stderr)
        return 1
    if (point := os.environ.get("GCLOUD_WAITS_AT")) and point in said and not (HOME / "waiting").exists():
        (HOME / "waiting").touch()
        while not (HOME / "go").exists():
            time.sleep(0.01)
    if arguments[0] == "uv":
        os.execv(os.environ["REAL_UV"], arguments)
    (answer,) = (answer for words, answer in ANSWERS.items() if said.startswith(words))
    answer(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
