"""What `pvemu` says of itself."""

from __future__ import annotations

import re

import pytest

from pvemu.cli import _VERBS, main


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    return capsys.readouterr().out


def test_all_verbs_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["--help"], capsys)
    assert [verb for verb in _VERBS if not re.search(rf"^    {verb}\b", text, re.MULTILINE)] == []


@pytest.mark.parametrize("verb", _VERBS)
def test_each_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if verb == "xl":  # it is xl, with xl's own help
        assert main(["xl", "help"]) == 0
        assert "create" in capsys.readouterr().out
        return
    text = said([verb, "--help"], capsys)
    assert text.startswith(f"usage: pvemu {verb} ")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"pvemu (\d\S*|\(not installed\)), unicorn 2\.\d+\.\d+\n", said(["--version"], capsys))


@pytest.mark.parametrize("words", [["bot"], ["--loud", "boot", "x"], ["--", "boot", "x"], []])
def test_words_that_are_no_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert "usage: pvemu [-h] [--version] VERB" in capsys.readouterr().err


def test_what_is_refused_is_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--write" in said(["boot", "--help"], capsys)
    assert "--write" not in said(["debug", "--help"], capsys)
