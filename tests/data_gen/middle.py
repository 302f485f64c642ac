"""An extension for tests: a segmenter that says that the subject is an ellipse in the middle of every image."""

from PIL import Image, ImageDraw

from data_gen.stages.segmenters import SEGMENTERS


@SEGMENTERS.register("middle")
class Middle:
    uses_model, packages = False, ()

    def __init__(self, source, settings, context):
        pass

    def find(self, images, names):
        return [self._ellipse(image.size) for image in images]

    def _ellipse(self, size):
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).ellipse([round(side * share) for share in (0.2, 0.8) for side in size], fill=255)
        return mask
