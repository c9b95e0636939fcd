"""One thing that happened, as every format takes it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Event", "text_of"]


class Event(NamedTuple):
    """``kind`` is one of hypercall, xenstore, block, event, fault, page, console, stage; ``time`` guest ns since the
    domain began; ``rip`` where the guest was, ``where`` that by name. ``fields`` holds what there is to say in an order
    for people: numbers, text, and lists and dicts of these; addresses and 64-bit values are text (JSON readers lose
    bits). ``depth`` counts the calls around it (a multicall's); ``result`` is what came of it;
    ``duration`` how long it took, in ns.
    """

    kind: str
    time: int
    rip: int
    where: str | None
    name: str
    fields: dict[str, object]
    result: object = None
    depth: int = 0
    duration: int = 0

    def as_json(self) -> dict[str, object]:
        """A JSON object; what is not there is left out."""
        found: dict[str, object] = {"kind": self.kind, "time": self.time, "rip": f"{self.rip:#x}"}
        if self.where is not None:
            found["where"] = self.where
        found["name"] = self.name
        found["fields"] = self.fields
        if self.result is not None:
            found["result"] = self.result
        if self.depth:
            found["depth"] = self.depth
        if self.duration:
            found["duration"] = self.duration
        return found

    def as_text(self) -> str:
        """One line: time in seconds, place, name with arguments, result."""
        fields = self.fields
        arguments = ", ".join([f"{name}={text_of(value)}" for name, value in fields.items()])
        place = f"{self.rip:#x}" if self.where is None else f"{self.rip:#x} {self.where}"
        end = "" if self.result is None else f" = {text_of(self.result)}"
        return f"{self.time / 1e9:.9f} {'  ' * self.depth}{place}: {self.name}({arguments}){end}"


def text_of(value: object) -> str:
    """A field's value for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join([f"{name}={text_of(item)}" for name, item in value.items()]) + "}"
    if isinstance(value, list):
        return "[" + ", ".join([text_of(item) for item in value]) + "]"
    return str(value)
