"""A tiny run that anything may happen to, and what must be true of it: a state machine for hypothesis.

Commands run in forked processes, as a user starts them; the parent changes files and compares bytes. Of every state it
is known what an undisturbed run in an empty folder makes of the same images, masks and settings.
"""

import os
import random
import re
import shlex
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import forked
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from PIL import Image
from tiny_run import write_run_file

from pipeline.marks import mark_of, update_marks
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.sources import fingerprints

STAGES = ("prepare", "annotate", "calibrate", "pseudolabel")
BEFORE = {
    "prepare": (),
    "annotate": ("prepare",),
    "calibrate": ("prepare", "annotate"),
    "pseudolabel": ("prepare", "calibrate"),
}
"""Stage -> those whose marks are the inputs of its rule in the Snakefile."""
STORES = {"annotate": "probs.zarr", "calibrate": "calibration.zarr", "pseudolabel": "labels.zarr"}
FEWEST, MOST = 4, 6  # images
SIDE = 16
MOST_REPAIRS = 6  # commands that messages ask for, one after the other
MOST_CHANGES = 60  # to files, of a stage: about as many as the shortest one makes
SETTINGS = {
    "decimals": (1, 2),  # another annotator
    "alpha": (0.5, 0.4),
    "rule": ("paper", "argmax"),
    "variant": ("pixel", "image"),
    "seed": (0, 1),  # of the splits
}
COMMAND = re.compile(r"(?:^|[ :])((?:rm|snakemake|conformalsam) .*)$")


class Inputs(NamedTuple):
    """All that the results of a run depend on. images, masks: id -> number of the picture"""

    images: tuple[tuple[str, int], ...]
    masks: tuple[tuple[str, int], ...]
    settings: tuple[Any, ...]


class Expected(NamedTuple):
    """What an undisturbed run writes: stage -> path in its store -> bytes; and path in the cache -> bytes of a row."""

    stores: dict[str, dict[str, bytes]]
    rows: dict[str, bytes]


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_in(folder)}


def write_inputs(folder: Path, inputs: Inputs) -> Path:
    """Write images, masks and the run file; returns the latter. A file that is there already stays as it is."""
    for kind, numbers in (("images", inputs.images), ("masks", inputs.masks)):
        (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
        for sample_id, number in numbers:
            path = folder / f"data/{kind}/{sample_id}.png"
            if not path.exists():
                write_picture(path, number)
    decimals, alpha, rule_name, variant, seed = inputs.settings
    arguments = {"decimals": decimals, "log": str(folder / "calls")}
    return write_run_file(
        folder,
        data={
            "root": str(folder / "data"),
            "classes": ["background", "cat", "dog"],
            "background": "background",
            "grid": [8, 8],
            "splits": {"num_labeled": 2, "num_val": 1, "seed": seed},
        },
        annotate={
            "annotator": "python",
            "python": {"factory": "noisy_annotator:build", "arguments": arguments},
            "class_check": "warn",
            "batch_size": 2,
        },
        calibrate={"alpha": alpha, "variant": variant},
        pseudolabel={"rule": rule_name},
        compute={"workers": 1},
    )


def write_picture(path: Path, number: int) -> None:
    """A random image, or the mask of one, written as another file beside it."""
    rng = np.random.default_rng(number)
    if path.parent.name == "masks":
        values = rng.choice(np.array([0, 1, 2, 255], np.uint8), (SIDE, SIDE))
    else:
        values = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    part = path.with_suffix(".part.png")
    Image.fromarray(values).save(part)
    part.replace(path)


class Oracle:
    """Undisturbed runs, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, {}

    def expected(self, inputs: Inputs) -> Expected:
        if inputs not in self.known:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            run_file = write_inputs(self.folder, inputs)
            for stage in STAGES:
                ended = forked.run([stage, str(run_file)], self.folder, self.folder / "log")
                assert ended.code == 0, f"{stage} of an undisturbed run failed:\n{ended.text}"
            stores = {stage: contents(self.folder / "results/tiny" / name) for stage, name in STORES.items()}
            maps = contents(self.folder / "results/maps")
            rows = {name: content for name, content in maps.items() if "/rows/" in name}
            self.known[inputs] = Expected(stores, rows)
        return self.known[inputs]


class RunMachine(RuleBasedStateMachine):
    """One run, its data and its shared maps.

    inputs:     what is in the data and the run file now
    listed:     what prepare saw last
    kept:       rows that were made, and that nothing has removed or damaged since: they must not be made again
    damaged:    whether a file of the run has been damaged since it was found sound
    is_settled: whether nothing has happened since the run was finished
    """

    def __init__(self, folder: Path, oracle: Oracle, steps: Counter[str]) -> None:
        super().__init__()
        self.folder, self.oracle, self.steps = folder, oracle, steps
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.run, self.log = folder / "results/tiny", folder / "log"
        self.next_picture = 100
        self.kept: dict[str, bytes] = {}
        self.damaged = self.is_settled = False
        self.listed: Inputs | None = None

    @initialize(finished=st.booleans())
    def start(self, finished: bool) -> None:
        ids = tuple((f"im{i}", i) for i in range(5))
        self.inputs = Inputs(ids, tuple((one, 50 + i) for one, i in ids), tuple(of[0] for of in SETTINGS.values()))
        self.run_file = write_inputs(self.folder, self.inputs)
        if finished:
            self.resume()

    # What a user does

    @rule(stage=st.sampled_from(STAGES))
    def run_by_hand(self, stage: str) -> None:
        self.note("stage by hand")
        ended = self.call(stage)
        if ended.code:
            self.follow(ended, [stage])

    @precondition(lambda self: not self.is_settled)
    @rule()
    def resume(self) -> None:
        """Snakemake, until all is done; then every store is checked if a file was damaged."""
        self.note("resume")
        self.snakemake("pseudolabel")
        if self.damaged:
            self.repair_all()
        self.compare(STAGES)
        assert self.due("pseudolabel") == [], "a finished run is not finished"
        self.is_settled = True

    @rule(setting=st.sampled_from(list(SETTINGS)))
    def change_setting(self, setting: str) -> None:
        self.note("change a setting")
        values = list(self.inputs.settings)
        number = list(SETTINGS).index(setting)
        values[number] = next(value for value in SETTINGS[setting] if value != values[number])
        self.inputs = self.inputs._replace(settings=tuple(values))
        write_inputs(self.folder, self.inputs)

    @precondition(lambda self: len(self.inputs.images) < MOST)
    @rule(letter=st.sampled_from("abcxyz"))
    def add_image(self, letter: str) -> None:
        sample_id = f"{letter}{self.next_picture}"
        self.note("add an image")
        self.put("images", sample_id)
        self.put("masks", sample_id)

    @rule(index=st.integers(0, MOST), kind=st.sampled_from(("images", "masks")))
    def change_picture(self, index: int, kind: str) -> None:
        self.note(f"change one of the {kind}")
        self.put(kind, self.sample_at(index))

    @precondition(lambda self: len(self.inputs.images) > FEWEST)
    @rule(index=st.integers(0, MOST))
    def remove_image(self, index: int) -> None:
        self.note("remove an image")
        sample_id = self.sample_at(index)
        for kind in ("images", "masks"):
            (self.folder / f"data/{kind}/{sample_id}.png").unlink()
            numbers = tuple(pair for pair in getattr(self.inputs, kind) if pair[0] != sample_id)
            self.inputs = self.inputs._replace(**{kind: numbers})

    @rule(is_all=st.booleans())
    def prune(self, is_all: bool) -> None:
        if not (self.folder / "results/maps").is_dir():
            return
        self.note("prune")
        ended = self.command(["cache", "prune", str(self.run_file), *(["--all"] if is_all else [])])
        assert ended.code == 0, ended.text
        left = {*contents(self.folder / "results/maps").values(), *contents(self.run / "probs.zarr").values()}
        self.kept = {row: content for row, content in self.kept.items() if content in left}

    @rule()
    def verify(self) -> None:
        if not (self.folder / "results/maps").is_dir():
            return
        self.note("verify")
        ended = self.command(["cache", "verify", str(self.run_file), "--repair"])
        assert ended.code == 0, ended.text

    # What happens to it

    @rule(stage=st.sampled_from(STAGES), change=st.integers(1, MOST_CHANGES))
    def kill(self, stage: str, change: int) -> None:
        ended = self.call(stage, forked.Moment(change, signal.SIGKILL))
        if ended.code == -signal.SIGKILL:
            self.note("kill")
        elif ended.code:
            self.follow(ended, [stage])

    @rule(stage=st.sampled_from(STAGES), change=st.integers(1, MOST_CHANGES))
    def fill_disk(self, stage: str, change: int) -> None:
        """Nothing can be written any more; when there is room, the same command goes on."""
        self.note("full disk")
        ended = self.call(stage, forked.Moment(change, forked.FULL_DISK))
        if ended.code == 0:
            return
        assert ended.is_refused, ended.text
        if "No space left" in ended.text:
            left = [path for path in files_in(self.folder / "results") if ".part" in path.name]
            assert not left, f"left on a full disk: {left}"
            ended = self.call(stage)
        if ended.code:
            self.follow(ended, [stage])

    @rule(draw=st.randoms(use_true_random=False), kind=st.sampled_from(("delete", "flip", "cut", "empty")))
    def damage(self, draw: random.Random, kind: str) -> None:
        """A file of the run or of the shared maps is deleted, changed by a bit, or cut off."""
        found = files_in(self.folder / "results")
        if not found:
            return
        self.note(f"{kind} a file")
        folders = sorted({path.relative_to(self.folder / "results").parts[:2] for path in found})
        chosen = draw.choice(folders)  # a store has many files
        file = draw.choice([path for path in found if path.relative_to(self.folder / "results").parts[:2] == chosen])
        before = file.stat()
        content = file.read_bytes()
        if kind == "delete" or not content:
            file.unlink()
        elif kind == "flip":
            bit = draw.randrange(8 * len(content))
            with file.open("r+b") as opened:  # in place: a link to it changes, too
                opened.seek(bit // 8)
                opened.write(bytes([content[bit // 8] ^ 1 << bit % 8]))
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            os.truncate(file, 0 if kind == "empty" else draw.randrange(len(content)))
        self.damaged = True
        gone = self.rows_of_file(file, content)
        self.kept = {row: one for row, one in self.kept.items() if row not in gone}

    @rule(days=st.sampled_from((-1, 3)))
    def set_clock(self, days: int) -> None:
        """All files are from another time than the clock's: with 3 days, the clock has been set back."""
        self.note("clock")
        for path in files_in(self.folder / "results") + files_in(self.folder / "data"):
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + days * 86_400 * 10**9))

    # Parts of the rules

    def note(self, step: str) -> None:
        self.steps[step] += 1
        self.is_settled = False

    def sample_at(self, index: int) -> str:
        return self.inputs.images[index % len(self.inputs.images)][0]

    def put(self, kind: str, sample_id: str) -> None:
        """Write the next picture as an image or a mask."""
        write_picture(self.folder / f"data/{kind}/{sample_id}.png", self.next_picture)
        numbers = {**dict(getattr(self.inputs, kind)), sample_id: self.next_picture}
        self.inputs = self.inputs._replace(**{kind: tuple(sorted(numbers.items()))})
        self.next_picture += 1

    def rows_of_file(self, file: Path, content: bytes) -> set[str]:
        """Rows that may be lost with a file: the row that it is or was, or all those that a run had alone."""
        if content in self.kept.values():
            return {row for row, one in self.kept.items() if one == content}
        if "maps" in file.parts:
            return set()
        cached = contents(self.folder / "results/maps").values()
        return {row for row, one in self.kept.items() if one not in cached}

    def command(self, words: list[str], moment: forked.Moment | None = None) -> forked.Ended:
        return forked.Forked(words, self.folder, self.log, moment).wait()

    def call(self, stage: str, moment: forked.Moment | None = None) -> forked.Ended:
        """Run a stage; check how it ended, what it made, and what it wrote."""
        before = self.num_calls()
        ended = self.command([stage, str(self.run_file)], moment)
        is_killed = ended.code == -signal.SIGKILL and moment is not None
        assert ended.code == 0 or is_killed or ended.is_refused, f"{stage} ended badly:\n{ended.text}"
        if stage == "prepare" and ended.code == 0:
            self.listed = self.inputs
        if stage == "annotate":
            self.count(self.num_calls() - before, ended)
        if ended.code == 0 and not self.damaged and stage != "prepare":
            self.compare((stage,))
        return ended

    def count(self, num_made: int, ended: forked.Ended) -> None:
        """No map that is there is made again."""
        if num_made == 0 and ended.code:
            return
        rows = self.expected().rows
        missing = rows.keys() - self.kept.keys()
        assert num_made <= len(missing), f"{num_made} maps made, but {len(missing)} were missing:\n{ended.text}"
        if ended.code == 0:
            self.kept |= rows

    def num_calls(self) -> int:
        calls = self.folder / "calls"
        return len(calls.read_text().split()) if calls.exists() else 0

    def expected(self) -> Expected:
        """What the samples that prepare listed become with the settings of now."""
        assert self.listed is not None, "a stage ran without samples"
        seed = list(SETTINGS).index("seed")
        settings = [*self.inputs.settings]
        settings[seed] = self.listed.settings[seed]
        return self.oracle.expected(self.listed._replace(settings=tuple(settings)))

    def compare(self, stages: tuple[str, ...]) -> None:
        """The stores of these stages have the bytes of an undisturbed run's."""
        expected = self.expected().stores
        for stage in stages:
            if stage in STORES:
                found = contents(self.run / STORES[stage])
                problem = differing(found, expected[stage])
                assert not problem, f"{STORES[stage]}: {problem}"

    def follow(self, ended: forked.Ended, again: list[str]) -> None:
        """Do what a refusal asks for, until the refused command, if there is one, runs."""
        for _ in range(MOST_REPAIRS):
            assert ended.is_refused, ended.text
            line = next(line for line in ended.text.splitlines() if line.startswith("error: "))
            found = COMMAND.search(line)
            assert found, f"no command in: {line}"
            self.note("refusal")
            ended = self.obey(found[1]) or (self.command_again(again) if again else ended._replace(code=0))
            if ended.code == 0:
                return
        raise AssertionError(f"refused after {MOST_REPAIRS} repairs: {ended.text}")

    def command_again(self, words: list[str]) -> forked.Ended:
        return self.call(words[0]) if words[0] in STAGES else self.command(words)

    def obey(self, line: str) -> forked.Ended | None:
        """Run a printed command line; returns what was refused, None if all of it ended well."""
        for part in line.split(" && "):
            words = shlex.split(part)
            if words[0] == "rm":
                for name in words[1:]:
                    path = self.folder / name
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif not name.startswith("-"):
                        path.unlink()
            elif words[0] == "conformalsam":
                ended = self.command(words[1:])
                if ended.code:
                    return ended
            else:
                assert words[:3] == ["snakemake", "--cores", "8"], line
                forced = words[words.index("-R") + 1] if "-R" in words else None
                assert f"run={self.run_file}" in words or "run=tiny" in words, line
                ended = self.snakemake_once(words[3], forced)
                if ended is not None:
                    return ended
        return None

    def snakemake(self, target: str) -> None:
        ended = self.snakemake_once(target)
        if ended is not None:
            self.follow(ended, [])
            self.snakemake_again(target)

    def snakemake_again(self, target: str) -> None:
        ended = self.snakemake_once(target)
        assert ended is None, f"refused again: {ended.text}"

    def snakemake_once(self, target: str, forced: str | None = None) -> forked.Ended | None:
        """The jobs of a call of Snakemake, one after the other; returns what was refused."""
        for stage in self.due(target, forced):
            mark = self.mark(stage)
            mark.unlink(missing_ok=True)
            ended = self.call(stage)
            if ended.code:
                return ended
            mark.touch()
            newest = max([self.mark(one).stat().st_mtime_ns for one in BEFORE[stage]], default=0)
            assert newest <= mark.stat().st_mtime_ns, f"Snakemake refuses {stage}: it is older than its input"
        return None

    def mark(self, stage: str) -> Path:
        return mark_of(self.run / f"{stage}.json")

    def due(self, target: str, forced: str | None = None) -> list[str]:
        """The stages that Snakemake runs: those without a mark, with an older one than an input, and all after them."""
        fingerprints._fingerprints.cache_clear()  # another process reads the file again
        run = Run(load_settings(self.run_file))
        marked = update_marks(run)
        due: list[str] = []
        for stage in STAGES[: STAGES.index(target) + 1]:
            before = BEFORE[stage]
            if not marked[stage] or stage == forced or not {*before}.isdisjoint(due) or self.is_old(stage):
                due.append(stage)
        return due

    def is_old(self, stage: str) -> bool:
        own, *before = (self.mark(one).stat().st_mtime_ns for one in (stage, *BEFORE[stage]))
        return max(before, default=0) > own

    def repair_all(self) -> None:
        """Check every store, and do what the findings ask for."""
        self.note("repair")
        for _ in range(MOST_REPAIRS):
            commands = []
            for name in STORES.values():
                checked = self.command(["inspect", str(self.run / name), "--check"])
                assert "Traceback" not in checked.text, checked.text
                if checked.code:
                    found = [COMMAND.search(line) for line in checked.text.splitlines()]
                    lines = [one[1] for one in found if one]
                    assert lines, f"no command in:\n{checked.text}"
                    commands += lines[-1:]
            if not commands:
                self.damaged = False
                return
            for line in commands:
                self.obey(line)
            self.snakemake("pseudolabel")
        raise AssertionError(f"still damaged after {MOST_REPAIRS} repairs: {checked.text}")

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Paths of files that differ between two stores."""
    return sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))
