"""A frozen plan and its images: resumable, in parts, the same in any batch."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jedi.evaluation.generate import (
    ImageRequest,
    PlanError,
    Sampling,
    generate,
    image_paths,
    missing,
    read_plan,
    seed_of,
)
from jedi.pipeline import JediPipeline, image_generators
from tests.jedi.sampling import box_mask, random_image

SETTINGS = Sampling(steps=2)


@pytest.fixture(scope="module")
def pipe(tiny_model) -> JediPipeline:
    pipe = JediPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def calls(pipe, monkeypatch) -> list[list[str]]:
    """The prompts of each call of the pipeline."""
    made, original = [], JediPipeline.__call__

    def call(self, prompt, *arguments, **options):
        made.append(list(prompt))
        return original(self, prompt, *arguments, **options)

    monkeypatch.setattr(JediPipeline, "__call__", call)
    return made


def some_items(folder: Path) -> list[ImageRequest]:
    """Two subjects (one reference in a file, two in memory) with two prompts each, and one without references."""
    file = folder / "photo.png"
    random_image(5, (40, 30)).save(file)
    first, second = (file,), (random_image(6), random_image(7))
    return [
        ImageRequest("one/a", ("a cat",), first, 1),
        ImageRequest("one/b", ("a dog",), first, 2),
        ImageRequest("two/a", ("a cat",), second, 3, reference_prompts=("a cup", "a cup")),
        ImageRequest("two/b", ("a dog",), second, 4, reference_prompts=("a cup", "a cup")),
        ImageRequest("none", ("a dog",), (), 5),
    ]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def all_pixels(folder: Path) -> dict[str, np.ndarray]:
    images = folder / "images"
    return {str(x.relative_to(images)): pixels(x) for x in sorted(images.rglob("*.png"))}


def test_images_are_those_of_the_pipeline(pipe, tmp_path):
    items = some_items(tmp_path)
    generate(pipe, items, tmp_path / "out", settings=SETTINGS)
    assert list(all_pixels(tmp_path / "out")) == ["none.png", "one/a.png", "one/b.png", "two/a.png", "two/b.png"]
    assert not list((tmp_path / "out").rglob("*.tmp"))
    item = items[3]
    expected = pipe(
        "a dog", list(item.references), ["a cup", "a cup"], num_inference_steps=2, generator=image_generators(4, 1)
    ).images[0]
    assert abs(pixels(tmp_path / "out/images/two/b.png") - np.asarray(expected)).max() <= 1
    without = pipe("a dog", num_inference_steps=2, generator=image_generators(5, 1)).images[0]
    assert abs(pixels(tmp_path / "out/images/none.png") - np.asarray(without)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_an_image_depends_on_neither_batch_nor_part(pipe, tmp_path, mode):
    items, settings = some_items(tmp_path), Sampling(steps=2, mode=mode)
    generate(pipe, items, tmp_path / "a", settings=settings, batch_size=8)
    for index in range(3):
        generate(pipe, items, tmp_path / "b", settings=settings, batch_size=1, part=(index, 3))
    a, b = all_pixels(tmp_path / "a"), all_pixels(tmp_path / "b")
    assert list(a) == list(b) and len(a) == 5
    assert max(abs(a[name] - b[name]).max() for name in a) <= 1
    assert (tmp_path / "a/plan.json").read_bytes() == (tmp_path / "b/plan.json").read_bytes()


def test_items_that_share_references_go_together(pipe, calls, tmp_path):
    generate(pipe, some_items(tmp_path), tmp_path / "out", settings=SETTINGS, batch_size=8)
    assert calls == [["a cat", "a dog"], ["a cat", "a dog"], ["a dog"]]


@pytest.mark.slow
def test_neighbours_with_as_many_references_share_a_batch(pipe, calls, tmp_path):
    items = [ImageRequest(f"{i}", ("a cat",), (random_image(i),), i, ("a cup",)) for i in (1, 2, 2, 3)]
    items = [ImageRequest(f"{i}", x.prompts, x.references, x.seed, x.reference_prompts) for i, x in enumerate(items)]
    generate(pipe, items, tmp_path / "a", settings=SETTINGS, batch_size=3)
    assert [len(call) for call in calls] == [3, 1]
    generate(pipe, items, tmp_path / "b", settings=SETTINGS, batch_size=1)
    a, b = all_pixels(tmp_path / "a"), all_pixels(tmp_path / "b")
    assert max(abs(a[name] - b[name]).max() for name in a) <= 1
    assert abs(a["0.png"] - a["1.png"]).max() > 1


@pytest.mark.slow
def test_only_what_is_missing_is_made(pipe, calls, tmp_path):
    items, out = some_items(tmp_path), tmp_path / "out"
    generate(pipe, items, out, settings=SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / "images/two/a.png").unlink()
    assert [item.id for item in missing(out, items)] == ["two/a"]
    calls.clear()
    generate(pipe, items, out, settings=SETTINGS)
    assert calls == [["a cat"]]
    again = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert again.keys() == before.keys()
    assert [path.name for path in before if before[path] != again[path]] == ["a.png"]
    calls.clear()
    generate(pipe, items, out, settings=SETTINGS)
    assert calls == []


def test_an_interruption_loses_one_batch(pipe, tmp_path, monkeypatch):
    items, out, original = some_items(tmp_path), tmp_path / "out", JediPipeline.__call__
    done = []

    def stop_at_the_second(self, prompt, *arguments, **options):
        if done:
            raise KeyboardInterrupt
        done.append(prompt)
        return original(self, prompt, *arguments, **options)

    monkeypatch.setattr(JediPipeline, "__call__", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        generate(pipe, items, out, settings=SETTINGS, batch_size=2)
    assert list(all_pixels(out)) == ["one/a.png", "one/b.png"]
    monkeypatch.setattr(JediPipeline, "__call__", original)
    generate(pipe, items, out, settings=SETTINGS, batch_size=2)
    assert len(all_pixels(out)) == 5 and not missing(out, items)


def test_parts_are_disjoint_and_whole(pipe, calls, tmp_path):
    items = [ImageRequest(f"{i}", ("a cat",), (), i) for i in range(5)]
    for index, count in enumerate((1, 2, 2)):
        calls.clear()
        generate(pipe, items, tmp_path, settings=Sampling(steps=1), part=(index, 3))
        assert sum(map(len, calls)) == count
    assert not missing(tmp_path, items)
    with pytest.raises(PlanError, match="part 3 of 3: parts run from 0"):
        generate(pipe, items, tmp_path, settings=Sampling(steps=1), part=(3, 3))


def test_stories_and_edits(pipe, tmp_path):
    photo = random_image(9, (24, 40))
    items = [
        ImageRequest("story", ("a cat", "a dog"), (random_image(6),), 7),
        ImageRequest("edit", ("a cat",), (random_image(6),), 3, image=photo, mask=box_mask(photo.size, (4, 4, 20, 20))),
    ]
    generate(pipe, items, tmp_path, settings=SETTINGS)
    assert list(all_pixels(tmp_path)) == ["edit.png", "story.0.png", "story.1.png"]
    options = {"num_inference_steps": 2, "generator": image_generators(7, 2), "joint": True}
    story = pipe(["a cat", "a dog"], [random_image(6)], **options).images
    for path, expected in zip(image_paths(tmp_path, items[0]), story, strict=True):
        assert abs(pixels(path) - np.asarray(expected)).max() <= 1
    edited = pixels(tmp_path / "images/edit.png")
    assert edited.shape == (40, 24, 3)
    assert (edited[20:] == np.asarray(photo)[20:]).all()
    assert (edited[4:20, 4:20] != np.asarray(photo)[4:20, 4:20]).any()


def test_the_plan_says_what_the_images_depend_on(pipe, tmp_path):
    generate(pipe, some_items(tmp_path), tmp_path / "out", settings=SETTINGS)
    plan = read_plan(tmp_path / "out")
    assert plan["settings"]["num_inference_steps"] == 2 and plan["settings"]["mode"] == "one_way"
    assert plan["settings"]["scheduler"]["_class_name"] == "DDIMScheduler"
    assert plan["settings"]["dtype"] == "float32"
    assert set(plan["model"]) == {"unet", "vae", "text_encoder"}
    assert {len(digest) for digest in plan["model"].values()} == {64}
    first = plan["items"][0]
    assert first["references"][0]["file"].endswith("/photo.png") and len(first["references"][0]["sha256"]) == 64
    assert plan["items"][2]["reference_prompts"] == ["a cup", "a cup"] and "image" not in first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: (items, Sampling(steps=3)), "settings num_inference_steps: expected 3, found 2"),
        (lambda items: (items[:-1], SETTINGS), "expected 4 items, found 5"),
        (
            lambda items: ([*items[:-1], ImageRequest("none", ("a cat",), (), 5)], SETTINGS),
            "item none: another prompts",
        ),
        (
            lambda items: ([ImageRequest("one/a", ("a cat",), (random_image(1),), 1), *items[1:]], SETTINGS),
            "another references",
        ),
    ],
)
def test_another_plan_is_refused(pipe, calls, tmp_path, change, message):
    items, out = some_items(tmp_path), tmp_path / "out"
    generate(pipe, items, out, settings=SETTINGS)
    calls.clear()
    items, settings = change(items)
    with pytest.raises(PlanError, match=message):
        generate(pipe, items, out, settings=settings)
    assert calls == []


def test_another_model_is_refused(pipe, tmp_path):
    items = [ImageRequest("a", ("a cat",))]
    generate(pipe, items, tmp_path, settings=SETTINGS)
    with pytest.raises(PlanError, match="model unet: expected 000.*, found "):
        generate(pipe, items, tmp_path, settings=SETTINGS, model={**read_plan(tmp_path)["model"], "unet": "000"})


def test_other_versions_make_no_further_images(pipe, tmp_path):
    items = [ImageRequest("a", ("a cat",)), ImageRequest("b", ("a cat",), (), 1)]
    generate(pipe, items, tmp_path, settings=SETTINGS)
    plan = read_plan(tmp_path)
    plan["versions"]["diffusers"] = "0.1"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    generate(pipe, items, tmp_path, settings=SETTINGS)  # nothing is missing
    (tmp_path / "images/b.png").unlink()
    with pytest.raises(PlanError, match=r"started with other versions \(diffusers 0\.1 -> "):
        generate(pipe, items, tmp_path, settings=SETTINGS)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no items"),
        ([ImageRequest("../a", ("a cat",))], "an id is letters"),
        ([ImageRequest("a b", ("a cat",))], "an id is letters"),
        ([ImageRequest("a", ("a cat",)), ImageRequest("a", ("a dog",))], r"two items make the file a\.png"),
        ([ImageRequest("a", ())], "item a: prompts is"),
        ([ImageRequest("a", "a cat")], "item a: prompts is 'a cat'"),
        ([ImageRequest("a", ("a cat",), seed=-1)], "seed -1"),
    ],
)
def test_senseless_items_are_refused(pipe, tmp_path, items, message):
    with pytest.raises(PlanError, match=message):
        generate(pipe, items, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_foreign_folders_are_refused(pipe, tmp_path):
    items = [ImageRequest("a", ("a cat",))]
    with pytest.raises(PlanError, match=r"holds no plan\.json"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="not readable as JSON"):
        generate(pipe, items, tmp_path)
    (tmp_path / "plan.json").write_text('{"config": {}}')
    with pytest.raises(PlanError, match="not a plan of evaluate"):
        generate(pipe, items, tmp_path)
    (tmp_path / "plan.json").unlink()
    (tmp_path / "images").mkdir()
    random_image(1).save(tmp_path / "images" / "a.png")
    with pytest.raises(PlanError, match=r"holds images/ but no plan\.json"):
        generate(pipe, items, tmp_path)


def test_seeds_are_a_function_of_the_name():
    seeds = {seed_of(0, f"{subject}/{i}") for subject in ("cat", "dog") for i in range(100)}
    assert len(seeds) == 200 and max(seeds) < 2**32
    assert seed_of(0, "cat/0") == seed_of(0, "cat/0") != seed_of(1, "cat/0")
    assert seed_of(0, "cat/00-0") == 0x9E3A3324  # images that are published were drawn with it
