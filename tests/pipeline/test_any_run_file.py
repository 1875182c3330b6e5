"""Run files of any content: settings, or a refusal that names what to change; never another exception."""

import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.run_file import load_settings
from pipeline.settings import Settings

SOUND = {
    "name": "mine",
    "data": {"root": "x", "classes": ["background", {"name": "cat", "values": [8]}], "background": "background"},
    "annotate": {"annotator": "python", "python": {"factory": "a.b:c", "arguments": {"k": 1}}},
    "calibrate": {"alpha": 0.1, "folds": 4},
    "train": {"student": "tiny", "total_epochs": 8, "scale": [0.5, 2.0]},
    "stage1": {"fraction": 0.5},
    "stage2": {"views": 1},
}
KEYS = st.sampled_from([*SOUND, "epochs", "extends", "preset", "lr", "", "a\nb"]) | st.integers() | st.none()
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.binary(max_size=3),
    st.text(st.characters(codec="utf-8"), max_size=6), st.sampled_from(["plus", "../x", "{x}", 10**400, "a" * 300]),
)  # fmt: skip
ANYTHING = st.recursive(
    PLAIN, lambda one: st.lists(one, max_size=3) | st.dictionaries(KEYS, one, max_size=3), max_leaves=6
)


def paths_of(tree, path=()):
    """Paths of all values in a tree."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(found for key, value in entries for found in paths_of(value, (*path, key)))]


def replaced(tree, path, value):
    """A copy of a tree with another value at a path."""
    if not path:
        return value
    copy = tree.copy()
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


@st.composite
def nearly_sound(draw):
    tree = SOUND
    for _ in range(draw(st.integers(1, 2))):
        tree = replaced(tree, draw(st.sampled_from(paths_of(tree))), draw(ANYTHING))
    return yaml.dump(tree).encode()


def outcome(path):
    """Settings of a run file, or None for one that is refused in lines that can be printed."""
    try:
        return load_settings(path)
    except ConfigError as error:
        text = str(error)
        assert text.startswith((str(path), "preset is"))
        assert len(text) < 20_000
        return None


@settings(max_examples=60, deadline=None)
@given(nearly_sound() | st.binary(max_size=30) | st.text(string.printable, max_size=30).map(str.encode))
def test_any_run_file_is_settings_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("run") / "mine.yaml"
    path.write_bytes(content)
    found = outcome(path)
    assert found is None or isinstance(found, Settings)


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000, "a: " * 3, "x: 2024-13-45", "x: 0b_", "extends: [a]", "extends: 5", "extends: {}", "&a [*a]",
        "data: &a {classes: *a}", "data: {classes: [a, b]}\nannotate: {annotator: python, python: &p {factory: 'a:b', "
        "arguments: {x: *p}}}", LAUGHS, "\x00", "caf\xe9".encode("latin-1"), b"\xff\xfe\x00", "a: 1\n---\nb: 2",
        "!!python/object/apply:os.system [ls]", "? [a, b]\n: 1", "? {a: b}\n: 1", "stage1: {fraction: .inf}",
        "train: {total_epochs: 1" + "0" * 400 + "}", "<<: 5", "x: !!binary =", "x: !!timestamp y",
    ],
)  # fmt: skip
def test_a_run_file_that_is_no_mapping_of_settings_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert outcome(path) is None
