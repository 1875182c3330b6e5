"""A browser, and galleries to open in it."""

import pytest
from gallery_pages import CHROMIUM, WIDE, written_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return written_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def risk_run(tmp_path_factory):
    """A run whose strictest stops label a few pixels an image."""
    folder = tmp_path_factory.mktemp("risk")
    return written_run(folder, variant="risk", rule="argmax", alpha=0.4, **{"gallery.num_images": 16})


@pytest.fixture(scope="session")
def guaranteed_run(tmp_path_factory):
    """A run whose labels have a guaranteed precision: a third of them are right, and a tenth is shown."""
    guarantee = {"precision": 0.1, "confidence": 0.9}
    return written_run(tmp_path_factory.mktemp("guarantee"), num_labeled=12, rule="argmax", guarantee=guarantee)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open a gallery; at the end of the test there must have been no other request than for the file, and no error."""
    contexts, requests, complaints, paths = [], [], [], []

    def open_at(path, viewport=WIDE, **options):
        context = browser.new_context(viewport=viewport, **options)
        page = context.new_page()
        page.set_default_timeout(30_000)  # a busy machine takes its time to open a page
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.evaluate("() => window.conformalGallery.ready")
        contexts.append(context)
        paths.append(path.as_uri())
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == paths


def pytest_collection_modifyitems(items):
    """Tests of this folder are slow and need a browser, and say so where there is none."""
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="no chromium, chromium-browser or google-chrome on PATH"))
