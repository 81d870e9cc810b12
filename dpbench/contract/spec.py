"""What a suite and a record are made of: frozen, validated tables, and what names a plug-in with its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, PlainSerializer

from dpbench.contract.plugin import Parameters

PLUS = " + "
"""Stands between the names of defenses that follow each other: `dpm + gaussian`."""

LARGEST_SEED = (1 << 63) - 1

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""A seed that every random generator takes: a whole number from 0 to 2^63 - 1."""


class Spec(Parameters):
    """Base of every table in a suite file: frozen, unknown keys refused, numbers finite."""


def _as_unicode(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


PathName = Annotated[str, PlainSerializer(_as_unicode, when_used="json")]
"""A name that may be a path: bytes of it that are not UTF-8, which JSON cannot hold, are written as question marks."""


class PluginSpec(Spec):
    """An attack or a defense with all its parameters, defaults filled in, and what identifies its code."""

    ids_skip_default = ("files",)

    name: str
    source: str = Field("v1", description="version of the plug-in, and a content hash of code that is not dpbench's")
    arguments: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(
        {}, description="files of a plug-in's folder, and parameters that are files -> digits of their SHA-256"
    )

    @property
    def identity(self) -> dict[str, Any]:
        """As JSON without the places of files: neither where the code lies, nor what it is given to read."""
        spec = self.model_dump(mode="json")
        if ".py:" in self.name:
            spec["name"] = PLUS.join(map(_last, self.name.split(PLUS)))

        def content(name: str, value: Any) -> str:
            return f"sha256:{self.files[name]}"

        spec["arguments"] = {name: self._with_files(name, value, content) for name, value in self.arguments.items()}
        return spec

    @property
    def shown_arguments(self) -> dict[str, Any]:
        """The arguments as boards show them: of a file its name and the start of its hash, not where it lies."""

        def shown(name: str, value: Any) -> str:
            return f"{_last(str(value))}:{self.files[name][:8]}"

        return {name: self._with_files(name, value, shown) for name, value in self.arguments.items()}

    def _with_files(self, name: str, value: Any, instead: Callable[[str, Any], str]) -> Any:
        if name in self.files:
            return instead(name, value)
        if isinstance(value, dict):
            return {key: self._with_files(f"{name}.{key}", inner, instead) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._with_files(f"{name}.{place}", inner, instead) for place, inner in enumerate(value)]
        return value

    def stated(self, parameter: str) -> list[Any]:
        """The values of a parameter: none or one, and of defenses in a row that of each that has it."""
        of_one = f"_{parameter}"
        return [
            value
            for name, value in self.arguments.items()
            if name == parameter or (PLUS in self.name and name.endswith(of_one))
        ]

    @property
    def mixed_images(self) -> int:
        """How many images of a class are shared as one, the mean of their releases: its `images_per_release`.

        The protocol `sharing` averages; 1 for defenses without such a parameter.
        """
        return int(max(self.stated("images_per_release"), default=1))

    @property
    def only_attacked(self) -> bool:
        """Whether nobody can train on what is released: its `form` is "code".

        The protocol `sharing` attacks such releases, and trains no partner on them.
        """
        return "code" in self.stated("form")

    @property
    def fits_on_public(self) -> bool:
        """Whether its `fit_on` asks for public images, see `Defense.fit`."""
        return "public" in self.stated("fit_on")

    @property
    def version_free(self) -> dict[str, Any]:
        """As JSON without what identifies code and files: equal for the same request before and after a change."""
        return self.model_dump(mode="json", exclude={"source", "files"})


def _last(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]
