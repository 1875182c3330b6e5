"""Searches at random for examples that fail: every property test, a seed after the other, until the time is over.

    python tests/campaign.py --minutes 30 [--seed FIRST] [PATH ...]

The suite itself draws the same examples in every run. Prints what was found and the command that repeats it, and ends
with exit code 1 if there was anything.
"""

import argparse
import itertools
import re
import secrets
import shlex
import subprocess
import sys
import time

EXIT_FAILED = 1  # pytest's code for tests that failed
PYTEST = ("pytest", "-q", "-m", "hypothesis", "--hypothesis-profile=campaign")


def search(seed: int, paths: list[str]) -> int:
    """Run every property test with one seed; returns the number of tests that failed, printed with their examples."""
    words = [*PYTEST, f"--hypothesis-seed={seed}"]
    finished = subprocess.run([sys.executable, "-m", *words, *paths], capture_output=True, text=True, check=False)
    if finished.returncode == 0:
        print(f"seed {seed}: {finished.stdout.strip().splitlines()[-1]}", flush=True)
        return 0
    print(finished.stdout + finished.stderr)
    if finished.returncode != EXIT_FAILED:
        sys.exit(f"the tests could not be run with seed {seed}")
    failed = re.findall(r"^FAILED (.*?)(?: - |$)", finished.stdout, re.MULTILINE)
    for test in failed:
        print(f"found: {test}\nrepeat with: {shlex.join([*words, test])}", flush=True)
    return len(failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, help="the first seed; default: drawn")
    parser.add_argument("paths", nargs="*", help="default: all tests")
    arguments = parser.parse_args()
    first = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    end = time.monotonic() + 60 * arguments.minutes
    num_failed = 0
    for seed in itertools.count(first):
        num_failed += search(seed, arguments.paths)
        if time.monotonic() > end:
            break
    print(f"seeds {first} to {seed}: {num_failed} failures")
    sys.exit(1 if num_failed else 0)


if __name__ == "__main__":
    main()
