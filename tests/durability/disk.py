"""A disk that knows what of it would survive a power cut.

POSIX promises nothing about order but through ``fsync``: file data reaches the disk when the file
was synced, a name (made, changed or removed) when its folder was. Before that each may be there or
not, on its own, and data may be there in part. This is the abstract persistence model of ALICE
(Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014), and rebuilding and checking
states from a recorded run is the way of CrashMonkey (Mohan et al., "Finding Crash-Consistency Bugs
with Bounded Black-Box Crash Testing", OSDI 2018). A rename is atomic: the old name or the new.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

#: What is at a path: the number of a file, or None for a folder.
Entry = int | None
#: A rebuilt state: path to bytes, or None for a folder.
Tree = dict[str, bytes | None]
Item = tuple[str, object]
DATA_FATES = ("absent", "torn", "zeros")
_KEPT_AT_RANDOM = 0.5


@dataclass
class Disk:
    """Folders and files under one root folder, whose own name is safe.

    Attributes:
        files: Per file, its bytes, and the bytes it had when last synced.
        now: Per folder, its names, as running programs see them.
        safe: The same, as of the folder's last sync.
        pending: Per folder, what happened to its names since then: (name gone, name there, entry).
    """

    files: list[tuple[bytes, bytes]] = field(default_factory=list)
    now: dict[str, dict[str, Entry]] = field(default_factory=lambda: {"": {}})
    safe: dict[str, dict[str, Entry]] = field(default_factory=lambda: {"": {}})
    pending: dict[str, list[tuple[str | None, str | None, Entry]]] = field(
        default_factory=lambda: {"": []}
    )

    def apply(self, operation: tuple[str, ...]) -> None:
        """Do one recorded operation."""
        kind, path, *rest = operation
        getattr(self, f"_{kind}")(path, *rest)

    def copy(self) -> Disk:
        return copy.deepcopy(self)

    def _make_folder(self, path: str) -> None:
        if self._entry(path) is not _MISSING:
            return
        self._name(path, None)
        for names in (self.now, self.safe):
            names[path] = {}
        self.pending[path] = []

    def _create(self, path: str) -> None:
        self.files.append((b"", b""))
        self._name(path, len(self.files) - 1)

    def _write(self, path: str, data: bytes) -> None:
        number = self._file(path)
        content, synced = self.files[number]
        self.files[number] = (content + data, synced)

    def _sync(self, path: str) -> None:
        number = self._file(path)
        self.files[number] = (self.files[number][0],) * 2

    def _link(self, source: str, target: str) -> None:
        self._remove(target)
        self._name(target, self._file(source))

    def _rename(self, source: str, target: str) -> None:
        folder, old = os.path.split(source)
        number = self.now[folder].pop(old)
        self.now[folder][os.path.basename(target)] = number
        self.pending[folder].append((old, os.path.basename(target), number))

    def _take(self, source: str, target: str) -> None:
        self._name(target, self._file(source))
        self._remove(source)

    def _remove(self, path: str) -> None:
        folder, name = os.path.split(path)
        if self.now[folder].pop(name, _MISSING) is not _MISSING:
            self.pending[folder].append((name, None, None))

    def _sync_folder(self, path: str) -> None:
        self.safe[path] = dict(self.now[path])
        self.pending[path] = []

    def _name(self, path: str, entry: Entry) -> None:
        folder, name = os.path.split(path)
        self.now[folder][name] = entry
        self.pending[folder].append((None, name, entry))

    def _entry(self, path: str) -> object:
        folder, name = os.path.split(path)
        return self.now.get(folder, {}).get(name, _MISSING)

    def _file(self, path: str) -> int:
        number = self._entry(path)
        assert isinstance(number, int), path
        return number

    # -- states ----------------------------------------------------------------------------------

    def unsynced(self) -> list[Item]:
        """Everything a power cut may take, on its own."""
        data = [("data", n) for n, (content, synced) in enumerate(self.files) if content != synced]
        names = [("name", (f, i)) for f, ops in self.pending.items() for i in range(len(ops))]
        return data + names

    def states(self, seed: int, random_states: int) -> Iterator[Tree]:
        """What may be found after a cut now, the first being what a mere kill leaves.

        All subsets would be too many. These are: all there; nothing there; each item gone alone,
        data in each of its ways; each item there alone; all names there with all data gone, each
        way; and some random subsets.
        """
        items = self.unsynced()
        yield self._tree({})
        everything: dict[Item, str] = dict.fromkeys(items, "absent")
        for item in items:
            for fate in DATA_FATES if item[0] == "data" else DATA_FATES[:1]:
                yield self._tree({item: fate})
            yield self._tree({i: f for i, f in everything.items() if i != item})
        yield self._tree(everything)
        for fate in DATA_FATES:
            yield self._tree({i: fate for i in items if i[0] == "data"})
        chance = random.Random(seed)
        for _ in range(random_states if len(items) > 1 else 0):
            fates = {i: chance.choice(DATA_FATES) for i in items}
            yield self._tree({i: f for i, f in fates.items() if chance.random() < _KEPT_AT_RANDOM})

    def _tree(self, lost: dict[Item, str]) -> Tree:
        tree: Tree = {}
        self._fill(tree, "", lost)
        return tree

    def _fill(self, tree: Tree, folder: str, lost: dict[Item, str]) -> None:
        names = dict(self.safe[folder])
        for i, (gone, there, entry) in enumerate(self.pending[folder]):
            if ("name", (folder, i)) in lost:
                continue
            if gone is not None:
                names.pop(gone, None)
            if there is not None:
                names[there] = entry
        for name, entry in names.items():
            path = os.path.join(folder, name)
            if entry is None:
                tree[path] = None
                self._fill(tree, path, lost)
            else:
                tree[path] = self._content(entry, lost.get(("data", entry)))

    def _content(self, number: int, fate: str | None) -> bytes:
        content, synced = self.files[number]
        rest = len(content) - len(synced)
        if fate is None:
            return content
        torn = synced + content[len(synced) :][: rest // 2]
        return {"absent": synced, "torn": torn, "zeros": synced + bytes(rest)}[fate]


_MISSING = object()


def build(tree: Tree, root: str) -> None:
    """Make the state's folders and files under ``root``."""
    os.makedirs(root)
    for path, content in tree.items():
        full = os.path.join(root, path)
        if content is None:
            os.mkdir(full)
        else:
            with open(full, "wb") as file:
                file.write(content)
