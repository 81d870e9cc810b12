"""A plug-in in a file of its own, with what lies beside it: the modules it imports and the files it names, all hashed.

What a plug-in imports from its own folder is imported for it alone, under a name that nobody else has: two folders
may both hold a `helper.py`, and an edited one is loaded again.
"""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpbench.errors import DpbenchError

PREFIX = "dpbench_plugin_"

SHARED = frozenset(
    {"dpbench", "dpbench_attacks", "dpbench_defenses", "torch", "torchvision", "timm", "numpy", "pydantic", "PIL"}
)
"""Never a plug-in's own, whatever lies beside it: a second copy of these would not fit the first."""

SMALL = 1 << 20
"""Files of fewer bytes are read again whenever they are looked at; larger ones where their times or size changed."""


@dataclass(frozen=True)
class PluginFile:
    """A plug-in file as it was when it was looked at.

    Attributes:
        path: resolved.
        files: of each file that it consists of, named as seen from its folder (of code from elsewhere, from where it
            was found) -> 12 hex digits of its SHA-256.
        paths: where those files lie.
    """

    path: Path
    files: dict[str, str]
    paths: dict[str, Path]

    @property
    def package(self) -> str:
        """The module under which it is loaded, of this content and in this place."""
        text = "\n".join([str(self.path), *(f"{name} {digest}" for name, digest in sorted(self.files.items()))])
        return PREFIX + hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def digest(self) -> str:
        """Twelve hex digits of all that it consists of, wherever it lies."""
        text = "\n".join(f"{name} {digest}" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


_loaded: dict[str, PluginFile] = {}


def look_at(path: Path) -> PluginFile:
    """A plug-in file, the code that it imports (and what that imports), and the files it names.

    Found without running anything: imports anywhere in the code, and texts that name a file of the folder. Code counts
    in the folder and wherever else Python looks for modules, such as in `PYTHONPATH`; installed packages do not.
    """
    folder = path.parent
    files: dict[str, str] = {}
    paths: dict[str, Path] = {}
    elsewhere = _search_path(folder)
    queue = [(path, folder)]
    named: list[Path] = []
    texts: set[str] = set()
    while queue:
        file, root = queue.pop()
        name = file.relative_to(root).as_posix()
        if name in files:
            continue
        content = file.read_bytes()
        files[name], paths[name] = hashlib.sha256(content).hexdigest()[:12], file
        imported, found = _mentioned(content, _package_of(file, root))
        # `importlib.import_module("helper")` names a module by a text
        spelt = frozenset(text.lstrip(".") for text in found if text.replace(".", "").isidentifier())
        queue += [(one, folder) for module in imported | spelt for one in _files_of(module, folder)]
        queue += [(one, place) for place in elsewhere for module in imported for one in _files_of(module, place)]
        if root == folder:
            texts |= found
        else:
            named += _named(found, file.parent)
    for file in [*_named(texts, folder), *named]:
        root = folder if file.is_relative_to(folder) else file.parent
        name = file.relative_to(root).as_posix()
        if name not in files:
            files[name], paths[name] = file_hash(file)[:12], file
    return PluginFile(path, files, paths)


def _search_path(folder: Path) -> tuple[Path, ...]:
    """Where else modules are imported from that nobody has installed: a path of the user's own."""
    places = [Path(place).resolve() for place in sys.path if place]
    installed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    mine = dict.fromkeys(p for p in places if p != folder and p.is_dir() and not _is_site(p))
    return tuple(p for p in mine if not any(p.is_relative_to(prefix) for prefix in installed))


def load(path: Path) -> types.ModuleType:
    """The module of a plug-in file, loaded once for each content of what it consists of.

    Raises:
        Exception: whatever its code raises.
    """
    plugin = look_at(path)
    package = plugin.package
    if package not in _loaded:
        _loaded[package] = plugin
        root = types.ModuleType(package)
        root.__path__ = [str(path.parent)]
        sys.modules[package] = root
        try:
            _run(plugin)
        except BaseException:
            del _loaded[package]
            for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
                del sys.modules[name]
            raise
    return sys.modules[_main(plugin)]


def _main(plugin: PluginFile) -> str:
    """The full name of the plug-in file's own module; file names may hold what names of modules may not."""
    return f"{plugin.package}.{plugin.path.stem.replace('.', '_')}"


def _run(plugin: PluginFile) -> None:
    name = _main(plugin)
    spec = importlib.util.spec_from_file_location(name, plugin.path, loader=_Loader(name, str(plugin.path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic resolves annotations through sys.modules
    spec.loader.exec_module(module)


def loaded_from(module: str) -> PluginFile | None:
    """The plug-in file that a module belongs to; None where it belongs to none."""
    return _loaded.get(module.partition(".")[0])


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    stat = path.stat()
    if stat.st_size < SMALL:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _hash_of_large(path, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))


@functools.lru_cache(maxsize=256)
def _hash_of_large(path: Path, seen: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 in hex of all files below a folder, without compiled ones."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(folder).as_posix()} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def _package_of(file: Path, folder: Path) -> tuple[str, ...]:
    return file.relative_to(folder).parent.parts


@functools.lru_cache(maxsize=256)
def _mentioned(content: bytes, package: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Modules that the code may import, by dotted name as seen from the folder, and the texts in it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return frozenset(), frozenset()  # it says so itself when it is imported
    modules: set[str] = set()
    texts: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - (node.level - 1)] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            modules.update([base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    return frozenset(modules), frozenset(texts)


def _files_of(module: str, folder: Path) -> Iterator[Path]:
    """The files that importing a module of the folder runs; none for a module from elsewhere."""
    first, *_ = parts = module.split(".")
    if not _own(first, folder):
        return
    place = folder
    for part in parts:
        if (place / part / "__init__.py").is_file():
            yield place / part / "__init__.py"
        elif (place / f"{part}.py").is_file():
            yield place / f"{part}.py"
            return
        place = place / part


def _own(name: str, folder: Path) -> bool:
    """Whether `import name` means what lies in the folder."""
    if not name or name in sys.stdlib_module_names or name in SHARED or _is_site(folder):
        return False
    return (folder / f"{name}.py").is_file() or any((folder / name).glob("*.py"))


@functools.lru_cache(maxsize=64)
def _is_site(folder: Path) -> bool:
    """Whether packages are installed there: then what lies beside a file is nobody's own."""
    return any(folder.glob("*.dist-info"))


def _named(texts: Iterable[str], folder: Path) -> Iterator[Path]:
    """Files of the folder, or of a folder in it, that a text in the code names."""
    short = sorted(text for text in texts if 0 < len(text) < 256 and "\n" not in text and "\0" not in text)
    places = [folder, *(folder / text for text in short if text.strip("./") and (folder / text).is_dir())]
    for place in places:
        for text in short:
            file = (place / text).resolve()
            if file.is_file() and file.is_relative_to(folder):
                yield file


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles what was hashed, never what Python once compiled; gives the code an `import` that knows its folder."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module's code."""
        package = module.__name__.partition(".")[0]
        plugin = _loaded[package]
        content = Path(self.path).read_bytes()
        name = Path(self.path).relative_to(plugin.path.parent).as_posix()
        known = plugin.files.get(name)
        if known is None:
            raise DpbenchError(f"it imports {name} under a name that its code does not spell out; write `import ...`")
        if known != hashlib.sha256(content).hexdigest()[:12]:
            raise DpbenchError(f"{name} has changed since the run was planned; run again")
        own_import = functools.partial(_import, package, plugin.path.parent)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": own_import}
        exec(compile(content, self.path, "exec", dont_inherit=True), module.__dict__)


def _import(
    package: str,
    folder: Path,
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """`__import__` of the code in a plug-in's folder."""
    first = name.partition(".")[0]
    if level or not _own(first, folder):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or (), 0)
    return module if fromlist else sys.modules[f"{package}.{first}"]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of plug-in files."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Of a module in the folder of a loaded plug-in file; None for any other."""
        package, _, within = fullname.partition(".")
        if package not in _loaded or not within:
            return None
        place = _loaded[package].path.parent.joinpath(*within.split("."))
        if (place / "__init__.py").is_file():
            file, inside = place / "__init__.py", [str(place)]
        elif place.with_name(f"{place.name}.py").is_file():
            file, inside = place.with_name(f"{place.name}.py"), None
        else:
            return None
        loader = _Loader(fullname, str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)


sys.meta_path.insert(0, _Finder())
