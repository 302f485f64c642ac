"""Prompts from endpoints: what servers, proxies and reasoning models bring, and what is made of it."""

import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from data_gen.prompts import PromptsSettings, write_prompts
from data_gen.prompts.endpoint import EndpointError
from data_gen.prompts.templates import ask_subjects
from jedi.io.config import ConfigError
from tests.data_gen.test_prompts import journal_rows


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


def completion(text, finish="stop", **more):
    message = {"role": "assistant", "content": text, **more}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return 200, "application/json", json.dumps(
        {**body, "choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    ).encode()  # fmt: skip


def error(status, message):
    return status, "application/json", json.dumps({"error": {"message": message}}).encode()


def endpoint_config(url, **settings):
    given = {"categories": ["animal"], "subjects": 2, "scenes_per_subject": 1, "attempts": 2, "timeout": 5.0}
    return PromptsSettings(backend="openai", model="m", endpoint=url, **{**given, **settings})


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


MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
TEMPERATURE = "'temperature' does not support 0.8 with this model. Only the default (1) value is supported."
STREAM = "This model only support stream mode, please enable the stream parameter to access the model. "


def has_system(body):
    return body["messages"][0]["role"] == "system"


@pytest.mark.parametrize(
    ("refuses", "reply"),
    [
        ({"max_tokens": lambda body: "max_tokens" in body}, error(400, MAX_TOKENS)),
        ({"temperature": lambda body: "temperature" in body}, error(400, TEMPERATURE)),
        ({"seed": lambda body: "seed" in body}, error(422, "extra_forbidden: seed")),
        ({"system": has_system}, error(400, "System role not supported")),
        ({"system": has_system}, error(400, "'messages[0].role' does not support 'system' with this model.")),
        ({"system": has_system}, error(500, "System role not supported")),
        ({"response_format": lambda body: "response_format" in body}, error(400, "minItems is not permitted")),
    ],
)
def test_what_a_model_refuses_of_a_request_is_said_otherwise(tmp_path, caplog, refuses, reply):
    """Learnt once: later requests leave it out from the start."""
    ((part, is_there),) = refuses.items()
    obliging, refused = Obliging(), []

    def answer(path, body, headers):
        if is_there(body):
            refused.append(body)
            return reply
        return obliging(path, body, headers)

    with server(answer) as url:
        book = written(endpoint_config(url, concurrency=1, attempts=1), tmp_path)
    assert [subject.name for subject in book.subjects] == ["red fox", "red owl"]
    assert len(refused) == 1 and len(obliging.bodies) == 3
    assert f"{part} is refused" in caplog.text
    for body in obliging.bodies:
        assert body["model"] == "m" and body["messages"][-1]["role"] == "user"
        assert "nothing else" in body["messages"][0]["content"]  # what the system says is not lost
        assert [x["role"] for x in body["messages"]][-3:] == ["user", "assistant", "user"]
        assert 600 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def test_a_model_that_refuses_several_things_is_asked_without_all_of_them(tmp_path):
    obliging = Obliging()

    def answer(path, body, headers):
        for key, said in (("max_tokens", MAX_TOKENS), ("temperature", TEMPERATURE)):
            if key in body:
                return error(400, said)
        return pieces(obliging(path, body, headers)) if body.get("stream") else error(400, STREAM)

    with server(answer) as url:
        assert len(written(endpoint_config(url, attempts=1), tmp_path).subjects) == 2
    assert all(body["response_format"] and body["max_completion_tokens"] == 600 for body in obliging.bodies)


def pieces(whole):
    """A completion as a stream: a thought, the answer letter by letter, and counts at the end."""
    body = json.loads(whole[2])
    message = body.pop("choices")[0]["message"]
    deltas = [{"role": "assistant", "content": None}, {"reasoning_content": "hm "}]
    deltas += [{"content": letter} for letter in message["content"]]
    chunks = [{**body, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{**body, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {**body, "choices": []}]
    return (
        200,
        "text/event-stream",
        "".join(f"data: {json.dumps(x)}\n\n" for x in [*chunks]).encode() + b"data: [DONE]\n\n",
    )


def test_an_endpoint_that_streams_though_nobody_asked(tmp_path):
    obliging = Obliging()
    with server(lambda path, body, headers: pieces(obliging(path, body, headers))) as url:
        assert len(written(endpoint_config(url, attempts=1), tmp_path).subjects) == 2


THOUGHTS = "The user wants {something}."


@pytest.mark.parametrize(
    "change",
    [
        lambda text: completion(f"<think>\n{THOUGHTS}\n</think>\n\n{text}"),
        lambda text: completion(f"{THOUGHTS}</think>{text}"),  # the chat template had opened it
        lambda text: completion(None, reasoning_content=text),  # taken for a thought by the server's parser
        lambda text: completion("", reasoning=text),
        lambda text: completion(text, reasoning_content=THOUGHTS),
        lambda text: completion([{"type": "thinking", "thinking": [{"text": "{}"}]}, {"type": "text", "text": text}]),
        lambda text: completion(f"Here you are:\n```json\n{text}\n```\nIs it {{good}}?"),
    ],
)
def test_answers_of_models_that_think_aloud(tmp_path, change):
    obliging = Obliging()

    def answer(path, body, headers):
        text = json.loads(obliging(path, body, headers)[2])["choices"][0]["message"]["content"]
        return change(text)

    with server(answer) as url:
        book = written(endpoint_config(url, attempts=1), tmp_path)
    assert [subject.name for subject in book.subjects] == ["red fox", "red owl"]
    assert book.counts == {"answers": 3}


@pytest.mark.parametrize("reply", [completion(None, "length", reasoning="Well"), completion("<think>Well", "length")])
def test_a_model_that_thinks_until_its_tokens_are_used_up(tmp_path, reply):
    with server(lambda path, body, headers: reply) as url, pytest.raises(ConfigError) as caught:
        written(endpoint_config(url, attempts=2), tmp_path)
    text = str(caught.value)
    assert "answers: cut off while thinking (2)" in text and "'<think>Well'" in text
    assert "prompts.max_tokens (now 600; a model that thinks first needs thousands" in text


def test_one_request_that_a_filter_refuses_is_asked_in_another_way(tmp_path):
    obliging, filtered = Obliging(), []

    def answer(path, body, headers):
        if not filtered and "Subject:" in body["messages"][-1]["content"]:
            filtered.append(body)
            said = {"message": "The response was filtered", "code": "content_filter"}
            return 400, "application/json", json.dumps({"error": said}).encode()
        return obliging(path, body, headers)

    with server(answer) as url:
        assert len(written(endpoint_config(url, concurrency=1), tmp_path).subjects) == 2
    assert all("response_format" in body for body in obliging.bodies)


@pytest.mark.parametrize("end", ["/", "/chat/completions", "/chat/completions/", "\n"])
def test_addresses_as_people_give_them(tmp_path, end):
    obliging = Obliging()

    def answer(path, body, headers):
        return obliging(path, body, headers) if path == "/v1/chat/completions" else error(404, path)

    with server(answer) as url:
        assert len(written(endpoint_config(url + end), tmp_path).subjects) == 2


def test_keys_as_people_keep_them(tmp_path, monkeypatch):
    """A file's last newline is not part of the key; what cannot be a key is refused without showing it."""
    keys, obliging = set(), Obliging()

    def answer(path, body, headers):
        keys.add(headers["Authorization"])
        return obliging(path, body, headers)

    monkeypatch.setenv("MY_KEY", " sk-secret\r\n")
    with server(answer) as url:
        written(endpoint_config(url, api_key_variable="MY_KEY"), tmp_path)
        assert keys == {"Bearer sk-secret"}
        monkeypatch.setenv("MY_KEY", "\u201csk-secret\u201d")
        with pytest.raises(ConfigError, match=r"MY_KEY is not a key: odd characters") as caught:
            written(endpoint_config(url, api_key_variable="MY_KEY"), tmp_path)
    assert "secret" not in str(caught.value)


def test_half_an_emoji_in_an_answer_is_journaled(tmp_path):
    reply = 200, "application/json", completion("x")[2].replace(b'"x"', b'"\\ud83d cut"')
    for _ in range(2):  # the second time from the journal
        with server(lambda path, body, headers: reply) as url, pytest.raises(ConfigError, match=r"not JSON \(2\)"):
            written(endpoint_config(url), tmp_path)
    assert [row["text"] for row in journal_rows(tmp_path)] == ["\ud83d cut"] * 2


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


@pytest.mark.slow
def test_an_endpoint_that_is_too_slow(tmp_path):
    def answer(path, body, headers):
        time.sleep(1)
        return completion("{}")

    with (
        server(answer) as url,
        pytest.raises(EndpointError, match=r"no answer within prompts\.timeout=0\.3 seconds, 2 times"),
    ):
        written(endpoint_config(url, timeout=0.3), tmp_path)


@pytest.mark.slow
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
            r"HTTP 500 \(CUDA out of memory\), up to 2 times; see the server's log",
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
        (
            (502, "text/html", b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"),
            EndpointError,
            r"HTTP 502 \(a page of HTML: 502 Bad Gateway\), up to 2 times; see the server's log",
        ),
        (
            error(429, "You exceeded your current quota"),
            EndpointError,
            r"HTTP 429 \(You exceeded your current quota\), up to 2 times; repeat the same command later to resume",
        ),
        (
            error(400, "This model's maximum context length is 512 tokens, and max_tokens is 600"),
            ConfigError,
            r"HTTP 400 \(This model's maximum.*lower prompts\.max_tokens \(now 600\)",
        ),
        (error(405, "Method Not Allowed"), ConfigError, "HTTP 405 .*the address usually ends in /v1"),
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


@pytest.mark.slow
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
