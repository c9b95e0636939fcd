"""Block requests with the files that their sectors belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public.io import blkif
from pvemu.filesystems.disk_map import DiskMap

if TYPE_CHECKING:
    from pvemu.devices.blkback_request import CompletedRequest
    from pvemu.filesystems.volume import SectorSource

__all__ = ["BlockNames"]

_OPERATIONS = {
    blkif.BLKIF_OP_READ: "read", blkif.BLKIF_OP_WRITE: "write", blkif.BLKIF_OP_FLUSH_DISKCACHE: "flush",
    blkif.BLKIF_OP_WRITE_BARRIER: "write_barrier", blkif.BLKIF_OP_DISCARD: "discard",
}  # fmt: skip
_RESULTS = {blkif.BLKIF_RSP_OKAY: "OKAY", blkif.BLKIF_RSP_ERROR: "ERROR", blkif.BLKIF_RSP_EOPNOTSUPP: "EOPNOTSUPP"}
#: Sectors of one page: a request is looked up page by page, since a file system's blocks are no smaller than a sector
#: and mostly as large as a page.
_STEP = 8


class BlockNames:
    """Describes the requests to one disk."""

    def __init__(self, vdev: str, disk: SectorSource) -> None:
        self._vdev = vdev
        self._map = DiskMap(disk)
        self._known: dict[int, str] = {}

    def describe(self, request: CompletedRequest) -> tuple[str, dict[str, object], str]:
        """(operation, fields, result) of a request; ``file`` is ``xvda1:/path+offset``."""
        name = _OPERATIONS.get(request.operation, f"operation {request.operation}")
        fields: dict[str, object] = {"vdev": self._vdev, "sector": request.sector, "count": request.nr_sectors}
        files: list[str] = []
        for sector in range(request.sector, request.sector + request.nr_sectors, _STEP):
            where = self._where(sector)
            path = where.rpartition("+")[0]
            if where and (not files or files[-1].rpartition("+")[0] != path):
                files.append(where)
        if len(files) == 1:
            fields["file"] = files[0]
        elif files:
            fields["files"] = files
        return name, fields, _RESULTS.get(request.status, str(request.status))

    @staticmethod
    def files_of(fields: dict[str, object]) -> str:
        """The files of a described request, for patterns."""
        files = fields.get("files", [fields.get("file", "")])
        return " ".join(map(str, files)) if isinstance(files, list) else ""

    def _where(self, sector: int) -> str:
        known = self._known.get(sector)
        if known is None:
            found = self._map.locate(sector)
            known = "" if found is None else f"{found.on(self._vdev)}+{found.offset:#x}"
            self._known[sector] = known
        return known
