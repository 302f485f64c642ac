"""The catalogue of drawings, the held-out rule, names without colours, recolouring."""

import hashlib

import numpy as np

from jedi_toy.drawings import (
    COLOUR_WORDS,
    COMPANIONS,
    EYEWEAR,
    HATS,
    NECKWEAR,
    catalogue,
    drawing_is_held_out,
    recolour,
    sprite,
)


def test_the_held_out_rule_is_pinned():
    for code_point in ("1F98A", "1F9F8", "1F439", "2600", "1F680"):
        digest = hashlib.sha256(code_point.encode()).hexdigest()
        assert drawing_is_held_out(code_point) == (int(digest, 16) % 10 == 0)
    assert drawing_is_held_out("1F9F8") and drawing_is_held_out("1F680")  # teddy bear and rocket, for ever
    assert not drawing_is_held_out("1F98A") and not drawing_is_held_out("1F431")  # fox and cat face


def test_variants_share_the_side_of_their_base():
    assert (
        drawing_is_held_out("1F94A")
        and drawing_is_held_out("1F94A-1F3FD")
        and drawing_is_held_out("1f94a-200D-2642-FE0F")
    )
    sides = {}
    for drawing in catalogue():
        sides.setdefault(drawing.base, set()).add(drawing_is_held_out(drawing.code_point))
    assert all(len(side) == 1 for side in sides.values())


def test_the_catalogue_is_large_and_one_in_ten_is_held_out():
    drawings = catalogue()
    share = sum(drawing_is_held_out(drawing.code_point) for drawing in drawings) / len(drawings)
    assert len(drawings) > 900 and len({drawing.kind for drawing in drawings}) >= 12
    assert 0.07 < share < 0.13


def test_what_scenes_add_is_never_a_subject():
    extras = {*COMPANIONS.values(), *HATS.values(), *EYEWEAR.values(), *NECKWEAR.values()}
    assert len(COMPANIONS) >= 10 and len(extras) == len(COMPANIONS) + len(HATS) + len(EYEWEAR) + len(NECKWEAR)
    assert not extras & {drawing.code_point for drawing in catalogue()}
    assert all(sprite(code_point).size[0] > 20 for code_point in extras)


def test_names_are_short_lower_case_and_say_no_colour():
    names = {drawing.code_point: drawing.name for drawing in catalogue()}
    assert names["1F34E"] == "apple" and names["1F408"] == "cat" and names["1F98A"] == "fox"
    assert names["1F339"] is None  # a rose: its name is a colour too
    assert names["1F368"] is None  # ice cream: without "cream" it would be something else
    for name in filter(None, names.values()):
        assert name == name.lower() and len(name.split()) <= 2 and not COLOUR_WORDS & set(name.split())


def test_recolouring_changes_colours_but_not_outlines_or_shape():
    for code_point in ("1F98A", "1F43C", "1F47B"):  # a fox; a panda and a ghost have no hue of their own
        plain = sprite(code_point)
        turned = recolour(plain, 0.4)
        a, b = np.asarray(plain).astype(int), np.asarray(turned).astype(int)
        assert turned.size == plain.size and (a[..., 3] == b[..., 3]).all()
        assert recolour(plain, 0.0) is plain
        solid = a[..., 3] == 255
        black = solid & (a[..., :3].max(-1) < 20)
        bright = solid & (a[..., :3].max(-1) > 150)
        assert black.sum() > 100 and b[black][:, :3].max() < 25
        assert np.abs(a - b)[bright][:, :3].max(-1).mean() > 50
