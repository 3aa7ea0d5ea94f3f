"""Names of members: paths that stay inside their directory, on every file system, and that mean one file each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from penstock.errors import quoted
from penstock.scan.archive import MAX_MEMBERS, MAX_NAME
from penstock.scan.findings import Refused

MANIFEST = "MAR-INF/MANIFEST.json"
WORKFLOW_MANIFEST = "WAR-INF/MANIFEST.json"
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Devices of Windows, with any suffix."""
_IGNORED = "__MACOSX"
"""What macOS adds beside the files; it does not count where a single directory is looked for."""


def checked_name(name: str) -> str:
    """The path of a member, without `./` before and `/` behind it; "" for the directory itself.

    Raises Refused for a path that would leave its directory or that file systems read differently.
    """
    path = name.removeprefix("./").rstrip("/") if name not in (".", "./") else ""
    if name.startswith("/") or (name.startswith("./") and path.startswith("/")):
        raise Refused(f"the member {quoted(name)} has an absolute path")
    if not path:
        return ""
    if len(path.encode("utf-8", "surrogateescape")) > MAX_NAME:
        raise Refused(f"the name of the member {quoted(name, 30)} is longer than {MAX_NAME} bytes")
    if not path.isprintable() or "\\" in path or ":" in path:
        raise Refused(f"the name of the member {quoted(name)} is read differently by different systems")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise Refused(f"the member {quoted(name)} would leave the directory it is unpacked to")
        if part[-1] in ". " or _RESERVED.fullmatch(part):
            raise Refused(f"the member {quoted(name)} has a name that Windows reserves")
    return path


class Names:
    """The members of one archive so far: no two may become one file, on any file system."""

    def __init__(self) -> None:
        self._kinds: dict[str, bool] = {}
        self._count = 0

    def add(self, path: str, *, is_directory: bool = False) -> None:
        """Raises Refused for a second member of the same name (in any case), and for one below a file."""
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise Refused(f"it has more than {MAX_MEMBERS} members")
        parts = unicodedata.normalize("NFC", path).casefold().split("/")
        for length in range(1, len(parts)):
            if self._kinds.setdefault("/".join(parts[:length]), True) is False:
                raise Refused(f"the member {quoted(path)} is inside a member that is not a directory")
        known = self._kinds.get("/".join(parts))
        if known is not None and not (known and is_directory):
            raise Refused(f"it has two members {quoted(path)}, in upper or lower case")
        self._kinds["/".join(parts)] = is_directory


def root_of(names: Iterable[str]) -> str:
    """The prefix below which a model lies: one directory around everything is tolerated, "" for none."""
    known = [name for name in names if name.partition("/")[0] != _IGNORED]
    if MANIFEST in known or WORKFLOW_MANIFEST in known:
        return ""
    tops = {name.partition("/")[0] for name in known}
    if len(tops) != 1 or any("/" not in name for name in known):
        return ""
    return f"{tops.pop()}/"
