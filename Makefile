# Everything a fresh clone needs. `make run` serves the embedded model, `make test` runs the suite.
.PHONY: setup setup-dev run check test attack demo faults lint protos lock bench clean
SHELL := /bin/bash
BIN := .venv/bin
# Without a GPU two workers share the processor; with GPUs it is one worker for each.
WORKERS ?= $(shell nvidia-smi -L 2>/dev/null | grep -q GPU || echo --workers 2)

setup:            ## .venv from the pinned lists, and the embedded model converted once
	@requirements/setup.sh

setup-dev:        ## the same and the tools of the tests
	@requirements/setup.sh dev

run: setup        ## serve the embedded model on 127.0.0.1:11434 until Ctrl-C
	@exec $(BIN)/vllama serve smollm2:135m $(WORKERS)

demo: setup       ## start the fleet, stream 20 chats at once, show who served them, stop
	@$(BIN)/python -m vllama_benchmarks.demo --streams 20

check: setup-dev  ## in minutes: lint, and the tests that start no real engine, cluster, browser or fault and are quick
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -q -m "not (real or ray or browser or faults or attack or slow)"

test: setup-dev   ## the whole suite, of faults and attacks only the quick ones
	@$(BIN)/python -m pytest -m "not (faults or attack) or quick"

attack: setup-dev ## hostile clients beside innocent ones, as a table
	@$(BIN)/python -m pytest -m attack

faults: setup-dev ## the whole fault matrix, as a table, the lost nodes of a Ray cluster, three minutes of chaos
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-180} $(BIN)/python -m pytest -m faults

bench: setup       ## each door beside the bare engine and vLLM's own server, in turn; BENCH="--each 3" for more
	@$(BIN)/vllama bench compare --no-samples --concurrency 1,10,50 --each 1 --repeats 2 \
	  --json benchmarks/cpu.json --html benchmarks/cpu.html $(BENCH)
	@$(BIN)/vllama bench compare --no-samples --doors bare,worker,balancer,chat,v1 --interleave --concurrency 1 \
	  --prompt-tokens 16 --max-tokens 1 --requests 80 --repeats 1 \
	  --json benchmarks/first-token.json --html benchmarks/first-token.html $(BENCH)
	@$(BIN)/python -m vllama_benchmarks.bench.readme docs/benchmarks.md benchmarks/cpu.json benchmarks/first-token.json

lint: setup-dev   ## ruff, mypy, whether the stubs fit the protos, and these the last release
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python protos/generate.py --check
	@$(BIN)/python protos/breaking.py

protos: setup-dev ## regenerate the gRPC stubs
	@$(BIN)/python protos/generate.py

lock:             ## resolve the pinned lists anew
	@requirements/lock.sh

clean:            ## forget the environment; the model store stays
	@rm -rf .venv
