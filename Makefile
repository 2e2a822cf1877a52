# The front door. Everything installs into .venv (TFX into .venv-tfx); what it makes goes to .airflow and artifacts.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := $(CURDIR)/.venv/bin
ROOT ?= $(CURDIR)/artifacts
CONF ?= {}

# Exported, since make would split a value of several lines.
export CONF
export CAPTIONFLOW_ARTIFACT_ROOT := $(ROOT)
# Who runs this owns the machine. Where others may trigger, leave it unset or name what they may reach.
export CAPTIONFLOW_TRIGGER_PREFIXES ?= *
export AIRFLOW_HOME := $(CURDIR)/.airflow
export AIRFLOW__CORE__DAGS_FOLDER := $(CURDIR)/dags
export AIRFLOW__CORE__LOAD_EXAMPLES := False
export MLFLOW_TRACKING_URI ?= sqlite:///$(AIRFLOW_HOME)/mlflow.db
# Its login guards a form under which everything is open; other machines need not see it.
export AIRFLOW__API__HOST ?= 127.0.0.1
export AIRFLOW__API__PORT ?= 8080
export AIRFLOW__API__BASE_URL ?= http://localhost:$(AIRFLOW__API__PORT)
export CAPTIONFLOW_MLFLOW_UI ?= http://localhost:5000
export PATH := $(BIN):$(PATH)
# Where it is set, as in many containers, each process that starts Airflow compiles it anew, for some seven seconds.
unexport PYTHONDONTWRITEBYTECODE

SYNCED := .venv/.synced
TFX_SYNCED := .venv-tfx/.synced
DATABASE := $(AIRFLOW_HOME)/airflow.db
LOGIN := $(AIRFLOW_HOME)/simple_auth_manager_passwords.json.generated
SAMPLE := $(ROOT)/sample/manifest.json
SAMPLE_CSV := $(ROOT)/sample_csv/manifest.json

# uv comes from the machine if it has it, otherwise into .uv, at the version and hash of the lock.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What the steps say, and of Airflow's own bookkeeping and of libraries' warnings nothing.
run: export AIRFLOW__LOGGING__LOG_FORMAT := %(asctime)s %(levelname)s %(message)s
run: export AIRFLOW__LOGGING__NAMESPACE_LEVELS := airflow.api_fastapi=WARNING airflow.dag_processing=WARNING \
  airflow.models=WARNING airflow.serialization=WARNING task=WARNING
run: export PYTHONWARNINGS := ignore
# Core commands alone: KFP holds the Kubernetes provider at a version whose commands Airflow warns of.
run airflow: export AIRFLOW_PACKAGE_NAME := apache-airflow

.PHONY: run
run: $(DATABASE) $(SAMPLE) ## Run the whole DAG on the built-in sample (CONF='{"sources": …}' for other data)
	@status=0; airflow dags test image_captioning --conf "$$CONF" 2>&1 | tee $(AIRFLOW_HOME)/run.log || status=$$?; \
	! grep -q 'could not be found' $(AIRFLOW_HOME)/run.log || airflow dags list-import-errors --local; \
	run=$$(sed -n '/<TaskInstance: /{s/.*<TaskInstance: [^ ]* \([^ ]*\).*/\1/p;q}' $(AIRFLOW_HOME)/run.log); \
	[ -z "$$run" ] || captionflow summary "$(ROOT)/image_captioning/$$run"; exit $$status

.PHONY: tfx
tfx: $(SAMPLE_CSV) $(TFX_SYNCED) ## Run the TFX pipeline on the captions of the built-in sample
	captionflow tfx run --csv $(ROOT)/sample_csv/captions.csv --pipeline-root $(ROOT)/image_captioning_tfx

.PHONY: test
test: lint $(TFX_SYNCED) ## Check style, types and import rules, then run all tests in both environments
	.venv-tfx/bin/python -m pytest --confcutdir tests/tfx --numprocesses 2 --dist loadfile tests/tfx
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: lint
lint: $(SYNCED) ## ruff, bandit, mypy and import-linter
	ruff check .
	ruff format --check .
	bandit --quiet --configfile pyproject.toml --recursive .
	mypy
	lint-imports

.PHONY: audit
audit: $(SYNCED) ## Ask PyPI for known vulnerabilities in what both locks pin (needs the network)
	pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict
	pip-audit --requirement tfx_pipeline/requirements.lock --require-hashes --disable-pip --strict

.PHONY: bench
bench: $(SYNCED) ## Compare the preprocess job with img2dataset and others (BENCH='--images DIR --count 1000' …)
	python -m benchmarks.preprocess $(BENCH)

# Nothing is scheduled, so a trigger is to run at once; and each task takes a gigabyte.
airflow: export AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION := False
airflow: export AIRFLOW__CORE__PARALLELISM := 4

.PHONY: airflow
airflow: $(DATABASE) $(SAMPLE) $(SAMPLE_CSV) $(LOGIN) ## A local Airflow with its UI at http://localhost:8080, or at AIRFLOW__API__PORT (it prints the login)
	@echo "Airflow  $(AIRFLOW__API__BASE_URL)  user admin, password $$(sed 's/.*"admin": "\([^"]*\)".*/\1/' $(LOGIN))"
	airflow standalone

COMPOSE := $(if $(shell docker compose version 2>/dev/null),docker compose,docker-compose)

.PHONY: up
up: .env $(if $(filter flink,$(PROFILE)),build/flink/flink.jar) ## Airflow, PostgreSQL and MLflow in containers (it prints URL and login)
	version=$$($(PYTHON) -m captionflow.core.code_version); SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW=$$version \
	  $(COMPOSE) $(if $(PROFILE),--profile $(PROFILE)) up --build --detach
	@echo "Airflow  http://localhost:8080  user admin, password $$(sed -n 's/^ADMIN_PASSWORD=//p' .env)"
	@echo "MLflow   http://localhost:5000"

.PHONY: down
down: ## Stop the containers; what they made stays
	$(COMPOSE) --profile flink down

.PHONY: logs
logs: ## Follow what the containers say
	$(COMPOSE) --profile flink logs --follow --tail 100

# Always: it adds what an .env of before lacks.
.PHONY: .env
.env:
	@docker/make-env.sh

.PHONY: flink
flink: build/flink/flink.jar ## Flink and Beam's job server for it, in one jar (needs Java 17 and Maven)

build/flink/flink.jar: docker/flink/pom.xml
	mvn --quiet --batch-mode --file $< package

.PHONY: composer-package
composer-package: $(SYNCED) $(if $(TFX_IMAGE),build/image_captioning_vertex.json) ## Build what a Cloud Composer environment receives, in build/composer (docs/composer.md)
	python deploy/composer/package.py build/composer $(if $(TFX_IMAGE),--spec build/image_captioning_vertex.json)

# Always anew: make cannot tell that the image or an option is another.
.PHONY: build/image_captioning_vertex.json
build/image_captioning_vertex.json: $(SYNCED)
	$(if $(and $(TFX_CSV),$(TFX_ROOT)),,$(error TFX_IMAGE needs TFX_CSV=gs://… and TFX_ROOT=gs://… beside it))
	captionflow tfx compile --image "$(TFX_IMAGE)" --csv "$(TFX_CSV)" --pipeline-root "$(TFX_ROOT)" $(TFX) --output $@

.PHONY: mlflow
mlflow: $(SYNCED) ## MLflow's UI at http://localhost:5000: parameters, curves, models and reports of all runs
	mlflow ui --backend-store-uri "$$MLFLOW_TRACKING_URI"

COMPILE = $(UV) pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --custom-compile-command 'make lock'

.PHONY: lock
lock: | $(UV) ## Choose the newest versions that fit together and write them to both requirements.lock
	$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	$(COMPILE) --config-file tfx_pipeline/uv.toml --extra gcs,ingestion,s3 --output-file tfx_pipeline/requirements.lock \
	  pyproject.toml tfx_pipeline/requirements.in

.PHONY: clean
clean: ## Remove the environment, the Airflow database and all artifacts
	rm -rf .venv .venv-tfx .uv .bench .airflow artifacts build dist *.egg-info

.uv/bin/uv:
	@mkdir -p .uv
	@awk '/^uv==/ {found=1} found {print} found && !/\\$$/ {exit}' requirements.lock > .uv/requirements.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --target .uv -r .uv/requirements.txt

$(SYNCED): requirements.lock
$(TFX_SYNCED): tfx_pipeline/requirements.lock
# What is built from source is built with what the lock pins, too.
$(TFX_SYNCED): BUILD := --build-constraints tfx_pipeline/requirements.lock --require-build-hashes
$(SYNCED) $(TFX_SYNCED): pyproject.toml | $(UV)
	test -x $(@D)/bin/python || $(UV) venv --quiet --python 3.11 $(@D)
	VIRTUAL_ENV=$(@D) $(UV) pip sync --quiet $(BUILD) $(filter %.lock,$^)
	VIRTUAL_ENV=$(@D) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(DATABASE): $(SYNCED)
	airflow db migrate > /dev/null
	touch $@

# Airflow would make one that every user of the machine can read, and print it the first time alone.
$(LOGIN): | $(DATABASE)
	umask 077; python -c 'import json, secrets; print(json.dumps({"admin": secrets.token_urlsafe(12)}))' > $@

$(SAMPLE): | $(SYNCED)
	captionflow sample --output $(ROOT)/sample

$(SAMPLE_CSV): $(SAMPLE)
	captionflow ingest --sources $(ROOT)/sample/captions.json --image-root $(ROOT)/sample/images \
	  --output $(ROOT)/sample_ingested
	captionflow csv --ingested $(ROOT)/sample_ingested --output $(ROOT)/sample_csv
