"""The report opens anywhere, escapes what it shows, and says what was refused; the command says the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nnssl.cli.ingest import main
from tests.ingest.scans import texture, write, write_nifti
from tests.tiny import workspace_folders

EVIL = "<img src=x onerror=alert(1)>&\"'"


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, "")
    workspace_folders(tmp_path / "work")
    return tmp_path / "work"


def command(workspace, *words):
    return main([*map(str, words), "--workspace", str(workspace)])


def test_the_page_escapes_names_and_needs_nothing_else(source, dataset, run):
    write(source / f"{EVIL} {{0}}.nii.gz".replace("/", ""), texture(0))
    write(source / f"one{EVIL}.nii.gz", texture(1, (1, 12, 14)))
    run()
    text = (dataset / "ingest" / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert "<img src=x" not in text and not {"script", "link", "iframe"} & {*page.tags}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value for name, value in page.attributes if name == "src"]
    assert sources and all(str(value).startswith("data:image/jpeg;base64,") for value in sources)
    assert not re.search(r"https?://|url\(|@import", text)
    assert EVIL in page.text and "single_slice" in page.text


def test_the_json_holds_what_the_page_shows(source, dataset, run):
    write(source / "a.nii.gz", texture(0))
    write(source / "one.nii.gz", texture(1, (1, 12, 14)))
    run()
    content = json.loads((dataset / "ingest" / "report.json").read_text())
    assert content["counts"]["taken"] == 1 and content["reasons"] == {"single_slice": 1}
    assert content["taken"][0]["channels"][0]["shape"] == [10, 12, 14]
    assert content["taken"][0]["channels"][0]["field_of_view_mm"] == [25.0, 18.0, 14.0]


def test_a_page_of_many_scans_stays_small_and_says_what_it_leaves_out(source, dataset, run, monkeypatch):
    monkeypatch.setattr("nnssl.ingest.montage.AT_MOST", 8)
    monkeypatch.setattr("nnssl.ingest.report_html._ROWS_AT_MOST", 5)
    for seed in range(12):
        write(source / f"a{seed:02d}.nii.gz", texture(seed))
    for seed in range(12, 15):
        write(source / f"b{seed}.nii.gz", (texture(seed) > 2000).astype("u1") + (seed == 12))
    write_nifti(source / "c.nii.gz", texture(0))  # a duplicate, with a picture
    run()
    text = (dataset / "ingest" / "report.html").read_text()
    assert text.count("<figure class=") == 3 and "<b>3 of 13</b>: 1 of 1 refused, 2 of 12 suspicious" in text
    assert "... and 7 more: all are in report.json" in text
    content = json.loads((dataset / "ingest" / "report.json").read_text())
    assert len(content["taken"]) == 12 and len(content["refused"]) == 4
    assert all((dataset / "ingest" / "pictures" / row["picture"]).is_file() for row in content["taken"])


def test_the_command_says_what_it_did_and_what_comes_next(source, workspace, capsys):
    write(source / "a.nii.gz", texture(0))
    write(source / "one.nii.gz", texture(1, (1, 12, 14)))
    (source / "notes.txt").write_text("x")
    assert command(workspace, source, "-d", "745", "-n", "Test") == 0
    said = capsys.readouterr().out
    for words in (
        "1 cases of 1 subjects",
        "single_slice (1)",
        "1 files .txt",
        "report.html",
        "nnssl_plan_and_preprocess",
    ):
        assert words in said
    assert (workspace / "nnUNet_raw" / "Dataset745_Test" / "imagesTr" / "a_0000.nii.gz").is_file()


def test_every_source_may_have_a_data_set_of_its_own(source, workspace):
    write(source / "x" / "a.nii.gz", texture(0))
    write(source / "y" / "b.nii.gz", texture(1))
    assert command(workspace, source / "x", source / "y", "-d", "745", "746", "-n", "X", "Y") == 0
    assert (workspace / "nnUNet_raw" / "Dataset746_Y" / "imagesTr" / "b_0000.nii.gz").is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("-d", "745", "-n", "../Up"), 2, "takes letters"),
        (("-d", "745", "746", "-n", "A"), 2, "one for each of the 1 sources"),
        (("-d", "745", "-n", "A", "--accept", "typo"), 2, "not 'typo'"),
        (("-d", "745", "-n", "A", "--accept", "truncated"), 2, "is not possible"),
        (("-d", "745", "-n", "A", "-np", "0"), 2, "at least 1"),
        (("-d", "745", "-n", "A"), 1, "No scan could be taken"),
    ],
)
def test_mistakes_are_told_in_one_paragraph(source, workspace, capsys, words, code, message):
    assert command(workspace, source, *words) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_id_that_is_taken_is_refused(source, workspace, capsys):
    write(source / "a.nii.gz", texture(0))
    assert command(workspace, source, "-d", "745", "-n", "One") == 0
    assert command(workspace, source, "-d", "745", "-n", "Two") == 2
    assert "belongs to Dataset745_One" in " ".join(capsys.readouterr().err.split())


@pytest.mark.pipeline
def test_the_page_opens_in_a_browser(source, dataset, run, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    write(source / f"one{EVIL}.nii.gz", texture(1))
    run()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    page = (dataset / "ingest" / "report.html").as_uri()
    done = subprocess.run(
        [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Middle slices" in done.stdout and '<img src="x"' not in done.stdout and Path(chromium).exists()
