"""Colour profiles, written by hand after ICC.1: what phones, cameras and print shops embed."""

from __future__ import annotations

import struct

import numpy as np

# The primaries as XYZ under D50, columns red, green, blue.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
GAMMA = 563 / 256
_WHITE = (0.9642, 1.0, 0.8249)


def rgb(primaries: np.ndarray) -> bytes:
    """A profile with these primaries and the exponent ``GAMMA``."""
    tags = {b"wtpt": _xyz(_WHITE)}
    for i, name in enumerate("rgb"):
        tags[f"{name}XYZ".encode()] = _xyz(primaries[:, i])
        tags[f"{name}TRC".encode()] = _curve(GAMMA)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(_WHITE), b"kTRC": _curve(gamma)})


def cmyk(lab: np.ndarray) -> bytes:
    """A profile that gives Lab colours ``[2 2 2 2 3]`` at the corners of C, M, Y, K, and what lies between."""
    corners = np.stack([lab[..., 0] * 2.55, lab[..., 1] + 128, lab[..., 2] + 128], -1).round().astype(np.uint8)
    straight = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * x for x in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + straight * 4 + corners.tobytes() + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(_WHITE), b"A2B0": table})


def to_srgb(colour: tuple[int, int, int], primaries: np.ndarray) -> np.ndarray:
    """What a colour under such a profile is in sRGB, by the formulas."""
    linear = np.linalg.solve(SRGB, primaries @ (np.array(colour) / 255) ** GAMMA).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _xyz(values: tuple[float, ...] | np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * float(x)) for x in values))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma)) + b"\0\0"


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    words = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79
    tags = {b"desc": words, b"cprt": b"text\0\0\0\0none\0", **tags}
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", start + len(content), len(data))
        content += data
    head = struct.pack(">I4sI4s4s4s", start + len(content), b"lcms", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + content
