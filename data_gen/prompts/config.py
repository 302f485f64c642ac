"""The section `prompts` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from jedi.io.config import ConfigError
from jedi.io.ranges import DTYPES, OneOf, Range

CATEGORIES = (
    "animal", "character", "toy", "food", "vehicle", "clothing", "furniture", "musical instrument", "plant",
    "household object", "tool", "bag",
)  # fmt: skip
DEVICES = ("auto", "cpu", "cuda")


@dataclass
class PromptsSettings:
    """Who writes the prompts, and how many.

    `backend` is "template" (a grammar; needs nothing), "transformers" (a causal LM in this process), "openai"
    (an endpoint that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama, `transformers serve`, ...) or a name
    that an extension registered in `PROMPT_BACKENDS`.

    For an LLM below a billion parameters: adjectives=false, subjects_per_request=3, scenes_per_subject=2."""

    backend: str = "template"
    model: str = ""
    """transformers: a folder or a hub name; openai: the name by which the endpoint knows it."""
    gguf_file: str = ""
    """transformers: the file in that folder or repository, if the weights are GGUF."""
    endpoint: str = ""
    """openai: http://127.0.0.1:8000/v1."""
    api_key_variable: str = ""
    """openai: the environment variable that holds the key; keys never stand in a file."""
    categories: list[str] = field(default_factory=lambda: list(CATEGORIES))
    subjects: Annotated[int, Range(1, 10**7)] = 240
    """Over all categories, which differ by one at most."""
    scenes_per_subject: Annotated[int, Range(1, 64)] = 4
    """At least images_per_set, or a set shows one scene twice."""
    collage_prompt: str = (
        "a collage of four photos of one and the same subject, {look}, each photo in another place, "
        "2 x 2 grid, white borders between the photos"
    )
    """How a collage is asked for. {look} is the answer to "how does it look": "a red fox with a white tail tip"."""
    adjectives: bool = True
    """Names say how the subject looks ("old brass trumpet"): more of them; False: kinds only."""
    subjects_per_request: Annotated[int, Range(1, 100)] = 10
    """More is cheaper, fewer is easier for a small LLM."""
    temperature: Annotated[float, Range(0, 2)] = 0.8
    """0: always the likeliest word; then a request that failed fails again."""
    max_tokens: Annotated[int, Range(16, 100_000)] = 600
    """Of an answer; 10 subjects, or a look and 4 scenes, take about 150."""
    attempts: Annotated[int, Range(1, 100)] = 5
    """Requests in a row that may bring nothing, for a subject or a category."""
    timeout: Annotated[float, Range(0.1, 86_400)] = 120.0
    """Seconds for an answer of the endpoint; long, since a first request may load the model."""
    concurrency: Annotated[int, Range(1, 1024)] = 8
    """Requests that an endpoint gets at once; changes no prompt."""
    device: str = "auto"
    """transformers: auto (a GPU where there is one), cpu, cuda, cuda:N."""
    dtype: Annotated[str, OneOf(("auto", *DTYPES))] = "auto"
    """transformers: auto (float32 on a CPU, else what the weights are stored in), or its name."""

    def __post_init__(self) -> None:
        names = [name.strip().lower() for name in self.categories]
        if not names or not all(names):
            raise ConfigError("prompts.categories is empty or holds an empty name; name at least one category")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"prompts.categories names {twice[0]!r} twice")
        if "{look}" not in self.collage_prompt:
            raise ConfigError(f"prompts.collage_prompt is {self.collage_prompt!r}; it must hold {{look}}")
        if self.device not in DEVICES and not self.device.removeprefix("cuda:").isdigit():
            raise ConfigError(f"prompts.device is {self.device!r}; expected {', '.join(DEVICES)} or cuda:N")
        for key, needed_by in (("gguf_file", "transformers"), ("endpoint", "openai"), ("api_key_variable", "openai")):
            if getattr(self, key) and self.backend in {"template", "transformers", "openai"} - {needed_by}:
                raise ConfigError(f"prompts.{key} is for prompts.backend={needed_by}; the backend is {self.backend}")
        if self.model and self.backend == "template":
            raise ConfigError("prompts.model is set, but prompts.backend=template uses no model: name another backend")

    def identity(self) -> dict[str, str]:
        """What answers, as far as it decides the answers. The endpoint's address does not: servers move."""
        named = {"backend": self.backend, "model": self.model, "gguf_file": self.gguf_file}
        return {key: value for key, value in named.items() if value}
