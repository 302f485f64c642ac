"""The back end `transformers`: a causal language model in this process, held to the JSON schema token by token.

llguidance (the engine of vLLM's and llama.cpp's guided decoding too) says before each token which ones can still
become an answer of the schema. So even a very small model answers in JSON; what it says is for the filters.
One request at a time: for large work on GPUs an endpoint that batches (vLLM) is many times as fast.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_gen.packages import need
from data_gen.prompts.backends import PROMPT_BACKENDS, Answer
from data_gen.prompts.config import PromptsSettings
from data_gen.prompts.templates import Request
from jedi.io.config import ConfigError
from jedi.io.devices import find_device

TOP_P = 0.95
"""The unlikely rest is never drawn: small models would lose themselves in it."""


@PROMPT_BACKENDS.register("transformers")
class Transformers:
    """Any model of `AutoModelForCausalLM`, from a folder or the hub; weights from safetensors or GGUF only."""

    concurrency = 1

    def __init__(self, config: PromptsSettings) -> None:
        if not config.model:
            raise ConfigError("prompts.model is empty; prompts.backend=transformers needs a folder or a hub name")
        need("llguidance", "prompts.backend=transformers")
        if config.gguf_file:
            need("gguf", "prompts.gguf_file")
            folder = Path(config.model)
            if folder.is_dir() and not (folder / config.gguf_file).is_file():
                has = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "no .gguf file"
                raise ConfigError(f"prompts.gguf_file: no {config.gguf_file} in {folder}, which has {has}")
        self.config = config
        self._model: _Model | None = None

    def answer(self, request: Request) -> Answer:
        if self._model is None:
            self._model = _Model(self.config)
        return self._model.answer(request)


class _Model:
    def __init__(self, config: PromptsSettings) -> None:
        import llguidance.hf
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = config.device
        if device == "auto":
            device = find_device(device)
        self.device = torch.device(device)
        dtype: Any = config.dtype
        if dtype == "auto" and self.device.type == "cpu":
            dtype = "float32"  # half precision is slow on most processors
        source: dict[str, Any] = {
            "trust_remote_code": False,
            **({"gguf_file": config.gguf_file} if config.gguf_file else {}),
        }
        weights = {} if config.gguf_file else {"use_safetensors": True}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(config.model, **source)
            model, report = AutoModelForCausalLM.from_pretrained(
                config.model, dtype=dtype, output_loading_info=True, **source, **weights
            )
            self.model = model.eval().requires_grad_(False).to(self.device)
        except Exception as error:  # of the hub, of safetensors, of a configuration: each has its own
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            where = "in this folder" if Path(config.model).is_dir() else "as a folder or on the model hub"
            remedy = "a causal language model with its tokenizer is needed, weights as safetensors or GGUF"
            raise ConfigError(f"prompts.model={config.model}: cannot be loaded {where} ({line}); {remedy}") from None
        if missing := sorted(report["missing_keys"]):
            raise ConfigError(f"prompts.model={config.model}: {len(missing)} weights are missing ({missing[0]}, ...)")
        ends = {self.tokenizer.eos_token_id}
        of_model = self.model.generation_config.eos_token_id
        ends.update(of_model if isinstance(of_model, list) else [of_model])
        self.ends = sorted(end for end in ends if end is not None)
        if not self.ends:
            raise ConfigError(f"prompts.model={config.model}: it has no token that ends an answer (eos_token)")
        self.vocabulary = self.model.get_output_embeddings().weight.shape[0]
        self.grammar_tokens = llguidance.hf.from_tokenizer(self.tokenizer, self.vocabulary, eos_token=self.ends)

    def answer(self, request: Request) -> Answer:
        import torch

        tokens = {name: value.to(self.device) for name, value in self._prompt(request).items()}
        length = tokens["input_ids"].shape[1]
        sampled: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            sampled = {"do_sample": True, "temperature": request.temperature, "top_p": TOP_P}
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(gpus):  # chance is the request's, and nobody else's is touched
            torch.manual_seed(request.sampling_seed)
            found = self.model.generate(
                **tokens, **sampled, max_new_tokens=request.max_tokens, eos_token_id=self.ends,
                pad_token_id=self.ends[0], logits_processor=[self._schema(request, length)],
            )[0, length:].tolist()  # fmt: skip
        return Answer(self.tokenizer.decode(found, skip_special_tokens=True), finished=found[-1] in self.ends)

    def _prompt(self, request: Request) -> dict[str, Any]:
        messages = list(request.messages)
        if self.tokenizer.chat_template:
            return dict(
                self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
            )
        plain = "\n\n".join(message["content"] for message in messages) + "\n\n"
        return {name: self.tokenizer(plain, return_tensors="pt")[name] for name in ("input_ids", "attention_mask")}

    def _schema(self, request: Request, length: int) -> Any:
        """Takes away the tokens that cannot follow. `length` is that of the prompt."""
        import llguidance
        import torch

        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(request.schema), overrides={"whitespace_flexible": False}
        )
        matcher = llguidance.LLMatcher(self.grammar_tokens, grammar)
        seen = length

        def allow(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            matcher.consume_tokens(tokens[0, seen:].tolist())
            seen = tokens.shape[1]
            if matcher.is_error():
                raise RuntimeError(f"llguidance: {matcher.get_error()}")
            allowed = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)
            return scores.masked_fill(allowed[None].to(scores.device) == 0, float("-inf"))

        return allow
