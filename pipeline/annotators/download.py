"""Downloads a published SEEM checkpoint and its tokenizer from the Hugging Face hub, and checks them.

The transfer is our own code on huggingface_hub's session. `hf_hub_download` (2.4.0) deletes a partial file when it
fails, so an interrupted download of a gigabyte would start again from zero.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, tqdm

from pipeline.digests import sha256_of
from pipeline.errors import DownloadError
from pipeline.progress import Progress
from pipeline.settings import did_you_mean

log = logging.getLogger(__name__)

MB = 10**6
LICENCE = "model AFL-3.0, code Apache-2.0; by downloading you agree to it"


class Published(NamedTuple):
    """A published file of the hub: its size in bytes, its sha256, and the commit it is taken from."""

    repository: str
    file: str
    size: int
    sha256: str
    revision: str


# Commits of xdecoder/SEEM that uploaded v1 of each backbone. The first also has both files of v0, of the commit before.
# In 2023 other files were distributed under the same names.
T1, L1, SAM = (
    "1611477e529cc95f1cad561d355bf9437e79a877",
    "cf130f3357f15bd940d4dae8e0ddd084fd5e0f31",
    "f807b9e2943a6c3fdd4aa11efb0d0821d55717eb",
)
CHECKPOINTS = {
    file.removesuffix(".pt").replace("_", "-"): Published("xdecoder/SEEM", file, size, sha256, revision)
    for file, size, sha256, revision in (
        ("seem_focalt_v0.pt", 658_792_514, "871a24064bc27136432f04f510fb0463ce8d2b3e0d4bd3a358b80d908f5c447f", T1),
        ("seem_focalt_v1.pt", 658_792_514, "675e86a033a3cc4bc6fa906e4c7e1878dd11728ef8858a457a4a45cf3f2987b2", T1),
        ("seem_focall_v0.pt", 1_365_136_278, "b907a76b74fe047507d18c1a3fda7e89c75133f97af4457767db78440ebb1761", T1),
        ("seem_focall_v1.pt", 1_365_136_278, "06cad58bde442ce4f2b3ce00e3a218791dfb060a2d7f2d709ff509669c28a705", L1),
        ("seem_samvitb_v1.pt", 862_528_935, "fd6f9eb3d73917d0465dc35c4bc9f2f1019dccc0e741d31ced42f5333cbb35da", SAM),
        ("seem_samvitl_v1.pt", 1_762_490_751, "5ef8c573b54ea820a2fe6d5b81962def9f5bf693e120b8a4778b2848d604f75c", SAM),
    )
}
TOKENIZER = "openai/clip-vit-base-patch32"
TOKENIZER_FILES = tuple(
    Published(TOKENIZER, file, size, sha256, "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268")
    for file, size, sha256 in (
        ("vocab.json", 862_328, "5047b556ce86ccaf6aa22b3ffccfc52d391ea4accdab9c2f2407da5b742d4363"),
        ("merges.txt", 524_657, "f526393189112391ce6f9795d4695f704121ce452c3aad1f5335cc41337eba85"),
        ("tokenizer_config.json", 592, "34b7336e4bee12e0a9730eaf5189f582ef3c3eea5027f65730e5717256755aad"),
        ("special_tokens_map.json", 389, "f8c0d6c39aee3f8431078ef6646567b0aba7f2246e9c54b8b99d55c22b707cbf"),
    )
)


def download(
    name: str,
    folder: Path | None = None,
    endpoint: str | None = None,
    checkpoints: Mapping[str, Published] = CHECKPOINTS,
    tokenizer: Sequence[Published] | None = None,
) -> Path:
    """Download the checkpoint `name` into `folder`, and the tokenizer into `folder`/tokenizer. Existing files are kept.

    folder:      default: checkpoints/`name`
    endpoint:    address of the hub; default: that of huggingface_hub, which HF_ENDPOINT changes
    checkpoints: the names that exist; the licence is that of the model card of xdecoder/SEEM
    tokenizer:   the files of the tokenizer; default: TOKENIZER_FILES
    returns:     path of the checkpoint, its sha256 checked
    raises:      DownloadError if the name is unknown, the disk is full, the hub cannot be reached or refuses, or a file
                 differs from the published one. A partial file is kept, and the next call resumes it.
    """
    checkpoint = _find(name, checkpoints)
    folder = folder or Path("checkpoints") / name
    log.info("%s: %s of %s -> %s; licence: %s", name, checkpoint.file, checkpoint.repository, folder, LICENCE)
    files = {folder / checkpoint.file: checkpoint}
    files |= {folder / "tokenizer" / published.file: published for published in tokenizer or TOKENIZER_FILES}
    missing = [path for path, published in files.items() if not _is_finished(path, published)]
    if folder / checkpoint.file in missing:
        _check_disk(folder / checkpoint.file, checkpoint)
    for path in missing:
        _fetch_or_explain(path, files, endpoint)
    log.info("%s: complete and as published in %s", name, folder)
    return folder / checkpoint.file


def _find(name: str, checkpoints: Mapping[str, Published]) -> Published:
    if name not in checkpoints:
        hint = did_you_mean(name, list(checkpoints))
        raise DownloadError(f"no checkpoint is called {name}{hint}; use one of {', '.join(checkpoints)}")
    return checkpoints[name]


def _is_finished(path: Path, published: Published) -> bool:
    """Whether the file exists. DownloadError if its content is not the published one: it is never overwritten."""
    if not path.exists():
        return False
    advice = "move it to another folder and run this again"
    if _size(path) != published.size:
        raise DownloadError(
            f"{path} has {_size(path)} bytes, expected {published.size} as published: it is another file or an "
            f"incomplete copy; {advice}"
        )
    if (sha256 := _sha256(path)) != published.sha256:
        raise DownloadError(
            f"{path} has sha256 {sha256}, expected {published.sha256} as published: it is another file or damaged; "
            f"{advice}"
        )
    return True


def _sha256(path: Path) -> str:
    if _size(path) > MB:
        log.info("checking the sha256 of %s, %s", path, _readable(_size(path)))
    return sha256_of(path)


def _check_disk(path: Path, checkpoint: Published) -> None:
    """DownloadError if the checkpoint does not fit on the disk. The 1.5 MB of the tokenizer are not counted."""
    missing_bytes = checkpoint.size - _size(_part(path))
    disk = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(disk).free
    if free < missing_bytes:
        raise DownloadError(
            f"{path} needs {_readable(missing_bytes)} more, but its disk has only {_readable(free)} free; free disk "
            "space, or name a folder on a larger disk with --to"
        )


def _fetch_or_explain(path: Path, files: Mapping[Path, Published], endpoint: str | None) -> None:
    """Fetch one file. Every failure becomes a DownloadError of one line."""
    published = files[path]
    url = hf_hub_url(published.repository, published.file, revision=published.revision, endpoint=endpoint)
    try:
        _fetch(url, path, published)
    except OfflineModeIsEnabled:
        reason = f"{url} is not requested, because HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
        raise DownloadError(f"{reason}; unset it and run this again, or {_by_hand(files)}") from None
    except HfHubHTTPError as error:
        raise DownloadError(_refusal(url, path, published, error)) from error
    except HTTPError as error:
        reason = f"{url} cannot be reached ({_one_line(error)}){_kept(path)}; run this again when it can be reached"
        raise DownloadError(f"{reason}; without network, {_by_hand(files)}") from error
    except OSError as error:
        reason = f"{error.filename or path} cannot be written ({error.strerror})"
        advice = "free disk space or change the folder's permissions, or name another folder with --to"
        raise DownloadError(f"{reason}; {advice}") from error


def _fetch(url: str, path: Path, published: Published) -> None:
    """Fetch into a `.part` beside the file, and rename it when it is complete and has the published sha256."""
    size = _offered_size(url, published)
    part = _part(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _transfer(url, part, size)
    if (sha256 := _sha256(part)) != published.sha256:
        part.unlink()
        raise DownloadError(
            f"{url} arrived with sha256 {sha256}, expected {published.sha256}: it was damaged in transit and was "
            "removed; run this again to download it again"
        )
    os.replace(part, path)
    log.info("%s: %s, sha256 as published", path, _readable(size))


def _offered_size(url: str, published: Published) -> int:
    """Size in bytes of the file on the hub; DownloadError, before any transfer, if it is not the published file.

    For a large file the hub's ETag is its sha256. For a small file it is a git hash, which is not compared.
    """
    offered = get_hf_file_metadata(url)
    if offered.commit_hash is None or offered.size is None:
        raise DownloadError(
            f"{url} answers without the headers of a Hugging Face hub (X-Repo-Commit and the size); check for a login "
            f"page or a proxy, and check HF_ENDPOINT, which is {constants.ENDPOINT}"
        )
    has_sha256 = re.fullmatch("[0-9a-f]{64}", offered.etag or "") is not None
    if published.size != offered.size or (has_sha256 and published.sha256 != offered.etag):
        raise DownloadError(
            f"{url} is another file: {offered.size} bytes, ETag {offered.etag}, expected {_facts(published)}; check "
            f"HF_ENDPOINT, which is {constants.ENDPOINT}, or get the file from {_page(published)}"
        )
    return offered.size


def _transfer(url: str, part: Path, size: int) -> None:
    """Append the missing bytes to `part`. Reconnect as long as each connection brings at least one byte."""
    if _size(part) > size:
        part.unlink()
    with _shown_progress(part.stem, size, _size(part)) as show:
        while (done := _size(part)) < size:
            _receive(url, part, done, size, show)
            if _size(part) <= done:
                raise DownloadError(f"{url} ends after {done} of {size} bytes; run this again later")


def _receive(url: str, part: Path, done: int, size: int, show: Callable[[int], None]) -> None:
    """Receive the bytes from `done` on, until the connection ends; HTTPError if it breaks before the first byte.

    size: of the whole file; no more bytes are received than just beyond it
    """
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a range counts encoded bytes, so ask for plain
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            is_resumed = response.status_code == 206  # 200: the server ignores ranges and sends from the first byte
            with part.open("ab" if is_resumed else "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    show(file.tell())
                    if file.tell() > size:
                        raise DownloadError(
                            f"{url} sends more than the {size} bytes it announced; run this again later"
                        )
    except HTTPError as error:
        if _size(part) <= done:
            raise
        log.warning("connection lost at %s (%s); reconnecting", _readable(_size(part)), _one_line(error))


@contextmanager
def _shown_progress(what: str, size: int, done: int) -> Iterator[Callable[[int], None]]:
    """A function that takes the number of bytes received. It draws a bar on a terminal, and logs lines elsewhere."""
    with tqdm(desc=what, total=size, initial=done, unit="B", unit_scale=True, disable=None) as bar:
        logs_lines = bar.disable and size > MB
        lines = Progress(log, f"downloading {what}", size // MB, "MB", done // MB) if logs_lines else None

        def show(received: int) -> None:
            if not bar.disable:
                bar.update(received - bar.n)
            elif lines is not None and received // MB > lines.done:
                lines.advance(received // MB - lines.done)

        yield show


def _by_hand(files: Mapping[Path, Published]) -> str:
    """Instructions for a download by hand: files and pages, the folders to put them in, and the commands to run."""
    names_by_page: dict[tuple[str, Path], list[str]] = {}
    for path, published in files.items():
        if not path.exists():
            text = f"{published.file} ({_facts(published)})"
            names_by_page.setdefault((_page(published), path.parent), []).append(text)
    downloads = ", and ".join(
        f"{', '.join(names)} of {page} into {folder}" for (page, folder), names in names_by_page.items()
    )
    checkpoint = next(iter(files))
    return (
        f"download on another computer {downloads}, run this again to check them, then conformalsam convert-seem "
        f"{shlex.quote(str(checkpoint))} OUT"
    )


def _refusal(url: str, path: Path, published: Published, error: HfHubHTTPError) -> str:
    """The error message for an error status of the hub."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        advice = f"accept the conditions on {_page(published)}, log in with hf auth login, and run this again"
    elif status in (401, 404):  # the hub also answers 401 for a repository that does not exist
        facts = f" ({_facts(published)})"
        advice = f"find where {_page(published)} has moved it, and put it at {path}{facts}"
    else:
        advice = f"this is an error of the hub{_kept(path)}: run this again later"
    return f"{url} answers {status} {error.response.reason_phrase}; {advice}"


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _kept(path: Path) -> str:
    done = _size(_part(path))
    return f", {_readable(done)} of it are kept and will not be downloaded again" if done else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _page(published: Published) -> str:
    return f"https://huggingface.co/{published.repository}/tree/{published.revision}"


def _facts(published: Published) -> str:
    return f"{published.size} bytes, sha256 {published.sha256}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _readable(size: int) -> str:
    """`1.37 GB`, `658.8 MB`, `512 bytes`."""
    if size >= 1000 * MB:
        return f"{size / (1000 * MB):.2f} GB"
    return f"{size / MB:.1f} MB" if size >= MB else f"{size} bytes"
