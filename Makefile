# Everything runs in .venv. The first target that needs it creates it from requirements.lock, where
# every package is pinned with its hash. To use an environment of your own: make test PY=python
#
#   make demo   PYTHON=python3.12      another Python for .venv
#   make demo   ARGS="--seed 1"        options for the command behind the target

PYTHON ?= python3
VENV   := .venv
PY     ?= $(VENV)/bin/python
ARGS   ?=

# With PY=... the environment is the caller's and nothing is installed.
READY  := $(if $(filter $(VENV)/bin/python,$(PY)),$(VENV)/.stamp)
WITH   := PYTHONPATH="$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH}" $(PY)

# One thread a test process: two processes on two cores are faster than two threads in each.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(WITH) -m pytest -n auto --maxprocesses=8 --dist loadgroup

.DEFAULT_GOAL := help
# The versions that people have: torch 2.11, and everything at the least version that pyproject.toml
# allows. The tests are those of what depends on versions most.
VERSIONS     := 2.11 floor
WITH_2.11    := 'torch==2.11.*' 'numpy<2.4' --constraint .venv-2.11/constraints.txt
WITH_floor   := --resolution lowest-direct
OF_VERSIONS  := $(patsubst %,tests/ops/test_%.py,attend cpp dpc_knn linear merge regroup cases token_conv triton) \
    tests/test_tokens.py tests/test_images.py tests/export/test_making.py tests/predict/test_predict.py \
    $(patsubst %,tests/models/test_%.py,backbone compile_export golden mlp timm_contract) tests/weights/test_released.py \
    $(patsubst %,--deselect tests/%,models/test_golden.py::test_training_follows_the_published_code \
        models/test_compile_export.py::test_compile_makes_one_graph_forward ops/test_triton.py::test_the_kernels_in_the_interpreter)

.PHONY: help demo test test-slow test-versions faults check format bench docs lock clean
.PHONY: $(VERSIONS:%=test-%)

help:
	@echo 'make demo       train, evaluate and draw tokens on handwritten digits; no data, no GPU'
	@echo 'make test       the fast tests (about 5 minutes on 2 cores)'
	@echo 'make test-slow  the tests that `make test` leaves out'
	@echo 'make test-versions  the part of them that torch 2.11 and the least versions allowed must pass'
	@echo 'make faults     campaigns of injected faults; ARGS="kill --trials 100 --seed 7" for one of them'
	@echo 'make check      lint, format, types, import contracts, spelling'
	@echo 'make format     let ruff put right what it can'
	@echo 'make bench      our models beside PVTv2s of the same size; ARGS="--help" for more'
	@echo 'make docs       write the generated pages, check all of them, build the site into site/'
	@echo 'make lock       resolve requirements.lock anew'
	@echo 'make clean      remove what the other targets made, .venv included'

demo: $(READY)
	@$(WITH) -m tcformer demo $(ARGS)

test: $(READY)
	@$(PYTEST) $(ARGS)

test-slow: $(READY)
	@$(PYTEST) -m slow $(ARGS)

test-versions: $(VERSIONS:%=test-%)

$(VERSIONS:%=test-%): test-%: .venv-%/.stamp
	@$(MAKE) --no-print-directory test PY=.venv-$*/bin/python ARGS="-m 'not slow or versions' $(OF_VERSIONS) $(ARGS)"

$(VERSIONS:%=.venv-%/.stamp): .venv-%/.stamp: pyproject.toml requirements.lock $(READY)
	@echo 'Preparing .venv-$* ...'
	@$(PY) -m uv venv --quiet --clear --python $(PY) .venv-$*
	@grep -oE '^[a-z0-9._-]+==[^\]*' requirements.lock | \
	    grep -vE '^(torch|torchvision|triton|numpy|setuptools|cuda-.*|nvidia-.*)==' > .venv-$*/constraints.txt
	@UV_HTTP_TIMEOUT=$${UV_HTTP_TIMEOUT:-180} $(PY) -m uv pip install --quiet --python .venv-$*/bin/python \
	    $(WITH_$*) -r pyproject.toml --extra dev --extra weights
	@touch $@

faults: $(READY)
	@$(WITH) tests/faults/run.py $(ARGS)

check: $(READY)
	@$(WITH) -m ruff check .
	@$(WITH) -m ruff format --check .
	@$(WITH) -m mypy
	@$(WITH) -c 'from importlinter.cli import lint_imports_command as run; run()' $(ARGS)
	@$(WITH) -m codespell_lib

format: $(READY)
	@$(WITH) -m ruff check --fix .
	@$(WITH) -m ruff format .

bench: $(READY)
	@$(WITH) -m tcformer bench $(ARGS)

docs: $(READY)
	@$(WITH) docs/tables.py
	@$(WITH) docs/plots.py
	@$(WITH) -m pytest -q tests/contracts/test_docs.py $(ARGS)
	@NO_MKDOCS_2_WARNING=1 $(WITH) -m mkdocs build --quiet --strict
	@echo 'The site is written: open site/index.html'

lock: $(READY)
	@$(PY) -m uv pip compile --quiet --upgrade --universal --generate-hashes --all-extras \
	    --no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements.lock
	@if grep -nE '://|file:' requirements.lock; then \
	    echo 'error: requirements.lock holds an address; resolve it from a plain index.' >&2; exit 1; fi

clean:
	@rm -rf $(VENV) $(VERSIONS:%=.venv-%) build dist site .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv is taken from the lock as well, and installs the rest several times faster than pip does. Where
# it cannot be had or fails, pip installs the same lock.
$(VENV)/.stamp: pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { \
	    echo 'error: $(PYTHON) is not on the path; install Python 3.11 or newer, or say make PYTHON=/path/to/python.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $$($(PYTHON) --version) is too old; tcformer needs Python 3.11 or newer: make PYTHON=python3.11 (or newer)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'error: $(PYTHON) has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv).' >&2; exit 1; }
	@echo 'Preparing .venv from requirements.lock (about 6 GB; a minute or two on a fast line) ...'
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.lock
	@{ $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock && \
	   UV_HTTP_TIMEOUT=$${UV_HTTP_TIMEOUT:-180} $(VENV)/bin/python -m uv pip install --quiet --compile-bytecode \
	       --python $(VENV)/bin/python --require-hashes -r requirements.lock; } || { \
	   echo 'uv could not install the lock; trying plain pip, which takes longer ...' >&2; \
	   $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; }
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
