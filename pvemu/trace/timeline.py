"""The boot as a timeline for Perfetto and chrome://tracing: trace-event JSON, a track for each kind of thing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.trace.event import Event
    from pvemu.trace.sinks import TextSink

__all__ = ["TIMELINE_KINDS", "Timeline"]

#: What is shown.
TIMELINE_KINDS = ("stage", "hypercall", "block", "console", "event", "fault", "xenstore")
_TRACKS = ("stage", "hypercall", "block", "console", "event", "fault", "xenstore", "page")
_PROCESS = 1


class Timeline:
    """A sink of events. Times are microseconds of guest time, as the format has them; what the guest's clock does not
    tell apart is shown in order.
    """

    def __init__(self, out: TextSink) -> None:
        self._out = out
        self._out.write('{"displayTimeUnit":"ns","traceEvents":[\n')
        self._put({"ph": "M", "pid": _PROCESS, "tid": 0, "name": "process_name", "args": {"name": "guest"}}, first=True)
        for number, kind in enumerate(_TRACKS):
            self._put(
                {"ph": "M", "pid": _PROCESS, "tid": number + 1, "name": "thread_name", "args": {"name": kind}}
            )
        self._stage: Event | None = None
        self._end = 0

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self._end = max(self._end, event.time + event.duration)
        if event.kind == "stage":
            self._close_stage(event.time)
            self._stage = event
            return
        args = {"rip": f"{event.rip:#x}", **event.fields}
        if event.where is not None:
            args["where"] = event.where
        if event.result is not None:
            args["result"] = event.result
        shown: dict[str, object] = {
            "pid": _PROCESS, "tid": _TRACKS.index(event.kind) + 1, "ts": event.time / 1000, "name": _label(event),
            "cat": event.kind, "args": args,
        }  # fmt: skip
        if event.duration:
            self._put({**shown, "ph": "X", "dur": event.duration / 1000})
        else:
            self._put({**shown, "ph": "i", "s": "t"})

    def close(self) -> None:
        """End the last stage and the file."""
        self._close_stage(self._end)
        self._out.write("]}\n")

    def _close_stage(self, end: int) -> None:
        stage = self._stage
        if stage is not None:
            name = f"stage {stage.fields['number']}: {stage.fields['guest_os']}"
            self._put(
                {
                    "ph": "X", "pid": _PROCESS, "tid": 1, "ts": stage.time / 1000, "dur": (end - stage.time) / 1000,
                    "name": name, "cat": "stage", "args": stage.fields,
                }
            )  # fmt: skip

    def _put(self, entry: dict[str, object], *, first: bool = False) -> None:
        self._out.write(("" if first else ",") + json.dumps(entry, separators=(",", ":")) + "\n")


def _label(event: Event) -> str:
    """What stands on a slice."""
    if event.kind == "block":
        return f"{event.name} {event.fields.get('file', event.fields['sector'])}"
    if event.kind == "console":
        return str(event.fields["text"])
    return str(event.fields.get("cmd", event.name))
