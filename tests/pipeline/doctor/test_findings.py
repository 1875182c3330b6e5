"""A finding is one line; the verdict counts them, and names the next command if there is no error."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.doctor.findings import LEVELS, Finding, as_json, by_severity, counts, from_message, verdict

ANY = st.lists(st.builds(Finding, st.sampled_from(LEVELS), st.text(max_size=3)))


def test_a_line_has_what_where_and_the_fix():
    assert str(Finding("error", "it is broken", ("a.png",), "fix it")) == "error    it is broken: a.png; fix it"
    assert str(Finding("note", "it is so")) == "note     it is so"


def test_a_line_names_three_entries_and_json_all():
    finding = Finding("warning", "odd", ("a", "b", "c", "d", "e"))
    assert str(finding) == "warning  odd: a, b, c and 2 more"
    assert as_json([finding], "x")["findings"][0]["where"] == ("a", "b", "c", "d", "e")


def test_messages_of_the_project_end_with_the_fix():
    assert from_message("no list x; y is there; set data.root") == Finding(
        "error", "no list x; y is there", (), "set data.root"
    )
    assert from_message("it is so") == Finding("error", "it is so")


@given(ANY)
def test_errors_come_first_and_the_order_within_a_level_is_kept(findings):
    ordered = by_severity(findings)
    assert [LEVELS.index(f.level) for f in ordered] == sorted(LEVELS.index(f.level) for f in findings)
    for level in LEVELS:
        assert [f for f in ordered if f.level == level] == [f for f in findings if f.level == level]


@given(ANY)
def test_only_errors_prevent_a_run(findings):
    facts = as_json(findings, "snakemake all")
    assert sum(counts(findings).values()) == len(findings)
    assert facts["may_go_on"] == (not any(f.level == "error" for f in findings))
    assert facts["verdict"].endswith("run snakemake all" if facts["may_go_on"] else "fix the errors first")


def test_the_verdict_counts_in_words():
    error, warning = Finding("error", "e"), Finding("warning", "w")
    assert verdict([error, warning, warning], "go") == "1 error, 2 warnings: fix the errors first"
    assert verdict([warning], "go") == "no errors (1 warning to read); run go"
    assert verdict([], "go") == "no errors; run go"
