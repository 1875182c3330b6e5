"""Galleries of tiny runs, written to disk, and actions of tests on a gallery that is open in a browser."""

import shutil
from types import SimpleNamespace

from report_run import run_with_receipts
from tiny_run import write_run_file, write_sample_files

from pipeline.calibration.sweep import sweep_run
from pipeline.gallery import gallery_page
from pipeline.run_file import load_settings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IDS = [f"im{i:02}" for i in range(24)]  # 6 labeled, 2 val, 16 unlabeled
SHOWN = (16, 32)
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def written_run(folder, **overrides):
    """A run up to its labels, and its gallery, which is smaller than the grid."""
    write_sample_files(folder / "data", IDS)
    small = {"gallery.longest_side": SHOWN[1], "gallery.num_images": 12, "data.grid": [20, 40]} | overrides
    settings = load_settings(write_run_file(folder), small)
    run_with_receipts(settings)
    (folder / "gallery.html").write_text(gallery_page(settings), encoding="utf-8")
    return SimpleNamespace(settings=settings, path=folder / "gallery.html", sweep=sweep_run(settings))


def part(page, name):
    return page.locator(f'[data-part="{name}"]')


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)
    settle(page)


def settle(page):
    """Wait until the page has been drawn after the last event."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def shown(page):
    return page.evaluate("() => window.conformalGallery.shown()")


def ids_in_grid(page):
    return page.eval_on_selector_all('[data-part="grid"] > li', "(cards) => cards.map((card) => card.dataset.id)")


def copied(page, button):
    """Text that a button copies, in a page that may not use the clipboard."""
    page.evaluate(
        "() => { document.execCommand = () => { window.copiedText = document.activeElement.value; return true; };"
        " navigator.clipboard.writeText = () => Promise.reject(); }"
    )
    button.click()
    page.wait_for_function("() => window.copiedText !== undefined")
    return page.evaluate("() => window.copiedText")
