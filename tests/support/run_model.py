"""A tiny run that anything may happen to, and what must be true of it: a state machine for hypothesis.

Commands run in forked processes, as a user starts them; the parent changes files and compares bytes. Of every state it
is known what an undisturbed run in an empty folder makes of the same images, masks and settings.
"""

import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import forked
from driven_run import DrivenRun
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from run_inputs import SETTINGS, Inputs, first_inputs, write_inputs, write_picture
from undisturbed import STAGES, STORES, STUDENT, TRAINING, Expected, Oracle, contents, differing, files_in

FEWEST, MOST = 4, 6  # images
MOST_CHANGES = 60  # to files, of a stage: about as many as the shortest one makes
MOST_PARTS = 3  # of the images, annotated by jobs of their own


class RunMachine(DrivenRun, RuleBasedStateMachine):
    """One run, its data, its shared maps, and the object store behind them, if there is one.

    inputs:     what is in the data and the run file now
    listed:     what prepare saw last
    kept:       rows that were made, and that nothing has removed or damaged since: they must not be made again
    damaged:    whether a file of the run has been damaged since it was found sound
    spoiled:    objects that have been damaged
    is_settled: whether nothing has happened since the run was finished
    """

    def __init__(self, folder: Path, oracle: Oracle, steps: Counter[str]) -> None:
        super().__init__()
        self.folder, self.oracle, self.steps = folder, oracle, steps
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.next_picture = 100
        self.kept: dict[str, bytes] = {}
        self.spoiled: set[Path] = set()
        self.damaged = self.is_settled = False
        self.listed: Inputs | None = None
        self.bucket: Path | None = None

    @initialize(finished=st.booleans(), has_bucket=st.booleans())
    def start(self, finished: bool, has_bucket: bool) -> None:
        self.bucket = self.folder / "bucket" if has_bucket else None
        self.inputs = first_inputs()
        self.write_inputs()
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
        """Snakemake, until all is done; then every file is checked if one was damaged."""
        self.note("resume")
        self.snakemake(STAGES[-1])
        if self.damaged:
            self.note("repair")
            self.repair_all()
            self.damaged = False
        self.compare(STAGES)
        assert self.due(STAGES[-1]) == [], "a finished run is not finished"
        self.is_settled = True

    @rule()
    def train(self) -> None:
        """Snakemake again up to the student, which does not depend on what has happened."""
        self.resume()
        self.note("train")
        self.snakemake(TRAINING)
        self.compare((TRAINING,))
        assert self.due(TRAINING) == [], "a trained run is not finished"
        self.is_settled = True

    @rule(setting=st.sampled_from(list(SETTINGS)))
    def change_setting(self, setting: str) -> None:
        self.note("change a setting")
        self.inputs = self.inputs.changed(setting)
        self.write_inputs()

    @rule(number=st.integers(1, MOST_PARTS))
    def divide(self, number: int) -> None:
        """Annotate by so many jobs from now on; nothing is made again for that."""
        if number != self.num_parts:
            self.steps["change the number of parts"] += 1
            self.num_parts = number
            self.write_inputs()

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

    @precondition(lambda self: (self.folder / "results/maps").is_dir())
    @rule(is_all=st.booleans())
    def prune(self, is_all: bool) -> None:
        self.note("prune")
        self.succeed("cache", "prune", *(["--all"] if is_all else []))
        left, own = self.intact(), contents(self.run / "probs.zarr").values()
        self.kept = {row: content for row, content in self.kept.items() if content in left or content in own}

    @precondition(lambda self: (self.folder / "results/maps").is_dir())
    @rule()
    def verify(self) -> None:
        self.note("verify")
        self.succeed("cache", "verify", "--repair")

    @precondition(lambda self: self.bucket is not None and (self.folder / "results/maps").is_dir())
    @rule()
    def pack(self) -> None:
        """Move the maps in the object store into large objects."""
        self.note("pack")
        self.succeed("cache", "pack")

    # What happens to it

    @rule(stage=st.sampled_from(STAGES), change=st.integers(1, MOST_CHANGES))
    def kill(self, stage: str, change: int) -> None:
        self.call_and_kill("kill", change, stage)

    @rule(number=st.integers(1, MOST_PARTS), change=st.integers(1, MOST_CHANGES))
    def kill_a_part(self, number: int, change: int) -> None:
        self.call_and_kill("kill a part", change, "annotate", "--shard", f"{number}_of_{MOST_PARTS}")

    @rule(change=st.integers(1, MOST_CHANGES))
    def kill_training(self, change: int) -> None:
        self.call_and_kill("kill training", change, TRAINING)

    @rule(stage=st.sampled_from(STAGES), change=st.integers(1, MOST_CHANGES))
    def fill_disk(self, stage: str, change: int) -> None:
        """Nothing can be written any more; when there is room, the same command goes on."""
        self.note("full disk")
        before = {path for path in files_in(self.folder / "results") if ".part" in path.name}  # of killed processes
        ended = self.call(stage, moment=forked.Moment(change, forked.FULL_DISK))
        if ended.code == 0:
            return
        assert ended.is_refused, ended.text
        if "No space left" in ended.text:
            left = {path for path in files_in(self.folder / "results") if ".part" in path.name} - before
            assert not left, f"left on a full disk: {left}"
            ended = self.call(stage)
        if ended.code:
            self.follow(ended, [stage])

    @rule(draw=st.randoms(use_true_random=False), kind=st.sampled_from(("delete", "flip", "cut", "empty")))
    def damage(self, draw: random.Random, kind: str) -> None:
        """A file of the run, of the shared maps or of the object store is deleted, changed by a bit, or cut off."""
        found = [*files_in(self.folder / "results"), *files_in(self.folder / "bucket")]
        if not found:
            return
        self.note(f"{kind} a file")
        depth = len(self.folder.parts) + 3  # of a store, which has many files
        chosen = draw.choice(sorted({path.parts[:depth] for path in found}))
        file = draw.choice([path for path in found if path.parts[:depth] == chosen])
        content = file.read_bytes()
        self.spoil(file, content, draw, kind)
        self.damaged = True
        gone = self.rows_of_file(file, content)
        if "bucket" in file.relative_to(self.folder).parts:
            self.spoiled.add(file)
        left = self.intact()
        self.kept = {row: one for row, one in self.kept.items() if row not in gone or one in left}

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

    def write_inputs(self) -> None:
        self.run_file = write_inputs(self.folder, self.inputs, self.num_parts, self.bucket)

    def sample_at(self, index: int) -> str:
        return self.inputs.images[index % len(self.inputs.images)][0]

    def put(self, kind: str, sample_id: str) -> None:
        """Write the next picture as an image or a mask."""
        write_picture(self.folder / f"data/{kind}/{sample_id}.png", self.next_picture)
        numbers = {**dict(getattr(self.inputs, kind)), sample_id: self.next_picture}
        self.inputs = self.inputs._replace(**{kind: tuple(sorted(numbers.items()))})
        self.next_picture += 1

    def succeed(self, group: str, name: str, *options: str) -> None:
        """Run a tool on the run."""
        ended = self.command([group, name, str(self.run_file), *options])
        assert ended.code == 0, ended.text

    def spoil(self, file: Path, content: bytes, draw: random.Random, kind: str) -> None:
        before = file.stat()
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

    def rows_of_file(self, file: Path, content: bytes) -> set[str]:
        """Rows that may be lost with a file: the row that it is or was, or all those that are nowhere else."""
        if content in self.kept.values():
            return {row for row, one in self.kept.items() if one == content}
        if "maps" in file.relative_to(self.folder).parts:
            return set()
        return set(self.kept)

    def intact(self) -> "Copies":
        """The rows in the shared maps and in the object store."""
        objects = {} if self.bucket is None else {path: path.read_bytes() for path in files_in(self.bucket)}
        sound = [content for path, content in objects.items() if path not in self.spoiled]
        return Copies({*contents(self.folder / "results/maps").values()}, sound)

    def call_and_kill(self, step: str, change: int, *words: str) -> None:
        ended = self.call(*words, moment=forked.Moment(change, signal.SIGKILL))
        if ended.code == -signal.SIGKILL:
            self.note(step)
        elif ended.code:
            self.follow(ended, [*words])

    def call(self, stage: str, *options: str, moment: forked.Moment | None = None) -> forked.Ended:
        """Run a stage; check how it ended, what it made, and what it wrote."""
        before = self.num_calls()
        ended = super().call(stage, *options, moment=moment)
        is_killed = ended.code == -signal.SIGKILL and moment is not None
        assert ended.code == 0 or is_killed or ended.is_refused, f"{stage} ended badly:\n{ended.text}"
        if stage == "prepare" and ended.code == 0:
            self.listed = self.inputs
        if stage == "annotate":
            self.count(self.num_calls() - before, ended, is_part=bool(options))
        if ended.code == 0 and not self.damaged and stage != "prepare" and not options:
            self.compare((stage,))
        return ended

    def count(self, num_made: int, ended: forked.Ended, is_part: bool) -> None:
        """No map that is there is made again."""
        if num_made == 0 and ended.code:
            return
        rows = self.expected().rows
        missing = rows.keys() - self.kept.keys()
        assert num_made <= len(missing), f"{num_made} maps made, but {len(missing)} were missing:\n{ended.text}"
        if ended.code == 0:
            shared = contents(self.folder / "results/maps") if is_part else rows
            self.kept |= {row: content for row, content in rows.items() if shared.get(row) == content}

    def num_calls(self) -> int:
        calls = self.folder / "calls"
        return len(calls.read_text().split()) if calls.exists() else 0

    def read_now(self) -> Inputs:
        """The samples that prepare listed, and the settings of now."""
        assert self.listed is not None, "a stage ran without samples"
        return self.listed._replace(settings=self.inputs.with_setting_of("seed", self.listed).settings)

    def expected(self) -> Expected:
        return self.oracle.expected(self.read_now())

    def compare(self, stages: tuple[str, ...]) -> None:
        """The stores of these stages, or the student, have the bytes of an undisturbed run's."""
        for stage in stages:
            if stage in STORES:
                problem = differing(contents(self.run / STORES[stage]), self.expected().stores[stage])
                assert not problem, f"{STORES[stage]}: {problem}"
            elif stage == TRAINING:
                problem = differing(contents(self.run / STUDENT), self.oracle.student(self.read_now()))
                assert not problem, f"{STUDENT}: {problem}"

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Copies:
    """Rows that can be read: files of the shared maps, and objects, each a row or a pack that contains rows."""

    def __init__(self, rows: set[bytes], objects: list[bytes]) -> None:
        self.rows, self.objects = rows, objects

    def __contains__(self, row: bytes) -> bool:
        return row in self.rows or any(row in one for one in self.objects)
