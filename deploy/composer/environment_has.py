"""Tell by the exit code whether a Composer environment has the values of a file already.

    environment_has.py ENVIRONMENT.json pypiPackages|envVariables FILE

The environment is as gcloud describes it; the file has one name=value or name==version a line. Packages that are not
in the file make a difference; environment variables may have been set by others. Needs nothing but Python.
"""

import json
import sys
from pathlib import Path
from typing import Any


def environment_has(environment: dict[str, Any], section: str, lines: list[str]) -> bool:
    """Whether the section holds what the lines say."""
    present: dict[str, str] = environment["config"]["softwareConfig"].get(section, {})
    if section == "pypiPackages":
        return present == {name: f"=={version}" for name, _, version in (line.partition("==") for line in lines)}
    return {name: value for name, _, value in (line.partition("=") for line in lines)}.items() <= present.items()


if __name__ == "__main__":
    described, section, file = sys.argv[1:]
    sys.exit(not environment_has(json.loads(Path(described).read_text()), section, Path(file).read_text().splitlines()))
