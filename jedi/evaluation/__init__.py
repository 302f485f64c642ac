"""Measuring a model: images made by a frozen plan, scores with intervals, one report.

Reading order: ``generation`` (a plan, and the images that it asks for), ``scoring`` (images, references
and prompts -> scores), ``statistics`` (intervals); ``protocol`` (DreamBench as data), ``dreambench``, ``scores`` (any
images) and ``toy`` (the benchmark of the emoji source) are the subcommands of ``evaluate.py``; ``report``
makes one HTML file.
"""
