"""The gallery in a browser, opened from the disk: its controls, by pointer and keyboard, wide and narrow."""

import re

import numpy as np
import pytest
from gallery_pages import NARROW, SHOWN, WIDE, copied, ids_in_grid, part, press, settle, shown

import calib
from pipeline.datasets import resize_nearest
from pipeline.store import open_calibration, open_labels


def test_the_slider_changes_the_numbers_and_the_command(open_page, run):
    page = open_page(run.path)
    alphas = page.evaluate("() => window.conformalGallery.alphas")
    command = part(page, "command")
    assert re.fullmatch(r"snakemake .* all --config run=\S*tiny.yaml.* alpha=0.2 rule=paper", command.inner_text())
    assert part(page, "reset").is_disabled()
    own_numbers = part(page, "live").inner_text()
    part(page, "slider").fill(str(alphas.index(0.5)))
    part(page, "rules").get_by_label("singleton").check()
    settle(page)
    assert re.fullmatch(r"snakemake .* all --config run=\S*tiny.yaml.* alpha=0.5 rule=singleton", command.inner_text())
    counts = page.evaluate("(of) => window.conformalGallery.runCounts(...of)", [alphas.index(0.5), "singleton"])
    assert f"{100 * counts['kept'] / counts['pixels']:.1f}" in part(page, "live").inner_text()
    row = next(row for row in run.sweep.rows if (row["alpha"], row["rule"]) == (0.5, "singleton"))
    for measure in ("coverage", "precision"):
        assert f"{100 * row[measure]['value']:.1f}" in part(page, "live").inner_text()
    assert "This is a preview; the stored labels have alpha 0.2, rule paper." in part(page, "stop-note").inner_text()
    assert copied(page, part(page, "copy-command")) == command.inner_text()
    part(page, "reset").click()
    settle(page)
    assert part(page, "live").inner_text() == own_numbers
    assert part(page, "stop-note").inner_text().endswith("These are the stored labels.")


def test_stops_with_too_few_images_are_marked_and_explained(open_page, run):
    page = open_page(run.path)
    n_valid = open_calibration(run.settings.folder / "calibration.zarr").n_valid
    alphas = page.evaluate("() => window.conformalGallery.alphas")
    lacking = [np.mean((n_valid > 0) & ((n_valid + 1) * alpha < 1 - 1e-9)) for alpha in alphas]
    assert lacking[-1] == 0 < lacking[0]
    assert part(page, "marks").locator(".zone").count() == np.count_nonzero(lacking)
    part(page, "slider").fill("0")
    settle(page)
    warning = f"{100 * lacking[0]:.1f}\u00a0% of the locations have too few labeled images for this alpha"
    assert warning in part(page, "stop-note").inner_text()
    enough = alphas[lacking.index(0)]
    assert f"From α {enough} on, all have enough." in part(page, "stop-note").inner_text()


def test_the_stops_with_a_guaranteed_precision_are_marked_and_explained(open_page, guaranteed_run):
    page = open_page(guaranteed_run.path)
    alphas = page.evaluate("() => window.conformalGallery.alphas")
    num_marked = part(page, "marks").locator(".zone.guaranteed").count()
    assert 0 < num_marked < len(alphas)
    assert part(page, "curves").locator("rect.guaranteed").count() == num_marked
    text = "a precision of at least 10\u00a0% under rule argmax, with a confidence of 90\u00a0%"
    assert part(page, "stop-note").inner_text() == f"Guaranteed: {text}. These are the stored labels."
    assert re.search(rf"Green: the labels of α = .* have {text}", part(page, "guarantee").inner_text())
    command = part(page, "command").inner_text()
    assert command.endswith("rule=argmax 'guarantee={precision: 0.1, confidence: 0.9}'")
    part(page, "rules").get_by_label("raw").check()
    settle(page)
    assert part(page, "marks").locator(".zone.guaranteed").count() == 0
    assert "Guaranteed" not in part(page, "stop-note").inner_text()


def test_a_run_without_a_guarantee_says_which_setting_makes_one(open_page, run):
    page = open_page(run.path)
    assert part(page, "marks").locator(".guaranteed").count() == 0
    assert "No stop has a guaranteed precision; pseudolabel.guarantee makes" in part(page, "guarantee").inner_text()


def test_the_argmax_is_a_line_and_a_mark_at_its_held_out_precision_and_miou(open_page, run):
    page = open_page(run.path)
    raw = run.sweep.held_out["raw"]
    for name in ("precision", "miou"):
        points = part(page, "curves").locator(f"polyline.{name}.raw").first.get_attribute("points").split()
        own = part(page, "curves").locator(f"polyline.{name}:not(.raw)").first
        (height,) = {float(point.split(",")[1]) for point in points}
        assert len(points) == len(run.sweep.alphas)
        assert height == pytest.approx(230 - raw[name]["value"] * (230 - 24), abs=0.051)
        assert own.get_attribute("points") != " ".join(points)
        assert f"of the argmax {100 * raw[name]['value']:.1f}" in part(page, "curves-caption").inner_text()
    assert part(page, "pareto").locator("polygon.argmax").count() == 1


def test_keys_turn_images_views_and_alpha(open_page, run):
    page = open_page(run.path)
    start, ids = shown(page), ids_in_grid(page)
    alphas = page.evaluate("() => window.conformalGallery.alphas")
    press(page, "]")
    assert shown(page)["alpha"] == alphas[alphas.index(start["alpha"]) + 1]
    press(page, "[", "[")
    assert shown(page)["alpha"] == alphas[alphas.index(start["alpha"]) - 1]
    press(page, "ArrowRight", "ArrowRight")
    assert shown(page)["image"] == ids[2]
    press(page, "ArrowLeft", "ArrowLeft", "ArrowLeft")
    assert shown(page)["image"] == ids[-1]
    for key, view, panels in (
        ("2", "image", 1),
        ("3", "raw", 1),
        ("4", "calibrated", 1),
        ("5", "truth", 1),
        ("1", "all", 4),
    ):
        press(page, key)
        assert shown(page)["view"] == view
        assert part(page, "panels").locator("canvas").count() == panels
    press(page, "?")
    assert part(page, "help-dialog").is_visible()
    press(page, "Escape")
    assert not part(page, "help-dialog").is_visible()


def test_keys_leave_what_is_typed_alone(open_page, run):
    page = open_page(run.path)
    start = shown(page)
    part(page, "text-filter").focus()
    press(page, "2", "[", "ArrowLeft")
    assert part(page, "text-filter").input_value() == "2["
    assert shown(page) == start


def test_the_cross_reads_a_pixel_by_keyboard(open_page, run):
    page = open_page(run.path)
    store = open_labels(run.settings.folder / "labels.zarr")
    i = store.sample_ids.index(shown(page)["image"])
    small = resize_nearest(store.label(i), SHOWN)
    panel = part(page, "panels").locator("canvas").nth(2)
    panel.focus()
    names = run.settings.data.class_names
    for keys, y, x in (
        (("ArrowRight",), 8, 17),
        (("Shift+ArrowUp", "ArrowLeft"), 0, 16),
        (("Shift+ArrowRight",) * 2, 0, 31),
    ):
        press(page, *keys)
        text = part(page, "pixel").inner_text()
        name = "no label" if np.isnan(small[y, x]) else names[int(small[y, x])]
        assert text.startswith(
            f"Column {x}, row {y}: {name}. Most probable: {names[resize_nearest(store.raw_argmax(i), SHOWN)[y, x]]}."
        )
        assert "In the prediction set: " in text
        assert "True class: " in text
    assert shown(page)["image"] == store.sample_ids[i]


def test_the_pointer_reads_the_pixel_under_it(open_page, run):
    page = open_page(run.path)
    box = part(page, "panels").locator("canvas").nth(0).bounding_box()
    page.mouse.move(box["x"] + 0.99 * box["width"], box["y"] + 0.01 * box["height"])
    settle(page)
    assert part(page, "pixel").inner_text().startswith("Column 31, row 0: ")


def test_images_are_sorted_and_filtered(open_page, run):
    page = open_page(run.path)
    store = open_labels(run.settings.folder / "labels.zarr")
    ids = page.evaluate("() => window.conformalGallery.ids")
    kept = {i: np.count_nonzero(~np.isnan(store.label(store.sample_ids.index(i)))) for i in store.sample_ids}
    assert ids_in_grid(page) == ids
    part(page, "sort").select_option("kept")
    assert ids_in_grid(page) == sorted(ids, key=lambda i: kept[i])
    part(page, "sort").select_option("kept_most")
    assert ids_in_grid(page) == sorted(ids, key=lambda i: -kept[i])
    part(page, "sort").select_option("id")
    median = float(np.median(list(kept.values()))) / 8  # of 800 pixels, in per cent
    part(page, "kept-low").fill(str(median))
    low = [i for i in ids if kept[i] / 8 >= median]
    assert ids_in_grid(page) == low
    assert f"{len(low)} of 12 images" in part(page, "shown-count").inner_text()
    everywhere = [i for i in store.sample_ids if kept[i] / 8 >= median]
    assert copied(page, page.locator('[data-copy="run"]')).split("\n") == everywhere
    part(page, "text-filter").fill(low[0][-2:])
    assert ids_in_grid(page) == [i for i in low if low[0][-2:] in i]
    page.get_by_role("button", name="Clear").click()
    settle(page)
    assert ids_in_grid(page) == ids


def test_a_class_filter_asks_for_labels_at_this_stop(open_page, risk_run):
    page = open_page(risk_run.path)
    alphas, ids = (page.evaluate(f"() => window.conformalGallery.{name}") for name in ("alphas", "ids"))
    page.evaluate("() => document.querySelector('[data-part=more]').click()")
    stop = len(alphas) - 1
    part(page, "slider").fill(str(stop))
    part(page, "class-filter").select_option(label="dog")
    settle(page)
    store, q = open_labels(risk_run.settings.folder / "labels.zarr"), risk_run.sweep.thresholds.map(stop)
    has_dog = [
        i for i in ids
        if (calib.label_pixels(store.planes(store.sample_ids.index(i)), q, "argmax", 0, "abstain") == 2).any()
    ]  # fmt: skip
    assert ids_in_grid(page) == has_dog
    assert 0 < len(has_dog) < len(ids)


def test_ticked_images_are_copied(open_page, run):
    page = open_page(run.path)
    ids = ids_in_grid(page)
    for sample_id in (ids[3], ids[1]):
        page.get_by_label(f"Tick {sample_id} for a list").check()
    assert copied(page, page.locator('[data-copy="chosen"]')) == f"{ids[1]}\n{ids[3]}"


def test_the_class_table_sorts_by_every_column(open_page, run):
    page = open_page(run.path)
    counts = page.evaluate("(of) => window.conformalGallery.runCounts(...of)", [shown_stop(page), "paper"])["byClass"]
    names = run.settings.data.class_names
    by_pixels = [name for _, name in sorted(zip(counts, names, strict=True), reverse=True)]
    assert classes_in_table(page) == by_pixels
    page.get_by_role("button", name="pixels").click()
    assert classes_in_table(page) == by_pixels[::-1]
    page.get_by_role("button", name="class", exact=True).click()
    assert classes_in_table(page) == sorted(names)
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("class")
    first = part(page, "classes").locator("tbody tr").first.inner_text()
    assert "\u202f".join(split_thousands(counts[names.index(sorted(names)[0])])) in first


def shown_stop(page):
    return page.evaluate("() => window.conformalGallery.alphas.indexOf(window.conformalGallery.shown().alpha)")


def classes_in_table(page):
    return part(page, "classes").locator("tbody th").all_inner_texts()


def split_thousands(count):
    return f"{count:,}".split(",")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nothing_is_wider_than_the_screen(open_page, run, viewport, scheme):
    page = open_page(run.path, viewport, color_scheme=scheme, reduced_motion="reduce")
    for key in ("1", "4"):
        press(page, key)
        assert page.evaluate("() => document.documentElement.scrollWidth") == viewport["width"]
    slider = part(page, "slider").bounding_box()
    assert slider["x"] >= 0
    assert slider["x"] + slider["width"] <= viewport["width"]


def test_the_slider_alone_stays_in_sight_on_a_narrow_screen(open_page, run):
    page = open_page(run.path, NARROW)
    part(page, "classes").scroll_into_view_if_needed()
    page.mouse.wheel(0, 300)
    settle(page)
    assert 0 <= part(page, "slider").bounding_box()["y"] < 60
    assert part(page, "command").bounding_box()["y"] < 0  # the rest scrolls away: the screen is small


def test_every_control_is_reached_by_tab_and_seen_to_have_the_focus(open_page, run):
    page = open_page(run.path)
    reached = []
    for _ in range(90):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => { const e = document.activeElement;"
            " const s = getComputedStyle(e.matches('fieldset input') ? e.nextSibling : e);"
            " return [e.dataset.part || e.dataset.panel || e.name || e.className || e.tagName, s.outlineStyle]; }"
        )
        reached.append(focused)
    names = {name for name, _ in reached}
    expected = {
        "slider",
        "gallery-rule",
        "command",
        "copy-command",
        "help",
        "gallery-view",
        "opacity",
        "calibrated",
        "sort",
    }
    assert expected | {"class-filter", "kept-low", "text-filter", "card", "tick", "q-map", "valid-map"} <= names
    assert {outline for name, outline in reached if name != "BODY"} <= {"solid", "auto"}
