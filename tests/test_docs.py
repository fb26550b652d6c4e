"""Run the examples of pages that teach by them; conventions have a stricter test of their own."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from geomim_data.cli import main

DOCS = Path(__file__).parents[1] / "docs"
PARSER = doctest.DocTestParser()
PREAMBLE, *SECTIONS = re.split(r"^## ", (DOCS / "geometry.md").read_text(), flags=re.MULTILINE)


def title(section):
    return section.splitlines()[0]


def run(name, text, names):
    test = PARSER.get_doctest(text, names, name, "geometry.md", 0)
    report = []
    results = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert results.failed == 0, "".join(report)


def test_the_examples_print_what_they_say_from_top_to_bottom():
    names = {}
    run("preamble", PREAMBLE, names)
    for section in SECTIONS:
        run(title(section), section, names)


def test_every_python_block_is_run():
    blocks = re.findall(r"^```python\n(.*?)^```", "".join(SECTIONS), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    assert all(block.startswith(">>> ") for block in blocks)


@pytest.mark.slow
def test_the_walk_through_a_driving_scene_prints_what_it_says(tmp_path, monkeypatch):
    page = (DOCS / "stores.md").read_text()
    section = page.split("\n## A driving scene, step by step\n")[1].split("\n## ")[0]
    commands = re.findall("^geomim-data (.*)", section, flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["synth", "convert"]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert main([*shlex.split(command), "--workers", "1"]) == 0
    run("a driving scene", section, {})


def test_every_page_that_is_linked_to_is_there():
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (DOCS / target).exists(), (page.name, target)
