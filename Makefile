PYTHON := .venv/bin/python
PYTEST_ARGS ?=

.PHONY: help setup demo test check doctor clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## everything below does this first: .venv, Horovod, the compiled kernels
	@bootstrap/install.sh

demo: setup ## train digits without and with compression, print one table
	@$(PYTHON) examples/demo.py

test: setup ## all tests; more options: make test PYTEST_ARGS="-x -k lanes"
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

check: setup ## lint, format, types, file sizes
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@find hvd_gqsgd examples tests bootstrap benchmarks -type f \( -name '*.py' -o -name '*.sh' -o -name '*.cpp' -o -name '*.h' \) \
		-exec awk 'END { if (FNR > 300) print "warning: " FILENAME " has " FNR " lines; one thing per file (300)" }' {} \; \
		2>/dev/null || true

doctor: setup ## what is installed, what is built, what is missing
	@.venv/bin/hvd-gqsgd doctor

clean: ## remove what was built here; the Horovod wheel stays in the user's cache
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find hvd_gqsgd -name '*.so' -delete
	find hvd_gqsgd tests examples -name __pycache__ -prune -exec rm -rf {} +
