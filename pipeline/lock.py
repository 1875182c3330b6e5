"""One writer at a time: locks in a run's folder, and an error of one line that names the process that holds a lock.

A lock is an flock on `RUN/.locks/NAME`. The kernel releases it when its process ends, even if it is killed. The text of
the file names the process; the file is not removed, but locks nothing by itself. Where flock does not exist, or works
within one machine only (some network disks), the process also holds a lease: a second file whose time it renews.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import BusyError

if TYPE_CHECKING:
    from filelock import SoftFileLease

log = logging.getLogger(__name__)

FOLDER = ".locks"
READS = {
    "calibrate": ("annotate",),
    "sweep": ("annotate", "calibrate"),
    "probe": ("annotate", "calibrate", "pseudolabel"),
    "pseudolabel": ("annotate", "calibrate"),
    "stage1": ("pseudolabel",),
    "evaluate": ("stage1", "stage2"),
    "report": ("annotate", "calibrate", "pseudolabel", "baseline"),
}
"""Writer -> stages whose results it reads while it runs. Neither may start while the other runs."""

HALF_WRITTEN = {
    "prepare": ("samples.json.part*", "stamps.json.part*"),
    "calibrate": (".held_out*",),
    "sweep": (".held_out*",),
    "report": ("report.html.part*",),
}
"""Writer -> what it may leave in the run's folder if it is killed, besides a temporary file of its receipt."""

SECONDS_TO_RETRY = 0.2  # another process may hold a lock for a moment, only to check whether it is free
LEASE_SECONDS = 120.0
LEASES: dict[Path, tuple[int, int]] = {}
"""Path of each lease that this process holds -> device and inode of its file."""
NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
LOCAL_OPTIONS = {"nolock", "local_lock=flock", "local_lock=all", "localflock"}  # of NFS and Lustre


class Holder(NamedTuple):
    """The process that holds a lock. started: local time with its zone, ISO 8601"""

    host: str
    pid: int
    started: str
    command: str


@contextlib.contextmanager
def only_writer(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of a writer. No other process writes its results, and what it reads does not change.

    Temporary files of a killed writer are removed.

    folder: of the run
    name:   a stage, or another key of READS
    raises: BusyError if another process writes it, reads it or writes what it reads; OSError if the folder cannot be
            written
    """
    with _held(folder, name, name):
        (folder / FOLDER / name).write_text(json.dumps(_this_process()._asdict()), encoding="utf-8")
        for other in (*READS.get(name, ()), *(other for other, read in READS.items() if name in read)):
            if (folder / FOLDER / other).is_file():
                with _held(folder, other, name):
                    pass
        for pattern in (f"{name}.json.part*", f"{name}/*.part*", *HALF_WRITTEN.get(name, ())):
            for leftover in folder.glob(pattern):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield


@contextlib.contextmanager
def _held(folder: Path, name: str, wanted_by: str) -> Iterator[None]:
    """Hold the lock of `name` for the writer `wanted_by`; BusyError if another process holds it."""
    from filelock import Timeout

    path = folder / FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks:
        try:
            if not _has_flock(locks, path) or not is_flock_shared(path.absolute(), _mounts()):
                locks.enter_context(_held_lease(path))
        except Timeout:
            raise BusyError(refusal(folder, name, wanted_by, holder_of(path))) from None
        yield


def try_flock(path: Path) -> contextlib.ExitStack | None:
    """Take the flock of a path, to be closed; None if another process has it. On a disk without flock it is empty."""
    from filelock import Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    locks = contextlib.ExitStack()
    try:
        _has_flock(locks, path, seconds=0)
    except Timeout:
        return None
    return locks


def _has_flock(locks: contextlib.ExitStack, path: Path, seconds: float = SECONDS_TO_RETRY) -> bool:
    """Take the flock of a path; False if its disk does not support flock. raises: Timeout if another process has it"""
    from filelock import FileLock

    try:
        locks.enter_context(FileLock(path, timeout=seconds, fallback_to_soft=False))
    except OSError as error:
        if error.errno in NO_FLOCK:
            return False
        raise
    return True


@contextlib.contextmanager
def _held_lease(path: Path) -> Iterator[None]:
    with _lease(path) as lease:
        name = Path(lease.lock_file).absolute()
        LEASES[name] = _identity(name)
        try:
            yield
        finally:
            del LEASES[name]


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode of a file; (0, 0) if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_dev, status.st_ino


def check_leases() -> None:
    """End the process if it has lost a lease. To be called before each write to results.

    The thread that renews a lease checks it every 40 s, and reports a loss at its second check. Until then a process
    that was suspended would write beside the new owner.
    """
    for path, identity in LEASES.items():
        if _identity(path) != identity:
            _exit_at_once(str(path), "another process has taken it over, because this one was suspended")


def _lease(path: Path) -> SoftFileLease:
    """The lease beside a lock. If another machine holds it, wait until it would expire without renewal."""
    from filelock import SoftFileLease

    lease, holder, wait = path.with_suffix(".lease"), holder_of(path), SECONDS_TO_RETRY
    if lease.exists() and holder is not None and not holder_runs_here(holder):
        wait += LEASE_SECONDS
        log.info("waiting up to %.0f s for process %d on %s to renew %s", wait, holder.pid, holder.host, lease)
    return SoftFileLease(
        lease,
        timeout=wait,
        lease_duration=LEASE_SECONDS,
        on_compromise=lambda lost: _exit_at_once(lost.lock_file, lost.reason),
    )


def _exit_at_once(lease: str, reason: str) -> None:
    """Exit without cleanup, because another process may have begun to write. As after a kill, no result is lost."""
    log.error("error: the lease %s is lost (%s); to resume, run the same command again", lease, reason)
    os._exit(1)


def _this_process() -> Holder:
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    return Holder(socket.gethostname(), os.getpid(), started, " ".join(join(sys.orig_argv).split()))


def holder_of(path: Path) -> Holder | None:
    """The process that held a lock last; None if the file of the lock cannot be read."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def holder_runs_here(holder: Holder) -> bool:
    """Whether a process with the holder's process id runs on this machine."""
    return holder.host == socket.gethostname() and is_running(holder.pid)


def is_running(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def refusal(folder: Path, name: str, wanted_by: str, holder: Holder | None) -> str:
    """One line: the process that holds the lock of `name`, why `wanted_by` cannot start, and the command that helps.

    holder: None if it is not known
    """
    what = f"runs {name} in {folder}"
    if name != wanted_by:
        reads = name in READS.get(wanted_by, ())
        what += f", which {wanted_by} reads" if reads else f", which reads what {wanted_by} writes"
    if holder is None:
        return f"another process {what}; wait until it ends, or find it: fuser {quote(str(folder / FOLDER / name))}"
    who = f"process {holder.pid} ({holder.command}, since {holder.started})"
    if holder.host != socket.gethostname():
        return f"{who} on {holder.host} {what}; wait until it ends, or end it there: kill {holder.pid}"
    if _is_stopped(holder.pid):
        return f"{who}, which is stopped, {what}; resume it: kill -CONT {holder.pid}, or end it: kill -9 {holder.pid}"
    return f"{who} {what}; wait until it ends, or end it: kill {holder.pid}"


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped (Ctrl-Z, SIGSTOP); False where /proc does not exist."""
    try:
        return re.search(r"^State:\s+[Tt]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except OSError:
        return False


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return ""


def is_flock_shared(path: Path, mounts: str) -> bool:
    """Whether an flock excludes every process that can write a path, including processes of other machines.

    path:    absolute
    mounts:  text of /proc/mounts
    returns: True if no mount point contains the path
    """
    lines = [line.split() for line in mounts.splitlines()]
    containing = [line for line in lines if len(line) >= 4 and path.is_relative_to(_unescaped(line[1]))]
    if not containing:
        return True
    _, _, kind, options, *_ = max(containing, key=lambda line: len(_unescaped(line[1])))
    return not kind.startswith(("fuse.", "9p")) and not LOCAL_OPTIONS.intersection(options.split(","))


def _unescaped(text: str) -> str:
    """A path of /proc/mounts, where a space is written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
