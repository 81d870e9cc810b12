"""The words of the page, explained to someone who sees them for the first time."""

from __future__ import annotations

from collections.abc import Iterable

TERMS: dict[str, str] = {
    "accuracy": "Top-1 accuracy of the protected network on test images, from the very features that attackers get.",
    "attacker": "Whoever receives the features and wants the images. By default the server itself, which is honest "
    "about its answers and curious about its input.",
    "backbone, split point": "The network, and the place where it is cut: what is computed before it stays with the "
    "client, what comes out there is sent.",
    "budget": "What an attack may spend: small, standard or large. It scales steps, network size and images.",
    "defense": "What the client does to the features before it sends them: noise, rounding, a learned module.",
    "ensemble": "A fixed set of attacks in fixed versions, so that a worst case means the same on every board.",
    "floor": "What comes back without any information: the mean image, another image, the nearest of the attacker's "
    "own. The best of these per image is the zero of the scale.",
    "information bits": "The most that releases tell of an image on average, whoever looks and however: for defenses "
    "that add Gaussian noise to few values. So many bits name one image among two to that power.",
    "interval": "Where the figure would fall in 95 of 100 repetitions with other test images. With one seed it leaves "
    "out the randomness of training.",
    "label read": "Share of victims whose class an independent classifier reads from the reconstruction.",
    "leakage": "0 at the floor, 1 at the undefended network under the strongest attacker, from SSIM, PSNR and LPIPS. 0 "
    "is the floor of picture metrics and no privacy: read re-identification beside it.",
    "LPIPS": "Distance of two images as a trained network sees them. 0 is the same image; lower is closer.",
    "named among candidates": "Share of victims whose photograph is named without reconstructing anything: the "
    "attacker releases candidate images through its own copy of the client, and takes the nearest.",
    "Pareto front": "The settings that no other one beats in both: none tested predicts better and leaks less.",
    "PSNR": "Peak signal-to-noise ratio in decibels: how small the error of the pixels is. 20 dB is recognisable, 30 "
    "close, 40 hardly told apart.",
    "re-identified": "Share of victims for whom the true image is the nearest of all test images to the "
    "reconstruction. A picture that looks poor may still name its victim.",
    "release, smashed data": "What leaves the client: the features, with the defense applied.",
    "rMLE": "Regularised maximum likelihood estimation: change an image until its features match the release, and keep "
    "it smooth.",
    "SSIM": "Structural similarity of two images, as people look at them: 1 is the same image, 0 nothing in common. "
    "From 0.8 on details come back, from 0.5 on the scene.",
    "static": "An attacker who does not know of the defense. Shown to expose secrecy that protects nobody, never the "
    "headline.",
    "victim": "A test image that is attacked. No attacker has seen it.",
    "worst case": "Per victim the best reconstruction over all attacks: what an attacker gets who tries them all.",
}
"""Term -> what it means."""

SHARING: dict[str, str] = {
    "gain": "Accuracy of the receiver with the shared features less that with its own images alone, paired image by "
    "image.",
    "kept": "The share of the gain that clean images would give.",
    "receiver, sender": "The receiver trains on features that senders release behind their defenses, and attacks what "
    "it was given.",
}
"""Words of pages on shared features."""


def explained(terms: Iterable[str]) -> list[tuple[str, str]]:
    """Term and meaning, by name; unknown terms are left out."""
    known = TERMS | SHARING
    return sorted(((term, known[term]) for term in dict.fromkeys(terms) if term in known), key=_folded)


def _folded(pair: tuple[str, str]) -> str:
    return pair[0].casefold()
