"""Objects of an object store (S3, Google Cloud Storage, Azure) below a URL, which several machines share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import Any

from pipeline.errors import BucketError, first_line

TRIES = 3  # to read an object undamaged
REQUESTS = 16  # at the same time
PATIENCE = {"max_retries": 5, "retry_timeout": timedelta(minutes=3)}  # of one request


class ObjectStore:
    """The objects below a URL, such as s3://bucket/maps, by their paths from there.

    Credentials and the address of the server are read from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).

    setting: name of the setting that gives the URL, for messages
    raises:  BucketError in all methods, for a store that cannot be reached, or refuses
    """

    def __init__(self, url: str, setting: str) -> None:
        self.url = url
        self.setting = setting

    @cached_property
    def _store(self) -> Any:
        try:
            from obstore.store import from_url
        except ImportError:
            raise BucketError(
                f"{self.setting} {self.url} needs the package obstore; run pip install 'conformalsam[cloud]'"
            ) from None
        options = {"mkdir": True} if self.url.startswith("file:") else {"retry_config": PATIENCE}
        with self._explained("opened"):
            return from_url(self.url, **options)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Context in which an error of the object store is a BucketError. A missing object is FileNotFoundError."""
        try:
            yield
        except (FileNotFoundError, BucketError):
            raise
        except Exception as error:  # obstore's have no common class but this
            raise BucketError(
                f"{self.url} cannot be {what} ({first_line(error)}); check the bucket, the credentials "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION) and, unless the server is Amazon's, "
                "AWS_ENDPOINT_URL, then run the same command again: finished work is kept"
            ) from error

    def listed(self, folder: str | None = None) -> Iterator[tuple[str, int]]:
        """Path and bytes of each object in a folder and below it; default: of all."""
        import obstore

        with self._explained("listed"):
            for page in obstore.list(self._store, folder):
                for one in page:
                    yield one["path"], one["size"]

    def read(self, name: str, span: tuple[int, int] | None = None) -> bytes | None:
        """Content of an object; None if there is no such object. span: only the bytes from the first to the second"""
        import obstore

        try:
            with self._explained("read"):
                content: bytes = (
                    obstore.get(self._store, name, options=None if span is None else {"range": span}).bytes().to_bytes()
                )
                return content
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write an object. A reader finds the old one or the new one, never an incomplete one.

        It is sent in one request: of several, a killed process would leave parts that take room without a name.
        """
        import obstore

        try:
            with self._explained("written"):
                obstore.put(self._store, name, content, use_multipart=False)
        except FileNotFoundError as error:
            raise BucketError(
                f"{self.url} cannot be written: there is no such bucket; create it, or name another one in the setting "
                f"`{self.setting}`"
            ) from error

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that do not exist are skipped."""
        import obstore

        wanted = list(names)
        with self._explained("written"):
            try:
                obstore.delete(self._store, wanted)
            except FileNotFoundError:  # in a folder, one that does not exist keeps others from being removed
                for name in wanted:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._store, name)
