"""What a process that decodes pictures is started with, and what it gives up before it sees the first.

A file may take over the native code that decodes it. What it finds there then is one picture's bytes: no secret in the
environment, no way to open a file or a connection, to start a program or to look into another process.
"""

import os
import resource
import sys
from errno import EPERM
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyseccomp import SyscallFilter

# Where Python and its native libraries are, on the systems that need to be told.
_ENVIRONMENT = ("PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
# Bytes up to which glibc keeps the memory of one picture for the next, instead of having the kernel clear it again.
_KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
# What decoding asks of the kernel: memory, the pipes, the clock that ends it, locks, its own end.
_SYSTEM_CALLS = (
    *("brk", "mmap", "mremap", "munmap", "mprotect", "madvise"),
    *("read", "write", "close", "lseek", "fstat"),
    *("setitimer", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall"),
    *("futex", "sched_yield", "clock_gettime", "getrandom", "exit", "exit_group"),
)


def bare_environment() -> dict[str, str]:
    """Return an environment in which Python finds every package that it finds here, and that holds nothing else."""
    # All of sys.path: Airflow adds its folders there, not to PYTHONPATH, and a user's own packages need HOME.
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**kept, **_KEPT_MEMORY, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


def limit_memory(size: int) -> None:
    """Allow this process `size` bytes beyond what it has mapped by now, where the system can tell, and no file."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + size, mapped + size))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))


def give_up_all_but_decoding() -> str:
    """Have the kernel refuse, for good, what decoding does not need.

    On every system no file and no socket can be opened any more, so nothing can be imported either. On Linux no call
    can be made that is not in the list.

    Returns:
        Why there is no such list, or nothing.
    """
    try:
        only_listed_calls = _only_listed_calls()
        _open_nothing()
        only_listed_calls.load()
    except (ImportError, OSError, RuntimeError) as error:
        # Not Linux, no libseccomp, or a kernel or container that does not allow it.
        _open_nothing()
        return str(error)
    return ""


def _open_nothing() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _only_listed_calls() -> "SyscallFilter":
    from pyseccomp import ALLOW, ERRNO, SyscallFilter

    listed = SyscallFilter(ERRNO(EPERM))
    for name in _SYSTEM_CALLS:
        listed.add_rule(ALLOW, name)
    return listed
