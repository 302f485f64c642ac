"""Subjects, scenes and collage prompts, written by an LLM or by a grammar: the first step of the data engine.

`write_prompts` asks, keeps every answer in `prompts.jsonl` and writes `prompts.json`; `read_prompts` reads
it. What is in `prompts.json` is a pure function of (configuration, seed, answers).

Reading order: config.py, prompt_set.py, templates.py (what is asked), parsing.py (what is accepted), response_cache.py,
writer.py (the loop), backends.py and the three back ends: grammar.py, local.py, endpoint.py.
"""

from data_gen.prompts.backends import PROMPT_BACKENDS, Answer, Backend
from data_gen.prompts.config import PromptsSettings
from data_gen.prompts.prompt_set import PromptSet, Subject, read_prompts
from data_gen.prompts.templates import Request
from data_gen.prompts.writer import write_prompts

__all__ = [
    "PROMPT_BACKENDS",
    "Answer",
    "Backend",
    "PromptSet",
    "PromptsSettings",
    "Request",
    "Subject",
    "read_prompts",
    "write_prompts",
]
