"""The words of the page, explained to someone who sees them for the first time."""

from __future__ import annotations

from collections.abc import Iterable

TERMS: dict[str, str] = {
    "accuracy": "Top-1 accuracy of the protected network on test images, from the very features that attackers get.",
    "attacker": "Whoever receives the features and wants the images. By default the server itself, which is honest "
    "about its answers and curious about its input.",
    "auxiliary images": "The attacker's own. They are like the victims' (same) or of another data set (shifted), and "
    "never the victims.",
    "backbone, split point": "The network, and the place where it is cut: what is computed before it stays with the "
    "client, what comes out there is sent.",
    "budget": "What an attack may spend: small, standard or large. It scales steps, network size and images.",
    "coded bits": "What one release takes to send once a coder has packed it: equal or frequent values cost little. "
    "Beside it stand the bits at a fixed length for each value.",
    "converged": "Whether an attack says that its own search came to an end. A question mark: it says that it did "
    "not, and more steps may recover more.",
    "cost of the client": "Multiply-adds, parameters and milliseconds of what the client computes, the defense "
    "included: a defense that moves the server's work to the client must be seen to.",
    "defense": "What the client does to the features before it sends them: noise, rounding, a learned module.",
    "ensemble": "A fixed set of attacks in fixed versions, so that a worst case means the same on every board.",
    "floor": "What comes back without any information: the mean image, another image, the nearest of the attacker's "
    "own. The best of these per image is the zero of the scale.",
    "guarantee": "What holds whatever the attack: epsilon and delta of differential privacy, or an error that no "
    "unbiased attacker stays below. Few defenses have one; n/a says that this one has none.",
    "hypervolume": "Accuracy and leakage of all settings of a defense in one figure: 1 minus the least leakage within "
    "a loss, averaged over losses from 0 to 10 points. 0 for a defense that helps nowhere.",
    "information bits": "The most that releases tell of an image on average, whoever looks and however: for defenses "
    "that add Gaussian noise to few values. So many bits name one image among two to that power.",
    "interval": "Where the figure would fall in 95 of 100 repetitions with other test images. With one seed it leaves "
    "out the randomness of training.",
    "label read": "Share of victims whose class an independent classifier reads from the reconstruction.",
    "leakage": "0 at the floor, 1 at the undefended network under the strongest attacker, from SSIM, PSNR and LPIPS. "
    "0 is the floor of picture metrics and no privacy: read re-identification beside it.",
    "link, named among candidates": "Share of victims whose photograph is named without reconstructing anything: the "
    "attacker releases candidate images through its own copy of the client, and takes the nearest.",
    "LPIPS": "Distance of two images as a trained network sees them. 0 is the same image; lower is closer.",
    "Pareto front": "The settings that no other one beats in both: none tested predicts better and leaks less, or "
    "costs less and leaks less.",
    "PSNR": "Peak signal-to-noise ratio in decibels: how small the error of the pixels is. 20 dB is recognisable, 30 "
    "close, 40 hardly told apart.",
    "query, weights, observe": "What an attacker is granted: to send images of its own through the defended client; "
    "to hold that client, weights and all; or to see releases and nothing else.",
    "re-identified": "Share of victims for whom the true image is the nearest of all test images to the "
    "reconstruction. A picture that looks poor may still name its victim.",
    "release, smashed data": "What leaves the client: the features, with the defense applied.",
    "rMLE": "Regularised maximum likelihood estimation: change an image until its features match the release, and "
    "keep it smooth.",
    "SSIM": "Structural similarity of two images, as people look at them: 1 is the same image, 0 nothing in common. "
    "From 0.8 on details come back, from 0.5 on the scene.",
    "static": "An attacker who does not know of the defense. Shown to expose secrecy that protects nobody, never the "
    "headline.",
    "tied": "Settings that these victims cannot tell apart: their difference is within chance, image by image.",
    "victim": "A test image that is attacked. No attacker has seen it.",
    "worst case": "Per victim the best reconstruction over all attacks: what an attacker gets who tries them all.",
}
"""Term -> what it means."""

SHARING: dict[str, str] = {
    "agreement, distortion": "How often the public network says the same of defended and of clean features, and how "
    "much the features were changed, as a share of their variance.",
    "equal noise, shuffled labels": "Controls: clean features with noise as strong as the defense's change, and "
    "defended features with labels permuted. What the defense does beyond them is its own.",
    "fit": "A defense as it came out of training once. Attacks prepared on one fit and judged on another tell whether "
    "secrecy of the fit protects anything.",
    "gain": "Accuracy of the receiver with the shared features less that with its own images alone, paired image by "
    "image.",
    "kept": "The share of the gain that clean images would give.",
    "public network": "What all start from; fitted on public images, or pre-trained.",
    "public, own, query, weights": "What the receiver knows of the sender's defense: nothing but the public network; "
    "a defense of the same kind of its own; answers of the sender's client; that client itself.",
    "receiver, sender": "The receiver trains on features that senders release behind their defenses, and attacks what "
    "it was given.",
    "resynthesis": "A module that computes deeper activations of the public network (its stage), adds noise, and "
    "writes features back that look like clean ones: what the deeper activations do not hold cannot come back.",
    "sender's tail, soft labels": "What a sender can give in place of features: the server half that it trained, or "
    "what that says of public images.",
}
"""Words of pages on shared features."""


_KNOWS = ("public", "own", "query", "weights")

_CHANCE = "what a blind guess reaches"

_OF_LEAKAGE = "the part of the leakage that this metric makes"

MEANINGS: dict[str, str] = {
    **{"dataset": "the images", "backbone": "the network", "split_point": "where the network is cut"},
    **{"defense": "what the client does to the features", "defense_args": "all parameters of the defense"},
    "attack": "the attack; worst-case: the best of all, image by image; floor: the best blind guess",
    "threat_model": "what the attacker is granted: observe, static, query or weights",
    "auxiliary": "the attacker's images: same as the victims' data, or shifted",
    "releases": "releases of each victim that the attacker holds",
    "budget": "what the attack may spend",
    "seed": "seed of the cells; all: several together",
    "server": "trusted: the attacker does not hold the server's half",
    "status": "ok, incomplete, unreliable or failed; and what else one must know",
    "images": "victims that the figures average over",
    "ensemble": "which attacks a worst case is over",
    "headline": "the column that the board is about, where it is not leakage",
    "converged": "what the attack says of itself",
    "accuracy": "top-1 of the protected network",
    "accuracy_top5": "share of test images whose class is among the five likeliest",
    "accuracy_drop": "accuracy lost against the undefended network, paired image by image",
    "ssim": "structural similarity of reconstruction and victim; 1 is the same image",
    "psnr_db": "peak signal-to-noise ratio, decibels; higher is closer",
    "lpips": "learned perceptual distance; lower is closer",
    "mse": "mean squared error of pixels in [0, 1]; lower is closer",
    "reid_top1": "victims who are the nearest of all test images to their reconstruction",
    "reid_top5": "victims among the five nearest",
    "identity_top1": "victims whose class is told by other images of it",
    "link_top1": "victims named among candidates by comparing releases",
    "label_read": "victims whose class the judge reads from the reconstruction",
    "leakage": "0 at the floor, 1 at the undefended network",
    **{f"leakage_{name}": _OF_LEAKAGE for name in ("ssim", "psnr_db", "lpips")},
    "mse_bound": "no unbiased attacker has a smaller expected error: a guarantee",
    **{f"{name}_spread": "standard deviation over seeds" for name in ("accuracy", "ssim", "leakage")},
    **{f"{name}_chance": _CHANCE for name in ("reid", "identity", "link")},
    "judge_accuracy": "top-1 of the judge on the true images",
    "information_bits": "the most that releases tell of an image on average, in bits: a guarantee",
    "epsilon": "differential privacy of one image at this delta: a guarantee",
    "delta": "see epsilon",
    "seconds": "wall time of all stages",
    "client_share": "the client's part of all multiply-adds",
    "client_ms": "milliseconds in which the client releases 16 images, on the machine that measured",
    "hypervolume": "accuracy and leakage of all settings of the defense in one figure",
    **{f"leakage_at_{loss}": f"leakage where {loss} points of accuracy are lost" for loss in (1, 3, 5)},
    "metrics": "how metrics are read that are not dpbench's own",
    "release_bits": "bits of one release, at a fixed length per value",
    "client_multiply_adds": "multiply-adds of the client for one image",
    "added_multiply_adds": "those that the defense adds",
    "added_parameters": "parameters that the defense adds to the client",
    "coded_bits": "bits of one release as a coder sends it",
    "leakage_metrics": "metrics that leakage is made of",
    "leakage_images": "victims that leakage averages over",
    "trained_on": "metrics that the defense was trained against",
    "tied": "settings that it cannot be told from",
    "on_front": "whether no other setting beats it in accuracy and leakage at once",
    "on_cost_front": "whether no other setting beats it in the client's work and leakage at once",
    "origin": "who measured it",
    "error": "why the row is not ok",
    "cell": "id of the cell, which names its record",
    **{"receiver": "who trains on what the senders share", "senders": "who shares features"},
    "condition": "what the receiver was given",
    "seeds": "seeds that the accuracy rests on",
    **{"own_images": "images of the receiver", "shared_images": "images whose features were shared"},
    "gain": "accuracy beyond that of own images alone, paired image by image",
    "share_kept": "share of the gain that clean images would give",
    "over_soft_labels": "accuracy beyond that of the sender's soft labels on public images, paired image by image",
    "serves": "accuracy on what each entity releases",
    "agreement": "how often the public network says the same of clean and defended features",
    "kl": "KL divergence of what it says of both, nats",
    "public_accuracy": "accuracy of the public network on defended features",
    "distortion": "mean squared change of the features over their variance",
    "victims": "shared images under attack",
    **{f"ssim_{name}": f"SSIM of the worst case by who knows at most: {name}" for name in _KNOWS},
}
"""Column of a board -> what it holds; ends of intervals are explained by their figure."""


def meaning_of(column: str) -> str:
    """What a column holds, in a few words; empty where nobody said."""
    for end, said in (("_low", "lower end of the 95% interval of "), ("_high", "upper end of the 95% interval of ")):
        if column not in MEANINGS and column.endswith(end):
            stem = column.removesuffix(end)
            return f"{said}{stem}" if stem in MEANINGS else ""
    return MEANINGS.get(column, "")


def explained(terms: Iterable[str]) -> list[tuple[str, str]]:
    """Term and meaning, by name; unknown terms are left out."""
    known = TERMS | SHARING
    return sorted(((term, known[term]) for term in dict.fromkeys(terms) if term in known), key=_folded)


def _folded(pair: tuple[str, str]) -> str:
    return pair[0].casefold()
