"""Measuring a model: pictures made by a frozen plan, scores with intervals, one report.

Reading order: ``generation`` (a plan, and the pictures that it asks for), ``scoring`` (pictures, references
and prompts -> scores), ``statistics`` (intervals), ``dreambench`` and ``embedded`` (the two benchmarks),
``report`` (one HTML file). The command line is ``evaluate.py``.
"""
