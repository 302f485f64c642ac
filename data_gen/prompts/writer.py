"""The loop: ask, judge, ask again, until every category has its share of finished subjects."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

# These register themselves.
import data_gen.prompts.endpoint
import data_gen.prompts.grammar
import data_gen.prompts.local  # noqa: F401
from data_gen.prompts.backends import PROMPT_BACKENDS, Answer, Backend
from data_gen.prompts.config import PromptsSettings
from data_gen.prompts.parsing import Invalid, check_look, check_name, check_scene, parse
from data_gen.prompts.prompt_set import PromptSet, Subject, save
from data_gen.prompts.response_cache import ResponseCache
from data_gen.prompts.templates import Request, ask_details, ask_subjects
from data_gen.prompts.words import slug, subject_key
from jedi.errors import InputError
from jedi.io.config import ConfigError

log = logging.getLogger(__name__)

MAX_UNFINISHED = 8
"""When so many subjects, the first ones, got no details, none will."""
_ADVICE = {
    "cut off": "it was too long; be brief",
    "cut off while thinking": "the thinking took too long; answer at once",
    "not JSON": "it was not one JSON object",
    "not as asked": "its keys were not the ones asked for",
}

T = TypeVar("T")
R = TypeVar("R")


def write_prompts(config: PromptsSettings, out: str | Path, seed: int, *, progress: bool = True) -> PromptSet:
    """Writes `out/prompts.json` and returns what is in it.

    Every answer is first appended to the response cache `out/prompts.jsonl`; the same command again, after a kill or
    with another number of subjects, asks only for what is not in it. A subject that is not finished after
    `attempts` answers is dropped and replaced by another. A category that brings nothing new for `attempts`
    rounds stays short: the file is written without the missing subjects, they are counted and warned of. A
    category without any subject is an error. `progress` shows a bar on stderr.

    Raises:
        ConfigError: a back end that is not available, a category without subjects, an LLM that never answers in
        JSON. OSError: no connection, no space; the same command resumes from there.
    """
    out = Path(out)
    try:
        backend = PROMPT_BACKENDS.get(config.backend)(config)
    except ConfigError:
        raise
    except InputError as error:
        raise ConfigError(f"prompts.backend: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    with ResponseCache(out) as cache, tqdm(
        total=config.subjects, desc="prompts", unit="subject", disable=not progress
    ) as bar:  # fmt: skip
        prompts = _Writer(config, seed, backend, cache, bar).prompts()
    save(prompts, out)
    return prompts


@dataclass
class _Category:
    name: str
    share: int
    names: list[str] = field(default_factory=list)
    """All that were accepted."""
    waiting: list[str] = field(default_factory=list)
    """Of these, those without details."""
    done: list[Subject] = field(default_factory=list)
    rounds: int = 0
    """Of asking for names."""
    idle_rounds: int = 0
    """Rounds in a row without a finished subject."""
    complaint: str = ""
    """Why the last names were no good."""
    last: str = ""
    """Answer."""

    @property
    def lacks(self) -> int:
        return self.share - len(self.done)


@dataclass
class _Details:
    """What a subject has got so far."""

    category: str
    name: str
    look: str = ""
    scenes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    last: str = ""
    """Answer."""


class _Writer:
    """One run. Work of a round may go on in threads; what came of it is taken in the order of the categories and
    names, so the prompts do not depend on who was first."""

    def __init__(self, config: PromptsSettings, seed: int, backend: Backend, cache: ResponseCache, bar: Any) -> None:
        self.config, self.seed, self.backend, self.cache, self.bar = config, seed, backend, cache, bar
        share, rest = divmod(config.subjects, len(config.categories))
        self.categories = [_Category(name, share + (i < rest)) for i, name in enumerate(config.categories)]
        self.keys: set[tuple[str, ...]] = set()  # of all names, in any category
        self.ids: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.described = 0  # subjects that got details

    def prompts(self) -> PromptSet:
        while open_ := [x for x in self.categories if x.lacks and x.idle_rounds < self.config.attempts]:
            before = {x.name: len(x.done) for x in open_}
            self._find_names([x for x in open_ if not x.waiting])
            self._describe([x for x in open_ if x.waiting])
            for category in open_:
                category.idle_rounds = 0 if len(category.done) > before[category.name] else category.idle_rounds + 1
        for category in self.categories:
            if category.lacks:
                self._report_missing(category)
        most = max(x.share for x in self.categories)
        in_turn = [x.done[i] for i in range(most) for x in self.categories if i < len(x.done)]
        return PromptSet(in_turn, dict(sorted(self.counts.items())), dict(self.config.identity()))

    def _find_names(self, categories: Sequence[_Category]) -> None:
        requests = []
        for category in categories:
            requests.append(
                ask_subjects(self.config, self.seed, category.name, category.rounds, category.names, category.complaint)
            )
            category.rounds += 1
        answers = self._map(self._ask, requests)
        for category, request, answer in zip(categories, requests, answers, strict=True):
            counts, complaints, found = Counter({"answers": 1}), [], 0
            try:
                texts = parse(answer, request)["subjects"]
            except Invalid as error:
                counts[f"refused answers: {error.reason}"] += 1
                complaints, texts = [_ADVICE[error.reason]], []
            for text in texts:
                try:
                    self._accept(category, check_name(text, category.name))
                    found += 1
                except Invalid as error:
                    counts[f"refused subjects: {error.reason}"] += 1
                    complaints.append(f"subjects were refused as {error.reason!r}")
            counts["retried"] += bool(category.complaint)
            self.counts += counts
            category.complaint = "" if found else _complaint(complaints)
            category.last = answer.text

    def _accept(self, category: _Category, name: str) -> None:
        key, id_ = subject_key(name), slug(name)
        if key in self.keys or id_ in self.ids:
            raise Invalid("repeat")
        self.keys.add(key)
        self.ids.add(id_)
        category.names.append(name)
        category.waiting.append(name)

    def _describe(self, categories: Sequence[_Category]) -> None:
        """Looks and scenes for the names that wait, as many as are wanted."""
        work = []
        for category in categories:
            work += [(category, name) for name in category.waiting[: category.lacks]]
            category.waiting = category.waiting[category.lacks :]
        for (category, name), details in zip(work, self._map(self._find_details, work), strict=True):
            whole = bool(details.look) and len(details.scenes) == self.config.scenes_per_subject
            if whole:
                collage = self.config.collage_prompt.replace("{look}", details.look)
                category.done.append(Subject(slug(name), name, category.name, details.scenes, collage, details.look))
                self.bar.update()
            self.counts += details.counts + Counter({"unfinished subjects": int(not whole)})
            self.described += whole
            if not self.described and self.counts["unfinished subjects"] >= MAX_UNFINISHED:
                self._give_up("never wrote a usable look and scenes of a subject", details.last)

    def _find_details(self, task: tuple[_Category, str]) -> _Details:
        """Asks until the details are whole, or `attempts` times. Runs in a thread: touches nothing of ours."""
        category, name = task
        details, complaint = _Details(category.name, name), ""
        for attempt in range(self.config.attempts):
            missing = self.config.scenes_per_subject - len(details.scenes)
            if details.look and not missing:
                break
            request = ask_details(
                self.config, self.seed, category.name, name, attempt,
                look=not details.look, scenes=missing, complaint=complaint,
            )  # fmt: skip
            details.counts["retried"] += attempt > 0
            complaint = _complaint(_judge(self._ask(request), request, details))
        return details

    def _ask(self, request: Request) -> Answer:
        """From the cache, else from the back end into the cache."""
        answer = self.cache.get(request)
        if answer is None:
            answer = self.backend.answer(request)
            self.cache.add(request, answer)
        return answer

    def _map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """In order, by several threads if the back end can take that. When something fails, what has been asked
        is still answered and cached, the rest is not begun."""
        if self.backend.concurrency == 1 or len(items) < 2:
            yield from map(function, items)
            return
        pool = ThreadPoolExecutor(self.backend.concurrency)
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)

    def _give_up(self, what: str, last: str) -> None:
        who, said = " ".join(self.config.identity().values()), last if len(last) <= 200 else f"{last[:200]}..."
        raise ConfigError(
            f"prompts: {who} {what}. Refused: {self._reasons()}. Its last answer: {said!r}. Take an LLM that follows "
            "instructions, or ask for less at once (prompts.subjects_per_request, prompts.scenes_per_subject) with "
            f"enough prompts.max_tokens (now {self.config.max_tokens}; a model that thinks first needs thousands, or "
            "its server told not to let it think) and prompts.attempts"
        )

    def _report_missing(self, category: _Category) -> None:
        what = f"{len(category.done)} of {category.share} subjects of the category {category.name!r}"
        if not category.done:
            self._give_up(f"gave {what}", category.last)
        log.warning(
            "prompts: %s; the last %d rounds brought none. Refused: %s. To have them all, name more categories, "
            "or raise prompts.attempts or prompts.temperature", what, category.idle_rounds, self._reasons(),
        )  # fmt: skip
        self.counts[f"missing subjects: {category.name}"] = category.lacks

    def _reasons(self) -> str:
        refusals = {key.removeprefix("refused "): n for key, n in self.counts.items() if key.startswith("refused ")}
        return ", ".join(f"{key} ({n})" for key, n in refusals.items()) or "nothing"


def _judge(answer: Answer, request: Request, details: _Details) -> list[str]:
    """Puts what is good into the details, counts the rest by reason, and returns what was wrong."""
    complaints = []

    def attempt(what: str, accept: Callable[[], None]) -> None:
        try:
            accept()
        except Invalid as error:
            details.counts[f"refused {what}: {error.reason}"] += 1
            complaints.append(_ADVICE.get(error.reason) or f"{what} were refused as {error.reason!r}")

    def scene(text: str) -> None:
        said = [details.look, *details.scenes] if details.look else details.scenes
        details.scenes.append(check_scene(text, details.name, said))

    details.counts["answers"] += 1
    details.last = answer.text
    content: dict[str, Any] = {}
    attempt("answers", lambda: content.update(parse(answer, request)))
    if request.look and content:
        attempt("looks", lambda: setattr(details, "look", check_look(content["look"], details.name)))
    for text in content.get("scenes", [])[: request.count]:
        attempt("scenes", lambda text=text: scene(text))
    return complaints


def _complaint(complaints: Sequence[str]) -> str:
    """For the end of the next request; the first two will do."""
    return f" An answer before was no good: {'; '.join(dict.fromkeys(complaints[:2]))}." if complaints else ""
