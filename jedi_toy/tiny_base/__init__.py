"""A whole text-to-image base in Stable Diffusion's form, small enough for a CPU: ``python -m jedi_toy.tiny_base``.

Where no hub can be reached, this makes the folder that ``train.py`` takes as ``base``: a trained VAE, a tokenizer with
its own vocabulary, a small CLIP text encoder, an untrained UNet and a scheduler, all stock classes of diffusers and
transformers. With a real Stable Diffusion at hand none of this is needed.
"""
