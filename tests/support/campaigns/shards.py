"""kill -9 at random times of jobs that annotate a part of the images each: the cache ends with the same bytes."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import forked
from campaigns.outcome import Outcome
from contents import contents, differences
from tiny_run import write_run_file, write_sample_files

from pipeline.shards import shards

COUNT = 40
NUM_PARTS = 4
NUM_IMAGES = 42  # 2 of them val
KILLS = 10  # tried in a series
SECONDS_APART = 0.25  # at most: a part alone takes 0.5 s
MAX_SERIES = 4  # times the kills
ROOT = Path(__file__).parents[3]


def search(folder: Path, seed: int, count: int, until: str = "annotate") -> Outcome:
    """Kill running parts `count` times. In each series, an empty cache is filled by four parts at the same time."""
    rng, rows, failures = random.Random(seed), [], []
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"
    forked.preload(["prepare", "annotate"])
    bench = Bench(folder)
    expected, num_calls = bench.undisturbed()
    kills = 0
    while kills < count and len(rows) < MAX_SERIES * count:
        num = min(KILLS, count - kills)
        num_killed, problems = bench.series(rng, num)
        calls, differing = bench.num_calls(), differences(bench.contents(), expected)
        if calls > num_calls + num_killed * bench.batch_size:
            problems.append(f"{calls} maps made of {num_calls} images after {num_killed} kills")
        kills += num_killed
        failures += [f"series {len(rows) + 1}: {problem}" for problem in [*problems, *differing]]
        rows.append((len(rows) + 1, num_killed, calls, "no" if differing else "yes"))
    total = ("all", kills, sum(row[2] for row in rows), f"{sum(row[3] == 'yes' for row in rows)} of {len(rows)}")
    return Outcome(("series", "parts killed while they ran", "maps made", "equal bytes"), [*rows, total], failures)


class Bench:
    """A prepared run whose annotator takes a while for each image, and writes a line for it."""

    batch_size = 2

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "results"
        write_sample_files(folder / "data", [f"im{i:02d}" for i in range(NUM_IMAGES)])
        arguments = {"seconds": 0.03, "log": str(folder / "calls")}
        self.run_file = write_run_file(
            folder,
            annotate={
                "annotator": "python",
                "python": {"factory": "noisy_annotator:build", "arguments": arguments},
                "class_check": "warn",
                "batch_size": self.batch_size,
            },
        )
        self.finish("prepare")

    def start(self, *words: str, log: str = "log") -> forked.Forked:
        return forked.Forked([words[0], str(self.run_file), *words[1:]], self.folder, self.folder / log)

    def finish(self, *words: str) -> None:
        ended = self.start(*words).wait()
        assert ended.code == 0, ended.text

    def undisturbed(self) -> tuple[dict[str, str], int]:
        """What one process makes of all images, and how many it annotates."""
        self.finish("annotate")
        return self.contents(), self.num_calls()

    def contents(self) -> dict[str, str]:
        """Path -> digest: of the cache, and of the run's maps."""
        return contents(self.results)

    def num_calls(self) -> int:
        return len((self.folder / "calls").read_text().split())

    def series(self, rng: random.Random, num: int) -> tuple[int, list[str]]:
        """Empty the cache and fill it by parts, of which `num` are killed and started again; then gather them.

        A part that has ended is started again, too, so that there are four until the last kill.

        returns: how many were killed while they ran; what those printed that failed
        """
        for path in (self.results / "maps", self.results / "tiny/probs.zarr"):
            shutil.rmtree(path)
        for path in (self.results / "tiny/annotate.json", self.folder / "calls"):
            path.unlink()
        (self.folder / "calls").touch()
        running = {part.name: self._start_part(part.name) for part in shards(NUM_PARTS)}
        num_killed, problems = 0, []
        for _ in range(num):
            time.sleep(rng.uniform(0, SECONDS_APART))
            name = rng.choice(sorted(running))
            running[name].send(signal.SIGKILL)
            ended = running[name].wait()
            num_killed += ended.code == -signal.SIGKILL
            problems += [ended.text] if ended.code not in (0, -signal.SIGKILL) else []
            running[name] = self._start_part(name)
        problems += [ended.text for part in running.values() if (ended := part.wait()).code]
        self.finish("annotate")
        return num_killed, problems

    def _start_part(self, name: str) -> forked.Forked:
        return self.start("annotate", "--shard", name, log=f"log of {name}")
