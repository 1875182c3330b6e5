"""Digests of files, of folders and within zip files."""

import hashlib
import subprocess
import zipfile

from flips import missed_flips

from pipeline.digests import (
    add_own_digest,
    changed_files,
    digests_of,
    has_own_digest,
    sha256_of,
    unlisted_files,
    write_sums,
)

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)), "README.md": b"read me"}


def write_files(folder):
    folder.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)


def test_files_that_are_missing_or_have_changed_are_named(tmp_path):
    write_files(tmp_path / "student")
    digests = digests_of(tmp_path, (tmp_path / "student").iterdir())
    assert digests == {f"student/{name}": hashlib.sha256(FILES[name]).hexdigest() for name in sorted(FILES)}
    assert changed_files(tmp_path, digests) == []
    (tmp_path / "student/README.md").unlink()
    (tmp_path / "student/config.json").write_bytes(b"[]")
    assert changed_files(tmp_path, digests) == ["student/README.md", "student/config.json"]


def test_the_sums_of_a_folder_are_those_of_sha256sum(tmp_path):
    write_files(tmp_path)
    write_sums(tmp_path)
    write_sums(tmp_path)  # again: they do not list themselves
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)
    assert unlisted_files(tmp_path) == []


def test_a_folder_without_sums_proves_nothing(tmp_path):
    write_files(tmp_path)
    assert unlisted_files(tmp_path) == []


def test_every_flip_in_a_listed_file_and_in_the_list_is_found(tmp_path):
    write_files(tmp_path)
    write_sums(tmp_path)
    for name in (*FILES, "SHA256SUMS"):
        assert missed_flips(tmp_path / name, lambda: unlisted_files(tmp_path) != [], num=16) == []
    assert unlisted_files(tmp_path) == []


def test_what_a_loader_would_read_must_be_listed_and_other_files_need_not(tmp_path):
    write_files(tmp_path)
    write_sums(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert unlisted_files(tmp_path) == []
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert unlisted_files(tmp_path) == ["pytorch_model.bin"]
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-1]))
    assert "model.safetensors" in unlisted_files(tmp_path)


def test_a_zip_file_carries_the_digest_of_what_comes_before_its_comment(tmp_path):
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("numbers", bytes(range(256)) * 8)
    assert not has_own_digest(path)
    add_own_digest(path)
    assert has_own_digest(path)
    with zipfile.ZipFile(path) as file:
        assert file.read("numbers") == bytes(range(256)) * 8
        assert file.comment == b"sha256 " + hashlib.sha256(path.read_bytes()[:-71]).hexdigest().encode()
    assert missed_flips(path, lambda: not has_own_digest(path), num=300) == []
    whole = path.read_bytes()
    for other in (b"", whole[:10], whole[:-1], whole + b"0"):
        path.write_bytes(other)
        assert not has_own_digest(path)


def test_a_large_file_is_hashed_in_blocks(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"\x01\x02\x03" * (1 << 20))
    assert sha256_of(path) == hashlib.sha256(b"\x01\x02\x03" * (1 << 20)).hexdigest()
