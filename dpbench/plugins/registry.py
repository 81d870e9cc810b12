"""Attacks, defenses, metrics and data sets by name: built in, from installed packages, or from a single file.

A plug-in registers when its module is imported: `@register` above the class. Installed packages are found through
the entry-point group `dpbench.plugins`; a file is named as `path/to/file.py:ClassName`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
from pathlib import Path
from typing import Any, TypeVar

from dpbench.contract.attack import Attack
from dpbench.contract.dataset import ImageSet
from dpbench.contract.defense import Defense
from dpbench.contract.metric import Metric
from dpbench.contract.plugin import Plugin, is_abstract
from dpbench.contract.spec import PLUS
from dpbench.errors import DpbenchError, is_interrupt, reason, unknown
from dpbench.machine import plugin_files
from dpbench.machine.process_state import preserved
from dpbench.plugins.sources import OWN, source_of
from dpbench.service.composition import composed

GROUP = "dpbench.plugins"

P = TypeVar("P", bound=Plugin)


BASES: dict[str, type[Plugin]] = {"attack": Attack, "defense": Defense, "metric": Metric, "data set": ImageSet}
"""What there is to plug in, and the class that each is derived from."""


_known: dict[str, dict[str, type[Plugin]]] = {sort: {} for sort in BASES}


BUILT_IN = ("dpbench.metrics.table", "dpbench.data.embedded.drawing")
"""Modules of dpbench whose plug-ins register as those of installed packages do: each lists them, by name."""

_vouched = False


def vouch_for_all() -> None:
    """Import plug-ins from files and from other packages into this process, as one of their own does.

    Without it the engine never runs their code: what it finds are stand-ins (see `dpbench.plugins.stand_in`).
    """
    global _vouched
    _vouched = True
    load_plugins.cache_clear()


def register(cls: type[P]) -> type[P]:
    """Class decorator: make a plug-in known by its `name`; in a file of one's own it may be left out.

        >>> @dpbench.register
        ... class Grey(dpbench.Attack):
        ...     name = "grey"
        ...
        ...     def reconstruct(self, seen, *, generator):
        ...         return torch.full((len(seen.released), *seen.image_shape), 0.5)
        >>> from dpbench.plugins.registry import find_attack
        >>> find_attack("grey") is Grey
        True

    Raises:
        DpbenchError: the name is taken, or the class is abstract, or no `Attack`, `Defense`, `Metric` or `ImageSet`.
    """
    table = _known[sort_of(cls)]
    if is_abstract(cls):
        raise DpbenchError(f"{cls.__name__} is abstract; register the classes that are derived from it")
    if plugin_files.loaded_from(cls.__module__) is not None:
        return cls  # found by its file: two files may use one name, or a built-in's
    taken = table.get(cls.name)
    if taken is not None and taken is not cls:
        raise DpbenchError(f"{cls.name!r} is registered twice: by {_origin(taken)} and by {_origin(cls)}")
    table[cls.name] = cls
    return cls


def forget(cls: type[Plugin]) -> None:
    """Make a plug-in unknown again."""
    _known[sort_of(cls)].pop(cls.name, None)


def sort_of(cls: type) -> str:
    """`attack`, `defense`, `metric` or `data set`.

    Raises:
        DpbenchError: the class is derived from none of these.
    """
    sort = next((sort for sort, base in BASES.items() if issubclass(cls, base)), None)
    if sort is None:
        bases = [base.__name__ for base in BASES.values()]
        raise DpbenchError(
            f"{cls.__name__} is neither {', '.join(map(_with_article, bases[:-1]))} nor {_with_article(bases[-1])}; "
            "derive it from one of them"
        )
    return sort


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"


def _origin(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


@functools.cache
def load_plugins() -> None:
    """Make every installed plug-in known, once. One that does not import is an error that names its package."""
    load_own()
    foreign = [entry for entry in importlib.metadata.entry_points(group=GROUP) if not _of_own(entry)]
    if foreign and not _vouched:
        from dpbench.plugins.stand_in import installed  # imports torch, and starts a process

        for cls in installed():
            register(cls)
        return
    for entry in foreign:
        _load(entry)


def load_own() -> None:
    """Import the plug-ins that dpbench vouches for."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        if _of_own(entry):
            _load(entry)
    for module in BUILT_IN:
        for cls in importlib.import_module(module).BUILT_IN.values():
            register(cls)


def _of_own(entry: importlib.metadata.EntryPoint) -> bool:
    return entry.value.partition(":")[0].partition(".")[0] in OWN


def _load(entry: importlib.metadata.EntryPoint) -> None:
    try:
        with preserved():
            entry.load()
    except BaseException as error:  # a module may call sys.exit
        if is_interrupt(error) or isinstance(error, DpbenchError):
            raise
        raise DpbenchError(
            f"plug-in {entry.name!r} ({entry.value}) does not import: {reason(error)}; "
            "fix or uninstall the package that provides it"
        ) from error


def attacks() -> dict[str, type[Attack]]:
    """Every known attack by name."""
    return _all("attack")


def defenses() -> dict[str, type[Defense]]:
    """Every known defense by name."""
    return _all("defense")


def metrics() -> dict[str, type[Metric]]:
    """Every known metric by name, dpbench's own too."""
    return _all("metric")


def image_sets() -> dict[str, type[ImageSet]]:
    """Every data set by name that draws its images, dpbench's own too."""
    return _all("data set")


def every() -> dict[str, dict[str, type[Plugin]]]:
    """Sort -> name -> plug-in."""
    load_plugins()
    return {sort: dict(sorted(known.items())) for sort, known in _known.items()}


def _all(sort: str) -> dict[str, Any]:
    return every()[sort]


def find_attack(name: str) -> type[Attack]:
    """The attack of that name, or the class in `path/to/file.py:Name`."""
    return find("attack", name)  # type: ignore[return-value]


def find_defense(name: str) -> type[Defense]:
    """The defense of that name, or the class in `path/to/file.py:Name`."""
    return find("defense", name)  # type: ignore[return-value]


def find_metric(name: str) -> type[Metric]:
    """The metric of that name, or the class in `path/to/file.py:Name`."""
    return find("metric", name)  # type: ignore[return-value]


def find(sort: str, name: str) -> type[Plugin]:
    """The plug-in of a sort, see `BASES`, by its name or as `path/to/file.py:Name`.

    Raises:
        DpbenchError: there is none, or it does not import.
    """
    if PLUS in name and sort == "defense":
        return _composed(name)
    if ".py:" in name:
        return _from_file(name, sort, BASES[sort])
    known = _all(sort)
    if name not in known:
        raise unknown(sort, name, known)
    return known[name]  # type: ignore[no-any-return]


def _composed(name: str) -> type[Defense]:
    """The defense that is several, one after the other; of a stand-in where one of them is a stand-in."""
    from dpbench.plugins.stand_in import StandIn
    from dpbench.plugins.stand_in import find as find_stand_in

    classes = [find_defense(part) for part in name.split(PLUS)]
    if not any(issubclass(cls, StandIn) for cls in classes):
        return composed(tuple(classes))
    there = PLUS.join(absolute(part) for part in name.split(PLUS))
    return find_stand_in("defense", there, " ".join(map(source_of, classes)))  # type: ignore[return-value]


def absolute(name: str) -> str:
    """A reference to a file from anywhere; names as they are."""
    return "{}:{}".format(*_split(name)) if ".py:" in name else name


def _split(reference: str) -> tuple[Path, str]:
    """`path/to/file.py:ClassName` -> the file, resolved, and the name."""
    file_name, _, class_name = reference.rpartition(":")
    return Path(file_name).expanduser().resolve(), class_name


def canonical(name: str) -> str:
    """One spelling of a reference to a file, as seen from the working folder where it lies below; names as they are."""
    if PLUS in name:
        return PLUS.join(map(canonical, name.split(PLUS)))
    if ".py:" not in name:
        return name
    path, class_name = _split(name)
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{class_name}"


def _from_file(reference: str, kind: str, base: type[P]) -> type[P]:
    path, class_name = _split(reference)
    if not path.is_file():
        raise DpbenchError(f"{kind} {reference!r}: there is no file {reference.rpartition(':')[0]}")
    if not _vouched:
        from dpbench.plugins.stand_in import find as find_stand_in

        return find_stand_in(kind, f"{path}:{class_name}", plugin_files.look_at(path).digest)  # type: ignore[return-value]
    module = _module_of(path, kind, reference)
    cls = getattr(module, class_name, None)
    if cls is None:
        here = [n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__]
        raise unknown(f"class in {path.name}", class_name, here)
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise DpbenchError(f"{kind} {reference!r}: {class_name} is not a subclass of dpbench.{base.__name__}")
    if is_abstract(cls):
        raise DpbenchError(f"{kind} {reference!r}: {class_name} is abstract; name a class that is derived from it")
    return cls


def _module_of(path: Path, kind: str, reference: str) -> Any:
    try:
        with preserved():
            return plugin_files.load(path)
    except DpbenchError as error:
        raise DpbenchError(f"{kind} {reference!r} does not import: {error}") from error
    except BaseException as error:  # a module may call sys.exit
        if is_interrupt(error):
            raise
        raise DpbenchError(f"{kind} {reference!r} does not import: {reason(error)}; fix {path.name}") from error
