"""The reference images that `make demo` uses: three held-out subjects, three images each.

Command: python -m jedi_toy.references --out assets/references
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from data_gen.context import Context
from jedi.io.command_line import Parser, exit_code
from jedi.io.files import atomic
from jedi_toy.drawings import LICENCE, catalogue, drawing_is_held_out
from jedi_toy.emoji import EmojiSource
from jedi_toy.emoji_config import EmojiSettings

# Folder -> code point and recolouring (0 = the drawing's own colours). All are held out of training.
SUBJECTS = {"teddy_bear": ("1F9F8", 0), "boxing_glove": ("1F94A", 4), "hamster": ("1F439", 6)}
_SEED = 5
_SCENES = EmojiSettings(
    backgrounds=["studio", "meadow", "snow"],
    poses=["upright"],
    sizes=["large"],
    large=[0.75, 0.8],
    places=["middle"],
    companion_prob=0.0,
    accessory_prob=0.0,
    vary=["background"],
)
_NOTICE = f"""# Licence of the images in this folder

{LICENCE}: <https://creativecommons.org/licenses/by-sa/4.0/>

The subjects are drawings by OpenMoji, the open-source emoji and icon project, <https://openmoji.org>; two of
them were recoloured, and all were put in front of other backgrounds. These images are shared under the same
licence. They were made by `python -m jedi_toy.references`; no model was trained on these subjects.
"""


def write_references(out: str | Path, resolution: int = 256) -> list[Path]:
    """Writes out/SUBJECT/{0,1,2}.png and out/LICENSE.md; returns the images."""
    out = Path(out)
    source = EmojiSource(_SCENES, Context(str(out), images_per_set=3, resolution=resolution))
    drawings = {drawing.code_point: drawing for drawing in catalogue()}
    written = []
    for folder, (code_point, number) in SUBJECTS.items():
        if not drawing_is_held_out(code_point):
            raise ValueError(f"{folder} ({code_point}) is a training subject; references must be held out")
        made = source.draw_set([(drawings[code_point], number)], random.Random(f"{_SEED}/{folder}"), folder)
        (out / folder).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(made.images):
            written.append(out / folder / f"{i}.png")
            with atomic(written[-1]) as temporary:
                image.save(temporary, "PNG", compress_level=4)
    with atomic(out / "LICENSE.md") as temporary:
        temporary.write_text(_NOTICE, encoding="utf-8")
    return written


def main(arguments: list[str] | None = None) -> int:
    def work() -> None:
        parser = Parser(prog="python -m jedi_toy.references", description=__doc__.splitlines()[0])
        parser.add_argument("--out", default="assets/references", help="folder (default: %(default)s)")
        print(*write_references(parser.parse_args(arguments).out), sep="\n")

    return exit_code("error", work)


if __name__ == "__main__":
    sys.exit(main())
