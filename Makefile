PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Nothing tells anybody that it ran, and tokenizers do not warn about the processes of a parallel test run.
export DO_NOT_TRACK := true
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export TOKENIZERS_PARALLELISM := false
# uv leaves compiling to the first import. Where the environment forbids to keep what was compiled, every run would do it again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup audit check audit-dependencies test docs faults fuzz mutants ranges notebook pictures bench bench-peers profile

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Make .venv, with everything pinned in requirements.lock and NeuronLens on top.

audit: setup ## Make the embedded example and audit it into audits/example.
	$(BIN)/neuronlens example
	$(BIN)/neuronlens audit --out audits/example

check: setup ## Lint, types, the order of the floors, and what is installed against what is asked for.
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pip check
	@$(TELL_UV); $(BIN)/python -m tests.advisories --seconds 9

audit-dependencies: setup ## Look up known weaknesses of what is installed; `check` does where the index answers in seconds.
	@$(TELL_UV); $(BIN)/python -m tests.advisories

# Half of what a test of whole runs takes is waiting, for a server or for a process to start: one worker more than there are processors.
WORKERS := $(shell n=$$(getconf _NPROCESSORS_ONLN); [ "$$n" -lt 4 ] && echo $$((n + 1)) || echo 4)

# Files in their own order: pytest-xdist would take those of few tests last, which are the slow ones.
test: check ## All tests, after the checks.
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

faults: setup ## All cells of fault injection, of which `test` looks at a sample.
	NEURONLENS_FAULTS=all $(BIN)/pytest -n $(WORKERS) tests/faults tests/flows/test_faults.py tests/flows/test_kill.py
	$(BIN)/python -m tests.faults.cells

fuzz: setup ## Give more than 10,000 inputs of every kind to all that reads, of which `test` tries a sample; takes a quarter of an hour.
	NEURONLENS_FUZZ=thorough $(BIN)/pytest -n $(WORKERS) tests/fuzz

mutants: setup ## Change ranges, interventions and evaluation in one place at a time, and list what no test notices; takes hours.
	[ -x .mutants/bin/python ] || $(PYTHON) -m venv .mutants
	@$(TELL_UV); set -x; $(BIN)/uv pip install --quiet --python .mutants/bin/python --constraint requirements.lock --editable '.[mutants]'
	PATH="$(CURDIR)/.mutants/bin:$$PATH" .mutants/bin/python -m tests.mutation

# torch alone stays as it is pinned: the newest one may come with gigabytes of libraries for accelerators.
ranges: setup ## Run flows on the newest releases that pyproject.toml admits, installed into .ranges without the lock file.
	$(PYTHON) -m venv --clear .ranges
	grep '^torch==' requirements.lock > .ranges/torch.txt
	@$(TELL_UV); set -x; $(BIN)/uv pip install --quiet --python .ranges/bin/python --constraint .ranges/torch.txt --editable '.[dev]'
	.ranges/bin/python -m pip check
	.ranges/bin/python -m pytest tests/flows/test_audit.py

# The extra is installed beside what the lock pins, which stays as it is.
docs: setup ## Build the documentation as a site into site/, with the packages of the extra `docs`.
	@$(TELL_UV); set -x; $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build

notebook: setup ## Run the worked notebook on the example, and keep what it shows.
	$(BIN)/neuronlens example
	$(BIN)/python -m tests.notebook

pictures: audit ## Take the pictures of the documentation anew, in Chromium.
	$(BIN)/python -m tests.pictures

bench: setup ## Measure, and print what the documentation quotes.
	$(BIN)/python -m benchmarks

bench-peers: setup ## Measure extraction beside that of other tools, each installed below .peers.
	@$(TELL_UV); $(BIN)/python -m benchmarks.peers

profile: setup ## Tell where extraction spends its time, inside the model and outside it.
	$(BIN)/python -m benchmarks.profile

# uv installs in seconds what takes pip minutes. It does not read pip's configuration, so mirrors, wheel folders and
# certificates that pip has been told of are handed on; where it cannot do the job, pip does.
TELL_UV = told() { $(BIN)/python -m pip config list | sed -n "s/^[^=]*\.$$1='\(.*\)'$$/\1/p" | sed 's/\\n/ /g' | head -n 1; }; \
	export UV_INDEX_STRATEGY="$${UV_INDEX_STRATEGY-unsafe-best-match}"; \
	links=$$(told find-links | tr -s ' ' ','); [ -z "$$links" ] || export UV_FIND_LINKS="$${UV_FIND_LINKS-$$links}"; \
	index=$$(told index-url); [ -z "$$index" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX-$$index}"; \
	extra=$$(told extra-index-url); [ -z "$$extra" ] || export UV_INDEX="$${UV_INDEX-$$extra}"; \
	cert=$$(told cert); [ -z "$$cert" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE-$$cert}"

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	@$(TELL_UV); \
	set -x; \
	{ $(BIN)/pip install --quiet $$(grep '^uv==' requirements.lock) && $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock; } \
		|| $(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
