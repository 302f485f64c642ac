"""Subjects and prompts: the grammar, what is accepted of answers, the journal, kills."""

import json
import os
import random
import re
import subprocess
import threading
from collections import Counter
from dataclasses import replace

import pytest

from data_gen.english import with_article
from data_gen.prompts import PROMPT_BACKENDS, Answer, PromptsSettings, read_prompts, write_prompts
from data_gen.prompts.parsing import Invalid, alike, check_look, check_name, check_scene, parse
from data_gen.prompts.response_cache import ResponseCache
from data_gen.prompts.templates import ask_details, ask_subjects
from data_gen.prompts.vocabulary import CATEGORY, LIGHTS, PLACES
from data_gen.prompts.words import head_noun, singular, slug, subject_key
from jedi.io.config import ConfigError, load
from jedi.io.files import FolderInUse
from tests import forked
from tests.data_gen.conftest import section

SCRIPTS = {}
"""What the back end `scripted` says, by the name of its model: a function of the request."""


@PROMPT_BACKENDS.register("scripted")
class Scripted:
    def __init__(self, config):
        self.say, self.concurrency = SCRIPTS[config.model], config.concurrency

    def answer(self, request):
        answer = self.say(request)
        return answer if isinstance(answer, Answer) else Answer(answer)


@pytest.fixture
def scripted(request):
    """scripted(function, **settings) -> a configuration whose answers the function gives."""

    def make(function, **settings):
        SCRIPTS[request.node.name] = function
        given = {
            "categories": ["animal", "toy"],
            "subjects": 6,
            "scenes_per_subject": 2,
            "concurrency": 1,
            "attempts": 3,
        }
        return PromptsSettings(backend="scripted", model=request.node.name, **{**given, **settings})

    return make


def good(request):
    """An obliging LLM: another animal in every round."""
    if request.kind == "subjects":
        nouns = CATEGORY[request.category][1]
        first = request.round * request.count
        return json.dumps({"subjects": [f"red {noun}" for noun in nouns[first : first + request.count]]})
    name = with_article(request.subject)
    content = {"look": f"{name} with a bell around its neck"} if request.look else {}
    if request.count:
        content["scenes"] = [f"{name} waiting {place}" for place in request.places]
    return json.dumps(content)


def written(config, out, seed=0):
    return write_prompts(config, out, seed, progress=False)


def journal_rows(out):
    return [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]


# The grammar


def test_the_grammar_fills_every_category_with_different_subjects(tmp_path):
    config = PromptsSettings(subjects=250)
    book = written(config, tmp_path)
    assert len(book.subjects) == 250
    shares = Counter(subject.category for subject in book.subjects)
    assert set(shares) == set(config.categories)
    assert max(shares.values()) - min(shares.values()) <= 1
    assert len({subject.id for subject in book.subjects}) == len({subject_key(x.name) for x in book.subjects}) == 250
    for subject in book.subjects:
        assert re.fullmatch(r"[a-z0-9-]+", subject.id)
        assert subject.look.startswith(with_article(subject.name)) and subject.look in subject.collage
        assert len(subject.scenes) == config.scenes_per_subject
        assert all(scene.startswith(with_article(subject.name)) for scene in subject.scenes)
        assert not any(alike(a, b, subject.name) for a in subject.scenes for b in subject.scenes if a != b)
    # Any first part of the book is balanced too.
    assert Counter(x.category for x in book.subjects[:24]) == dict.fromkeys(config.categories, 2)
    assert read_prompts(tmp_path) == book
    assert not [path for path in tmp_path.iterdir() if path.name not in ("prompts.json", "prompts.jsonl")]


def test_the_grammar_depends_on_the_seed_and_on_nothing_else(tmp_path):
    config = PromptsSettings(subjects=60)
    written(config, tmp_path / "a")
    random.seed(5)
    written(config, tmp_path / "b")
    other = written(config, tmp_path / "c", seed=1)
    assert (tmp_path / "a/prompts.json").read_bytes() == (tmp_path / "b/prompts.json").read_bytes()
    assert {x.name for x in other.subjects} != {x.name for x in read_prompts(tmp_path / "a").subjects}


def test_the_grammar_has_thousands_of_subjects_and_its_words_fit():
    names = {f"{look} {noun}" for kind, nouns in CATEGORY.values() for look in kind.looks for noun in nouns}
    assert len(names) > 10_000
    for category, (kind, nouns) in CATEGORY.items():
        assert len(set(nouns)) == len(nouns) and len(set(kind.looks)) == len(kind.looks)
        refused = []
        for noun in nouns:
            try:
                check_name(f"{kind.looks[0]} {noun}", category)
            except Invalid as error:
                refused.append((noun, error.reason))
        assert not refused, category
    assert len(set(PLACES)) == len(PLACES) >= 64  # scenes_per_subject draws without putting back
    assert all(re.match(r"(in|on|at|by|under|beside) ", place) for place in PLACES)
    assert all(re.match(r"(in|at|under) ", light) for light in LIGHTS)


def test_the_grammar_says_which_categories_it_knows(tmp_path):
    with pytest.raises(ConfigError, match=r"prompts\.categories: .*no words for 'castle', only for animal"):
        written(PromptsSettings(categories=["castle"]), tmp_path)


def test_a_grammar_that_is_exhausted_is_counted_and_warned_of(tmp_path, monkeypatch, caplog):
    kind, nouns = CATEGORY["bag"]
    monkeypatch.setitem(CATEGORY, "bag", (replace(kind, looks=kind.looks[:3]), nouns[:4]))
    config = PromptsSettings(categories=["bag"], subjects=15, scenes_per_subject=1, subjects_per_request=5)
    book = written(config, tmp_path)
    assert len({x.name for x in book.subjects}) == 3 * 4
    assert {x.name.split(" ", 1)[1] for x in book.subjects[:4]} == set(nouns[:4])  # all nouns once, before any again
    assert book.counts["missing subjects: bag"] == 3
    assert "12 of 15 subjects of the category 'bag'" in caplog.text


# What is accepted


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A Red Fox.", "red fox"),
        ("the jack-o'-lantern", "jack-o'-lantern"),
        ("café table", "cafe table"),
        ("jeans", "jeans"),
    ],
)
def test_names_that_are_accepted(text, name):
    assert check_name(text, "animal") == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "odd characters"),
        ("fox {1}", "odd characters"),
        ("狐", "odd characters"),
        ("a very long name of one red fox", "too long"),
        ("shaggy animal", "names no subject"),
        ("animal skin", "names no subject"),
        ("dark red", "names no subject"),
        ("glass glass", "names no subject"),
        ("red foxes", "plural"),
        ("sorry", "a refusal"),
        ("as an AI model", "a refusal"),
    ],
)
def test_names_that_are_refused(text, reason):
    with pytest.raises(Invalid) as refused:
        check_name(text, "animal")
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a red fox asleep", None),
        ("Two walls, and on one of them the foxes' friend: a fox!", "repeats itself"),
        ("The fox sits on a wall, watching “the sea”.", "odd characters"),
        ("the fox sits on a wall, watching the sea.", None),
        ("a fox", "too short"),
        ("a cat on a wall at night", "lacks the subject"),
        ("a firefox on a wall at night", "lacks the subject"),
        ("I'm sorry, I cannot write about a fox", "a refusal"),
        ("As an AI, I see a red fox", "a refusal"),
        ("a red fox " + "and a stone " * 20, "too long"),
        ("a red fox in a city street in a city street", "repeats itself"),
        ("a red fox on the red fox", "repeats itself"),
        ("the one that is a red fox", "says nothing of the subject"),
        ("a red fox lying on a stone wall at sunset", "copies the example"),
        ("a red fox <b>on</b> a wall", "odd characters"),
        ("a red fox\non a wall", None),
    ],
)
def test_scenes(text, reason):
    if reason is None:
        scene = check_scene(text, "red fox", [])
        assert "\n" not in scene and not scene.endswith(".") and check_look(text, "red fox") == scene
        return
    with pytest.raises(Invalid) as refused:
        check_scene(text, "red fox", [])
    assert refused.value.reason == reason


def test_a_near_repeat_is_refused():
    known = ["a red fox sleeping under the old trees"]
    with pytest.raises(Invalid, match="repeat"):
        check_scene("Under an old tree, the red fox is sleeping", "red fox", known)
    assert check_scene("a red fox sleeping under an old car", "red fox", known)


def test_words():
    pairs = (
        "fox foxes, house houses, bus buses, knife knives, wolf wolves, puppy puppies, cookie cookies, glass glasses, "
        "glove gloves, "
        "shoe shoes, mouse mice, scarf scarves, axe axes, toy toys, pie pies, tomato tomatoes, cactus cactus"
    )
    for one, many in (pair.split() for pair in pairs.split(", ")):
        assert singular(one) == singular(many), one
    assert len({singular(word) for word in ("cat", "cap", "car", "card", "cart", "care")}) == 5  # car and care meet
    assert subject_key("Foxes, red") == subject_key("the red fox with a hat") != subject_key("a fox")
    assert subject_key("bowl of soup") != subject_key("bowl of rice")
    assert head_noun("big bowls of soup on a table") == head_noun("bowl")
    assert slug("Jack-in-the-Box Né") == "jack-in-the-box-ne"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"subjects": ["a"]}', None),
        ('```json\n{"subjects": ["a"]}\n```', None),
        ('Sure! {"subjects": ["a"]} Is {this} what you want?', None),
        ('<think>\nFirst {"subjects": ["b"]}, or {}?\n</think>\n\n{"subjects": ["a"]}', None),
        ('The user wants names. {"subjects": ["b"]}</think>```json\n{"subjects": ["a"]}\n```', None),
        ('<think>{"subjects": ["a"]}', None),  # a server took the answer for a thought
        ('<think>{"subjects": ["a"]}</think>I cannot say.', "not JSON"),
        ('{"subjects": ["a"', "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ('["a"]', "not JSON"),
        ('{"subjects": []}', "not as asked"),
        ('{"subjects": "a"}', "not as asked"),
        ('{"subjects": [1]}', "not as asked"),
        ('{"names": ["a"]}', "not as asked"),
        ('{"subjects": ["a"], "more": 1}', "not as asked"),
    ],
)
def test_answers_are_parsed_strictly(text, reason):
    request = ask_subjects(PromptsSettings(), 0, "animal", 0, [])
    if reason is None:
        assert parse(Answer(text), request) == {"subjects": ["a"]}
        thinking = text.startswith("<think>") and "</think>" not in text
        with pytest.raises(Invalid, match="^cut off while thinking$" if thinking else "^cut off$"):
            parse(Answer(text, finished=False), request)
        return
    with pytest.raises(Invalid) as refused:
        parse(Answer(text), request)
    assert refused.value.reason == reason


# What is asked


def test_the_worked_examples_would_be_accepted_as_answers():
    """They fit the schemas that are sent, and the filters; so they show an LLM what is wanted."""
    for adjectives in (True, False):
        config = PromptsSettings(adjectives=adjectives, scenes_per_subject=3)
        for category, other in (("toy", "musical instrument"), ("musical instrument", "animal")):
            request = ask_subjects(config, 0, category, 0, [])
            shown = json.loads(request.messages[2]["content"])["subjects"]
            pattern = request.schema["properties"]["subjects"]["items"]["pattern"]
            assert len(shown) == 8 and [check_name(name, other) for name in shown] == shown
            assert all(re.fullmatch(pattern, name) for name in shown)
        asked = ask_details(config, 0, "toy", "old brass trumpet", 0, look=True, scenes=3, complaint="")
        shown = json.loads(asked.messages[2]["content"])
        parts = asked.schema["properties"]
        assert set(shown) == set(parts)
        assert re.fullmatch(parts["look"]["pattern"], shown["look"])
        assert len(shown["scenes"]) == 3
        assert all(re.fullmatch(parts["scenes"]["items"]["pattern"], scene) for scene in shown["scenes"])


def test_a_request_is_known_by_all_that_decides_its_answer():
    config = PromptsSettings(backend="openai", endpoint="http://a/v1", model="m")
    key = ask_subjects(config, 0, "animal", 0, []).key
    assert key == ask_subjects(replace(config, endpoint="http://b/v1", timeout=3, subjects=7), 0, "animal", 0, []).key
    others = [
        ask_subjects(replace(config, model="n"), 0, "animal", 0, []),
        ask_subjects(replace(config, temperature=0.1), 0, "animal", 0, []),
        ask_subjects(replace(config, max_tokens=100), 0, "animal", 0, []),
        ask_subjects(config, 1, "animal", 0, []),
        ask_subjects(config, 0, "toy", 0, []),
        ask_subjects(config, 0, "animal", 1, []),
        ask_subjects(config, 0, "animal", 0, ["red fox"]),
        ask_subjects(config, 0, "animal", 0, [], " It was not JSON."),
    ]
    assert len({key, *(request.key for request in others)}) == 9
    assert all(0 <= request.sampling_seed < 2**31 for request in others)


# The loop


def test_the_reason_of_a_refusal_is_told_and_counted(tmp_path, scripted):
    asked = []

    def say(request):
        asked.append(request)
        if request.kind == "subjects" and request.round == 0:
            return "Of course! Here are some animals."
        if request.kind == "subjects" and request.round == 1:
            return json.dumps({"subjects": ["animal", "red foxes"]})
        return good(request)

    book = written(scripted(say, categories=["animal"], subjects=1, subjects_per_request=1, attempts=9), tmp_path)
    first, second, third = [request.messages[-1]["content"] for request in asked if request.kind == "subjects"]
    assert "no good" not in first
    assert second.endswith("An answer before was no good: it was not one JSON object.")
    assert third.endswith(
        "An answer before was no good: subjects were refused as 'names no subject'; subjects were refused as 'plural'."
    )
    assert [subject.name for subject in book.subjects] == ["red dog"]
    assert book.counts == {
        "answers": 4, "retried": 2, "refused answers: not JSON": 1, "refused subjects: names no subject": 1,
        "refused subjects: plural": 1,
    }  # fmt: skip


def test_only_what_is_missing_is_asked_again(tmp_path, scripted):
    asked = []

    def say(request):
        if request.kind == "subjects":
            return json.dumps({"subjects": ["red fox"]})
        asked.append(request)
        scenes = [["a red fox by the sea at noon", "a cat at night in a tree"], ["the red fox in deep snow"]]
        looks = {"look": "a red fox with one white paw"} if request.look else {}
        if request.round == 1:
            return Answer("", finished=False)
        return json.dumps({**looks, "scenes": scenes[request.round // 2]})

    book = written(scripted(say, categories=["animal"], subjects=1), tmp_path)
    assert [(request.look, request.count) for request in asked] == [(True, 2), (False, 1), (False, 1)]
    assert "scenes were refused as 'lacks the subject'" in asked[1].messages[-1]["content"]
    assert "it was too long; be brief" in asked[2].messages[-1]["content"]
    assert book.subjects[0].scenes == ["a red fox by the sea at noon", "the red fox in deep snow"]
    assert book.counts == {
        "answers": 4, "retried": 2, "refused answers: cut off": 1, "refused scenes: lacks the subject": 1,
    }  # fmt: skip


def test_a_scene_that_only_says_the_look_again_is_refused(tmp_path, scripted):
    def say(request):
        if request.kind == "subjects":
            return json.dumps({"subjects": ["red fox"]})
        look = "a red fox with one white paw"
        scene = f"{look} asleep by the sea" if request.round else look
        return json.dumps({**({"look": look} if request.look else {}), "scenes": [scene]})

    book = written(scripted(say, categories=["animal"], subjects=1, scenes_per_subject=1), tmp_path)
    assert book.subjects[0].scenes == ["a red fox with one white paw asleep by the sea"]
    assert book.counts == {"answers": 3, "retried": 1, "refused scenes: repeat": 1}


def test_repeats_of_subjects_are_counted_over_all_categories(tmp_path, scripted):
    def say(request):
        if request.kind == "portrait":
            return good(request)
        first = {"animal": ["red fox", "Foxes, red"], "toy": ["the red fox with a hat", "red ball"]}
        return json.dumps({"subjects": first[request.category] if not request.round else ["blue owl", "green duck"]})

    book = written(scripted(say, subjects=3), tmp_path)
    # Three are wanted, two of them animals; of the second round's the animals take the first, the toys need none.
    assert [(x.category, x.name) for x in book.subjects] == [
        ("animal", "red fox"),
        ("toy", "red ball"),
        ("animal", "blue owl"),
    ]
    assert book.counts["refused subjects: odd characters"] == 1  # the comma
    assert book.counts["refused subjects: repeat"] == 1


def test_an_unfinished_subject_is_replaced_by_another(tmp_path, scripted):
    def say(request):
        if request.kind == "portrait" and request.subject == "red cat":
            return json.dumps(
                {"look": "a red cat with a bell", "scenes": ["no", "no"]} if request.look else {"scenes": ["no"]}
            )
        return good(request)

    book = written(scripted(say, categories=["animal"], subjects=3, subjects_per_request=3), tmp_path)
    assert [x.name for x in book.subjects] == ["red fox", "red dog", "red rabbit"]
    assert book.counts["unfinished subjects"] == 1
    assert book.counts["refused scenes: too short"] == 4


def test_a_category_that_runs_dry_is_counted_and_the_others_are_whole(tmp_path, scripted, caplog):
    def say(request):
        if request.kind == "subjects" and request.category == "animal":
            return json.dumps({"subjects": ["red fox"]})
        return good(request)

    config = scripted(say, subjects=6)
    book = written(config, tmp_path)
    assert Counter(x.category for x in book.subjects) == {"animal": 1, "toy": 3}
    assert book.counts["missing subjects: animal"] == 2
    assert book.counts["refused subjects: repeat"] == config.attempts
    assert "1 of 3 subjects of the category 'animal'" in caplog.text


def test_an_llm_that_never_answers_in_json_is_an_error(tmp_path, scripted):
    config = scripted(lambda request: "I would love to talk about foxes!")
    with pytest.raises(ConfigError) as error:
        written(config, tmp_path)
    text = str(error.value)
    assert "scripted" in text and "0 of 3 subjects of the category 'animal'" in text
    assert "answers: not JSON (6)" in text and "love to talk about foxes" in text and "prompts.max_tokens" in text
    assert len(journal_rows(tmp_path)) == config.attempts * 2
    assert not (tmp_path / "prompts.json").exists()


def test_an_llm_that_never_writes_scenes_is_given_up_early(tmp_path, scripted):
    def say(request):
        return good(request) if request.kind == "subjects" else "no"

    config = scripted(say, subjects=1000, subjects_per_request=40, categories=["animal"])
    with pytest.raises(ConfigError, match=r"never wrote a usable look and scenes.*not JSON \(24\)"):
        written(config, tmp_path)


def test_threads_change_nothing(tmp_path, scripted):
    lock, running, most = threading.Lock(), [0], [0]
    barrier = threading.Barrier(4)

    def say(request):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        if request.kind == "portrait" and request.subject in ("red fox", "red cat", "red dog", "red rabbit"):
            barrier.wait(20)  # four are on their way at once, or this breaks
        with lock:
            running[0] -= 1
        return good(request)

    threads = scripted(say, concurrency=4, subjects=20)
    written(threads, tmp_path / "threads")
    assert most[0] == 4
    SCRIPTS[threads.model] = good
    written(replace(threads, concurrency=1), tmp_path / "one")
    assert (tmp_path / "threads/prompts.json").read_bytes() == (tmp_path / "one/prompts.json").read_bytes()
    # Resumed from the journal that the threads wrote in another order: nothing is asked.
    SCRIPTS[threads.model] = None
    written(threads, tmp_path / "threads")


# The journal


def test_the_same_command_again_asks_nothing_and_more_subjects_ask_only_for_more(tmp_path, scripted):
    asked = []

    def say(request):
        asked.append(request.about)
        return good(request)

    config = scripted(say, subjects=6, subjects_per_request=3)
    first = written(config, tmp_path)
    data = (tmp_path / "prompts.json").read_bytes()
    assert len(asked) == len(journal_rows(tmp_path)) == 2 + 6 == first.counts["answers"]
    written(config, tmp_path)
    assert len(asked) == 8 and (tmp_path / "prompts.json").read_bytes() == data
    more = written(replace(config, subjects=10), tmp_path)
    assert len(asked) == 8 + 2 + 4
    assert more.subjects[:6] == first.subjects
    # Another seed or temperature is another request: the old answers stay, and do not match.
    written(replace(config, temperature=0.5), tmp_path)
    written(config, tmp_path, seed=1)
    assert len(asked) == 14 + 8 + 8 == len(journal_rows(tmp_path))


def moody(salt):
    """An LLM that gives another answer at every call: only a journal can make a run repeatable."""
    calls = [salt]

    def say(request):
        calls[0] += 1
        if request.kind == "subjects":
            nouns = random.Random(calls[0]).sample(CATEGORY[request.category][1], 3)
            return json.dumps({"subjects": [f"{noun}" for noun in nouns]})
        content = json.loads(good(request))
        return json.dumps({**content, **({"look": f"{content['look']} {calls[0]}"} if request.look else {})})

    return say, calls


def test_an_interrupted_run_goes_on_from_the_journal(tmp_path, scripted):
    whole, _ = moody(0)
    config = scripted(whole, subjects=8)
    written(config, tmp_path / "whole")
    total = len(journal_rows(tmp_path / "whole"))
    for stop in range(1, total):
        say, calls = moody(0)

        def interrupted(request, say=say, calls=calls, stop=stop):
            if calls[0] == stop:
                raise KeyboardInterrupt
            return say(request)

        SCRIPTS[config.model] = interrupted
        out = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            written(config, out)
        assert len(journal_rows(out)) == stop and not (out / "prompts.json").exists()
        SCRIPTS[config.model] = say  # goes on as if it had never been stopped
        written(config, out)
        assert (out / "prompts.json").read_bytes() == (tmp_path / "whole/prompts.json").read_bytes()


def test_a_journal_cut_anywhere_in_its_last_line_loses_that_answer_only(tmp_path):
    config = PromptsSettings(subjects=3, categories=["animal", "toy"], scenes_per_subject=1)
    written(config, tmp_path)
    journal, book = tmp_path / "prompts.jsonl", tmp_path / "prompts.json"
    data, expected = journal.read_bytes(), book.read_bytes()
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    for end in [*range(start, len(data), 7), len(data) - 1]:
        journal.write_bytes(data[:end])
        with ResponseCache(tmp_path) as cut:
            assert len(cut) == data.count(b"\n") - 1
        assert journal.read_bytes() == data[:start]
        book.unlink()
        written(config, tmp_path)
        assert book.read_bytes() == expected
        assert journal.read_bytes() == data


@pytest.mark.parametrize(
    "line",
    ["nonsense", '{"key": "a"}', '{"key": "a", "text": 1, "finished": true}',
     '{"key": 1, "text": "", "finished": true}',
     '{"key": "a", "text": "", "finished": "no"}', "[]", "\0\0\0\0", '{"key": "a", "about": "b", "te'],
)  # fmt: skip
def test_a_broken_line_in_a_journal_is_an_error(tmp_path, line):
    config = PromptsSettings(subjects=2, categories=["animal"], scenes_per_subject=1)
    written(config, tmp_path)
    journal = tmp_path / "prompts.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    before = journal.read_bytes()
    with pytest.raises(ConfigError, match=r"prompts\.jsonl, line 2: not a cached answer.*remove the line"):
        written(config, tmp_path)
    assert journal.read_bytes() == before
    # And the remedy works.
    journal.write_text("\n".join(lines[:1] + lines[2:]) + "\n")
    assert len(written(config, tmp_path).subjects) == 2


def test_a_full_disk_leaves_a_good_journal(tmp_path, monkeypatch):
    config = PromptsSettings(subjects=4, categories=["animal"], scenes_per_subject=1)
    expected = written(config, tmp_path / "whole")
    real, budget = os.write, [700]

    def full(file, data):
        if budget[0] <= 0:
            raise OSError(28, "No space left on device")
        part = data[: budget[0]]
        budget[0] -= len(part)
        return real(file, part)

    with monkeypatch.context() as patch:
        patch.setattr("data_gen.prompts.response_cache.os.write", full)
        with pytest.raises(OSError, match="No space left"):
            written(config, tmp_path)
    assert budget[0] == 0
    data = (tmp_path / "prompts.jsonl").read_bytes()
    assert 0 < len(data) < 700 and data.endswith(b"\n")  # the half line is gone
    assert written(config, tmp_path) == expected


def test_one_writer_at_a_time(tmp_path):
    with ResponseCache(tmp_path), pytest.raises(FolderInUse, match="another run is at work in"):
        written(PromptsSettings(subjects=1), tmp_path)
    assert len(written(PromptsSettings(subjects=1), tmp_path).subjects) == 1


KILLED = """
import os, signal, sys
from data_gen.prompts import PromptsSettings, write_prompts
place, count, part = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
real, calls = getattr(os, place), [0]
def deadly(*arguments):
    calls[0] += 1
    if calls[0] < count:
        return real(*arguments)
    if place == "write":
        real(arguments[0], arguments[1][: round(part * len(arguments[1]))])
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, place, deadly)
config = PromptsSettings(subjects=5, categories=["animal", "toy"], scenes_per_subject=2)
write_prompts(config, sys.argv[4], 3, progress=False)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing(tmp_path):
    """In mid-write of the journal, between write and fsync, in mid-write of prompts.json."""
    config = PromptsSettings(subjects=5, categories=["animal", "toy"], scenes_per_subject=2)
    written(config, tmp_path / "whole", seed=3)
    expected = {name: (tmp_path / "whole" / name).read_bytes() for name in ("prompts.json", "prompts.jsonl")}
    answers = expected["prompts.jsonl"].count(b"\n")
    assert answers == 7
    points = [("write", n, part) for n in range(1, answers + 1) for part in (0, 0.5, 1)]
    # The first fsync is of the folder, then one an answer, the last one of prompts.json.
    points += [("fsync", n, 0) for n in (1, 2, answers + 1, answers + 2)]
    for place, number, part in points:
        out = tmp_path / f"{place}-{number}-{part}"
        command = ["-c", KILLED, place, str(number), str(part), str(out)]
        code, said = forked.run(forked.python(command, tmp_path))
        assert code == -9, said
        assert not (out / "prompts.json").exists()
        written(config, out, seed=3)
        for name, data in expected.items():
            assert (out / name).read_bytes() == data, (place, number, part)


# The book and the configuration


def test_without_prompts_the_remedy_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"prompts\.json is not there yet: run `python -m data_gen prompts`"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": 1, "subjects": [{"x": 1}], "counts": {}, "backend": {}}']
)
def test_a_broken_book_is_named(tmp_path, content):
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(ConfigError, match=r"prompts\.json is not a list of prompts .*remove it"):
        read_prompts(tmp_path)


def test_a_book_of_another_format_is_refused(tmp_path):
    (tmp_path / "prompts.json").write_text('{"format": 9}')
    with pytest.raises(ConfigError, match="format 9, this version reads 1"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "templat"}, r"prompts\.backend: unknown prompt back end 'templat': did you mean 'template'"),
        ({"model": "x"}, r"prompts\.model is set, but prompts\.backend=template uses no model"),
        ({"endpoint": "http://a"}, r"prompts\.endpoint is for prompts\.backend=openai; the backend is template"),
        ({"backend": "openai", "gguf_file": "x"}, r"prompts\.gguf_file is for prompts\.backend=transformers"),
        ({"categories": []}, r"prompts\.categories is empty"),
        ({"categories": ["toy", "Toy"]}, r"prompts\.categories names 'toy' twice"),
        ({"subjects": 0}, r"prompts\.subjects is 0"),
        ({"scenes_per_subject": 65}, r"prompts\.scenes_per_subject is 65"),
        ({"temperature": -1}, r"prompts\.temperature is -1"),
        ({"attempts": 0}, r"prompts\.attempts is 0"),
        ({"collage_prompt": "a collage"}, r"prompts\.collage_prompt is 'a collage'; it must hold \{look\}"),
        ({"device": "gpu"}, r"prompts\.device is 'gpu'; expected auto, cpu, cuda or cuda:N"),
        ({"dtype": "half"}, r"prompts\.dtype is 'half'"),
        ({"backend": "transformers"}, r"prompts\.model is empty; prompts\.backend=transformers needs"),
        ({"backend": "openai", "model": "m"}, r"prompts\.endpoint is empty"),
        ({"backend": "openai", "endpoint": "http://a/v1"}, r"prompts\.model is empty"),
        ({"backend": "openai", "model": "m", "endpoint": "a:1/v1"}, r"prompts\.endpoint is 'a:1/v1'; it begins with"),
        (
            {"backend": "openai", "model": "m", "endpoint": "http://a/v1", "api_key_variable": "NOT_SET_ANYWHERE"},
            r"prompts\.api_key_variable: the environment has no NOT_SET_ANYWHERE",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        written(section("prompts", **settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_section_loads_like_any_other():
    config = load(PromptsSettings, None, ["subjects=7", "categories=[animal]", "device=cuda:1"])
    assert (config.subjects, config.categories, config.device) == (7, ["animal"], "cuda:1")


def test_progress_is_shown_on_stderr(tmp_path, capsys):
    write_prompts(PromptsSettings(subjects=3), tmp_path, 0)
    captured = capsys.readouterr()
    assert "prompts: 100%" in captured.err and "3/3" in captured.err and not captured.out


def test_the_grammar_needs_no_heavy_library(tmp_path, python, environment):
    code = (
        "import sys, data_gen.prompts as p\n"
        f"p.write_prompts(p.PromptsSettings(subjects=2), {str(tmp_path)!r}, 0, progress=False)\n"
        "print(*{'torch', 'transformers', 'openai', 'numpy', 'llguidance'} & set(sys.modules))"
    )
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not done.stdout.split()
