"""Stand-ins for the simulator's modules, so that Isaac Lab's own Python imports without it.

A module under one of ``PREFIXES`` is made up when it is imported. Whatever is asked of it is a
class that can be called, subclassed, subscripted and used as a decorator, and that does nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PREFIXES = (
    *("omni", "carb", "isaacsim", "pxr", "usdrt", "isaaclab_contrib"),  # Isaac Sim
    *("warp", "scipy", "trimesh", "h5py", "PIL", "cv2", "matplotlib", "hid", "flatdict"),
)


class _Made(type):
    """Class-level attributes are made up as well."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return make(name, cls.__module__)

    def __or__(cls, other: Any) -> Any:
        return cls

    def __ror__(cls, other: Any) -> Any:
        return cls

    def __getitem__(cls, key: Any) -> Any:
        return cls


class _Nothing:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return make(name, "stand_in")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # As a decorator: the function stays what it is.
        return args[0] if len(args) == 1 and isinstance(args[0], types.FunctionType) else _Nothing()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False


def make(name: str, module: str) -> Any:
    """A class of that name that does nothing."""
    return _Made(name, (_Nothing,), {"__module__": module})


class _Module(types.ModuleType):
    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = make(name, self.__name__)
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.partition(".")[0] in PREFIXES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    """Make Isaac Lab's packages importable; a second call does nothing."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    # First, so that it does not matter what else happens to be installed.
    sys.meta_path.insert(0, _Finder())
    spec = importlib.util.find_spec("isaaclab")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "source"
    for name in ("isaaclab", "isaaclab_rl", "isaaclab_tasks", "isaaclab_assets"):
        sys.path.insert(0, str(source / name))
    sys.modules.pop("isaaclab", None)
