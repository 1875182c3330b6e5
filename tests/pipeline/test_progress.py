"""Progress of long work: a line every tenth, with the rate and the time that is left."""

import logging
import re

import pytest

from pipeline.progress import Progress, clock, rate_text


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_line_comes_at_the_start_and_after_every_tenth(lines):
    progress = Progress(logging.getLogger("work"), "annotate", 40, "images")
    for _ in range(40):
        progress.advance()
    first, *others = lines()
    assert first == "annotate: 40 images"
    assert [int(re.match(r"annotate: (\d+)/40 images, ", line)[1]) for line in others] == list(range(4, 41, 4))
    assert " left" in others[0]
    assert " took " in others[-1]


def test_earlier_work_counts_as_done_but_not_towards_the_rate(lines):
    progress = Progress(logging.getLogger("work"), "train", 100, "steps", done=90)
    assert lines() == ["train: 100 steps, 90 of them done before"]
    progress.start -= 5
    progress.advance(10, "loss 0.5")
    assert lines()[-1] == "train: 100/100 steps, 2.0 steps/s, took 0:05, loss 0.5"


def test_a_slow_piece_of_work_gets_a_line_of_its_own_after_a_minute(lines):
    progress = Progress(logging.getLogger("work"), "train", 1000, "steps")
    progress.advance()
    assert len(lines()) == 1
    progress.time_of_last_line -= 61
    progress.advance()
    assert lines()[-1].startswith("train: 2/1000 steps, ")


def test_no_work_is_no_error(lines):
    Progress(logging.getLogger("work"), "annotate", 0, "images").advance(0)
    assert lines()[-1].startswith("annotate: 0/0 images, 0.0 images/s, took 0:0")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (123, "2:03"), (3723, "1:02:03"), (float("inf"), "?")]
)
def test_times_are_written_as_a_clock_shows_them(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(12.34, "12.3 images/s"), (0.25, "4.0 s/image"), (0, "0.0 images/s")])
def test_slow_rates_are_seconds_for_one(rate, text):
    assert rate_text(rate, "images") == text
