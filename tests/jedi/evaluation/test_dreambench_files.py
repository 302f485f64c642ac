"""DreamBench as data: the published files, small folders of the same layout, and what is wrong with them."""

import json

import pytest

from jedi.errors import InputError
from jedi.evaluation.dreambench import (
    PUBLISHED,
    REFERENCES,
    BenchmarkError,
    read_benchmark,
    read_prompts,
)
from tests import benchmarks_made_up as made_up
from tests.paths import DREAMBOOTH, needs_dreambooth


def names(paths) -> list[str]:
    return [path.name for path in paths]


@needs_dreambooth
def test_the_published_benchmark():
    benchmark = read_benchmark(DREAMBOOTH)
    assert benchmark.name == "DreamBench" and benchmark.remarks == ()
    assert [x.name for x in benchmark.subjects] == sorted(REFERENCES)
    assert {len(x.templates) for x in benchmark.subjects} == {25}
    assert sum(len(x.images) for x in benchmark.subjects) == 158
    assert sum(x.kind == "live" for x in benchmark.subjects) == 9
    assert {x.noun for x in benchmark.subjects if x.kind == "live"} == {"cat", "dog"}
    by_name = {x.name: x for x in benchmark.subjects}
    assert names(by_name["dog3"].references) == ["05.jpg"]
    assert by_name["bear_plushie"].prompts()[4] == "a stuffed animal on top of pink fabric"
    assert by_name["bear_plushie"].prompts("sks")[-1] == "a cube shaped sks stuffed animal"
    assert by_name["dog"].prompts()[13] == "a dog wearing a black top hat and a monocle"
    assert by_name["duck_toy"].prompts()[14] == "a toy floating in an ocean of milk"


@needs_dreambooth
def test_three_references_are_kosmos_gs_and_two_others():
    one, three = read_benchmark(DREAMBOOTH), read_benchmark(DREAMBOOTH, 3)
    for single, several in zip(one.subjects, three.subjects, strict=True):
        assert len(set(several.references)) == 3
        assert several.references[:1] == single.references
        assert set(several.references) < set(several.images)  # at least one real image is not given


def test_the_lists_are_whole():
    assert len(REFERENCES) == 30
    assert all(len(set(stems)) == 3 for stems in REFERENCES.values())
    kosmos_g = "".join(stems[0][1] for _, stems in sorted(REFERENCES.items()))
    assert kosmos_g == "223212423122502141244403001424"
    assert not {"03"} & set(REFERENCES["cat"]) and not {"03"} & set(REFERENCES["dog5"])


def test_published_figures():
    figures = {x.method: x for x in PUBLISHED}
    assert (figures["real images"].dino, figures["real images"].clip_i) == (0.774, 0.885)
    jedi = figures["JeDi"]
    assert (jedi.dino, jedi.clip_i, jedi.clip_t) == (0.619, 0.782, 0.304) and "DreamCache" in jedi.source
    assert all(0 < x.dino < x.clip_i < 1 and x.source for x in PUBLISHED)


def test_a_folder_of_the_same_layout(tmp_path):
    benchmark = read_benchmark(made_up.dreambench(tmp_path / "dataset"), 3)
    assert benchmark == read_benchmark(tmp_path, 3)  # the folder above, as in the repository google/dreambooth
    can, cat, vase = benchmark.subjects
    assert (can.noun, can.kind, cat.kind) == ("cup", "object", "live")
    assert can.prompts() == ("a cup on the beach", "a red cup")
    assert cat.prompts("sks") == ("a sks cat on the grass", "a blue sks cat")
    assert names(can.references) == ["01.jpg", "00.jpg", "04.jpg"]
    assert names(cat.images) == [f"{i:02}.jpg" for i in range(6)]
    assert names(vase.references)[0] == "02.jpg"
    assert any("3 subjects in the folder" in x for x in benchmark.remarks)
    assert any("2 and 2 prompts" in x for x in benchmark.remarks)


def test_unlisted_subjects_give_their_first_images(tmp_path):
    benchmark = read_benchmark(made_up.dreambench(tmp_path, {"my_cup": "cup"}), 3)
    assert names(benchmark.subjects[0].references) == ["00.jpg", "01.jpg", "02.jpg"]
    assert "1 subjects are not DreamBench's" in benchmark.remarks[0]


def test_a_list_of_ones_own(tmp_path):
    made_up.dreambench(tmp_path / "data")
    lists = {"can": ["05.jpg", "03"], "cat": ["00.jpg"], "vase": ["01"]}
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    benchmark = read_benchmark(tmp_path / "data", lists=tmp_path / "lists.json")
    assert [names(x.references) for x in benchmark.subjects] == [["05.jpg", "03.jpg"], ["00.jpg"], ["01.jpg"]]
    assert "the references are not the usual ones: they are by another list" in benchmark.remarks
    for wrong, message in [
        ({"can": ["05.jpg"]}, "none for the subject 'cat'"),
        ({**lists, "dog": ["00"]}, "names 'dog', which"),
        ({**lists, "can": ["09.jpg"]}, r"can: no image '09\.jpg'"),
        ({**lists, "can": []}, r'expected \{"SUBJECT"'),
        ([], r'expected \{"SUBJECT"'),
    ]:
        (tmp_path / "lists.json").write_text(json.dumps(wrong))
        with pytest.raises(BenchmarkError, match=message):
            read_benchmark(tmp_path / "data", lists=tmp_path / "lists.json")


def test_dreambench_plus(tmp_path):
    benchmark = read_benchmark(made_up.dreambench_plus(tmp_path))
    assert benchmark.name == "DreamBench++"
    animal, cup = benchmark.subjects
    assert (animal.name, animal.noun, animal.kind) == ("live_subject_animal_00", "Cat", "live subject animal")
    assert (cup.name, cup.kind) == ("object_03", "object")
    assert cup.prompts("sks") == ("red cup on the beach", "red cup in the grass", "red cup with a bird")
    assert animal.images == animal.references == (tmp_path / "images/live_subject/animal/00.jpg",)
    assert len(benchmark.remarks) == 2  # neither 150 subjects nor 9 prompts
    with pytest.raises(BenchmarkError, match="one image a subject"):
        read_benchmark(tmp_path, 3)
    (tmp_path / "images/object/03.jpg").unlink()
    with pytest.raises(BenchmarkError, match=r"03\.txt: 0 files images/object/03\.\*"):
        read_benchmark(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("Live Subject Prompts", "Animals"), "no section 'Live Subject Prompts'"),
        (lambda text: text.replace("can,cup", "can"), "each line is SUBJECT,NOUN"),
        (lambda text: text.replace("can,cup", "../can,cup"), r"subject '\.\./can'"),
        (lambda text: text.replace("a red {0} {1}", "a red thing"), "under 'Object Prompts' each prompt"),
        (lambda text: text.replace("can,cup", "pot,cup"), "pot: no such folder"),
        (lambda text: "", "no section 'Classes'"),
    ],
)
def test_prompt_files_that_make_no_sense(tmp_path, change, message):
    file = made_up.dreambench(tmp_path) / "prompts_and_classes.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(BenchmarkError, match=message):
        read_benchmark(tmp_path)


def test_folders_that_make_no_sense(tmp_path):
    with pytest.raises(BenchmarkError, match="absent: no such folder"):
        read_benchmark(tmp_path / "absent")
    with pytest.raises(BenchmarkError, match="neither DreamBench"):
        read_benchmark(tmp_path)
    made_up.dreambench(tmp_path)
    for i in (2, 3, 4, 5):
        (tmp_path / "can" / f"{i:02}.jpg").unlink()
    with pytest.raises(BenchmarkError, match="can: 2 images; expected 3 or more"):
        read_benchmark(tmp_path, 3)
    (tmp_path / "prompts_and_classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        read_benchmark(tmp_path)


def test_a_prompt_with_an_apostrophe(tmp_path):
    file = tmp_path / "prompts_and_classes.txt"
    text = made_up.prompts_file().replace("'a red {0} {1}'", '"a child\'s {0} {1}"')
    file.write_text(text)
    assert read_prompts(file)[1]["object"] == ("a {} on the beach", "a child's {}")
