"""The confinement of a process that decodes pictures.

A file may take over the native code that decodes it. It finds one picture's bytes there, no secret in the environment,
and cannot open a file or a connection, start a program or look into another process.
"""

import os
import resource
import sys
from errno import EPERM
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyseccomp import SyscallFilter

# Where Python and its native libraries are, on systems whose loader does not know.
_ENVIRONMENT = ("PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
# Bytes up to which glibc keeps the memory of one picture for the next, instead of having the kernel clear it again.
_KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
# The system calls of decoding: memory, the pipes, the CPU time limit, locks, exit.
_SYSTEM_CALLS = (
    *("brk", "mmap", "mremap", "munmap", "mprotect", "madvise"),
    *("read", "write", "close", "lseek", "fstat"),
    *("setitimer", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall"),
    *("futex", "sched_yield", "clock_gettime", "getrandom", "exit", "exit_group"),
)


def minimal_environment() -> dict[str, str]:
    """Return an environment that holds nothing but what Python needs to find the packages that it finds here."""
    # All of sys.path: Airflow adds its folders there, not to PYTHONPATH, and a user's own packages need HOME.
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**kept, **_KEPT_MEMORY, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


def limit_memory(size: int) -> None:
    """Allow this process `size` bytes beyond what it has mapped (on Linux), no core dump and no writing of files."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + size, mapped + size))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))


def confine() -> str:
    """Have the kernel refuse, for good, what decoding does not need.

    On every system no file and no socket can be opened any more, so nothing can be imported either. On Linux seccomp
    refuses every system call that is not in the list.

    Returns:
        Why seccomp is not used; "" if it is.
    """
    try:
        seccomp_filter = _seccomp_filter()
        _forbid_opening()
        seccomp_filter.load()
    except (ImportError, OSError, RuntimeError) as error:
        # Not Linux, no libseccomp, or a kernel or container that forbids it.
        _forbid_opening()
        return str(error)
    return ""


def _forbid_opening() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _seccomp_filter() -> "SyscallFilter":
    from pyseccomp import ALLOW, ERRNO, SyscallFilter

    seccomp_filter = SyscallFilter(ERRNO(EPERM))
    for name in _SYSTEM_CALLS:
        seccomp_filter.add_rule(ALLOW, name)
    return seccomp_filter
