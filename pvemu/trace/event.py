"""One thing that happened, as every format takes it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Event", "text_of"]

#: What is text as it is; most fields are.
_PLAIN = frozenset((str, int))


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
        _kind, time, rip, where, name, fields, result, depth, _duration = self
        shown = [f"{field}={value if type(value) in _PLAIN else text_of(value)}" for field, value in fields.items()]
        place = f"{rip:#x}" if where is None else f"{rip:#x} {where}"
        end = "" if result is None else f" = {result if type(result) in _PLAIN else text_of(result)}"
        return f"{time / 1e9:.9f} {'  ' * depth}{place}: {name}({', '.join(shown)}){end}"


def text_of(value: object) -> str:
    """A field's value for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        shown = [f"{name}={item if type(item) in _PLAIN else text_of(item)}" for name, item in value.items()]
        return "{" + ", ".join(shown) + "}"
    if isinstance(value, list):
        return "[" + ", ".join([text_of(item) for item in value]) + "]"
    return str(value)
