"""The back end `openai`: any server that speaks OpenAI's chat protocol, near or far.

Seen with `transformers serve`; vLLM (`vllm serve MODEL`), llama.cpp (`llama-server -m FILE`) and Ollama speak it too.
The schema is sent along; one that ignores it is taken at its word. What a server or its model refuses of a request (the
schema, `max_tokens`, a temperature, a seed, a system message, an answer in one piece) is said otherwise or left out.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from typing import Any

from data_gen.packages import need
from data_gen.prompts.backends import PROMPT_BACKENDS, THINK, Answer
from data_gen.prompts.config import PromptsSettings
from data_gen.prompts.templates import Request
from jedi.io.config import ConfigError

log = logging.getLogger(__name__)

_OPTIONAL = {
    "stream": (r"\bstream\b|non-streaming", "the answer comes in pieces"),
    "max_tokens": (r"\bmax_tokens\b", "max_completion_tokens is sent instead"),
    "system": (r"system (role|message|prompt)|\brole\b.*\bsystem\b", "what the system would say, the user says"),
    "temperature": (r"\btemperature\b", "the server's own is used; prompts.temperature changes nothing"),
    "seed": (r"\bseed\b", "left out; the same request may get another answer"),
    "response_format": (r"", "the schema is left out"),
}
"""What servers or models refuse of a request: how their refusal names it, and what is done instead. The schema is the
last guess, for its refusals have no words in common."""
_REFUSAL_CODES = (400, 422, 500, 501)
"""HTTP codes that such refusals come with; 500 and 501 only count where the words fit."""


class EndpointError(ConnectionError):
    """The endpoint did not answer, or not as one; asking again later may help."""


@PROMPT_BACKENDS.register("openai")
class OpenAi:
    """A client. Connections that fail and answers of 408, 409, 429 and 5xx are tried again by the openai package,
    `attempts` times in all, with growing pauses."""

    def __init__(self, config: PromptsSettings) -> None:
        for key, example in (("endpoint", "http://127.0.0.1:8000/v1"), ("model", "the name the server lists")):
            if not getattr(config, key):
                raise ConfigError(f"prompts.{key} is empty; prompts.backend=openai needs it ({example})")
        if not config.endpoint.strip().startswith(("http://", "https://")):
            raise ConfigError(f"prompts.endpoint is {config.endpoint!r}; it begins with http:// or https://")
        need("openai", "prompts.backend=openai")
        self.key = "none"  # the package insists on one; servers of one's own take any
        if config.api_key_variable:
            self.key = os.environ.get(config.api_key_variable, "").strip()  # a file's last newline comes along
            if not self.key:
                raise ConfigError(f"prompts.api_key_variable: the environment has no {config.api_key_variable}")
            if not (self.key.isascii() and self.key.isprintable()):
                raise ConfigError(f"prompts.api_key_variable: {config.api_key_variable} is not a key: odd characters")
        self.config, self.concurrency = config, config.concurrency
        self._client: Any = None
        self._unsupported: frozenset[str] = frozenset()  # keys of _OPTIONAL

    def answer(self, request: Request) -> Answer:
        import openai

        if self._client is None:
            url = self.config.endpoint.strip().rstrip("/").removesuffix("/chat/completions")  # as it is often given
            self._client = openai.OpenAI(
                base_url=url, api_key=self.key, timeout=self.config.timeout, max_retries=self.config.attempts - 1
            )
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
                "ollama serve, transformers serve) or correct the address; the same command then resumes"
            ) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(
                f"{where}: the key was not accepted ({_said(error)}); prompts.api_key_variable names the environment "
                "variable that holds it"
            ) from None
        except openai.APIStatusError as error:
            said = f"{where}: HTTP {error.status_code} ({_said(error)})"
            if error.status_code in (400, 404, 405, 413, 422):
                raise ConfigError(f"{said}; {self._remedy(error)}") from None
            then = "see the server's log" if error.status_code >= 500 else "repeat the same command later to resume"
            raise EndpointError(f"{said}, up to {self.config.attempts} times; {then}") from None
        except (openai.APIError, ValueError) as error:  # a body that is no JSON, or JSON of something else
            raise EndpointError(
                f"{where}: does not answer as an OpenAI-compatible endpoint ({error}); the address usually ends in /v1"
            ) from None

    def _ask(self, request: Request) -> Answer:
        """Asks, and where a part of the request is refused asks again without. What helped is kept for later."""
        import openai

        unsupported = self._unsupported
        while True:
            try:
                answer = self._send(request, unsupported)
            except openai.APIStatusError as error:
                if _is_filtered(error):  # of this request; others may pass
                    return Answer(_said(error))
                part = _unsupported_part(error, unsupported)
                if part is None:
                    raise
                unsupported |= {part}
                continue
            for part in sorted(unsupported - self._unsupported):
                log.warning("prompts.endpoint: %s is refused: %s", part, _OPTIONAL[part][1])
            self._unsupported |= unsupported
            return answer

    def _send(self, request: Request, unsupported: frozenset[str]) -> Answer:
        schema = {"name": request.kind, "schema": request.schema, "strict": True}
        asked = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.sampling_seed,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
        asked = {key: value for key, value in asked.items() if key not in unsupported}
        if "max_tokens" in unsupported:
            asked["max_completion_tokens"] = request.max_tokens
        asked["messages"] = _without_system(request.messages) if "system" in unsupported else list(request.messages)
        create = self._client.chat.completions.create
        if "stream" not in unsupported:
            answer = create(model=self.config.model, **asked)
            if not (isinstance(answer, str) and answer.startswith("data:")):  # pieces that were not asked for
                return _answer(answer)
        return _joined(create(model=self.config.model, stream=True, **asked))

    def _remedy(self, error: Any) -> str:
        """What to do about a request that is refused for good."""
        if re.search(r"context (length|size|window)|max_(completion_)?tokens|too (long|large)", _said(error)):
            return f"lower prompts.max_tokens (now {self.config.max_tokens}), or serve the model with more context"
        known, model = self._known_models(), f"prompts.model={self.config.model}"
        if known is not None and self.config.model in known:
            return f"{model} is there, so it is the request that is refused; see the server's log"
        listed = "it does not list its models" if known is None else f"it lists {_few(known)}"
        return f"{listed}: {model} must be one of its models, and the address usually ends in /v1"

    def _known_models(self) -> list[str] | None:
        import openai

        try:
            return [str(model.id) for model in self._client.with_options(max_retries=0).models.list()]
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return None


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "no model"


def _unsupported_part(error: Any, unsupported: frozenset[str]) -> str | None:
    """The part of the request that the server names as the trouble; None: none, or nothing can be done about it."""
    if error.status_code not in _REFUSAL_CODES:
        return None
    said = f"{getattr(error, 'param', None) or ''} {_said(error)}"
    for part, (words, _) in _OPTIONAL.items():
        named = re.search(words, said, re.IGNORECASE) if words else error.status_code in (400, 422)
        if named and part not in unsupported:
            return part
    return None


def _is_filtered(error: Any) -> bool:
    """Whether the server holds this one request for indecent, as Azure's filter now and then does."""
    return error.status_code == 400 and "content_filter" in str(error.body)


def _without_system(messages: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """The first message said by the user, together with the second: Gemma knows no system and no two in a row."""
    system, first, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def _answer(completion: Any) -> Answer:
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise ValueError(f"it said {str(completion)[:120]!r}")
    message = choices[0].message
    text = _text(message.content) or _thought(message) or getattr(message, "refusal", None) or ""
    return Answer(text, finished=choices[0].finish_reason != "length")


def _joined(pieces: Iterable[Any]) -> Answer:
    """The answer of a server that gives it in pieces."""
    said, thought, finish = "", "", None
    for piece in pieces:
        for choice in (getattr(piece, "choices", None) or [])[:1]:  # the last piece may hold counts only
            said += _text(choice.delta.content)
            thought += _thought(choice.delta).removeprefix(THINK)
            finish = choice.finish_reason or finish
    if not (said or thought or finish):
        raise ValueError("no piece of an answer came")
    return Answer(said or THINK + thought, finished=finish != "length")


def _text(content: Any) -> str:
    """What is said in the content of a message: text, or a list of parts, as some servers give it."""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return content if isinstance(content, str) else ""


def _thought(message: Any) -> str:
    """What a server has split off as reasoning. Where the content is empty, it is all there is: the thinking ate up the
    tokens, or the answer itself was taken for a thought."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(thought := getattr(message, name, None), str) and thought.strip():
            return THINK + thought
    return ""


def _said(error: Any) -> str:
    """The server's own words; of a page, its title."""
    body = error.body
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            body = body[key]
    text = str(body or error.message).strip()
    if re.match(r"<(!doctype|html)", text, re.IGNORECASE):  # a proxy's, as a rule
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        return f"a page of HTML: {title[1].strip() if title else 'without a title'}"[:300]
    return text[:300]
