"""The page around the content: words, and JSON that cannot end its script."""

import json

import pytest
from click.testing import CliRunner
from report_run import run_with_receipts
from tiny_run import write_run_file, write_sample_files

from pipeline.cli import CommandGroup
from pipeline.commands.gallery import gallery
from pipeline.gallery import gallery_fragment
from pipeline.gallery.page import choice, script_json
from pipeline.run_file import load_settings

IDS = [f"im{i:02}" for i in range(12)]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_sample_files(folder / "data", IDS)
    path = write_run_file(folder)
    run_with_receipts(load_settings(path))
    return path


def command(*arguments):
    group = CommandGroup(commands={"gallery": gallery})
    return CliRunner().invoke(group, ["gallery", *map(str, arguments)])


def test_json_cannot_end_the_script_it_stands_in():
    content = {"name": "</script><!-- é"}
    written = script_json(content)
    assert "<" not in written
    assert json.loads(written) == content


def test_a_sentence_describes_the_choice_of_images():
    assert choice(4, 4) == "All 4 unlabeled images of the run."
    assert "60 of the run's 1\u202f200 unlabeled images: half have the lowest keep rates" in choice(60, 1200)


def test_the_command_writes_one_page_and_says_its_size(run_file, tmp_path):
    out = tmp_path / "deep" / "page.html"
    result = command(run_file, "--out", out, "--images", 2, "--longest", 32)
    assert result.exit_code == 0, result.output
    html = out.read_text(encoding="utf-8")
    assert f"wrote {out}, {len(html.encode()) / 1e6:.1f} MB" in result.output
    assert html.startswith("<!doctype html>")
    assert "default-src 'none'" in html
    assert "2 of the run&#39;s 4 unlabeled images" in html
    assert "95&nbsp;% coverage is not 95&nbsp;% correct labels" in html
    assert "The slider is a preview." in html


def test_by_default_the_page_lies_in_the_results(run_file):
    assert command(run_file).exit_code == 0
    assert (load_settings(run_file).folder / "gallery.html").is_file()


def test_a_run_without_labels_ends_in_one_line(tmp_path):
    write_sample_files(tmp_path / "data", IDS)
    result = command(write_run_file(tmp_path))
    assert result.exit_code == 1
    assert result.output.startswith("error: no receipt")
    assert result.output.count("\n") == 1


def test_the_fragment_is_one_section_for_another_page(run_file):
    fragment = gallery_fragment(load_settings(run_file))
    assert fragment.strip().startswith('<section class="gallery" id="gallery"')
    assert fragment.strip().endswith("</section>")
    assert fragment.count("<section") == 1
    assert "<h2>Gallery</h2>" in fragment
    assert "<html" not in fragment
    assert "http" not in fragment.replace("http://www.w3.org/2000/svg", "")
