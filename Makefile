# make quickstart   install into .venv, train a dual model on CPU in about three minutes, print the table
# make test         install what the tests need, run them
# make check        lint, types, and a dry run of every recipe and every sweep
# make bench        measure every claim about speed (about an hour); SHORT=1: only see that every script runs

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check bench clean

quickstart: .venv/installed
	@echo "Training recipes/quickstart.yaml; a second call shows the finished run again."
	$(BIN)/dualm train recipes/quickstart.yaml

test: .venv/installed-dev
	$(BIN)/pytest --durations=20

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	@for recipe in recipes/*.yaml; do \
		echo "$(BIN)/dualm plan $$recipe"; $(BIN)/dualm plan $$recipe > /dev/null || exit 1; \
	done
	@for sweep in sweeps/*.yaml; do \
		echo "$(BIN)/dualm sweep $$sweep --dry-run"; $(BIN)/dualm sweep $$sweep --dry-run > /dev/null || exit 1; \
	done

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.run $(if $(SHORT),--short)

.venv/installed: requirements.txt pyproject.toml
	@echo "Installing dualm into .venv"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

WANTED := requirements-dev.txt requirements-eval.txt requirements-analysis.txt requirements-sweep.txt

.venv/installed-dev: .venv/installed $(WANTED)
	@echo "Installing what the tests need"
	$(BIN)/pip install --quiet $(WANTED:%=-r %)
	@touch $@

clean:
	rm -rf .venv runs prepared
