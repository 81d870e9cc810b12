"""What crosses a split point as one tensor, where a network sends several."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import torch
from torch import fx
from torch.nn import functional

BATCHES = (2, 3)
"""Batch sizes of the two runs by which a network is traced: see `dpbench.models.tracing`."""

MADE = "made"
"""Where a node of the graph keeps its `Made`, for a batch of `BATCHES[0]` images."""


@dataclass(frozen=True)
class Made:
    """Shape and kind of a tensor that a call in a network gave."""

    shape: tuple[int, ...]
    floating: bool


class Uncuttable(Exception):
    """Why a network cannot be cut at a point."""


@dataclass(frozen=True)
class Packing:
    """How several feature tensors become one, (N, ...), and come apart again.

    Attributes:
        shapes: of the tensors, with the number of rows an image has in them in place of N (windows have several).
        axis: of the channels along which they stand side by side; None where grids do not fit, and they lie flat.
        finer: how many times finer than the coarsest grid each is; its pixels become channels (pixel-unshuffle).
    """

    shapes: tuple[tuple[int, ...], ...]
    axis: int | None = None
    finer: tuple[int, ...] = ()

    @classmethod
    def of(cls, shapes: tuple[tuple[int, ...], ...]) -> Packing:
        """Side by side if the tensors have one grid, or grids that are multiples of one; else flat."""
        ranks = {len(shape) for shape in shapes}
        if len(ranks) > 1 or not ranks <= {3, 4} or any(shape[0] != 1 for shape in shapes):
            return cls(shapes)
        for axis in (1, 3) if ranks == {4} else (2,):
            if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) == 1:
                return cls(shapes, axis, (1,) * len(shapes))
        if ranks == {4}:
            height, width = (min(shape[side] for shape in shapes) for side in (2, 3))
            finer = tuple(shape[2] // height for shape in shapes)
            fits = (shape[2:] == (k * height, k * width) for shape, k in zip(shapes, finer, strict=True))
            # tokens and channels-last maps have no such multiples but by chance, and would come apart as well
            if all(fits):
                return cls(shapes, 1, finer)
        return cls(shapes)

    def pack(self, graph: fx.Graph, images: fx.Node, tensors: list[fx.Node]) -> fx.Node:
        """Adds nodes that make one tensor of several."""
        if self.axis is None:
            batch = graph.call_method("size", (images, 0))
            return graph.call_function(torch.cat, ([graph.call_method("reshape", (t, batch, -1)) for t in tensors], 1))
        one_grid = [
            graph.call_function(functional.pixel_unshuffle, (tensor, k)) if k > 1 else tensor
            for tensor, k in zip(tensors, self.finer, strict=True)
        ]
        return graph.call_function(torch.cat, (one_grid, self.axis))

    def unpack(self, graph: fx.Graph, released: fx.Node) -> list[fx.Node]:
        """Adds nodes that make several tensors of one."""
        if self.axis is None:
            sizes = [math.prod(shape) for shape in self.shapes]
        else:
            sizes = [shape[self.axis] * k * k for shape, k in zip(self.shapes, self.finer, strict=True)]
        parts = graph.call_method("split", (released, sizes, self.axis or 1))
        tensors = [graph.call_function(operator.getitem, (parts, i)) for i in range(len(sizes))]
        if self.axis is not None:
            return [
                graph.call_function(functional.pixel_shuffle, (tensor, k)) if k > 1 else tensor
                for tensor, k in zip(tensors, self.finer, strict=True)
            ]
        batch = graph.call_method("size", (released, 0))
        return [
            graph.call_method("reshape", (tensor, graph.call_function(operator.mul, (batch, rows)), *shape))
            for tensor, (rows, *shape) in zip(tensors, self.shapes, strict=True)
        ]


def packing_of(crossing: list[fx.Node]) -> Packing | None:
    """How the crossing values are released; None for a single tensor as it is."""
    tensors: list[Made | None] = [node.meta.get(MADE) for node in crossing]
    if not all(tensor is not None and tensor.floating for tensor in tensors):
        raise Uncuttable("lets indices or masks cross, which are no features")
    sizes = [tensor.shape for tensor in tensors if tensor is not None]
    if any(len(size) < 2 or size[0] % BATCHES[0] for size in sizes):
        raise Uncuttable("lets a tensor cross that does not belong to one image each")
    shapes = tuple((size[0] // BATCHES[0], *size[1:]) for size in sizes)
    return None if len(shapes) == 1 and shapes[0][0] == 1 else Packing.of(shapes)
