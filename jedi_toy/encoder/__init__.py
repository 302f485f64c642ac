"""The encoder of the toy benchmark: a small CLIP that sees subject and background in a 64-pixel image.

`network.SubjectEncoder` reads images. ``python -m jedi_toy.encoder --config configs/evaluation/encoder.yaml`` trains
one on real renders of training subjects, and writes a plain CLIPModel folder with a file of probes beside the weights.

What one image shows is learnt by three objectives at once:

- *subject*: the first ``subject_width`` channels of the image embedding are alike for images of one subject and
  unlike for all others (supervised contrast, arXiv 2004.11362), whatever background, pose, size and place. Each batch
  holds recolourings of one drawing, so that colours count.
- *text*: the whole embedding agrees with its caption's (CLIP, arXiv 2103.00020).
- *probes*: a linear map of the vision tower's output (the vector that the embedding is made of, and the mean over the
  patches) names the background.

A probe for the pose was tried and learnt nothing at this scale: whether an unknown subject is tilted is a question
about all the things in the world. Of a known subject it is easily told: :func:`jedi_toy.benchmark.judge.posed`.
"""
