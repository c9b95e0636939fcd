"""The server among clients that misbehave, and its own ways to end."""

from __future__ import annotations

import random
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from pvemu.cli import main
from pvemu.gdbstub.packets import PacketReader, frame
from tests.micro_guests import SCRIPT, SPINNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Assemble
    from tests.gdbstub.conftest import Serve, Served


class Client:
    """One end of the protocol, by hand."""

    def __init__(self, served: Served) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(served.address)
        self.reader = PacketReader()
        self.found: list[bytes] = []

    def ask(self, packet: bytes) -> bytes:
        self.socket.sendall(frame(packet))
        return self.take()

    def take(self) -> bytes:
        while not self.found:
            data = self.socket.recv(4096)
            assert data, "it hung up"
            self.found = self.reader.feed(data)
        return self.found.pop(0)


@pytest.fixture
def connect() -> Iterator[Callable[[Served], Client]]:
    clients: list[Client] = []

    def to(served: Served) -> Client:
        clients.append(Client(served))
        return clients[-1]

    yield to
    for client in clients:
        client.socket.close()


def test_one_gdb_after_the_other(serve: Serve, kernel: Path, connect: Callable[[Served], Client]) -> None:
    served = serve(kernel, "--memory", "16")
    first = connect(served)
    assert first.ask(b"s").startswith(b"T05")
    rip = first.ask(b"p10")
    first.socket.close()  # no goodbye
    second = connect(served)
    assert second.ask(b"p10") == rip, "the guest stands where it stood"
    assert second.ask(b"D") == b"OK"
    third = connect(served)
    third.socket.sendall(frame(b"k"))
    code, _console, said = served.end()
    assert code == 0
    assert said.count("gdb is here") == 3
    assert said.endswith("pvemu: gdb has ended the session\n")


def test_a_second_gdb_is_turned_away(serve: Serve, kernel: Path, connect: Callable[[Served], Client]) -> None:
    served = serve(kernel, "--memory", "16")
    first, second = connect(served), connect(served)
    assert second.socket.recv(1) == b""
    assert first.ask(b"?") == b"T05thread:1;"


def test_garbage_is_answered_or_ignored(serve: Serve, kernel: Path, connect: Callable[[Served], Client]) -> None:
    served = serve(kernel, "--memory", "16")
    client = connect(served)
    for packet, answer in (
        (b"m", b"E01"), (b"mzz,4", b"E01"), (b"m7fffffffffff,4", b"E14"), (b"p", b"E01"), (b"pffff", b"E01"),
        (b"P10=zz", b"E01"), (b"Z9,0,1", b""), (b"Z2,7000000000,8", b"E02"), (b"Z0", b"E01"), (b"vFile:open", b""),
        (b"qXfer:features:read:other.xml:0,100", b"E00"), (b"qXfer:features:read:target.xml:x", b"E01"),
        (b"qRcmd,zz", b"E01"), (b"\xff\xfe", b""), (b"!", b""), (b"vCont;t", b""), (b"", b""),
    ):  # fmt: skip
        assert client.ask(packet) == answer, packet
    client.socket.sendall(bytes(random.Random(1).choices(range(4, 256), k=3000)).replace(b"$", b"") + b"\x03+-")
    assert client.ask(b"?") == b"T05thread:1;"


def test_a_range_of_instructions_is_one_request(
    serve: Serve, kernel: Path, connect: Callable[[Served], Client]
) -> None:
    client = connect(serve(kernel, "--memory", "16"))
    assert client.ask(b"vCont?") == b"vCont;c;C;s;S;r"
    start = 0x100000
    assert client.ask(b"vCont;r%x,%x:1;c" % (start, start + 7)) == b"T05thread:1;"
    rip = int.from_bytes(bytes.fromhex(client.ask(b"p10").decode()), "little")
    assert rip == start + 7, "mov $0, %rbx is 7 bytes"
    for wrong in (b"vCont;r", b"vCont;r1", b"vCont;rx,y"):
        assert client.ask(wrong) == b"E01"


def test_a_guest_that_ends_stands_there(serve: Serve, kernel: Path, connect: Callable[[Served], Client]) -> None:
    served = serve(kernel, "--memory", "16")
    client = connect(served)
    client.socket.sendall(frame(b"c"))
    said = b""
    while not (answer := client.take()).startswith(b"T"):
        assert answer.startswith(b"O")
        said += bytes.fromhex(answer[1:].decode())
    assert answer == b"T0bthread:1;"
    assert b"d1v0 Unhandled: vec 14, #PF[0002]" in said
    assert client.ask(b"bs").startswith(b"T05")


def test_ctrl_c_of_gdb_stops_a_guest_that_makes_no_exit(
    serve: Serve, assemble: Assemble, connect: Callable[[Served], Client]
) -> None:
    served = serve(assemble(SPINNING, script=SCRIPT), "--memory", "16")
    client = connect(served)
    client.socket.sendall(frame(b"vCont;c"))
    time.sleep(0.3)
    client.socket.sendall(b"\x03")
    assert client.take().startswith(b"T02")
    rip = client.ask(b"p10")
    assert client.ask(b"bs").startswith(b"T05")
    assert client.ask(b"p10") != rip


def test_ctrl_c_ends_the_server(serve: Serve, kernel: Path, connect: Callable[[Served], Client]) -> None:
    served = serve(kernel, "--memory", "16")
    connect(served)
    served.process.send_signal(signal.SIGINT)
    code, _console, said = served.end()
    assert (code, said.splitlines()[-1]) == (130, "pvemu: interrupted")


def test_where_it_listens(kernel: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for where in (f":{port}", ":99999", ":x", str(tmp_path / "no/such"), str(tmp_path)):
            assert main(["gdb", str(kernel), "--listen", where]) == 2
            error = capfd.readouterr().err
            assert error.startswith(f"pvemu: --listen {where}: "), error
            assert error.count("\n") == 1
    assert main(["gdb", str(kernel), "--write", "--listen", ":0"]) == 2
    assert "--write" in capfd.readouterr().err


def test_tcp_is_of_this_machine_only(kernel: Path) -> None:
    from pvemu.gdbstub.server import Listener

    listener = Listener(":0")
    try:
        assert listener.name.startswith("127.0.0.1:")
        assert listener.socket.getsockname()[0] == "127.0.0.1"
    finally:
        listener.close()
