"""Simple defenses: what they release, keep and say."""

from __future__ import annotations

import math

import pytest
import torch
from defended import VALUES, defended, features, transformed
from torch import Tensor

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.errors import DpbenchError
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import find_defense
from dpbench.service.release import release_to_server
from dpbench.testing.tiny import CHANNELS, LAYOUTS, TinyNetwork, pictures, smooth


class TestTopK:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("keep", [0.001, 0.1, 1.0])
    def test_keeps_the_largest_magnitudes_of_each_image(self, layout: str, keep: float) -> None:
        given = features(layout)
        out = transformed("topk", given, layout, keep=keep).flatten(1)
        flat = given.flatten(1)
        count = max(1, round(keep * flat.shape[1]))
        kept = out != 0
        assert (kept.sum(1) == count).all()
        assert torch.equal(out[kept], flat[kept])
        if keep < 1:
            assert (flat.abs().masked_fill(~kept, torch.inf).amin(1) >= flat.abs().masked_fill(kept, 0).amax(1)).all()

    def test_costs_its_values_and_what_names_them(self) -> None:
        model = defended("topk", keep=0.1)
        bits = _released_bits(model)
        kept = round(0.1 * VALUES)
        assert bits == kept * 32 + math.ceil(math.log2(math.comb(VALUES, kept)))

    def test_all_values_cost_no_more_than_a_dense_release(self) -> None:
        assert _released_bits(defended("topk", keep=1.0)) == VALUES * 32


def _released_bits(model: ProtectedModel) -> int:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    images = smooth(8, seed="bits")
    return release_to_server(
        model, model, images, releases=1, kept=8, window=64, generator=generators[0], order=generators[1]
    ).bits


class TestBlur:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_keeps_what_is_constant_and_lowers_what_is_not(self, layout: str) -> None:
        given = features(layout)
        assert transformed("blur", given, layout).std() < given.std()
        torch.testing.assert_close(transformed("blur", torch.ones_like(given), layout), torch.ones_like(given))

    def test_an_impulse_becomes_the_kernel(self) -> None:
        impulse = torch.zeros(1, 1, 17, 17)
        impulse[0, 0, 8, 8] = 1
        line = torch.exp(-0.5 * ((torch.arange(17.0) - 8) / 1.5).square())
        expected = line[:, None] * line / line.sum() ** 2
        torch.testing.assert_close(transformed("blur", impulse, sigma=1.5)[0, 0], expected, atol=1e-4, rtol=0)

    def test_every_layout_is_blurred_alike_and_the_class_token_stays(self) -> None:
        maps = transformed("blur", features())
        tokens = transformed("blur", features("tokens"), "tokens")
        torch.testing.assert_close(tokens[:, 1:], maps.flatten(2).transpose(1, 2))
        torch.testing.assert_close(tokens[:, 0], features("tokens")[:, 0])
        last = transformed("blur", features("channels last"), "channels last")
        torch.testing.assert_close(last, maps.permute(0, 2, 3, 1))

    def test_tokens_without_a_grid_and_a_wide_kernel(self) -> None:
        tokens = torch.rand(2, 98, 5, generator=torch.Generator().manual_seed(0))
        wide = transformed("blur", tokens, sigma=50.0)
        assert wide.shape == tokens.shape
        assert wide.std(1).max() < 0.4 * tokens.std(1).min()


class TestPrincipalComponents:
    @pytest.mark.parametrize("layout", ["maps", "tokens", "channels last"])
    def test_sends_few_channels_and_projects_to_the_best_directions(self, layout: str) -> None:
        model, given = defended("pca", layout), features(layout)
        sent = model.transform(given)
        assert sent.numel() == given.numel() // 4
        basis = model.get_buffer("basis")
        torch.testing.assert_close(basis.T @ basis, torch.eye(3))
        assert (model.undo(sent) - given).square().mean() < 0.3 * given.var()  # type: ignore[operator]

    def test_all_components_lose_nothing(self) -> None:
        model = defended("pca", keep=1.0)
        torch.testing.assert_close(model.undo(model.transform(features())), features())  # type: ignore[operator]
        images = smooth(4, seed="images")
        torch.testing.assert_close(model(images), defended("none")(images))

    def test_components_are_those_of_the_covariance(self) -> None:
        model = defended("pca", keep=0.5)
        rows = model.features(pictures(64, seed="private").images[:]).movedim(1, -1).flatten(0, -2).double()
        values, vectors = torch.linalg.eigh(rows.T.cov())
        kept = model.get_buffer("basis").double()
        best = vectors[:, -kept.shape[1] :]
        torch.testing.assert_close(kept @ kept.T, best @ best.T, atol=1e-4, rtol=0)
        torch.testing.assert_close(model.get_buffer("mean").double(), rows.mean(0), atol=1e-5, rtol=0)
        assert values[0] <= values[-1]

    def test_too_many_channels_are_one_line(self) -> None:
        split = SplitModel(
            torch.nn.Flatten(), torch.nn.Identity(), split_point="flat", image_shape=(3, 64, 64), classes=2
        )
        with pytest.raises(DpbenchError, match="'flat' have 12288 channels; expected at most 8192"):
            configure(find_defense("pca"), {}).build(split)


class TestRotation:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("block", [1, 7, 64, 4096])
    def test_keeps_lengths_and_angles_and_the_answer(self, layout: str, block: int) -> None:
        model, given = defended("rotate", layout, block=block), features(layout)
        out = model.transform(given)
        torch.testing.assert_close(out.flatten(1) @ out.flatten(1).T, given.flatten(1) @ given.flatten(1).T)
        assert not torch.allclose(out, given, atol=0.1)
        torch.testing.assert_close(model.predict(out), defended("none", layout).predict(given), atol=1e-4, rtol=1e-4)

    def test_where_all_values_are_too_many_the_channels_are_mixed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dpbench_defenses.rotate.MOST", 1000)
        model = configure(find_defense("rotate"), {"block": 12}).build(TinyNetwork().split())
        assert model.get_buffer("order").shape == (CHANNELS,)
        with pytest.raises(DpbenchError, match="lower block to 1"):
            configure(find_defense("rotate"), {"block": 12}).build(TinyNetwork("flat").split())

    def test_the_key_is_drawn_by_the_generator(self) -> None:
        drawn = []
        for seed in (0, 0, 1):
            defense = configure(find_defense("rotate"), {})
            model = defense.build(TinyNetwork().split())
            generator = torch.Generator().manual_seed(seed)
            defense.fit(model, pictures(4, seed="private"), generator=generator, progress=lambda text: None)
            drawn.append(model.get_buffer("matrices").clone())
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


class TestLogitsOnly:
    @pytest.mark.parametrize(("form", "expected"), [("logits", lambda x: x), ("probabilities", lambda x: x.softmax(1))])
    def test_sends_the_answer_of_the_undefended_network(self, form: str, expected: object) -> None:
        images = smooth(6, seed="images")
        model = defended("logits-only", form=form)
        released = model.release(images)
        assert callable(expected)
        torch.testing.assert_close(released, expected(defended("none")(images)))
        assert torch.equal(model.predict(released), released)

    def test_a_label_costs_a_bit_for_each_class_and_is_as_accurate(self) -> None:
        images = smooth(64, seed="images")
        model = defended("logits-only", form="label")
        assert torch.equal(model(images).argmax(1), defended("none")(images).argmax(1))
        assert _released_bits(model) == 4


class TestTokens:
    @pytest.mark.parametrize("layout", ["maps", "channels last", "tokens"])
    def test_shuffle_moves_whole_positions_each_image_in_its_own_order(self, layout: str) -> None:
        given = _positions(features(layout), layout)
        out = _positions(transformed("token-shuffle", features(layout), layout), layout)
        distances = torch.cdist(out, given)
        places = distances.argmin(2)
        assert distances.amin(2).max() < 1e-2
        assert all(len(row.unique()) == out.shape[1] for row in places)
        assert len(places.unique(dim=0)) == len(places)
        again = _positions(transformed("token-shuffle", features(layout), layout, seed=1), layout)
        assert not torch.equal(out, again)

    def test_class_tokens_stay_first(self) -> None:
        given = features("tokens")
        for name in ("token-shuffle", "token-drop"):
            assert torch.equal(transformed(name, given, "tokens")[:, 0], given[:, 0])

    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_only_the_share_moves(self, share: float) -> None:
        given = torch.arange(64.0).view(1, 1, 8, 8).expand(6, -1, -1, -1)
        moved = (transformed("token-shuffle", given, share=share) != given).flatten(1).sum(1)
        assert (moved <= round(share * 64)).all()
        assert moved.float().mean() > 0.7 * share * 64

    def test_one_moving_token_has_nowhere_to_go(self) -> None:
        given = torch.arange(64.0).view(1, 1, 8, 8)
        assert torch.equal(transformed("token-shuffle", given, share=0.01), given)

    @pytest.mark.parametrize("layout", ["maps", "channels last", "tokens"])
    @pytest.mark.parametrize("share", [0.0, 0.25, 0.99])
    def test_drop_zeroes_the_share_and_leaves_the_rest(self, layout: str, share: float) -> None:
        given = _positions(features(layout), layout)
        out = _positions(transformed("token-drop", features(layout), layout, share=share), layout)
        gone = (out == 0).all(2)
        assert (gone.sum(1) == min(63, round(share * 64))).all()
        assert torch.equal(out[~gone], given[~gone])

    def test_drop_costs_what_is_left(self) -> None:
        kept = VALUES // 2
        bits = _released_bits(defended("token-drop"))
        assert kept * 32 < bits <= kept * 32 + VALUES


def _positions(given: Tensor, layout: str) -> Tensor:
    """(N,P,C), without the class token."""
    if layout == "tokens":
        return given[:, 1:]
    return (given.permute(0, 2, 3, 1) if layout == "maps" else given).flatten(1, 2)
