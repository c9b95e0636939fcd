"""The screen as a picture, and the picture in the docs: drawn by the tool itself."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pvemu.debug.screen import render, render_svg
from pvemu.debug.stages import Stage
from pvemu.testing.asciicast import asciicast

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(console: bytes) -> list[tuple[str, str | None]]:
    """Each piece of text and its colour."""
    return [(text.text or "", text.get("fill")) for text in ET.fromstring(render_svg(console)).iter(f"{SVG}text")]


def test_text_is_where_it_is_on_the_screen() -> None:
    root = ET.fromstring(render_svg(b"one\r\n\x1b[3;5Htwo <&>"))
    texts = [(text.get("x"), text.get("y"), (text.text or "").strip()) for text in root.iter(f"{SVG}text")]
    assert texts == [("8", "21", "one"), ("8", "55", "two <&>")]
    assert "    two <&>" in [text.text for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("console", "expected"),
    [
        (b"\x1b[31mred\x1b[0m plain", [("red", "#aa0000"), (" plain", None)]),
        (b"\x1b[1;37mbright", [("bright", "#ffffff")]),
        (b"\x1b[7mreverse", [("reverse", "#000000")]),
        (b"\x1b[30;47mGRUB's", [("GRUB's", "#000000")]),
        (b"\x1b[38;5;46mof 256", [("of 256", "#00ff00")]),
        ("┌─┐".encode(), [("┌─┐", None)]),
    ],
)
def test_colours(console: bytes, expected: list[tuple[str, str | None]]) -> None:
    assert drawn(console) == expected


def test_what_is_reversed_has_a_box_behind_it() -> None:
    boxes = list(ET.fromstring(render_svg(b"a \x1b[30;47mbcd\x1b[0m e")).iter(f"{SVG}rect"))[1:]
    assert [(box.get("x"), box.get("width"), box.get("fill")) for box in boxes] == [("24", "24", "#aaaaaa")]


def test_the_same_console_draws_the_same_bytes() -> None:
    console = b"\x1b[31mx\x1b[0m" * 100
    assert render_svg(console) == render_svg(console)
    assert render(console) == ["x" * 80, "x" * 20]


def test_the_docs_show_what_the_tool_draws() -> None:
    spec = importlib.util.spec_from_file_location("draw_screen", ROOT / "tools" / "draw_screen.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def without_version(picture: str) -> str:
        """Debian's GRUB may be another update; its version is centred."""
        return re.sub(r'<text x="8" y="38".*', "", picture)

    kept = (ROOT / "docs" / "screen.svg").read_text(encoding="utf-8")
    assert "GNU GRUB  version" in kept
    assert without_version(module.draw()) == without_version(kept), "tools/draw_screen.py draws it anew"


def test_a_recording_has_its_header_the_output_and_the_stages_as_markers() -> None:
    stages = [Stage("GRUB", None, None, 0, "", None, 0), Stage("linux", None, "6.1", 0, "", None, 1_500_000_000)]
    text = asciicast([(0.25, b"one \xe2\x94"), (1.0, b"\x80"), (2.0, b"\x1b[1mtwo")], stages, "a title")
    header, *events = [json.loads(line) for line in text.splitlines()]
    assert (header["version"], header["width"], header["height"], header["title"]) == (2, 80, 24, "a title")
    assert events == [
        [0.0, "m", "stage 0: GRUB"], [0.25, "o", "one "], [1.0, "o", "─"], [1.5, "m", "stage 1: linux 6.1"],
        [2.0, "o", "\x1b[1mtwo"],
    ]  # fmt: skip
