"""Random generators whose noise nobody can draw again: they start from the operating system's entropy."""

from __future__ import annotations

import secrets

import numpy as np
import torch

WORDS = 624
"""Words of 32 bits in the state of the Mersenne Twister, torch's generator on the CPU."""

STATE_BYTES, FIRST_WORD = 5056, 24
"""Size of the state that torch hands out, and where in it the words begin, each as 64 bits."""


def fresh_generator(device: torch.device) -> torch.Generator:
    """A generator that starts from the operating system's entropy.

    On the CPU all of its state is drawn: `manual_seed` keeps 32 bits of a seed, and a receiver can try them all until
    one leaves features without noise. On other devices 64 bits are all that the generator takes.

    torch has no cryptographic generator. Whoever knows the noise of some thousand values of a file (where a feature
    is the same in every image, what is released is the noise) could work out the rest on the CPU; nothing here
    prevents that.
    """
    if device.type != "cpu":
        return torch.Generator(device).manual_seed(secrets.randbits(63))
    generator = torch.Generator(device)
    state = generator.get_state().numpy().copy()
    assert len(state) == STATE_BYTES, "torch stores the state of its generator in another form"
    words = np.frombuffer(secrets.token_bytes(4 * WORDS), dtype=np.uint32).astype(np.uint64)
    state[FIRST_WORD : FIRST_WORD + 8 * WORDS] = words.view(np.uint8)
    return generator.set_state(torch.from_numpy(state))
