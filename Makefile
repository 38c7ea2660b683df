# Every target sets up what it needs first, so a fresh clone can start anywhere. Settings: PYTHON, WHEELS and ACCELERATOR (requirements/install.sh);
# WORKERS of make test.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A directory with the CPU build of torch, used where it exists.
WHEELS ?= $(wildcard ../shared/wheels)
ACCELERATOR ?= $(if $(wildcard /dev/nvidia0)$(shell command -v nvidia-smi),cuda,cpu)
export WHEELS ACCELERATOR
# Tests that run side by side: one more than the two cores that are enough, since much of the time a server is waited for.
WORKERS ?= 3

BIN := .venv/bin
READY := .venv/ready-$(ACCELERATOR)
READY_VLLM := .venv/ready-vllm-$(ACCELERATOR)
DEMO_HOME := .semievol/demo

CHART_BIN := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/semievol/bin
KUBERNETES_VERSIONS ?= 1.30.14 1.34.4 1.37.2

.PHONY: help setup setup-vllm demo test test-cluster cluster-ready e2e e2e-vllm lint proto docs bench images test-images format lock clean cluster-up cluster-down chart chart-docs

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with the locked dependencies (CPU builds where there is no NVIDIA GPU)
	@echo "setup: ready; try make demo, or .venv/bin/semievol --help"

$(READY): requirements/install.sh requirements/lock.txt requirements/torch-cpu.txt requirements/torch-pypi.txt pyproject.toml
	@requirements/install.sh
	@rm -f .venv/ready-cpu .venv/ready-cuda && touch $@

setup-vllm: $(READY_VLLM) ## add vLLM to .venv, for engine: vllm (3 GB more)
	@echo "setup: vLLM is ready; try engine: vllm in a run file"

$(READY_VLLM): $(READY) requirements/install-vllm.sh requirements/vllm-cpu.txt requirements/vllm-cuda.txt
	@requirements/install-vllm.sh
	@rm -f .venv/ready-vllm-* && touch $@

demo: export SEMIEVOL_HOME = $(DEMO_HOME)
demo: $(READY) ## evolve a small model on the townhall example, then ask it a question
	$(BIN)/semievol run -f examples/townhall/run.yaml
	$(BIN)/semievol generate -f examples/townhall/run.yaml "The streetlight outside my house has been out for a week."

test: $(READY_VLLM) ## run the tests, those with the real models, vLLM and servers included
	deploy/devcluster/build.sh minio helm
	$(BIN)/pytest -m "not cluster" -n $(WORKERS)

test-cluster: cluster-ready ## run the tests that need a real Kubernetes, but for the whole story (needs root; the cluster stays up)
	$(BIN)/pytest -m "cluster and not story"

e2e: cluster-ready ## the whole story on a real Kubernetes: install, evolve, disturb, ask, promote, upgrade, uninstall (needs root; the cluster stays up)
	$(BIN)/pytest -m "cluster and story" -s

e2e-vllm: export STORY_ENGINE = vllm
e2e-vllm: CLUSTER_IMAGES += engine
e2e-vllm: e2e ## the same with vLLM in the engine pods

CLUSTER_IMAGES = core embedding training
cluster-ready: $(READY)
	deploy/docker/build.sh $(CLUSTER_IMAGES)
	deploy/devcluster/servers.sh
	deploy/devcluster/build.sh helm
	deploy/devcluster/up.sh
	deploy/devcluster/load.sh $(CLUSTER_IMAGES:%=localhost/semievol-%:dev) localhost/minio:dev localhost/milvus:dev

lint: $(READY) ## check style, types, import boundaries, protos and that generated files are current
	@failed=0; \
	check() { echo "-- $$*"; "$$@" || failed=$$((failed + 1)); }; \
	check $(BIN)/ruff check .; \
	check $(BIN)/ruff format --check .; \
	check $(BIN)/mypy; \
	check $(BIN)/lint-imports --no-logo; \
	check $(BIN)/buf lint proto; \
	check proto/generate.sh --check; \
	command_reference() { $(BIN)/python -m semievol.cli.reference | diff docs/cli.md - || { echo "docs/cli.md: run make docs"; false; }; }; \
	check command_reference; \
	if [ $$failed != 0 ]; then echo "lint: $$failed checks failed"; exit 1; fi; \
	echo "lint: all checks passed"

proto: $(READY) ## generate the API's Python code from proto/
	proto/generate.sh

docs: $(READY) ## write docs/cli.md from the commands
	$(BIN)/python -m semievol.cli.reference >docs/cli.md

chart: $(READY) ## lint the chart, run its unit tests, validate what it renders against Kubernetes' API, check its generated files
	deploy/devcluster/build.sh helm helm-docs helm-unittest kubeconform
	helm/check.sh $(KUBERNETES_VERSIONS)

chart-docs: $(READY) ## write the chart's README and schema
	deploy/devcluster/build.sh helm-docs
	$(BIN)/python helm/schema.py
	cd helm/semievol && $(CHART_BIN)/helm-docs --log-level warning

bench: $(READY_VLLM) ## run every benchmark, one after the other (BENCH=name runs one)
	@deploy/devcluster/build.sh minio
	@for name in $${BENCH:-$$(grep -l '__main__' benchmarks/*.py | sed 's#benchmarks/##; s#\.py$$##')}; do \
	  echo "== benchmarks.$$name"; \
	  $(BIN)/python -m "benchmarks.$$name"; \
	done

images: ## build the container images (IMAGES="core engine" builds those)
	deploy/docker/build.sh $(IMAGES)

test-images: $(READY) images ## try the built images, each the way that a strict pod runs it (asks for root)
	$(BIN)/pytest tests/images

cluster-up: ## bring up a real Kubernetes of one node on this machine (GPUS=n counts so many GPUs; needs root)
	deploy/devcluster/up.sh

cluster-down: ## take it down, without a trace
	deploy/devcluster/down.sh

format: $(READY) ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY) ## resolve pyproject.toml anew into requirements/
	requirements/lock.sh

clean: ## remove caches and the demo's state; .venv stays
	rm -rf $(DEMO_HOME) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find services tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
