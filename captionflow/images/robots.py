"""robots.txt: what a web server's owner lets robots fetch (RFC 9309).

A server's file is read once, however many threads want it. Rules that were read are kept for this many servers, the
last asked ones; each costs a few kilobytes, a hostile file a few megabytes.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from urllib.parse import urlsplit

from protego import Protego

_MAX_SERVERS = 500
# The least that must be read (section 2.5).
_MAX_CHARACTERS = 500 * 1024
# Protego stores each rule for each of the robots before it, so their product bounds its memory.
_MAX_RULES_TIMES_ROBOTS = 100_000
_ROBOT = re.compile(r"^\s*user[- ]?agent\b", re.I | re.M)


class RobotsTxt:
    """The robots.txt files of web servers; safe to share between threads.

    Args:
        user_agent: how requests name themselves; rules for its first word, or for all robots, hold.
    """

    def __init__(self, user_agent: str) -> None:
        self._robot = re.split(r"[/\s]", user_agent, maxsplit=1)[0]
        self._files: OrderedDict[str, Future[Protego]] = OrderedDict()
        self._lock = Lock()

    def allows(self, url: str, read: Callable[[str], bytes]) -> bool:
        """Whether the server's robots.txt lets this robot fetch a URL of http or https.

        Args:
            read: returns the content of the URL that it is given, empty if there is no such file. What it raises is
                raised here, and the next call reads again.
        """
        parts = urlsplit(url)
        server = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            is_first = server not in self._files
            file = self._files.setdefault(server, Future())
            self._files.move_to_end(server)
            if len(self._files) > _MAX_SERVERS:
                self._files.popitem(last=False)
        if is_first:
            try:
                file.set_result(_parse(read(f"{server}/robots.txt")))
            except BaseException as error:
                with self._lock:
                    self._files.pop(server, None)
                file.set_exception(error)
        return file.result().can_fetch(url, self._robot)


def _parse(content: bytes) -> Protego:
    text = content.decode("utf-8", "replace")[:_MAX_CHARACTERS]
    robots = len(_ROBOT.findall(text))
    if robots * text.count("\n") > _MAX_RULES_TIMES_ROBOTS:
        text = "User-agent: *\nDisallow: /"
    return Protego.parse(text)
