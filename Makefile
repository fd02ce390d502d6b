PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.freqrob-ready
DOCS_READY := $(VENV)/.freqrob-docs-ready
REPORT ?= report
EXTRAS ?= all,test

.PHONY: demo test test-all test-all-pythons test-oldest sanitize cuda lint docs format clean

demo: $(READY)
	$(VENV)/bin/freqrob demo --out $(REPORT)/

# What a file's tests share is set up once if they stay in one process.
test: $(READY)
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

test-all: $(READY)
	$(VENV)/bin/python -m pytest -m ""

# The tests on each supported Python that this machine has.
test-all-pythons:
	$(PYTHON) tests/project/all_pythons.py

# The tests with the oldest versions of all dependencies; PYTHON is 3.10 or 3.11, which they have wheels for.
test-oldest:
	PIP_CONSTRAINT=$(CURDIR)/tests/oldest.txt $(MAKE) test VENV=.venv-oldest EXTRAS=foolbox,autoattack,test

# The native code under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(READY)
	$(VENV)/bin/python tests/project/sanitized.py

# The CUDA sources for every architecture: no warning, no register spill. No GPU is needed.
cuda: $(READY)
	$(VENV)/bin/python tests/project/cuda_compiles.py

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/zizmor --offline --quiet --persona pedantic .github
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@files="$$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')"; \
	if [ -n "$$files" ]; then $(VENV)/bin/clang-format --dry-run --Werror $$files; fi

# The manual: docs/_build/html/index.html. Once the packages are installed, no network is needed.
docs: $(DOCS_READY)
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	@files="$$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')"; \
	if [ -n "$$files" ]; then $(VENV)/bin/clang-format -i $$files; fi

$(READY): pyproject.toml setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --upgrade pip
	$(VENV)/bin/python -m pip install --editable '.[$(EXTRAS)]'
	touch $@

$(DOCS_READY): $(READY)
	$(VENV)/bin/python -m pip install --editable '.[docs]'
	touch $@

clean:
	rm -rf build dist *.egg-info .venv*/.freqrob-ready .venv*/.freqrob-docs-ready docs/_build docs/gallery
