"""Results for machines: JUnit XML, TAP 13, annotations for GitHub Actions, and the artifacts of failed cases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, TYPE_CHECKING
from xml.etree import ElementTree as ET

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from pvemu.scenario.result import Result

__all__ = ["artifact_folder", "keep_artifacts", "write_github", "write_junit", "write_tap"]

#: What XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(results: list[Result], file: Path) -> None:
    """A suite for each scenario file. Times are wall seconds, as readers expect."""
    root = ET.Element("testsuites", name="pvemu")
    for name in dict.fromkeys(result.file for result in results):
        members = [result for result in results if result.file == name]
        suite = ET.SubElement(
            root, "testsuite", name=name, tests=str(len(members)),
            failures=str(sum(result.outcome in ("failed", "crashed") for result in members)),
            errors=str(sum(result.outcome in ("error", "unusable") for result in members)),
            skipped=str(sum(result.outcome in ("skipped", "xfailed") for result in members)),
            time=f"{sum(result.wall_seconds for result in members):.3f}",
        )  # fmt: skip
        for result in members:
            _junit_case(suite, result)
    ET.indent(root)
    try:
        ET.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise ConfigError(f"--junit {file}: cannot be written ({error.strerror}); give another path") from None


def _junit_case(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(
        suite, "testcase", name=_xml(result.name), classname=_xml(Path(result.file).name),
        time=f"{result.wall_seconds:.3f}",
    )  # fmt: skip
    if result.outcome in ("skipped", "xfailed"):
        ET.SubElement(case, "skipped", message=_xml(result.reason))
    elif result.is_bad:
        kind = "failure" if result.outcome in ("failed", "crashed") else "error"
        element = ET.SubElement(case, kind, message=_xml(result.message), type=result.outcome)
        element.text = _xml("\n".join(result.lines()))
    for name, element_name in (("console.txt", "system-out"), ("screen.txt", "system-err")):
        if name in result.exhibits:
            ET.SubElement(case, element_name).text = _xml(result.exhibits[name].decode("utf-8", "replace"))


def write_tap(results: list[Result], out: IO[str]) -> None:
    """TAP version 13, with why in a YAML block."""
    print("TAP version 13", file=out)
    print(f"1..{len(results)}", file=out)
    for number, result in enumerate(results, start=1):
        verdict = "not ok" if result.is_bad or result.outcome == "xfailed" else "ok"
        name = result.id.replace("#", "\\#").replace("\n", " ")
        directive = {"skipped": f" # SKIP {result.reason}", "xfailed": f" # TODO {result.reason}"}
        print(f"{verdict} {number} - {name}{directive.get(result.outcome, '')}", file=out)
        if result.is_bad:
            quoted = [line.replace("'", "''").replace("\n", " ") for line in result.lines()]
            print("  ---", *(f"  - '{line}'" for line in quoted), "  ...", sep="\n", file=out)


def write_github(results: list[Result], out: IO[str]) -> None:
    """A workflow command for each failure: GitHub shows it at the scenario's line."""
    for result in results:
        if result.is_bad:
            file, _, line = result.place.rpartition(":")
            title = f"file={_property(file)},line={line},title={_property(result.name)}"
            print(f"::error {title}::{_data(chr(10).join(result.lines()))}", file=out)


def keep_artifacts(results: list[Result], folder: Path) -> None:
    """What there is to see of each guest that did not do as was wanted."""
    for result in results:
        if result.exhibits:
            target = folder / artifact_folder(result)
            target.mkdir(parents=True, exist_ok=True)
            (target / "verdict.txt").write_text("\n".join([result.id, *result.lines(), ""]), encoding="utf-8")
            for name, content in result.exhibits.items():
                (target / name).write_bytes(content)


def artifact_folder(result: Result) -> str:
    """A folder's name for a case."""
    return re.sub(r"[^A-Za-z0-9._=,-]+", "-", f"{Path(result.file).name}-{result.name}").strip("-")


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
