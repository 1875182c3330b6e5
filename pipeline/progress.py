"""Progress of long work as log lines: how much is done, the rate, and the time left."""

from __future__ import annotations

import logging
import sys
import time

SECONDS_BETWEEN_LINES = 60.0
FRACTION_BETWEEN_LINES = 0.1
SECONDS_BETWEEN_BARS = 0.1
BAR_LENGTH = 30
CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Logs a line after every tenth of the work or every minute, whichever comes first; a terminal shows a bar as well.

    what:  the work, the beginning of each line
    total: number of items
    unit:  plural of the items, e.g. "images"
    done:  number of items that an earlier, interrupted run finished; they do not count towards the rate
    """

    def __init__(self, log: logging.Logger, what: str, total: int, unit: str, done: int = 0):
        self.log, self.what, self.total, self.unit = log, what, total, unit
        self.done = self.done_before = self.done_at_last_line = done
        self.start = self.time_of_last_line = time.monotonic()
        self.time_of_last_bar = 0.0
        resumed = f", {done} of them done before" if done else ""
        log.info("%s: %d %s%s", what, total, unit, resumed)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Add `count` finished items; `note` ends the line, if one is due."""
        self.done += count
        fraction = (self.done - self.done_at_last_line) / max(self.total, 1)
        waited = time.monotonic() - self.time_of_last_line
        if fraction >= FRACTION_BETWEEN_LINES or waited >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self._write_line(note)
        elif sys.stderr.isatty() and time.monotonic() - self.time_of_last_bar >= SECONDS_BETWEEN_BARS:
            self._draw_bar()

    def _write_line(self, note: str) -> None:
        now = time.monotonic()
        rate, left = self._rate_and_time_left(now)
        if sys.stderr.isatty():
            sys.stderr.write(CLEAR_LINE)
        ending = f", {note}" if note else ""
        text = "%s: %d/%d %s, %s, %s%s"
        time_text = f"{clock(left)} left" if self.done < self.total else f"took {clock(now - self.start)}"
        self.log.info(text, self.what, self.done, self.total, self.unit, rate_text(rate, self.unit), time_text, ending)
        self.done_at_last_line, self.time_of_last_line = self.done, now

    def _draw_bar(self) -> None:
        now = time.monotonic()
        rate, left = self._rate_and_time_left(now)
        full = BAR_LENGTH * self.done // max(self.total, 1)
        bar = "#" * full + "." * (BAR_LENGTH - full)
        speed = rate_text(rate, self.unit)
        sys.stderr.write(f"{CLEAR_LINE}{self.what} [{bar}] {self.done}/{self.total}, {speed}, {clock(left)} left")
        sys.stderr.flush()
        self.time_of_last_bar = now

    def _rate_and_time_left(self, now: float) -> tuple[float, float]:
        rate = (self.done - self.done_before) / max(now - self.start, 1e-9)
        return rate, (self.total - self.done) / rate if rate else float("inf")


def rate_text(rate: float, unit: str) -> str:
    """`12.3 images/s`, or `4.5 s/step` if fewer than one per second. rate: in units per second."""
    return f"{rate:.1f} {unit}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s/{unit.removesuffix('s')}"


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour, or `?` if infinite."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
