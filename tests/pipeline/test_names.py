"""Names of runs: safe ones pass, all others are refused with one that passes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.names import checked_name, checked_results, safe_name

ANY_TEXT = st.text(max_size=150) | st.text(st.sampled_from("./\\~- ab$`'{}\n"), max_size=8)


@pytest.mark.parametrize(
    "name", ["demo", "my run", "cats (v2)", "it's", "R&D", "Wälder_2", "実験", "007", "a.b-c", "_x"]
)
def test_a_readable_name_passes(name):
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../x", "/x", "a/b", "a\\b", ".x", "-x", " x", "x ", "x.", "{x}", "$(x)", "a\nb", "x" * 101],
)
def test_a_name_that_leaves_its_folder_or_means_something_else_is_refused_with_one_that_passes(name):
    with pytest.raises(ValueError, match=r"is not a name of a run, .*; set name: ") as error:
        checked_name(name)
    assert checked_name(str(error.value).rpartition("set name: ")[2])


@settings(max_examples=60, deadline=None)
@given(ANY_TEXT)
def test_any_text_gives_a_safe_name_and_a_safe_name_is_a_folder_of_its_own(text):
    name = safe_name(text)
    assert checked_name(name) == name
    assert safe_name(name) == name
    try:
        checked_name(text)
    except ValueError:
        return
    path = Path("results") / text
    assert path.parts == ("results", text)


@pytest.mark.parametrize("folder", ["results", "My Drive", "/a/b c", "it's", 'a "b" [c] $(d) & e', "../x"])
def test_results_may_be_in_any_folder_that_the_workflow_can_have_in_a_path(folder):
    assert checked_results(folder) == folder


@pytest.mark.parametrize("folder", ["", " x", "x ", "~/x", "-x", "a{b}", "a\nb"])
def test_results_that_mean_something_else_are_refused(folder):
    with pytest.raises(ValueError, match=r"; (rename the folder|write )"):
        checked_results(folder)
