"""Records: what is read is what was written, to the byte."""

import json
import math
from dataclasses import dataclass

import pytest
from flips import missed_flips
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from pipeline.errors import RecordError
from pipeline.record import is_whole, read_record, read_record_as, write_record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
CONTENT = {"stage": "calibrate", "alphas": [0.1, 0.05], "note": "Größe \u2028 ☃", "held_out": None}


class Facts(TypedDict):
    stage: str
    alphas: list[float]


@dataclass(frozen=True)
class Point:
    x: int
    name: str | None


@settings(max_examples=40)
@given(content=st.dictionaries(st.text().filter(lambda key: key != "sha256"), JSON))
def test_comes_back_as_it_was(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "record.json"
    write_record(path, content)
    assert is_whole(path)
    assert read_record(path, "again") == content
    assert {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"} == content


def test_what_json_has_no_number_for_becomes_null(tmp_path):
    write_record(tmp_path / "a.json", {"a": [math.nan, (1.5, math.inf)], "b": 2})
    assert read_record(tmp_path / "a.json", "again") == {"a": [None, [1.5, None]], "b": 2}


def test_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "calibrate.json"
    write_record(path, CONTENT)
    assert missed_flips(path, lambda: not is_whole(path), num=8 * path.stat().st_size) == []


def test_every_truncation_is_found(tmp_path):
    path = tmp_path / "calibrate.json"
    write_record(path, CONTENT)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert not is_whole(path)
    path.write_bytes(whole + b"\n")
    assert not is_whole(path)


def test_an_edit_by_hand_is_refused_with_the_command(tmp_path):
    path = tmp_path / "samples.json"
    write_record(path, CONTENT)
    path.write_text(path.read_text().replace("calibrate", "annotate"))
    with pytest.raises(RecordError, match=r"samples.json .* edited by hand; put it back as it was, or run a command$"):
        read_record(path, "a command")
    path.write_text(json.dumps(CONTENT))
    message = r"has no digest at its end: it was written by an earlier version of conformalsam, or edited by hand; run"
    with pytest.raises(RecordError, match=message):
        read_record(path, "a command")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"stage": "calibrate"}, "alphas: Field required"),
        ({"stage": 3, "alphas": [0.1]}, "stage: Input should be a valid string"),
        ({"stage": "calibrate", "alphas": [0.1, "0.2"]}, "alphas.1: Input should be a valid number"),
    ],
)
def test_other_fields_are_those_of_another_version(tmp_path, content, problem):
    write_record(tmp_path / "a.json", content)
    with pytest.raises(RecordError, match=rf"another version of conformalsam \({problem}\); run a command$"):
        read_record(tmp_path / "a.json", "a command", Facts)


def test_fields_that_the_schema_does_not_name_are_kept(tmp_path):
    content = {"stage": "calibrate", "alphas": [1], "seconds": 2.5}
    write_record(tmp_path / "a.json", content)
    assert read_record(tmp_path / "a.json", "again", Facts) == content


def test_becomes_an_object_with_checked_fields(tmp_path):
    write_record(tmp_path / "a.json", {"x": 3, "name": None})
    assert read_record_as(Point, tmp_path / "a.json", "again") == Point(3, None)
    write_record(tmp_path / "a.json", {"x": "3", "name": None})
    with pytest.raises(RecordError, match="x: Input should be a valid integer"):
        read_record_as(Point, tmp_path / "a.json", "again")
