"""Feed broken picture files to the sandbox and see that it only ever says what is wrong with them.

    python -m tests.fuzz_images --minutes 10 [--seed N] [--save FOLDER] [--corpus FOLDER]

A seed gives the same files in the same order. The exit code is 1 if a decoder died.
"""

import argparse
import hashlib
import io
import random
import re
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import psutil
from PIL import Image, ImageCms

from captionflow.images.decode import ImageError
from captionflow.images.sandbox import Sandbox
from captionflow.preprocess.parameters import PreprocessParameters

LIMITS = PreprocessParameters(decode_seconds=2.0, decode_megabytes=256, max_image_megapixels=16, image_size=32)
SLOW_SECONDS = 1.0
WARM_UP = 2000  # pictures, until a decoder's memory is what it should stay
# Unlike each other and most numbers in a header, so that a mutation finds them there.
WIDTH, HEIGHT = 53, 37
LIES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# Where the parts of a PNG, a WEBP, a GIF and a JPEG begin.
PART = re.compile(
    rb"(?s)....(?:IHDR|PLTE|tRNS|I[DC]..|eXIf|acTL|f[cd]..)|VP8[ LX]|A[LN]..|EXIF|!\xf9|,|\xff[\xc0-\xfe]"
)


def base_files(noise: random.Random) -> Iterator[bytes]:
    """Yield sound files of every accepted format, in the forms that have code of their own in the decoders."""
    rgb = Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB")
    rgb.paste(Image.frombytes("RGB", (WIDTH, 9), noise.randbytes(27 * WIDTH)), (0, 5))
    rgba = rgb.copy()
    rgba.putalpha(Image.radial_gradient("L").resize((WIDTH, HEIGHT)))
    grey, palette, black = rgb.convert("L"), rgb.quantize(16), rgb.convert("1")
    deep = Image.frombytes("I;16", (WIDTH, HEIGHT), noise.randbytes(2 * WIDTH * HEIGHT))
    frames = {"save_all": True, "append_images": [rgb.rotate(180), rgb.rotate(180).point(lambda value: value // 2)]}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    tags = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    forms: dict[str, list[tuple[Image.Image, dict[str, Any]]]] = {
        "PNG": [
            *((image, {}) for image in (black, grey, rgba.convert("LA"), rgb, rgba, deep, palette)),
            *((grey, {"transparency": 3}), (palette, {"transparency": 3}), (rgb, tags), (rgb, frames)),
        ],
        "GIF": [(palette, {}), (palette, {"transparency": 3}), (palette, {**frames, "disposal": 2})],
        "WEBP": [(rgb, {}), (rgba, {}), (rgba, {"lossless": True}), (rgba, frames), (rgba, tags)],
        "BMP": [(image, {}) for image in (black, grey, palette, rgb, rgba)],
        "TIFF": [
            *((rgb.convert(mode), {}) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "F", "I")),
            *((deep, {}), (rgb, frames), (rgb, tags), (rgba, {"compression": "tiff_lzw", "tiffinfo": {317: 2}})),
            *((rgb, {"compression": name}) for name in ("tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")),
            *((black, {"compression": name}) for name in ("tiff_ccitt", "group3", "group4")),
        ],
        # Last, since saving a JPEG leaves its options in the image.
        "JPEG": [
            *((rgb.convert(mode), {"progressive": how}) for mode, how in product(("RGB", "L", "CMYK"), (False, True))),
            *((rgb, options) for options in ({"restart_marker_blocks": 2}, {"subsampling": 0}, tags)),
        ],
        "MPO": [(rgb, frames)],
    }
    for image_format, members in forms.items():
        for image, options in members:
            image.save(buffer := io.BytesIO(), image_format, **options)
            yield buffer.getvalue()
    # What Pillow reads but does not write. Every small byte is a row filter of PNG, so any place may begin a row.
    rows = zlib.compress(bytes(noise.randrange(5) for _ in range(9 * WIDTH * HEIGHT)))
    for (bits, colour), is_interlaced in product(((8, 2), (16, 0), (16, 2), (16, 6), (2, 3), (1, 0)), (0, 1)):
        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, is_interlaced)
        chunks = ((b"IHDR", header), (b"PLTE", noise.randbytes(12)), (b"IDAT", rows), (b"IEND", b""))
        parts = b"".join(struct.pack(">I4s", len(body), kind) + body + bytes(4) for kind, body in chunks)
        yield with_checksums(b"\x89PNG\r\n\x1a\n" + parts)
    runs = b"".join(bytes([WIDTH, noise.randrange(256), 0, 0]) for _ in range(HEIGHT)) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(runs), 2835, 2835, 256, 0)
    yield b"BM" + struct.pack("<III", 1078 + len(runs), 0, 1078) + header + noise.randbytes(1024) + runs


def mutate(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Return `data` with one thing wrong."""
    parts = [match.start() for match in PART.finditer(data)]
    is_in_header = parts and chance.random() < 0.5
    at = chance.choice(parts) + chance.randrange(12) if is_in_header else chance.randrange(len(data))
    at = min(at, len(data) - 1)
    size, order = chance.choice((1, 2, 4)), chance.choice(("big", "little"))
    new, end = (chance.choice(LIES) % 256**size).to_bytes(size, order), at + size
    match chance.randrange(6):
        case 0:
            new, end = bytes([data[at] ^ chance.randrange(1, 256)]), at + 1
        case 1:
            begin = chance.randrange(len(other))
            new, end = other[begin : begin + chance.randrange(1, 400)], at + chance.randrange(400)
        case 2:
            new, end = b"", len(data)
        case 3 if len(parts) > 1:
            at, end = chance.choice(list(pairwise(parts)))
            new = data[at:end] * chance.choice((0, 2, 3, 50))
        case 4:
            side = chance.choice((WIDTH, HEIGHT, WIDTH - 1, HEIGHT - 1)).to_bytes(2, order)
            at = chance.choice([match.start() for match in re.finditer(re.escape(side), data)] or [at])
            end = at + size
    return data[:at] + new + data[end:]


def with_checksums(data: bytes) -> bytes:
    """Return a PNG with its checksums put right, so that its chunks are looked into; other files as they are."""
    if not data.startswith(b"\x89PNG"):
        return data
    fixed, at = bytearray(data), 8
    while (end := at + 8 + int.from_bytes(fixed[at : at + 4], "big")) + 4 <= len(fixed):
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


def broken_files(seed: int) -> Iterator[bytes]:
    """Yield files without end, the sound ones first."""
    chance = random.Random(seed)
    bases = list(base_files(random.Random(0)))
    yield from bases
    while True:
        data = chance.choice(bases)
        for _ in range(chance.choice((1, 1, 2, 4, 8))):
            data = mutate(chance, data, chance.choice(bases)) or data
        yield with_checksums(data) if chance.random() < 0.8 else data


def main() -> int:
    """Fuzz until the time is over, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for files over which a decoder died or was slow")
    parser.add_argument("--corpus", type=Path, help="folder for the smallest file of each kind of outcome")
    options = parser.parse_args()
    end, sandbox = time.monotonic() + 60 * options.minutes, Sandbox(LIMITS)
    (decoder,) = psutil.Process().children()
    deaths = born = warm = 0
    slowest, outcomes, smallest = 0.0, Counter[str](), dict[tuple[str, str], bytes]()
    for number, data in enumerate(broken_files(options.seed)):
        begun, reason, detail = time.monotonic(), "picture", ""
        try:
            sandbox.process(data)
        except ImageError as error:
            reason, detail = error.reason, str(error)
        seconds = time.monotonic() - begun
        slowest = max(slowest, seconds)
        outcomes[reason] += 1
        kind = reason, re.sub(r"(?s)-?\d+|'.*|\".*", "#", detail)[:60]
        smallest[kind] = min(smallest.get(kind, data), data, key=len)
        if has_died := not decoder.is_running():
            deaths, born = deaths + 1, number
            (decoder,) = psutil.Process().children()
        if has_died or seconds > SLOW_SECONDS:
            print(f"{'death' if has_died else 'slow'}: {number}: {reason}: {detail} ({seconds:.2f} s)", flush=True)
            _write(options.save, reason, data)
        if number == born + WARM_UP:
            warm = decoder.memory_info().rss
        if time.monotonic() > end:
            break
    grown = decoder.memory_info().rss
    sandbox.close()
    print(f"{outcomes.total()} pictures; {deaths} decoders died; slowest {slowest:.2f} s")
    print(f"memory of the last decoder: {warm / 1e6:.1f} MB after {WARM_UP} pictures, {grown / 1e6:.1f} MB at the end")
    print(*(f"{count:9d} {reason}" for reason, count in outcomes.most_common()), sep="\n")
    for (reason, detail), data in sorted(smallest.items()):
        print(f"{reason}: {detail}")
        _write(options.corpus, reason, data)
    return min(1, deaths)


def _write(folder: Path | None, reason: str, data: bytes) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{reason}-{hashlib.sha256(data).hexdigest()[:8]}").write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
