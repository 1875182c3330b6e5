"""The upload of a folder to the Hugging Face Hub, in one commit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of its HTTP library
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import disable_progress_bars, validate_repo_id  # type: ignore[attr-defined]

from pipeline.errors import ConfigError, UploadError, first_line
from pipeline.files import bytes_in

log = logging.getLogger(__name__)

Kind = Literal["dataset", "model"]
UNAUTHORIZED, FORBIDDEN, SERVER_ERROR = 401, 403, 500


class Uploaded(NamedTuple):
    """Address of a repository, and whether it is private."""

    address: str
    is_private: bool


class Refusal(NamedTuple):
    """Why an upload failed, and what fixes it."""

    reason: str
    fix: str


def check_repository(name: str) -> None:
    """ConfigError unless a name is USER/NAME as the hub allows it."""
    try:
        validate_repo_id(name)
        is_complete = "/" in name
    except HFValidationError:
        is_complete = False
    if not is_complete:
        raise ConfigError(
            f"{name!r} is not a repository of the hub: write USER/NAME, each of at most 96 letters, digits, '-', '_' "
            "and '.', without '--' and '..', with a letter or digit first and last, e.g. me/street-labels"
        )


def upload(folder: Path, repository: str, kind: Kind, *, is_public: bool, message: str, again: str) -> Uploaded:
    """Upload all files of a folder in one commit. The repository is created if it does not exist.

    Other files of the repository stay. HF_ENDPOINT is the hub's address; the token is that of `hf auth login` or
    HF_TOKEN.

    repository: USER/NAME
    is_public:  whether a new repository is public, and an existing one may be; private otherwise
    message:    of the commit
    again:      command that repeats the upload
    raises:     UploadError if there is no token, the hub cannot be reached or refuses, or the repository is public
                without is_public. The folder is left as it is.
    """
    disable_progress_bars()  # an error would stand in the line of a bar
    log.info("upload: %d bytes to %s", bytes_in(folder), repository)
    api = HfApi()
    refusal = None if get_token() else Refusal("no access token of the hub is stored on this machine", LOG_IN)
    if refusal is None:
        try:
            address = str(api.create_repo(repository, repo_type=kind, private=not is_public, exist_ok=True))
            is_private = bool(api.repo_info(repository, repo_type=kind).private)
            if is_private or is_public:
                api.create_commit(repository, _additions(folder), commit_message=message, repo_type=kind)
                return Uploaded(address, is_private)
            refusal = Refusal(f"{address} exists and is public", "give --public, or name another repository")
        except (HTTPError, OSError, RuntimeError, ValueError) as error:  # OSError: of the transfer of large files
            refusal = _refusal(error, repository, api.endpoint)
    raise UploadError(
        f"nothing was uploaded to {repository}: {refusal.reason}; {folder} is complete; {refusal.fix}, then run {again}"
    )


LOG_IN = "log in with hf auth login, or set HF_TOKEN"


def _additions(folder: Path) -> Iterator[CommitOperationAdd]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield CommitOperationAdd(path.relative_to(folder).as_posix(), path)


def _refusal(error: Exception, repository: str, endpoint: str) -> Refusal:
    """What is behind an error of huggingface_hub; that of the transfer of a large file is the cause of another."""
    match error:
        case OfflineModeIsEnabled():
            return Refusal("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set", "unset it")
        case HfHubHTTPError():
            return _answer(error, repository, endpoint)
        case HTTPError():
            reason = f"{endpoint} cannot be reached ({first_line(error)})"
            return Refusal(reason, "connect to the network, or check HF_ENDPOINT")
        case RuntimeError(__cause__=Exception() as cause):
            return _refusal(cause, repository, endpoint)
        case _:
            return Refusal(first_line(error), "remove the cause")


def _answer(error: HfHubHTTPError, repository: str, endpoint: str) -> Refusal:
    status = error.response.status_code
    if status == UNAUTHORIZED:
        return Refusal(f"{endpoint} does not accept the access token (401)", LOG_IN)
    if status == FORBIDDEN:
        fix = "name a repository of your own, or log in with a token that may write: hf auth login"
        return Refusal(f"the access token may not write there (403 of {endpoint})", fix)
    said = f": {error.server_message}" if error.server_message else ""
    reason = f"{endpoint} answered {status}{' '.join(said.split())}"
    return Refusal(reason, "wait a while" if status >= SERVER_ERROR else "remove the cause")
