"""The report loads and sends nothing, by the same policy as the gallery that it may contain."""

import re
from pathlib import Path

import pipeline

TEMPLATES = Path(pipeline.__file__).parent


def policy(template):
    text = (TEMPLATES / template).read_text()
    return re.search(r'<meta http-equiv="Content-Security-Policy" content="(.*)">', text)[1]


def test_report_and_gallery_have_the_same_policy():
    expected = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "script-src 'unsafe-inline'"]
    for template in ("report/head.html", "gallery/page.html"):
        assert [part.strip() for part in policy(template).split(";")] == expected
