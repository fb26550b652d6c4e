"""Run ``docs/conventions.md``: its examples, and the numbers its prose quotes from them."""

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "conventions.md"
PREAMBLE, *SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
PARSER = doctest.DocTestParser()


def title(section):
    return section.splitlines()[0]


def test_every_convention_holds_read_from_top_to_bottom():
    names = {}
    for example in PARSER.get_examples(PREAMBLE):
        exec(example.source, names)  # noqa: S102 - our own page
    for section in SECTIONS:
        test = PARSER.get_doctest(section, names, title(section), str(PAGE), 0)
        report = []
        results = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
        names.update(test.globs)
        assert results.attempted > 0
        assert results.failed == 0, "".join(report)


@pytest.mark.parametrize("section", SECTIONS, ids=title)
def test_every_quoted_number_is_one_an_example_prints(section):
    printed = " ".join(example.want for example in PARSER.get_examples(section))
    numbers = {float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", printed)}
    quoted = {float(n) for n in re.findall(r"\*\*(-?[\d.]+)\*\*", section)}
    assert quoted
    assert quoted <= numbers
