"""A run as its user drives it: by commands, by Snakemake, and by what refusals and findings ask for."""

import re
import shlex
import shutil
from pathlib import Path

import forked
from undisturbed import STAGES, STORES, TRAINING

from pipeline.marks import mark_of, update_marks
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.shards import shards, update_shard_marks
from pipeline.sources import fingerprints

ALL_STAGES = (*STAGES, TRAINING)
BEFORE = {
    "prepare": (),
    "annotate": ("prepare",),
    "calibrate": ("prepare", "annotate"),
    "pseudolabel": ("prepare", "calibrate"),
    "stage1": ("prepare", "pseudolabel"),
}
"""Stage -> those whose marks are the inputs of its rule in the Snakefile."""
MOST_REPAIRS = 6  # commands that messages ask for, one after the other
COMMAND = re.compile(r"(?:^|[ :])((?:rm|snakemake|conformalsam) .*)$")


class DrivenRun:
    """The commands of a run, in forked processes.

    folder:    of data, run file and results
    num_parts: parts of the images that Snakemake annotates by jobs of their own
    """

    folder: Path
    run_file: Path
    num_parts: int = 1

    @property
    def run(self) -> Path:
        return self.folder / "results/tiny"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def command(self, words: list[str], moment: forked.Moment | None = None) -> forked.Ended:
        return forked.Forked(words, self.folder, self.log, moment).wait()

    def call(self, stage: str, *options: str, moment: forked.Moment | None = None) -> forked.Ended:
        """Run a stage."""
        return self.command([stage, str(self.run_file), *options], moment)

    def note(self, step: str) -> None:
        """Hear of a step."""

    def follow(self, ended: forked.Ended, again: list[str]) -> None:
        """Do what a refusal asks for, until the refused command, if there is one, runs."""
        for _ in range(MOST_REPAIRS):
            assert ended.is_refused, ended.text
            line = next(line for line in ended.text.splitlines() if line.startswith("error: "))
            found = COMMAND.search(line)
            assert found, f"no command in: {line}"
            self.note("refusal")
            ended = self.obey(found[1]) or (self._again(again) if again else ended._replace(code=0))
            if ended.code == 0:
                return
        raise AssertionError(f"refused after {MOST_REPAIRS} repairs: {ended.text}")

    def _again(self, words: list[str]) -> forked.Ended:
        return self.call(*words) if words[0] in ALL_STAGES else self.command(words)

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
                ended = self._snakemake_once(words[3], forced)
                if ended is not None:
                    return ended
        return None

    def snakemake(self, target: str) -> None:
        ended = self._snakemake_once(target)
        if ended is not None:
            self.follow(ended, [])
            ended = self._snakemake_once(target)
            assert ended is None, f"refused again: {ended.text}"

    def _snakemake_once(self, target: str, forced: str | None = None) -> forked.Ended | None:
        """The jobs of a call of Snakemake, one after the other; returns what was refused."""
        for stage in self.due(target, forced):
            mark = self.mark(stage)
            mark.unlink(missing_ok=True)
            refused = self._annotate_parts() if stage == "annotate" and self.num_parts > 1 else None
            ended = refused or self.call(stage)
            if ended.code:
                return ended
            mark.touch()
            newest = max([self.mark(one).stat().st_mtime_ns for one in BEFORE[stage]], default=0)
            assert newest <= mark.stat().st_mtime_ns, f"Snakemake refuses {stage}: it is older than its input"
        return None

    def _annotate_parts(self) -> forked.Ended | None:
        """The jobs of the parts whose marks are missing or older than that of prepare; returns what was refused."""
        for part in shards(self.num_parts):
            mark = mark_of(Run(load_settings(self.run_file)).folder.shard(part.name))
            if mark.exists() and mark.stat().st_mtime_ns >= self.mark("prepare").stat().st_mtime_ns:
                continue
            mark.unlink(missing_ok=True)
            ended = self.call("annotate", "--shard", part.name)
            if ended.code:
                return ended
            mark.touch()
        return None

    def mark(self, stage: str) -> Path:
        return mark_of(self.run / f"{stage}.json")

    def due(self, target: str, forced: str | None = None) -> list[str]:
        """The stages that Snakemake runs: those without a mark, with an older one than an input, and all after them."""
        fingerprints._fingerprints.cache_clear()  # another process reads the file again
        run = Run(load_settings(self.run_file))
        marked = update_marks(run)
        update_shard_marks(run, shards(self.num_parts))
        due: list[str] = []
        for stage in ALL_STAGES[: ALL_STAGES.index(target) + 1]:
            before = BEFORE[stage]
            if not marked[stage] or stage == forced or not {*before}.isdisjoint(due) or self._is_old(stage):
                due.append(stage)
        return due

    def _is_old(self, stage: str) -> bool:
        own, *before = (self.mark(one).stat().st_mtime_ns for one in (stage, *BEFORE[stage]))
        return max(before, default=0) > own

    def repair_all(self) -> None:
        """Check every store, and all files of a trained run, and do what the findings ask for."""
        target = TRAINING if (self.run / f"{TRAINING}.json").exists() else STAGES[-1]
        for _ in range(MOST_REPAIRS):
            lines = self._checked()
            if not lines:
                return
            for line in lines:
                self.obey(line)
            self.snakemake(target)
        raise AssertionError(f"still damaged after {MOST_REPAIRS} repairs: {lines}")

    def _checked(self) -> list[str]:
        """The last command that the check of each store asks for; then the commands of the check of the run."""
        commands = []
        for words in ([str(self.run / name)] for name in STORES.values()):
            commands += self._commands_of_findings(words)[-1:]
        return commands or self._commands_of_findings([str(self.run_file)])[:1]

    def _commands_of_findings(self, words: list[str]) -> list[str]:
        checked = self.command(["inspect", *words, "--check"])
        assert "Traceback" not in checked.text, checked.text
        if not checked.code:
            return []
        found = [COMMAND.search(line) for line in checked.text.splitlines()]
        lines = [one[1] for one in found if one]
        assert lines, f"no command in:\n{checked.text}"
        return lines
