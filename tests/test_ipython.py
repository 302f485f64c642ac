"""A real IPython, started in the checkout, completes code, though `jedi` is our package there."""

import json
import os
import subprocess

import pytest

SESSION = """
import json, sys
from IPython.core.completer import provisionalcompleter
completer = get_ipython().Completer
answer = {"use_jedi": completer.use_jedi}
text = "import collections; collections.Ordered"
with provisionalcompleter():
    found = list(completer.completions(text, len(text)))
answer["completions"] = [[c.text, c._origin] for c in found]
import jedi
answer["file"] = jedi.__file__
answer["torch"] = "torch" in sys.modules
print("ANSWER" + json.dumps(answer))
"""


@pytest.mark.slow
def test_ipython_completes_in_the_checkout(python, root, tmp_path):
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python, "-m", "IPython", "--no-banner", "--colors=NoColor", "-c", SESSION],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ANSWER" in done.stdout, done.stdout + done.stderr
    answer = json.loads(done.stdout.split("ANSWER")[1])
    assert answer["use_jedi"] is True
    assert ["OrderedDict", "jedi"] in answer["completions"]
    assert answer["file"] == str(root / "jedi" / "__init__.py")
    assert answer["torch"] is False


def test_the_other_library_s_names_are_passed_on():
    import jedi
    import jedi.settings

    source = "class Fox:\n    tail = 1\n\nFox().ta"
    assert [c.name for c in jedi.Script(source).complete(4, 8)] == ["tail"]
    assert [c.name for c in jedi.Interpreter("fox.app", [{"fox": []}]).complete()] == ["append"]
    assert jedi.settings.case_insensitive_completion in (True, False)
    assert issubclass(jedi.InvalidPythonEnvironment, Exception)
    assert issubclass(jedi.RefactoringError, Exception)


def test_all_of_the_other_library_s_public_names(python, tmp_path):
    """Whatever that library's own __init__ offers, ours offers too: one attribute after the other."""
    import jedi

    (tmp_path / "jedi").symlink_to(next(p for p in jedi.__path__ if p != jedi.__path__[0]))
    listing = "import jedi, json; print(json.dumps([n for n in vars(jedi) if not n.startswith('_')]))"
    done = subprocess.run([python, "-c", listing], cwd=tmp_path, capture_output=True, text=True, check=True)
    names = json.loads(done.stdout)
    assert "Interpreter" in names
    assert "create_environment" in names
    assert [name for name in names if not hasattr(jedi, name)] == []


def test_an_unknown_name_is_an_attribute_error():
    import jedi

    with pytest.raises(AttributeError, match=r"'JediPipelin'; it offers .*JediPipeline"):
        getattr(jedi, "JediPipelin")  # noqa: B009
