"""Versions and devices: the devices of the settings must exist."""

from pipeline.doctor.machine import chosen_devices, machine_findings, missing_devices, processor


def test_a_missing_cuda_device_is_an_error(make_settings):
    settings = make_settings(**{"train.device": "cuda:999", "compute.device": "cuda:998"})
    finding = machine_findings(settings)[0]
    assert (finding.level, finding.where) == ("error", ("compute.device: cuda:998", "train.device: cuda:999"))


def test_devices_are_counted_from_zero():
    asked = {"a": "cuda", "b": "cuda:1", "c": "cuda:2", "d": "cpu", "e": "auto"}
    assert [f.where for f in missing_devices(asked, 2)] == [("c: cuda:2",)]
    assert [f.where for f in missing_devices(asked, 0)] == [("a: cuda", "b: cuda:1", "c: cuda:2")]
    assert list(missing_devices(asked, 3)) == []


def test_the_annotators_device_counts_where_it_is_seem(make_settings):
    seem = {"checkpoint": "seem-nano", "device": "cuda:5"}
    assert (
        chosen_devices(make_settings(annotator="seem", **{"annotate.seem": seem}))["annotate.seem.device"] == "cuda:5"
    )
    assert chosen_devices(make_settings(**{"annotate.seem": seem})) == {"compute.device": "cpu", "train.device": "auto"}


def test_versions_and_processor_are_noted(make_settings):
    text = " ".join(str(finding) for finding in machine_findings(make_settings()))
    assert "conformalsam " in text
    assert "torch " in text
    assert processor() in text
