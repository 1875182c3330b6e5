"""The rows of a cache of maps in an object store (S3, Google Cloud Storage, Azure), which several machines share.

The names are those of the folder of the cache on a disk (`map_cache`), and a row has the same bytes. An object store
has no locks: two machines that annotate the same image at the same moment both make its maps, with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any

from pipeline.errors import BucketError, first_line
from pipeline.store.chunked_array import is_undamaged

log = logging.getLogger(__name__)

TRIES = 3  # to read a row undamaged
PATIENCE = {"max_retries": 5, "retry_timeout": timedelta(minutes=3)}  # of one request


class Bucket:
    """The rows of one annotator identity below a URL, such as s3://bucket/maps.

    Credentials and the address of the server are read from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).

    raises: BucketError in all methods, for a store that cannot be reached, or refuses
    """

    def __init__(self, url: str, name: str) -> None:
        self.url = f"{url.rstrip('/')}/{name}"

    @cached_property
    def _store(self) -> Any:
        try:
            from obstore.store import from_url
        except ImportError:
            raise BucketError(
                f"cache {self.url} needs the package obstore; run pip install 'conformalsam[cloud]'"
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
                "AWS_ENDPOINT_URL, then run the same command again: finished maps are kept"
            ) from error

    @cached_property
    def digests(self) -> set[str]:
        """Digests of the rows that were there when this was asked first, and of those that this process has added."""
        return {path.rpartition("/")[2] for path, _ in self.rows()}

    def rows(self) -> Iterator[tuple[str, int]]:
        """Name and bytes of each row."""
        import obstore

        with self._explained("listed"):
            for page in obstore.list(self._store, "rows"):
                for one in page:
                    yield one["path"], one["size"]

    def read(self, digest: str) -> bytes | None:
        """The bytes of a row; None if there is none, or it is damaged each time that it is read, and this is logged."""
        for _ in range(TRIES):
            content = self.read_file(_name(digest))
            if content is None or is_undamaged(content):
                return content
        log.warning("annotate: %s/%s is damaged", self.url, _name(digest))
        return None

    def write(self, digest: str, content: bytes) -> None:
        """Write a row. A reader finds it whole or not at all."""
        self.write_file(_name(digest), content)
        self.digests.add(digest)

    def remove(self, digest: str) -> None:
        """Remove a row."""
        import obstore

        with self._explained("written"):
            obstore.delete(self._store, _name(digest))
        self.digests.discard(digest)

    def read_file(self, name: str) -> bytes | None:
        """Content of a file of the cache, by its path in the folder; None if there is none."""
        import obstore

        try:
            with self._explained("read"):
                content: bytes = obstore.get(self._store, name).bytes().to_bytes()
                return content
        except FileNotFoundError:
            return None

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file of the cache, by its path in the folder."""
        import obstore

        try:
            with self._explained("written"):
                obstore.put(self._store, name, content)
        except FileNotFoundError as error:
            raise BucketError(
                f"{self.url} cannot be written: there is no such bucket; create it, or name another one in the setting "
                "`cache`"
            ) from error


def _name(digest: str) -> str:
    return f"rows/{digest[:2]}/{digest}"
