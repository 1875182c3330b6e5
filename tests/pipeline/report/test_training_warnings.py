from pipeline.report.page import training_warnings, warnings_of


def test_names_the_stage_and_epoch_of_each_warning_of_the_collapse_guard():
    history = [
        {"epoch": 5, "warnings": []},
        {"epoch": 10, "warnings": ["the loss has risen", "and more"]},
        {"epoch": 15},
    ]
    assert training_warnings({"stage2": {"history": history}, "evaluate": {}}) == [
        "Stage II, epoch 10: the loss has risen",
        "Stage II, epoch 10: and more",
    ]
    assert training_warnings({}) == []


def test_shows_what_prepare_found_about_the_labeled_images():
    assert training_warnings({"prepare": {"warnings": ["one class"]}}) == ["Labeled images: one class"]


def test_shows_what_annotate_found_about_the_classes():
    receipts = {"annotate": {"warnings": ["no prompt or channel means dog"]}}
    assert warnings_of(receipts, "annotate", "Annotator") == ["Annotator: no prompt or channel means dog"]
    assert warnings_of({}, "annotate", "Annotator") == []
