"""Which generator an attack searches: one trained on the auxiliary images, or the user's own, in blocks."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.plugin import File
from dpbench.errors import DpbenchError, is_interrupt, reason, unknown
from dpbench.machine import plugin_files
from dpbench.machine.devices import autocast, place
from dpbench.machine.process_state import preserved
from dpbench.machine.randomness import derive_seed, seeded
from dpbench.models.carriers import FACE_GAN, checked_file
from dpbench.models.checkpoints import misfit, read_checkpoint
from dpbench_attacks._gan_networks import FaceGenerator, Generator, all_grey, trained_on_faces
from dpbench_attacks._gan_training import VERSION, GanTraining

OUTSIDE = 0.05
"""By so much the values of an image may leave [0, 1]."""

Block = Callable[[Tensor], Tensor]


class Blocks:
    """A generator as blocks, each of which takes what the one before it gives: z -> ... -> images in [0,1].

    Attributes:
        latent: dimensions of z, which is normal.
        blocks: the first takes z (N, latent), the last gives images (N,3,H,W).
        identity: tells apart what is trained for one generator from what is trained for another.
    """

    def __init__(self, latent: int, blocks: Sequence[Block], identity: object) -> None:
        self.latent = latent
        self.blocks = tuple(blocks)
        self.identity = identity

    def __call__(self, z: Tensor) -> Tensor:
        """(N, latent) -> (N,3,H,W) in [0,1]."""
        return self.onward(z, 0)

    def onward(self, features: Tensor, place_in: int) -> Tensor:
        """What enters block `place_in` -> images (N,3,H,W) in [0,1]; what enters the last but one is an image."""
        for block in self.blocks[place_in:]:
            features = block(features)
        return features.clamp(0, 1)


class ChosenPrior(Attack, abc.ABC):
    """Parameters that name a generator, and how it is made: see `gan-progressive`."""

    ids_skip_default = ("faces",)

    prior: File | None = Field(
        None, description='a generator of your own, "my_gan.py:build": a function that returns it; else one is trained'
    )
    function: str = Field("build", description="of the file `prior`; what follows its colon")
    checkpoint: File | None = Field(None, description="weights of that generator: safetensors or a plain state dict")
    faces: bool = Field(False, description="search the generator of `gan-faces`, trained on many faces beforehand")
    training_steps: int = Field(2000, ge=1, le=1_000_000, description="of the GAN that is trained, as in `gan`")
    width: int = Field(32, ge=4, le=256, description="likewise")
    latent: int = Field(64, ge=2, le=1024, description="likewise")
    batch_size: int = Field(64, ge=2, le=1024, description="likewise")

    @model_validator(mode="before")
    @classmethod
    def _named_function(cls, given: Any) -> Any:
        """`my_gan.py:build` names a file and a function in it.

        Raises:
            DpbenchError: `function` names another one.
        """
        if isinstance(given, dict) and isinstance(given.get("prior"), str) and ".py:" in given["prior"]:
            file, _, function = given["prior"].rpartition(":")
            if given.get("function", function) != function:
                raise DpbenchError(f"prior and function name {function!r} and {given['function']!r}; leave one out")
            return given | {"prior": file, "function": function}
        return given

    def assert_at_hand(self) -> None:
        """One generator is named, its weights are at hand, and a checkpoint holds tensors and nothing else.

        Raises:
            DpbenchError: it is not, they are not, or it does not.
        """
        if self.faces and self.prior is not None:
            raise DpbenchError(f"faces and prior = {self._shown!r} are two generators; leave one of them out")
        if self.faces:
            checked_file(FACE_GAN)
        if self.prior is None and self.function != "build":
            raise DpbenchError(
                f'function = {self.function!r} without `prior`; name its file: prior = "my_gan.py:build"'
            )
        if self.checkpoint is None:
            return
        if self.prior is None:
            raise DpbenchError('`checkpoint` is given without `prior`; name the generator: prior = "my_gan.py:build"')
        read_checkpoint(self.checkpoint)

    def assert_fits(self, image_shape: tuple[int, int, int]) -> None:
        """A generator of one's own paints images of this shape.

        Raises:
            DpbenchError: it does not, they are not finite or not in [0, 1], or no gradient of them is there to follow.
        """
        if self.prior is not None:
            self._own(image_shape, torch.device("cpu"))

    def chosen_generator(self, seen: Observation) -> Blocks:
        """The generator, frozen and in eval mode.

        Raises:
            DpbenchError: the user's own does not paint images of this size, finite and in [0,1], or the gradient
                that is followed is not there.
        """
        if self.prior is not None:
            return self._own(seen.image_shape, seen.released.device)
        if self.faces:
            grey = all_grey(seen.auxiliary)
            of_faces = trained_on_faces(seen.image_shape, grey=grey)
            place(of_faces, seen.released.device).eval().requires_grad_(False)
            return Blocks(of_faces.latent, face_blocks(of_faces), [FACE_GAN.sha256, grey])
        training = GanTraining.of(self)
        network = training.trained(seen)
        return Blocks(network.latent, dcgan_blocks(network), [training.model_dump(), VERSION])

    def _own(self, image_shape: tuple[int, int, int], device: torch.device) -> Blocks:
        assert self.prior is not None
        self.assert_at_hand()
        identity = [plugin_files.file_hash(path) for path in (self.prior, self.checkpoint) if path is not None]
        identity.append(self.function)
        # what the checkpoint leaves out is drawn the same way each time: what is trained for it is kept
        with seeded(derive_seed("prior", *identity), torch.device("cpu")):
            network = self._made(image_shape)
        latent = getattr(network, "latent", None)
        if type(latent) is not int or latent < 1:
            raise DpbenchError(
                f"prior {self._shown} has latent = {latent!r}; expected a whole number, the length of the z it takes"
            )
        if self.checkpoint is not None:
            state = read_checkpoint(self.checkpoint).state
            wrong = misfit(state, network)
            if wrong:
                raise DpbenchError(f"checkpoint {self.checkpoint.name} does not fit the prior {self._shown}: {wrong}")
            network.load_state_dict(state, strict=False)
        place(network, device).eval().requires_grad_(False)
        own = getattr(network, "blocks", None)
        blocks = list(own) if isinstance(own, nn.Sequential | nn.ModuleList) and len(own) else [network]
        generator = Blocks(latent, blocks, identity)
        self._assert_paints(generator, image_shape, device)
        return generator

    @property
    def _shown(self) -> str:
        assert self.prior is not None
        return f"{self.prior.name}:{self.function}"

    def _made(self, image_shape: tuple[int, int, int]) -> nn.Module:
        """What the user's function returns; it is told `image_shape` where it takes that."""
        assert self.prior is not None
        beside = sorted(set(plugin_files.look_at(self.prior).files) - {self.prior.name})
        if beside:
            raise DpbenchError(
                f"prior {self._shown} uses {beside[0]} beside it, which no cell would know of; put all its code into "
                f"{self.prior.name}, and weights into `checkpoint`"
            )
        try:
            with preserved():
                module = plugin_files.load(self.prior)
                function = getattr(module, self.function, None)
                if not callable(function):
                    known = [name for name, one in vars(module).items() if inspect.isfunction(one)]
                    raise unknown(f"function in {self.prior.name}", self.function, known)
                told = {"image_shape": image_shape} if "image_shape" in inspect.signature(function).parameters else {}
                network = function(**told)
        except DpbenchError:
            raise
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise DpbenchError(f"prior {self._shown} cannot be made: {reason(error)}; fix {self.prior.name}") from error
        if not isinstance(network, nn.Module):
            raise DpbenchError(
                f"prior {self._shown} gives {type(network).__name__}; expected an nn.Module of z to images"
            )
        return network

    def _assert_paints(self, generator: Blocks, image_shape: tuple[int, int, int], device: torch.device) -> None:
        follows = self.needs == "weights"
        z = torch.randn(2, generator.latent, generator=torch.Generator().manual_seed(0)).to(device)
        z.requires_grad_(follows)
        wanted = (2, *image_shape)
        try:
            with torch.set_grad_enabled(follows):
                images = z
                for block in generator.blocks:
                    images = block(images)
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise DpbenchError(
                f"prior {self._shown} fails on z of shape {tuple(z.shape)}: {reason(error)}; fix {self._shown}"
            ) from error
        if not isinstance(images, Tensor) or tuple(images.shape) != wanted:
            came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise DpbenchError(f"prior {self._shown} paints {came} from two z; expected images {wanted}: resize in it")
        if images.dtype != torch.float32:
            kind = str(images.dtype).removeprefix("torch.")
            raise DpbenchError(f"prior {self._shown} paints images of {kind}; expected float32: give images.float()")
        if not bool(images.isfinite().all()):
            raise DpbenchError(f"prior {self._shown} paints values that are not finite; check its weights")
        low, high = map(float, images.detach().aminmax())
        if low < -OUTSIDE or high > 1 + OUTSIDE:
            raise DpbenchError(
                f"prior {self._shown} paints values from {low:.2f} to {high:.2f}; expected [0, 1]: rescale in it"
            )
        if follows and not _leads_back(images, z):
            raise DpbenchError(
                f"prior {self._shown} lets no gradient through to z, and {self.name} follows gradients; make it "
                "differentiable, or take 'gan-cma'"
            )


def _leads_back(images: Tensor, z: Tensor) -> bool:
    """Whether there is a gradient of images by the z that they were painted from."""
    try:
        return torch.autograd.grad(images.sum(), z, allow_unused=True)[0] is not None
    except RuntimeError:  # something on the way was detached, or written over
        return False


def dcgan_blocks(network: Generator) -> list[Block]:
    """The blocks of the DCGAN that is trained here: the first from z, one for each doubling, one to the image."""

    def to_image(features: Tensor) -> Tensor:
        images: Tensor = network.late[-2:](features).float() * 0.5 + 0.5
        if images.shape[2:] == network.image_size:
            return images
        return functional.interpolate(images, network.image_size, mode="bilinear", align_corners=False)

    def entered(z: Tensor) -> Tensor:
        features: Tensor = network.early[:2](network.start(z).unflatten(1, (-1, 4, 4)))
        return features

    doublings = [*network.early[2:], *network.late[:-2]]
    return [_fast(block) for block in (entered, *doublings, to_image)]


def face_blocks(network: FaceGenerator) -> list[Block]:
    """The blocks of the generator of faces: from z, two doublings, and what paints the image of (N,128,16,16)."""

    def entered(z: Tensor) -> Tensor:
        features: Tensor = network.main[:3](z[:, :, None, None])
        return features

    doublings: list[Block] = [entered, network.main[3:6], network.main[6:9]]
    return [*map(_fast, doublings), network.second_half]


def _fast(block: Block) -> Block:
    """The same block in the precision that is fast here; gives fp32."""

    def run(features: Tensor) -> Tensor:
        with autocast(features.device):
            return block(features).float()

    return run
