"""What the web may send: pages that misbehave and pictures out of the ordinary, each with what must become of it."""

import gzip
import io
import os
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler

import numpy as np
from PIL import Image

from tests.servers import Reply, Site, send

_MEGABYTE = 1_000_000
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Fault:
    """A page, and what must become of it: a reject for `reason`, or a kept picture if that is None.

    `root` is where the page is to be had if not on the site: nobody need be there.
    """

    page: bytes | Reply
    reason: str | None = None
    retryable: bool = False
    root: str = ""


def put(site: Site, faults: Iterable[tuple[str, Fault]]) -> dict[str, Fault]:
    """Give each fault a page of its own; returns them by URL."""
    by_url = {}
    for number, (name, fault) in enumerate(faults):
        path = f"/{number}-{name}.jpg"
        site.pages[path] = fault.page
        by_url[(fault.root or site.url) + path] = fault
    return by_url


def catalogue() -> dict[str, Fault]:
    """Every fault by its name. They reckon with a picture of 4 MB at most."""
    return {
        **{f"status_{status}": Fault(_refuse(status), f"http_{status}") for status in (403, 404, 410)},
        **{f"status_{status}": Fault(_refuse(status), f"http_{status}", True) for status in (408, 425, 500, 503)},
        "redirect_to_nowhere": Fault(_refuse(302), "http_302"),
        "busy_for_no_time": Fault(_refuse(429, Retry_After="0"), "http_429", True),
        "busy_for_a_second": Fault(_refuse(429, Retry_After="1"), "http_429", True),
        "busy_until_doomsday": Fault(
            _refuse(503, Retry_After="Mon, 01 Jan 99999999999999 00:00:00 GMT"), "http_503", True
        ),
        "flapping": Fault(_well_after(1, _refuse(503))),
        "no_robots": Fault(lambda handler: send(handler, picture(), X_Robots_Tag="noai"), "robots_tag"),
        "host_is_down": Fault(b"", "connection_failed", True, root="http://127.0.0.1:9"),
        "host_takes_no_calls": Fault(b"", "timeout", True, root=_host_that_takes_no_calls()),
        "no_answer": Fault(_no_answer, "timeout", True),
        "slow_headers": Fault(_drip(b"HTTP/1.1 200 OK\r\nX-Slow: "), "timeout", True),
        "slow_body": Fault(_drip(_head(100_000)), "timeout", True),
        "slow_large_body": Fault(_drip(_head(4 * _MEGABYTE) + bytes(3 * _MEGABYTE)), "timeout", True),
        "reset": Fault(_reset(b""), "connection_failed", True),
        "reset_in_the_body": Fault(_reset(_head(100_000) + b"only this"), "body_broke_off", True),
        "no_http": Fault(_write(b"SSH-2.0-OpenSSH_9.6\r\n"), "connection_failed", True),
        "cut": Fault(_write(_head(100_000) + picture()), "body_broke_off", True),
        "cut_large": Fault(_write(_head(4 * _MEGABYTE) + bytes(3 * _MEGABYTE)), "body_broke_off", True),
        "cut_chunked": Fault(_write(_CHUNKED + b"1000\r\nonly this"), "body_broke_off", True),
        "length_too_small": Fault(_longer_than_promised, "truncated_image"),
        "endless": Fault(_endless, "too_large"),
        "redirect_loop": Fault(lambda handler: redirect(handler, handler.path), "too_many_redirects"),
        "redirect_inwards": Fault(_redirect_inwards, "url_not_allowed"),
        "redirect_to_file": Fault(lambda handler: redirect(handler, "file:///etc/passwd"), "url_not_allowed"),
        "redirect_to_nonsense": Fault(lambda handler: redirect(handler, "http://[/"), "invalid_url"),
        "redirect": Fault(_well_after(1, lambda handler: redirect(handler, handler.path))),
        "gzip": Fault(_encoded("gzip", gzip.compress(picture()))),
        "deflate": Fault(_encoded("deflate", zlib.compress(picture()))),
        "gzip_bomb": Fault(_encoded("gzip", gzip_bomb()), "too_large"),
        "gzip_of_something_else": Fault(_encoded("gzip", picture()), "corrupt_encoding"),
        "unknown_encoding": Fault(_encoded("br", picture()), "unknown_encoding"),
        **{f"image_{name}": fault for name, fault in _contents().items()},
    }


def _contents() -> dict[str, Fault]:
    """What a page may be instead of an ordinary picture."""
    drawing = _drawing()
    frames = [drawing, drawing.rotate(180)]
    palette = drawing.quantize(16)
    deep = Image.fromarray(np.asarray(drawing.convert("L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[_ORIENTATION] = 6
    return {
        "empty": Fault(b"", "empty"),
        "html": Fault(b"<!DOCTYPE html><title>Not found</title>", "markup"),
        "noise": Fault(np.random.default_rng(0).bytes(5000), "not_an_image"),
        "truncated": Fault(picture()[:-1000], "truncated_image"),
        "corrupt": Fault(_overwritten(_saved(drawing, "PNG")), "corrupt_image"),
        "bomb": Fault(_png_that_promises(30_000, 30_000), "too_many_pixels"),
        "animated": Fault(_saved(frames[0], "GIF", save_all=True, append_images=frames[1:])),
        "cmyk": Fault(_saved(drawing.convert("CMYK"), "JPEG")),
        "16_bits": Fault(_saved(deep, "PNG")),
        "1_bit": Fault(_saved(drawing.convert("1"), "PNG")),
        "palette_with_transparency": Fault(_saved(palette, "PNG", transparency=0)),
        "huge_exif": Fault(_with_segments(picture(), [b"Exif\0\0" + bytes(65_527)] * 40)),
        "png_called_jpg": Fault(lambda handler: send(handler, _saved(_drawing(), "PNG"), Content_Type="text/plain")),
        "progressive": Fault(_saved(drawing, "JPEG", progressive=True)),
        "turned": Fault(_saved(drawing, "JPEG", exif=turned)),
        "broken_exif": Fault(_with_segments(picture(), [b"Exif\0\0nothing that makes sense"])),
        "1x1": Fault(_saved(Image.new("RGB", (1, 1)), "PNG")),
        "20000x1": Fault(_saved(Image.new("RGB", (20_000, 1)), "PNG")),
        "1x20000": Fault(_saved(Image.new("RGB", (1, 20_000)), "JPEG")),
    }


@cache
def picture() -> bytes:
    """A good one."""
    return _saved(_drawing(), "JPEG")


@cache
def gzip_bomb() -> bytes:
    """A gigabyte of zeros, packed a thousandfold; its checksum, which nobody should get to, is left out."""
    packer = zlib.compressobj(wbits=31)
    first, other = (packer.compress(bytes(_MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + other * 999


def redirect(handler: BaseHTTPRequestHandler, location: str) -> None:
    send(handler, b"", 302, Location=location)


def _drawing() -> Image.Image:
    """Something with detail enough for a file that can be cut anywhere."""
    return Image.fromarray(np.random.default_rng(0).integers(100, 200, (120, 160, 3), np.uint8))


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _overwritten(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + b"\xff" * 100 + data[middle + 100 :]


def _png_that_promises(width: int, height: int) -> bytes:
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def _with_segments(jpeg: bytes, contents: list[bytes]) -> bytes:
    """Put APP1 segments, where EXIF is kept, in front of a JPEG's others."""
    return jpeg[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(c) + 2) + c for c in contents) + jpeg[2:]


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


_kept_open: list[socket.socket] = []


@cache
def _host_that_takes_no_calls() -> str:
    """One whose queue of connections is full, so that it leaves further ones without a word."""
    queue, *waiting = (socket.socket() for _ in range(4))
    queue.bind(("127.0.0.1", 0))
    queue.listen(0)
    for caller in waiting:
        caller.setblocking(False)
        caller.connect_ex(queue.getsockname())
    _kept_open.extend([queue, *waiting])
    return f"http://127.0.0.1:{queue.getsockname()[1]}"


def _head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


def _refuse(status: int, **headers: str) -> Reply:
    return lambda handler: send(handler, b"no", status, **headers)


def _encoded(encoding: str, body: bytes) -> Reply:
    return lambda handler: send(handler, body, Content_Encoding=encoding)


def _write(data: bytes) -> Reply:
    """Send this and hang up."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(data)

    return reply


def _drip(start: bytes) -> Reply:
    """Send `start` and then, until the client has had enough, ten bytes a second."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(start)
        for _ in range(600):
            handler.wfile.write(b"x")
            time.sleep(0.1)

    return reply


def _reset(start: bytes) -> Reply:
    """Send `start`, then reset the connection."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(start)
        time.sleep(0.05)  # A reset overtakes what was not yet read.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(handler.connection.detach())

    return reply


def _no_answer(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.rfile.read(1)  # Returns when the client has hung up.


def _endless(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.wfile.write(_CHUNKED)
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def _longer_than_promised(handler: BaseHTTPRequestHandler) -> None:
    """Send a picture as if it had half its length."""
    handler.wfile.write(_head(len(picture()) // 2) + picture())


def _redirect_inwards(handler: BaseHTTPRequestHandler) -> None:
    # The same server, by a name that is not opened.
    redirect(handler, f"http://localhost:{handler.connection.getsockname()[1]}/secret")


def _well_after(times: int, fault: Reply) -> Reply:
    """Reply like `fault` to the first requests for a path, then with a picture."""
    seen: Counter[str] = Counter()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        seen[handler.path] += 1
        if seen[handler.path] <= times:
            fault(handler)
        else:
            send(handler, picture())

    return reply
