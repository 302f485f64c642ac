"""Measuring a model: images made by a frozen plan, scores with intervals, one report.

Reading order: ``generate`` (a plan, and the images that it asks for), ``score`` (images, references and prompts ->
scores), ``statistics`` (intervals), ``dreambench`` (that benchmark: what is generated, what is scored against what).
``commands`` are subcommands of ``evaluate.py``; the one of the toy benchmark is ``jedi_toy.benchmark.command``.
"""
