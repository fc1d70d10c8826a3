PYTHON := .venv/bin/python
PYTEST_ARGS ?=

.PHONY: help setup demo test test-cluster check bench check-arm64 doctor clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## everything below does this first: .venv, Horovod, the compiled kernels
	@bootstrap/install.sh

demo: setup ## train digits without and with compression, print one table
	@$(PYTHON) examples/demo.py

test: setup ## all tests; more options: make test PYTEST_ARGS="-x -k lanes"
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

test-cluster: setup ## the image, clusters of its containers, nodes that die; with docker, or podman as root
	@docker/with-engine $(PYTHON) -m pytest tests/cluster $(PYTEST_ARGS)

check: setup ## lint, format, types, file sizes
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@MYPYPATH=docker $(PYTHON) -m mypy --explicit-package-bases --scripts-are-modules docker/cluster docker/engine.py
	@find hvd_gqsgd examples tests bootstrap benchmarks docker -type f \( -name '*.py' -o -name cluster -o -name '*.sh' -o -name '*.cpp' -o -name '*.h' \) \
		-exec awk 'END { if (FNR > 300) print "warning: " FILENAME " has " FNR " lines; one thing per file (300)" }' {} \; \
		2>/dev/null || true

bench: setup ## as root: what it gains between two shaped hosts, ten minutes; benchmarks/README.md has the others
	@$(PYTHON) -W ignore -m benchmarks.steps --links 1gbit 10gbit --models mlp --json build/bench.json
	@$(PYTHON) -m benchmarks.report build/bench.json --plots build/plots

check-arm64: ## compile the kernels for arm64, with Debian's g++-aarch64-linux-gnu
	@for file in hvd_gqsgd/*/csrc/*.cpp; do \
		aarch64-linux-gnu-g++ -std=c++17 -O3 -fno-math-errno -ffp-contract=off -fopenmp -Wall -Wextra -Werror \
			-c -o /dev/null $$file || exit 1; done; echo "arm64: compiles"

doctor: setup ## what is installed, what is built, what is missing
	@.venv/bin/hvd-gqsgd doctor

clean: ## remove what was built here; the Horovod wheel stays in the user's cache
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find hvd_gqsgd -name '*.so' -delete
	find hvd_gqsgd tests examples benchmarks docker -name __pycache__ -prune -exec rm -rf {} +
