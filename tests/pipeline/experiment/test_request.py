"""What `--config table=5 ...` means, and what is said of what it cannot mean."""

import pytest

from pipeline.errors import ConfigError
from pipeline.experiment.request import Request, parse_request, split_request
from pipeline.experiment.workflow import experiment_of


def test_the_keys_of_an_experiment_are_taken_out():
    config = {"table": 5, "run": "camvid", "seeds": 2, "budget": 0.25, "alpha": 0.1}
    request, rest = split_request(config)
    assert request == Request("5", seeds=2, budget=0.25)
    assert rest == {"run": "camvid", "alpha": 0.1}


def test_an_ordinary_call_has_no_request():
    config = {"run": "camvid", "seed": 3, "labels": "raw"}
    assert split_request(config) == (None, config)


def test_rows_and_protocols_can_be_chosen():
    request = parse_request({"table": "5", "arms": "raw, paper", "protocol": "steps"})
    assert (request.arms, request.protocols) == (("raw", "paper"), ("steps",))
    assert parse_request({"table": "5", "arms": ["raw"]}).arms == ("raw",)
    assert request.as_arguments()[-4:] == ["--arms", "raw,paper", "--protocol", "steps"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"table": 7}, "table is '7', expected one of 1, 2, .*, evidence"),
        ({"table": "evidenze"}, "did you mean evidence"),
        ({"tabel": 5}, "tabel is not a setting; did you mean table of the target experiment"),
        ({"seeds": 3}, "seeds belongs to an experiment, but table is missing; add it, e.g. table=5"),
        ({"table": 5, "seeds": 0}, "seeds must be an integer >= 1, got 0"),
        ({"table": 5, "budget": "half"}, "budget must be a number > 0"),
        ({"table": 5, "arms": "rawe"}, "arms has 'rawe', which is not in table 5; .*did you mean raw"),
        ({"table": 5, "protocol": "step"}, "protocol is 'step', expected steps, epochs, both; did you mean steps"),
        ({"table": 5, "seed": 1}, "seed cannot be set in an experiment; set seeds=N"),
        ({"table": 5, "preset": "plus"}, "preset cannot be set in an experiment; remove it"),
    ],
)
def test_a_mistake_is_named_with_its_correction(config, message):
    with pytest.raises(ConfigError, match=message):
        split_request(config)


def test_a_table_for_another_target_is_refused():
    with pytest.raises(ConfigError, match="table=5 needs the target experiment; run snakemake --cores 8 experiment"):
        experiment_of({"table": 5}, ["snakemake", "all", "--snakefile", "/experiments_of_mine/Snakefile"])
