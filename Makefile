.DEFAULT_GOAL := help
SECONDS ?= 60
COUNT ?= 1000000
SEED ?= 1
BASE ?=
.PHONY: help setup fmt check actionlint test prove fuzz million preview down lock docs migrations-hash

PYTHON ?= python3
BIN := .venv/bin
ACTIONLINT := v1.7.12
# a .venv that was moved, or whose making was cut off, lacks this file and is made anew
SETUP := .venv/.setup$(subst /,-,$(CURDIR))

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

setup: $(SETUP) ## make .venv with everything the project needs

$(SETUP): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Cannot set up: $(PYTHON) is older than 3.11. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Cannot set up: $(PYTHON) comes without venv, as Debian ships it. Install it: apt-get install python3-venv" >&2; exit 1; }
	test -e $@ || $(PYTHON) -m venv --clear .venv
	@touch -t 197001010000 $@
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	$(BIN)/uv pip sync --system-certs --quiet --python $(BIN)/python --require-hashes requirements/dev.lock requirements/uv.lock
	$(BIN)/uv pip install --system-certs --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

fmt: $(SETUP) ## format and fix what tools can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(SETUP) ## lint, types, import rules, dead values, docs, migrations; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/zizmor --quiet --offline --persona=auditor .github/workflows
	@if command -v go > /dev/null; then $(MAKE) --no-print-directory actionlint; else echo "skipped actionlint: it needs Go, which is not installed; CI runs it"; fi
	$(BIN)/python tools/chart_readme.py --check
	cd projects/monolith && ../../$(BIN)/python -m tests.chart.lifecycle --check
	cd projects/monolith && ../../$(BIN)/python -m tests.escapes.table --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/interrogate --quiet projects/monolith/tests
	$(BIN)/monolith preview migrations
	$(BIN)/pytest --quiet projects/monolith/tests/test_architecture.py projects/monolith/tests/test_docs.py projects/monolith/tests/test_guarantees.py projects/monolith/tests/chart/test_values.py

actionlint: $(SETUP) ## lint the workflows with actionlint, built from its source; needs Go
	@test -x .venv/actionlint/$(ACTIONLINT)/actionlint || GOFLAGS= GOBIN=$(CURDIR)/.venv/actionlint/$(ACTIONLINT) go install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT)
	.venv/actionlint/$(ACTIONLINT)/actionlint -shellcheck= -pyflakes=

test: $(SETUP) ## run the tests, with a real Postgres that comes as a wheel
	$(BIN)/pytest --numprocesses auto

prove: $(SETUP) ## try 1,000 examples a property, then mutate the guard's core, or with BASE=main what changed of it
	$(BIN)/pytest --numprocesses auto -m hypothesis --hypothesis-profile ci projects/monolith/tests/shared
	$(BIN)/python tools/prove.py $(if $(BASE),--changed $(BASE))

fuzz: $(SETUP) ## hunt for what breaks a promise, for SECONDS=60; exit code 1 where something is found
	@$(BIN)/python tools/fuzz.py hunt --seconds $(SECONDS)

million: $(SETUP) ## judge COUNT=1000000 generated DSNs of SEED=1 by what asyncpg does with them
	@$(BIN)/python tools/fuzz.py dsns --count $(COUNT) --seed $(SEED)

preview: $(SETUP) ## run a muted preview of this branch on a clone of the data
	@$(BIN)/monolith preview up 7

down: $(SETUP) ## tear down every local preview
	@$(BIN)/monolith preview down --all

docs: $(SETUP) ## rewrite what is generated: the chart's README, the life of a preview, what was tried
	$(BIN)/python tools/chart_readme.py
	cd projects/monolith && ../../$(BIN)/python -m tests.chart.lifecycle
	cd projects/monolith && ../../$(BIN)/python -m tests.escapes.table

lock: $(SETUP) ## compile requirements/*.lock anew
	$(BIN)/uv pip compile --system-certs --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o requirements/app.lock
	$(BIN)/uv pip compile --system-certs --quiet --universal --python-version 3.11 --generate-hashes --no-header --all-extras --group dev pyproject.toml -o requirements/dev.lock
	echo uv | $(BIN)/uv pip compile --system-certs --quiet --universal --python-version 3.11 --generate-hashes --no-header - -o requirements/uv.lock

migrations-hash: $(SETUP) ## rewrite atlas.sum after a migration was added
	$(BIN)/monolith preview migrations --write
