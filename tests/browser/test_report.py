"""The report with the gallery in it, opened from the disk."""

from gallery_pages import part, settle, written_run

from pipeline.run import Run
from pipeline.stages.report import report


def test_the_report_contains_the_gallery_at_work(open_page, tmp_path):
    settings = written_run(tmp_path, **{"gallery.in_report": True}).settings
    Run(settings).finish("report", report(settings))
    page = open_page(settings.folder / "report.html")
    assert page.locator("h1").count() == 1
    assert page.locator("nav a", has_text="Gallery").get_attribute("href") == "#gallery"
    part(page, "slider").fill("0")
    settle(page)
    lowest = page.evaluate("() => window.conformalGallery.alphas[0]")
    assert f"alpha={lowest:g}" in part(page, "command").inner_text()
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("() => document.querySelector('#held-out .scroll.wide')")  # a hint that it scrolls
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    overflow = "(region) => region.scrollWidth > region.clientWidth + 1"
    regions = page.locator(".scroll").all()
    assert all(("wide" in region.get_attribute("class").split()) == region.evaluate(overflow) for region in regions)
