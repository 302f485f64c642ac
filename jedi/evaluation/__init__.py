"""Measuring a model: pictures made by a frozen plan, scores with intervals, one report.

Reading order: ``generation`` (a plan, and the pictures that it asks for), ``scoring`` (pictures, references
and prompts -> scores), ``statistics`` (intervals); ``protocol`` (DreamBench as data), ``dreambench``, ``scores`` (any
pictures) and ``embedded`` (the benchmark of the emoji source) are the subcommands of ``evaluate.py``; ``report``
makes one HTML file.
"""
