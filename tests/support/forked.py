"""Commands in forked processes. All modules are imported before the fork, so a signal hits work, not imports.

A process that uses this imports, forks, compares files, and leaves all work to the forks. A fork copies the thread that
forks alone, so other threads must be idle, as those of a pool are.
"""

import contextlib
import errno
import importlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dask.threaded
from unprivileged import drop_privileges

import pipeline.__main__
import train.__main__

TRAINER = ("stage1", "stage2", "evaluate", "probe", "predict")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


TOOLS = (
    *("calibration.alpha_choice", "gallery", "exchange", "exchange.import_masks", "inspect"),
    *("experiment.running", "experiment.plot", "experiment.results", "experiment.table"),
)


def preload(stages: Iterable[str]) -> None:
    """Import what these stages need, and what they import later; after `report`, what tools need as well."""
    own = [f"train.{stage}" if stage in TRAINER else f"pipeline.stages.{stage}" for stage in stages]
    tools = ["train.predict", *(f"pipeline.{name}" for name in TOOLS)] if "report" in stages else []
    for module in (*own, *tools, "dask", "distributed", "filelock", "noisy_annotator"):
        importlib.import_module(module)


class Moment(NamedTuple):
    """What happens to a process right before its n-th change to files, counted from 1.

    signal: that it sends itself; FULL_DISK: from then on, nothing can be created or written
    """

    change: int
    signal: int


FULL_DISK = -1


class Ended(NamedTuple):
    """How a command ended: its exit code, -N after signal N, and everything that it printed."""

    code: int
    text: str

    @property
    def is_refused(self) -> bool:
        """Whether it ended as a user's error does: exit code 1, one line that says so, no traceback."""
        is_one_line = sum(line.startswith("error: ") for line in self.text.splitlines()) == 1
        return self.code == 1 and is_one_line and "Traceback" not in self.text


class Forked:
    """A running command, whose output goes to a file.

    words:         of the command line
    is_privileged: whether it keeps root's right to read and write everything, if it has it
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        log: Path,
        moment: Moment | None = None,
        is_privileged: bool = True,
    ):
        self.log = log
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(words, folder, log, moment, is_privileged)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_until_stopped(self) -> bool:
        """Whether the command has stopped; False if it ended first. `wait` can be called in both cases."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return True
        self.code = os.waitstatus_to_exitcode(status)
        return False

    def wait(self, seconds: float = 300) -> Ended:
        """Kills a command that takes longer: its code is then that of SIGKILL."""
        end = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self._end_group()
            elif time.monotonic() > end:
                self.send(signal.SIGKILL)
            else:
                time.sleep(0.01)
        return Ended(self.code, self.log.read_text(errors="replace"))

    def _end_group(self) -> None:
        """End what a killed command had started and has left behind: it would be a second writer."""
        with contextlib.suppress(ProcessLookupError):
            for _ in range(500):  # what nobody reaps stays in the group
                os.killpg(self.pid, signal.SIGKILL)
                time.sleep(0.01)


def run(words: Sequence[str], folder: Path, log: Path) -> Ended:
    """Run a command to its end."""
    return Forked(words, folder, log).wait()


def num_changes(words: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command to its end; returns how many changes it made to files. AssertionError if it failed."""
    ended = Forked(words, folder, log, Moment(0, 0)).wait()
    assert ended.code == 0, f"{words} failed:\n{ended.text}"
    return int(ended.text.rpartition("changes: ")[2])


def _become(words: Sequence[str], folder: Path, log: Path, moment: Moment | None, is_privileged: bool) -> None:
    """Run the command in this process; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        logging.getLogger().handlers.clear()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        sys.orig_argv[:] = ["conformalsam", *words]
        dask.threaded.default_pool = None  # its threads are not in this process
        dask.threaded.pools.clear()
        counted = _watch_changes(moment) if moment is not None else None
        if not is_privileged:
            drop_privileges()
        main = train.__main__.main if words[0] in TRAINER else pipeline.__main__.main
        try:
            main(args=list(words), prog_name="conformalsam")
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if counted is not None:
            print(f"changes: {counted()}")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch_changes(moment: Moment) -> Callable[[], int]:
    """Do what happens at its moment; returns a function that says how many changes there have been.

    Processes that this one forks, such as the workers of a loader, inherit the hook, but are neither counted nor hit.
    """
    count, own = 0, os.getpid()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if os.getpid() != own:
            return
        if event in CHANGES or (event == "open" and _is_to_write(arguments)):
            count += 1
            if moment.signal == FULL_DISK and count >= moment.change > 0 and event in ("open", "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])
            if count == moment.change and moment.signal > 0:
                os.kill(own, moment.signal)

    sys.addaudithook(watch)
    return lambda: count


def _is_to_write(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if not isinstance(path, str | bytes | os.PathLike) or "/dev/" in os.fsdecode(path):
        return False
    return bool(set(mode or "") & set("wxa+")) or (mode is None and bool(flags & (os.O_WRONLY | os.O_RDWR)))
