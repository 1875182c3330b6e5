"""Names of runs and of the folder of their results: what every file system, shell and workflow can handle."""

from __future__ import annotations

import re

MAX_BYTES = 100  # of a name; lock and temporary files add to it, and file systems end at 255
FORBIDDEN = '/\\{}:*?"<>|`$'
OF_WILDCARDS = "{}"


def checked_name(name: str) -> str:
    """The name of a run, which is the name of its folder; ValueError unless it is one that is safe everywhere.

    Safe names are printable, at most 100 bytes of UTF-8 long, start with a letter, a digit or `_`, do not end with a
    space or a dot, and contain none of FORBIDDEN.
    """
    starts_well = name[:1].isalnum() or name.startswith("_")
    is_safe = starts_well and name.isprintable() and name[-1] not in " ." and not set(name) & set(FORBIDDEN)
    if is_safe and len(name.encode()) <= MAX_BYTES:
        return name
    raise ValueError(
        f"{name!r} is not a name of a run, which is the name of its folder: at most {MAX_BYTES} bytes of printable "
        f"characters without {' '.join(FORBIDDEN)}, with a letter or digit first and no space or dot at the end; "
        f"set name: {safe_name(name)}"
    )


def safe_name(text: str) -> str:
    """A safe name like a text: only letters, digits, `_`, `.` and `-`; `mine` if nothing is left."""
    name = re.sub(r"[^\w.-]+", "_", text).strip("._-").encode()[:MAX_BYTES].decode(errors="ignore")
    return name.rstrip("._-") or "mine"


def checked_results(folder: str) -> str:
    """A folder of results; ValueError if Snakemake or the shell would take it for something else."""
    if set(folder) & set(OF_WILDCARDS) or not folder.isprintable():
        raise ValueError(
            f"{folder!r} has braces or control characters, which the workflow cannot have in a path; rename the folder"
        )
    if folder != folder.strip() or not folder:
        raise ValueError(f"{folder!r} is empty, or starts or ends with a space; write results: results")
    if folder[0] in "~-":
        raise ValueError(f"{folder!r} starts with {folder[0]}, which commands take for something else; write /the/path")
    return folder
