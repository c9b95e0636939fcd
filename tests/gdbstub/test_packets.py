"""Packets: framing, checksums, escapes, Ctrl-C, and what is no packet at all."""

from __future__ import annotations

import random

from pvemu.gdbstub.packets import INTERRUPT, PacketReader, escape, frame, unescape


def test_packets_come_in_pieces() -> None:
    reader = PacketReader()
    data = frame(b"qSupported") + frame(b"g")
    found = [packet for at in range(len(data)) for packet in reader.feed(data[at : at + 1])]
    assert found == [b"qSupported", b"g"]
    assert reader.take_acknowledgement() == b"++"
    assert reader.take_acknowledgement() == b""


def test_a_damaged_packet_is_asked_for_again() -> None:
    reader = PacketReader()
    assert reader.feed(b"$g#00") == []
    assert reader.take_acknowledgement() == b"-"
    assert reader.feed(frame(b"g")) == [b"g"]


def test_without_acknowledgements_nothing_is_sent() -> None:
    reader = PacketReader()
    reader.needs_acks = False
    assert reader.feed(frame(b"g") + b"+") == [b"g"]
    assert reader.take_acknowledgement() == b""


def test_a_ctrl_c_stands_between_packets() -> None:
    reader = PacketReader()
    assert reader.feed(frame(b"c") + b"\x03" + frame(b"g")) == [b"c", INTERRUPT, b"g"]


def test_binary_data_survives() -> None:
    data = bytes(range(256)) * 2
    assert unescape(escape(data)) == data
    assert not set(escape(data)) & set(b"#$*")


def test_garbage_is_no_packet() -> None:
    chance = random.Random(0)
    reader = PacketReader()
    for _ in range(200):
        reader.feed(bytes(chance.choices(b"$#+-\x03}*abc019\xff", k=chance.randrange(40))))
    reader.feed(b"#00")
    assert reader.feed(frame(b"g"))[-1:] == [b"g"]
    reader.feed(b"$" + b"x" * (1 << 17))
    assert reader.feed(frame(b"g"))[-1:] == [b"g"]
