"""The back end `openai`: any server that speaks OpenAI's chat protocol, near or far.

Seen with `transformers serve`; vLLM (`vllm serve MODEL`), llama.cpp (`llama-server -m FILE`) and Ollama speak it too.
The schema is sent along; a server that refuses it is asked without, one that ignores it is taken at its word.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from data_gen.prompts.asking import Request
from data_gen.prompts.backends import PROMPT_BACKENDS, Answer
from data_gen.prompts.config import PromptsConfig
from jedi.config import ConfigError


class EndpointError(ConnectionError):
    """The endpoint did not answer, or not as one; asking again later may help."""


@PROMPT_BACKENDS.register("openai")
class OpenAi:
    """A client. Connections that fail and answers of 408, 409, 429 and 5xx are tried again by the openai package,
    `attempts` times in all, with growing pauses."""

    def __init__(self, config: PromptsConfig) -> None:
        for key, example in (("endpoint", "http://127.0.0.1:8000/v1"), ("model", "the name the server lists")):
            if not getattr(config, key):
                raise ConfigError(f"prompts.{key} is empty; prompts.backend=openai needs it ({example})")
        if not config.endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"prompts.endpoint is {config.endpoint!r}; it begins with http:// or https://")
        if importlib.util.find_spec("openai") is None:
            raise ConfigError("prompts.backend=openai needs openai: pip install 'jedi-diffusion[llm]'")
        self.key = "none"  # the package insists on one; servers of one's own take any
        if config.api_key_variable:
            self.key = os.environ.get(config.api_key_variable, "")
            if not self.key:
                raise ConfigError(f"prompts.api_key_variable: the environment has no {config.api_key_variable}")
        self.config, self.concurrency = config, config.concurrency
        self._client: Any = None
        self._takes_schema = True

    def answer(self, request: Request) -> Answer:
        import openai

        if self._client is None:
            self._client = openai.OpenAI(
                base_url=self.config.endpoint, api_key=self.key, timeout=self.config.timeout,
                max_retries=self.config.attempts - 1,
            )  # fmt: skip
        where = f"prompts.endpoint={self.config.endpoint}"
        try:
            return self._ask(request)
        except openai.APITimeoutError:
            raise EndpointError(
                f"{where}: no answer within prompts.timeout={self.config.timeout:g} seconds, {self.config.attempts} "
                "times; raise it, or lower prompts.concurrency or prompts.max_tokens"
            ) from None
        except openai.APIConnectionError as error:
            raise EndpointError(
                f"{where}: no connection ({error.__cause__ or error}); start the server (vllm serve, llama-server, "
                "ollama serve, transformers serve) or correct the address; the same command then goes on"
            ) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(
                f"{where}: the key was not accepted ({_said(error)}); prompts.api_key_variable names the environment "
                "variable that holds it"
            ) from None
        except openai.APIStatusError as error:
            said = f"{where}: HTTP {error.status_code} ({_said(error)})"
            if error.status_code in (400, 404, 422):
                raise ConfigError(
                    f"{said}; {self._known_models()}: prompts.model={self.config.model} must be one of its models, and "
                    "the address usually ends in /v1"
                ) from None
            raise EndpointError(f"{said}, {self.config.attempts} times; see the server's log") from None
        except (openai.APIError, ValueError) as error:  # a body that is no JSON, or JSON of something else
            raise EndpointError(
                f"{where}: does not answer as an OpenAI-compatible endpoint ({error}); the address usually ends in /v1"
            ) from None

    def _ask(self, request: Request) -> Answer:
        import openai

        asked = {
            "model": self.config.model,
            "messages": list(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.sampling_seed,
        }
        schema = {"name": request.kind, "schema": request.schema, "strict": True}
        if self._takes_schema:
            try:
                form = {"type": "json_schema", "json_schema": schema}
                return _answer(self._client.chat.completions.create(**asked, response_format=form))
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                # Of the schema or of something else: without it we shall see.
                answer = _answer(self._client.chat.completions.create(**asked))
                self._takes_schema = False
                return answer
        return _answer(self._client.chat.completions.create(**asked))

    def _known_models(self) -> str:
        import openai

        try:
            names = [model.id for model in self._client.with_options(max_retries=0).models.list()]
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return "it does not list its models"
        return f"it lists {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "it lists no model"


def _answer(completion: Any) -> Answer:
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise ValueError(f"it said {str(completion)[:120]!r}")
    message = choices[0].message
    text = message.content or getattr(message, "refusal", None) or ""
    return Answer(text, finished=choices[0].finish_reason != "length")


def _said(error: Any) -> str:
    """The server's own words."""
    body = error.body
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            body = body[key]
    return str(body or error.message).strip()[:300]
