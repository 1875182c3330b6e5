"""Fetches a published SEEM checkpoint and its tokenizer from the Hugging Face hub, whole and checked, or says why not.

The transfer itself is ours, on huggingface_hub's session: its `hf_hub_download` (2.4.0) deletes what it has of a file
when it fails, so that an interrupted gigabyte would start again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, tqdm

from pipeline.errors import DownloadError
from pipeline.progress import Progress
from pipeline.settings import did_you_mean

log = logging.getLogger(__name__)

MB = 10**6
LICENCE = "model AFL-3.0, code Apache-2.0; by downloading you agree to it"


class Published(NamedTuple):
    """A file as the hub has it. None: the hub's own word is taken."""

    repository: str
    file: str
    size: int | None = None
    sha256: str | None = None


# Other files went round under these names in 2023, so a name proves nothing: the sha256 does.
CHECKPOINTS = {
    file.removesuffix(".pt").replace("_", "-"): Published("xdecoder/SEEM", file, size, sha256)
    for file, size, sha256 in (
        ("seem_focalt_v0.pt", 658_792_514, "871a24064bc27136432f04f510fb0463ce8d2b3e0d4bd3a358b80d908f5c447f"),
        ("seem_focalt_v1.pt", 658_792_514, "675e86a033a3cc4bc6fa906e4c7e1878dd11728ef8858a457a4a45cf3f2987b2"),
        ("seem_focall_v0.pt", 1_365_136_278, "b907a76b74fe047507d18c1a3fda7e89c75133f97af4457767db78440ebb1761"),
        ("seem_focall_v1.pt", 1_365_136_278, "06cad58bde442ce4f2b3ce00e3a218791dfb060a2d7f2d709ff509669c28a705"),
        ("seem_samvitb_v1.pt", 862_528_935, "fd6f9eb3d73917d0465dc35c4bc9f2f1019dccc0e741d31ced42f5333cbb35da"),
        ("seem_samvitl_v1.pt", 1_762_490_751, "5ef8c573b54ea820a2fe6d5b81962def9f5bf693e120b8a4778b2848d604f75c"),
    )
}
TOKENIZER = "openai/clip-vit-base-patch32"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def download(
    name: str,
    folder: Path | None = None,
    endpoint: str | None = None,
    checkpoints: Mapping[str, Published] = CHECKPOINTS,
) -> Path:
    """Fetch the checkpoint `name` into `folder` and the tokenizer into `folder`/tokenizer; what is there is kept.

    folder:      default: checkpoints/`name`
    endpoint:    address of the hub; default: the one huggingface_hub uses, which HF_ENDPOINT changes
    checkpoints: what there is to choose from; files, sizes and hashes are those of the upload commits b517f17,
                 1611477, cf130f3 and f807b9e of the hub repository xdecoder/SEEM, the licence that of its model card
    returns:     path of the checkpoint, its sha256 checked

    DownloadError if the name is unknown, the disk too small, the hub out of reach or unwilling, or a file not the
    published one. What had arrived by then is kept, and the next call goes on from there.
    """
    checkpoint = _find(name, checkpoints)
    folder = folder or Path("checkpoints") / name
    log.info("%s: %s of %s -> %s; licence: %s", name, checkpoint.file, checkpoint.repository, folder, LICENCE)
    wanted = {folder / checkpoint.file: checkpoint}
    wanted |= {folder / "tokenizer" / file: Published(TOKENIZER, file) for file in TOKENIZER_FILES}
    missing = [path for path, published in wanted.items() if not _is_finished(path, published)]
    if folder / checkpoint.file in missing:
        _check_disk(folder / checkpoint.file, checkpoint)
    for path in missing:
        _fetch_or_explain(path, wanted, endpoint)
    log.info("%s: complete and as published in %s", name, folder)
    return folder / checkpoint.file


def _find(name: str, checkpoints: Mapping[str, Published]) -> Published:
    if name not in checkpoints:
        hint = did_you_mean(name, list(checkpoints))
        raise DownloadError(f"no checkpoint is called {name}{hint} (there are {', '.join(checkpoints)})")
    return checkpoints[name]


def _is_finished(path: Path, published: Published) -> bool:
    """Whether the file is there. Another one in its place is somebody's own: an error, and never overwritten."""
    if not path.exists():
        return False
    advice = "move it away and run this again"
    if published.size is not None and _size(path) != published.size:
        found = f"{path} has {_size(path)} bytes, the published file {published.size}"
        raise DownloadError(f"{found}: it is another one, or its copy was cut short; {advice}")
    if published.sha256 is not None and (sha256 := _sha256(path)) != published.sha256:
        found = f"{path} has sha256 {sha256}, the published file {published.sha256}"
        raise DownloadError(f"{found}: it is another one, or damaged; {advice}")
    return True


def _sha256(path: Path) -> str:
    log.info("checking the sha256 of %s, %s", path, _readable(_size(path)))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_disk(path: Path, checkpoint: Published) -> None:
    """The checkpoint has to fit; the 1.5 MB of the tokenizer do not count."""
    to_come = (checkpoint.size or 0) - _size(_part(path))
    disk = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(disk).free
    if free < to_come:
        found = f"{_readable(to_come)} of {path} are to come, but its disk has only {_readable(free)} free"
        raise DownloadError(f"{found}; make room, or name a folder on a larger disk with --to")


def _fetch_or_explain(path: Path, wanted: Mapping[Path, Published], endpoint: str | None) -> None:
    """Fetch one file; whatever goes wrong on the way becomes a DownloadError of one line."""
    published = wanted[path]
    url = hf_hub_url(published.repository, published.file, endpoint=endpoint)
    try:
        _fetch(url, path, published)
    except OfflineModeIsEnabled:
        reason = f"{url} is not asked for, as HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
        raise DownloadError(f"{reason}; unset it and run this again, or {_by_hand(wanted)}") from None
    except HfHubHTTPError as error:
        raise DownloadError(_refusal(url, path, published, error)) from error
    except HTTPError as error:
        reason = f"{url} cannot be reached ({_one_line(error)}){_kept(path)}; with network, run this again"
        raise DownloadError(f"{reason}; without, {_by_hand(wanted)}") from error
    except OSError as error:
        found = f"{error.filename or path} cannot be written ({error.strerror})"
        advice = "is the disk full, or the folder not yours? You can name another folder with --to"
        raise DownloadError(f"{found}; {advice}") from error


def _fetch(url: str, path: Path, published: Published) -> None:
    """Fetch into a `.part` beside the file, which gets its name once it is whole and right."""
    size = _offered_size(url, published)
    part = _part(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _transfer(url, part, size)
    if published.sha256 is not None and (sha256 := _sha256(part)) != published.sha256:
        part.unlink()
        found = f"{url} arrived with sha256 {sha256}, expected {published.sha256}"
        raise DownloadError(f"{found}: damaged on its way, so it was removed; run this again to fetch it again")
    os.replace(part, path)
    log.info("%s: %s%s", path, _readable(size), ", sha256 as published" if published.sha256 else "")


def _offered_size(url: str, published: Published) -> int:
    """Bytes of the file on the hub; DownloadError, before any transfer, if it is not the one we mean.

    The ETag that the hub gives a large file is its sha256; a small one's is a git hash, which tells us nothing.
    """
    offered = get_hf_file_metadata(url)
    if offered.commit_hash is None or offered.size is None:
        expected = "as a Hugging Face hub does (X-Repo-Commit and the size in the header)"
        advice = f"look for a login page or proxy in between, and at HF_ENDPOINT, which is {constants.ENDPOINT}"
        raise DownloadError(f"{url} answers, but not {expected}; {advice}")
    has_sha256 = re.fullmatch("[0-9a-f]{64}", offered.etag or "") is not None
    if published.size not in (None, offered.size) or (has_sha256 and published.sha256 not in (None, offered.etag)):
        found = f"{url} is now another file: {offered.size} bytes, ETag {offered.etag}, expected {_facts(published)}"
        raise DownloadError(f"{found}; get the older one from the history of {_page(published)}")
    return offered.size


def _transfer(url: str, part: Path, size: int) -> None:
    """Append to `part` what it lacks, over as many connections as it takes while each brings something."""
    if _size(part) > size:
        part.unlink()
    with _shown_progress(part.stem, size, _size(part)) as show:
        while (done := _size(part)) < size:
            _receive(url, part, done, show)
            if _size(part) <= done:
                raise DownloadError(f"{url} ends after {done} of {size} bytes; run this again later")


def _receive(url: str, part: Path, done: int, show: Callable[[int], None]) -> None:
    """Take the bytes from `done` on, until the connection ends; HTTPError if it broke before bringing any."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a range counts in what is sent, zipped or not
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            goes_on = response.status_code == 206  # 200: the server knows no ranges and starts from the first byte
            with part.open("ab" if goes_on else "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    show(file.tell())
    except HTTPError as error:
        if _size(part) <= done:
            raise
        log.warning("connection lost at %s (%s), going on", _readable(_size(part)), _one_line(error))


@contextmanager
def _shown_progress(what: str, size: int, done: int) -> Iterator[Callable[[int], None]]:
    """A function to be told how many bytes are there: it moves a bar on a terminal, and logs lines elsewhere."""
    with tqdm(desc=what, total=size, initial=done, unit="B", unit_scale=True, disable=None) as bar:
        in_lines = bar.disable and size > MB
        lines = Progress(log, f"downloading {what}", size // MB, "MB", done // MB) if in_lines else None

        def show(position: int) -> None:
            if not bar.disable:
                bar.update(position - bar.n)
            elif lines is not None and position // MB > lines.done:
                lines.advance(position // MB - lines.done)

        yield show


def _by_hand(wanted: Mapping[Path, Published]) -> str:
    """What to get on another machine, where to put it, and what to do then."""
    places: dict[tuple[str, Path], list[str]] = {}
    for path, published in wanted.items():
        if not path.exists():
            text = f"{published.file} ({_facts(published)})" if published.sha256 else published.file
            places.setdefault((_page(published), path.parent), []).append(text)
    files = ", and ".join(f"{', '.join(names)} of {page} into {folder}" for (page, folder), names in places.items())
    checkpoint = next(iter(wanted))
    return f"get elsewhere {files}, run this again to check them, then conformalsam convert-seem {checkpoint} OUT"


def _refusal(url: str, path: Path, published: Published, error: HfHubHTTPError) -> str:
    """What an error status of the hub means here, and what to do about it."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        advice = f"accept the conditions on {_page(published)}, log in with hf auth login, and run this again"
    elif status in (401, 404):  # the hub says 401 of a repository that does not exist, too
        own = f" ({_facts(published)})" if published.sha256 else ""
        advice = f"look on {_page(published)} where it has gone, and put it at {path}{own}"
    else:
        advice = f"the trouble is the hub's{_kept(path)}: run this again later"
    return f"{url} answers {status} {error.response.reason_phrase}; {advice}"


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _kept(path: Path) -> str:
    done = _size(_part(path))
    return f", {_readable(done)} of it are kept and not fetched again" if done else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _page(published: Published) -> str:
    return f"https://huggingface.co/{published.repository}"


def _facts(published: Published) -> str:
    return f"{published.size} bytes, sha256 {published.sha256}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _readable(size: int) -> str:
    """`1.37 GB`, `658.8 MB`, `512 bytes`."""
    if size >= 1000 * MB:
        return f"{size / (1000 * MB):.2f} GB"
    return f"{size / MB:.1f} MB" if size >= MB else f"{size} bytes"
