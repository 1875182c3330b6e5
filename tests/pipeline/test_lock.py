import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from label_store import write_label_store
from writers import HOLD, WITHOUT_FLOCK, holding

from pipeline.errors import BusyError
from pipeline.lock import FOLDER, READS, holder_of, is_flock_shared, only_writer
from pipeline.store import DONE, open_labels


def test_a_second_writer_is_refused_in_one_line_with_what_to_do(tmp_path):
    with holding(tmp_path, "calibrate") as first:
        assert first.first_line == "held"
        with pytest.raises(BusyError) as refused, only_writer(tmp_path, "calibrate"):
            pass
        text = str(refused.value)
        assert "\n" not in text
        since = holder_of(tmp_path / FOLDER / "calibrate").started
        assert re.fullmatch(
            rf"process {first.pid} \(.*-c .*, since {re.escape(since)}\) runs calibrate in {tmp_path}; "
            rf"wait until it ends, or end it: kill {first.pid}",
            text,
        )
        subprocess.run(text.rpartition(": ")[2].split(), check=True)  # the command that it names
        assert first.wait(timeout=10) == -signal.SIGTERM
    with only_writer(tmp_path, "calibrate"):
        pass


def test_a_killed_writer_leaves_nothing_in_the_way(tmp_path):
    with holding(tmp_path, "stage1") as first:
        first.kill()
        first.wait()
        with only_writer(tmp_path, "stage1"):
            assert holder_of(tmp_path / FOLDER / "stage1").pid == os.getpid()


def test_the_next_writer_removes_what_a_killed_one_left_half_written(tmp_path):
    (tmp_path / "stage1/best.part").mkdir(parents=True)
    (tmp_path / "stage2").mkdir()
    left = ("stage1.json.part12-3", "stage1/checkpoint.pt.part12-3", "stage1/best.part/config.json")
    kept = ("stage1.json", "stage1/checkpoint.pt", "stage2/checkpoint.pt.part12-3", "stage2.json.part12-3")
    for name in (*left, *kept):
        (tmp_path / name).write_text(name)
    with only_writer(tmp_path, "stage1"):
        pass
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {*kept, f"{FOLDER}/stage1"}


def test_the_folder_of_held_out_planes_goes_with_the_next_calibration(tmp_path):
    (tmp_path / ".held_out12").mkdir()
    with only_writer(tmp_path, "pseudolabel"):
        assert (tmp_path / ".held_out12").is_dir()
    with only_writer(tmp_path, "calibrate"):
        assert not (tmp_path / ".held_out12").exists()


def test_an_old_text_locks_nothing_even_if_it_names_a_process_that_runs(tmp_path):
    path = tmp_path / FOLDER / "annotate"
    path.parent.mkdir()
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": "", "command": ""}))
    with only_writer(tmp_path, "annotate"):
        pass


def test_the_refusal_names_a_stopped_writer_as_such(tmp_path):
    with holding(tmp_path, "calibrate") as first:
        first.send_signal(signal.SIGSTOP)
        with (
            pytest.raises(BusyError, match=f"is stopped, .*: kill -CONT {first.pid}, or end it: kill -9 {first.pid}$"),
            only_writer(tmp_path, "calibrate"),
        ):
            pass


def test_a_writer_whose_text_is_damaged_still_keeps_others_out(tmp_path):
    with holding(tmp_path, "calibrate"):
        (tmp_path / FOLDER / "calibrate").write_text("{")
        with pytest.raises(BusyError, match=r"another process .*: fuser "), only_writer(tmp_path, "calibrate"):
            pass


def is_free(folder, name):
    try:
        with only_writer(folder, name):
            return True
    except BusyError:
        return False


@pytest.mark.parametrize("running", ["annotate", "pseudolabel", "stage1"])
def test_a_stage_keeps_out_itself_its_readers_and_the_writers_of_what_it_reads(tmp_path, running, monkeypatch):
    monkeypatch.setattr("pipeline.lock.SECONDS_TO_RETRY", 0.0)
    names = {*READS, *(name for read in READS.values() for name in read)}
    expected = {
        "annotate": names - {"annotate", "calibrate", "sweep", "probe", "pseudolabel", "report"},
        "pseudolabel": names - {"pseudolabel", "annotate", "calibrate", "probe", "stage1", "report"},
        "stage1": names - {"stage1", "pseudolabel", "evaluate"},
    }[running]
    with holding(tmp_path, running):
        assert {name for name in names if is_free(tmp_path, name)} == expected
    assert all(is_free(tmp_path, name) for name in names)


def test_the_refusal_of_a_reader_and_of_what_it_reads_says_why(tmp_path):
    with holding(tmp_path, "stage1"):
        with (
            pytest.raises(BusyError, match=r"runs stage1 in .*, which reads what pseudolabel writes; wait"),
            only_writer(tmp_path, "pseudolabel"),
        ):
            pass
        with (
            pytest.raises(BusyError, match=r"runs stage1 in .*, which evaluate reads; wait"),
            only_writer(tmp_path, "evaluate"),
        ):
            pass


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_lease_keeps_others_out_where_there_is_no_flock_and_ends_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", no_locks)
    with holding(tmp_path, "calibrate", WITHOUT_FLOCK) as first:
        assert first.first_line == "held"
        assert (tmp_path / FOLDER / "calibrate.lease").is_file()
        with pytest.raises(BusyError, match=f"kill {first.pid}$"), only_writer(tmp_path, "calibrate"):
            pass
        first.kill()
        first.wait()
        with only_writer(tmp_path, "calibrate"):
            pass
    assert not (tmp_path / FOLDER / "calibrate.lease").exists()


def test_a_lease_of_another_machine_that_is_not_renewed_is_taken_over(tmp_path):
    code = WITHOUT_FLOCK + "lock.LEASE_SECONDS = 0.6\nimport logging\nlogging.basicConfig(level=logging.INFO)"
    elsewhere = code + "\nimport socket\nsocket.gethostname = lambda: 'elsewhere'"
    with holding(tmp_path, "calibrate", elsewhere) as first:
        assert first.first_line == "held"
        command = [sys.executable, "-c", HOLD.format(first=code), str(tmp_path), "calibrate"]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"process {first.pid} " in refused.stderr
        assert f"on elsewhere runs calibrate in {tmp_path}; wait" in refused.stderr
        first.kill()
        first.wait()
    start = time.monotonic()
    with holding(tmp_path, "calibrate", code) as second:
        assert second.first_line == "held"
    assert time.monotonic() - start >= 0.6


def test_a_process_that_lost_its_lease_ends_at_once(tmp_path):
    with holding(tmp_path, "calibrate", WITHOUT_FLOCK + "lock.LEASE_SECONDS = 0.3") as first:
        (tmp_path / FOLDER / "calibrate.lease").unlink()
        assert first.wait(timeout=10) == 1


WRITE = """
import os, sys
from pathlib import Path
from pipeline import files, lock
{first}
folder = Path(sys.argv[1])
with lock.only_writer(folder, "calibrate"):
    {prepare}
    files.write_text(folder / "before", "")
    files.write_text(folder / "other", "")
    os.replace(folder / "other", folder / ".locks/calibrate.lease")  # as a new owner does while this one is suspended
    {write}
"""
OPEN = "from pipeline.store import open_labels; store = open_labels(folder / 'labels.zarr', writable=True)"
WRITES = {
    "a file": ("", "files.write_text(folder / 'after', '')"),
    "a folder": ("", "with files.replacing_folder(folder / 'after') as part: part.mkdir()"),
    "a status": (OPEN, "store.mark(0, 2)"),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_process_whose_lease_was_taken_over_does_not_replace(tmp_path, what):
    path = write_label_store(tmp_path, np.zeros((1, 1, 4, 4)), [(4, 4)])
    prepare, write = WRITES[what]
    code = WRITE.format(first=WITHOUT_FLOCK, prepare=prepare, write=write)
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "calibrate.lease is lost (another process has taken it over" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "before").exists()
    assert not (tmp_path / "after").exists()
    assert open_labels(path).status.tolist() == [DONE]


MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2,local_lock=none 0 0
server:/old /old nfs rw,vers=3,nolock,local_lock=all 0 0
lake@tcp:/x /scratch lustre rw,flock 0 0
lake@tcp:/y /fast lustre rw,localflock 0 0
me@host: /home/me/my\\040mount fuse.sshfs rw,user_id=0 0 0
"""


@pytest.mark.parametrize(
    ("path", "is_shared"),
    [
        ("/data/results", True),
        ("/home/me/results", True),
        ("/old/results", False),
        ("/older", True),
        ("/scratch/results", True),
        ("/fast/results", False),
        ("/home/me/my mount/results", False),
    ],
)
def test_mounts_say_where_flock_does_not_reach_other_machines(path, is_shared):
    assert is_flock_shared(Path(path), MOUNTS) is is_shared
