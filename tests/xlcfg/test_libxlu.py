"""What libxlutil 4.17 made of files and disk specifications, as recorded, against what our reader makes of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pvemu.xlcfg.disk import parse_disk
from pvemu.xlcfg.errors import XlConfigError
from pvemu.xlcfg.grammar import parse

RECORDED = json.loads((Path(__file__).parents[1] / "data/xl/libxlu.json").read_text())


@pytest.mark.parametrize(("text", "expected"), RECORDED["cfg"])
def test_a_file_is_read_or_refused_as_by_libxlutil(text: str, expected: Any) -> None:
    if isinstance(expected, dict):
        settings = parse("T", text)
        assert {name: [one.line, int(one.is_addition), one.value] for name, one in settings.items()} == expected
        return
    with pytest.raises(XlConfigError) as caught:
        parse("T", text)
    assert [*caught.value.xl_lines] == [*expected, "Failed to parse config: Invalid argument"]
    assert str(caught.value).startswith("T:")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("spec", "expected"), RECORDED["disk"])
def test_a_disk_is_read_or_refused_as_by_libxlutil(spec: str, expected: Any) -> None:
    if isinstance(expected, dict):
        disk = asdict(parse_disk("T", 7, spec))
        assert disk == {**expected, "spec": spec}
        return
    with pytest.raises(XlConfigError) as caught:
        parse_disk("T", 7, spec)
    assert [*caught.value.xl_lines] == expected
    assert str(caught.value).startswith("T:7: ")


def test_deep_lists_end_in_a_message() -> None:
    with pytest.raises(XlConfigError):
        parse("T", "a=" + "[" * 5000 + "]" * 5000 + "\n")
