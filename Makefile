# make quickstart   install into .venv, train a dual model on CPU in about three minutes, print the table
# make test         install what the tests need, run them
# make check        lint, types, and a dry run of every recipe

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check clean

quickstart: .venv/installed
	@echo "Training recipes/quickstart.yaml; a second call shows the finished run again."
	$(BIN)/dualm train recipes/quickstart.yaml

test: .venv/installed-dev
	$(BIN)/pytest

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	@for recipe in recipes/*.yaml; do \
		echo "$(BIN)/dualm plan $$recipe"; $(BIN)/dualm plan $$recipe > /dev/null || exit 1; \
	done

.venv/installed: requirements.txt pyproject.toml
	@echo "Installing dualm into .venv"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	@echo "Installing what the tests need"
	$(BIN)/pip install --quiet -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv runs prepared
