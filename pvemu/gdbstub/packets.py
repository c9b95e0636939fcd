"""The framing of gdb's remote protocol: `$data#checksum`, acknowledgements, escapes, and the lone byte of a Ctrl-C."""

from __future__ import annotations

__all__ = ["INTERRUPT", "PacketReader", "escape", "frame", "unescape"]

#: What a reader gives for a Ctrl-C.
INTERRUPT = b"\x03"
_MAX_PACKET = 1 << 16


def frame(data: bytes) -> bytes:
    """A packet that carries ``data`` (escaped where it must be)."""
    return b"$%s#%02x" % (data, sum(data) & 0xFF)


def escape(data: bytes) -> bytes:
    """Binary data as a packet may carry it."""
    out = bytearray()
    for byte in data:
        if byte in b"#$}*":
            out += bytes((0x7D, byte ^ 0x20))
        else:
            out.append(byte)
    return bytes(out)


def unescape(data: bytes) -> bytes:
    """What was escaped."""
    out = bytearray()
    rest = iter(data)
    for byte in rest:
        out.append(next(rest, 0) ^ 0x20 if byte == 0x7D else byte)
    return bytes(out)


class PacketReader:
    """Takes bytes as they come and gives whole packets. ``acknowledge`` is what is to be sent back for what came."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.needs_acks = True
        self.acknowledge = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Packets, and INTERRUPT for each Ctrl-C outside of one. Garbage between packets is skipped."""
        self._buffer += data
        found = []
        while self._buffer:
            if self._buffer[0] == INTERRUPT[0]:
                del self._buffer[0]
                found.append(INTERRUPT)
            elif self._buffer[0] != ord("$"):
                del self._buffer[0]
            else:
                end = self._buffer.find(b"#")
                if end < 0 or len(self._buffer) < end + 3:
                    if len(self._buffer) > _MAX_PACKET:
                        self._buffer.clear()
                    break
                body, given = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
                del self._buffer[: end + 3]
                is_right = given.lower() == b"%02x" % (sum(body) & 0xFF)
                if self.needs_acks:
                    self.acknowledge += b"+" if is_right else b"-"
                if is_right:
                    found.append(body)
        return found

    def take_acknowledgement(self) -> bytes:
        """What is to be sent for what came, once."""
        data = bytes(self.acknowledge)
        self.acknowledge.clear()
        return data
