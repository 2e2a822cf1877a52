"""The programs that benchmarks/preprocess.py compares, each as a function that runs it on a Job."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Measurement, measure
from benchmarks.server import Traffic
from captionflow.core.records import ImageCaption, to_json_line
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters

IMG2DATASET = "1.47.0"
_LICENSE = "Attribution License"


@dataclass(frozen=True)
class Job:
    """The work of a contender: numbers of images and of captions an image, folder, server and CPUs."""

    images: int
    captions: int
    folder: Path
    traffic: Traffic
    cpus: set[int]

    @property
    def site(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self.traffic.port}"

    def run(self, command: list[str], env: dict[str, str] | None = None) -> Measurement:
        """Measure a command that writes to `out`."""
        pinned = ["taskset", "--cpu-list", ",".join(map(str, self.cpus)), *command]
        return measure(pinned, self.images, self.traffic, self.folder / "out", env)

    def write_captions(self) -> Path:
        """Write the captions as JSON Lines."""
        path = self.folder / "captions.jsonl"
        with path.open("wb") as file:
            for i in range(self.images * self.captions):
                image = i % self.images
                url = f"{self.site}/{image}.jpg"
                file.write(to_json_line(ImageCaption(image, i, "A dog runs.", url, f"{image}.jpg", _LICENSE)))
        return path


Contender = Callable[[Job], Measurement]


def captionflow(*options: str) -> Contender:
    """Return our job, started by its command as a user would."""

    def run(job: Job) -> Measurement:
        ingested = ingest(str(job.folder / "ingested"), IngestParameters(sources=(str(job.write_captions()),)))
        command = [sys.executable, "-m", "captionflow", "preprocess", f"--ingested={ingested}"]
        command += [f"--output={job.folder / 'out'}", f"--allow-url-prefix={job.site}", "--resize=pad", *options]
        return job.run(command)

    return run


def img2dataset(environment: Path, *options: str) -> Contender:
    """Return img2dataset, from its own environment, with as many processes as there are CPUs."""

    def run(job: Job) -> Measurement:
        urls = job.folder / "urls.txt"
        urls.write_text("".join(f"{job.site}/{i}.jpg\n" for i in range(job.images)))
        command = [str(environment / "bin" / "img2dataset"), f"--url_list={urls}", "--input_format=txt"]
        command += [f"--output_folder={job.folder / 'out'}", "--output_format=webdataset", "--image_size=224"]
        command += [f"--processes_count={os.cpu_count()}", "--thread_count=32", *options]
        return job.run(command, {"NO_ALBUMENTATIONS_UPDATE": "1"})

    return run


def beam_docs(job: Job) -> Measurement:
    """Run the job with the structure of the Beam documentation's example."""
    out = job.folder / "out"
    out.mkdir()
    return job.run([sys.executable, "-m", "benchmarks.beam_docs_job", str(job.write_captions()), str(out / "samples")])


def limit(pictures: Path, images: int) -> float:
    """Return the images per second of decoding, resizing and encoding alone, in as many processes as there are CPUs."""
    command = [sys.executable, "-m", "benchmarks.limit", str(pictures), str(images), str(os.cpu_count())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def install_img2dataset(environment: Path) -> None:
    """Install img2dataset into an environment of its own, if that does not exist yet."""
    if (environment / "bin" / "img2dataset").exists():
        return
    print(f"installing img2dataset {IMG2DATASET} into {environment}", file=sys.stderr)
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", "3.11", str(environment)], check=True)
    # img2dataset needs pkg_resources, which newer setuptools lack.
    packages = [f"img2dataset=={IMG2DATASET}", "setuptools<81"]
    python = f"--python={environment / 'bin' / 'python'}"
    subprocess.run([*uv, "pip", "install", "--quiet", python, *packages], check=True)
