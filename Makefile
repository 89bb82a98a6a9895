# Thin aliases of the `evolute` command; each target first sets up .venv.
PYTHON ?= python3
BIN := .venv/bin
ACCEL ?= core-decode
PYTEST := OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
PARTS ?= 60
PART ?= $(shell expr $$(date -u +%j) % $(PARTS))

.PHONY: setup sim verify mutants verilog dse report test test-all test-part check bench accuracy fuzz docs figures tradeoff
.DEFAULT_GOAL := sim

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evolute: needs Python 3.11 or later, got " + sys.version.split()[0])'
	@for tool in g++ make; do command -v $$tool >/dev/null || { echo "evolute: needs $$tool" >&2; exit 2; }; done
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PYTHON) -m evolute.support.waiting "installing packages into .venv" \
		$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement requirements.lock
	$(PYTHON) -m evolute.support.waiting "installing evolute into .venv" \
		$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

sim: setup            ## verify the default accelerator, run the SLM on it, write out/report
	$(BIN)/evolute verify $(ACCEL)
	$(BIN)/evolute sim --accel $(ACCEL)
	$(BIN)/evolute report

verify: setup         ## every preset in RTL simulation against its golden and cycle models
	$(BIN)/evolute verify

mutants: setup        ## random faults in the RTL, and which the verification finds, into reports' records
	rm -rf out/mutants
	-$(BIN)/evolute mutants --seed 4 --out out/mutants  # the record says how many survive
	mv out/mutants/records.jsonl reports/data/mutants.jsonl

verilog: setup        ## Verilog, constraints and scripts of the default accelerator in out/verilog
	$(BIN)/evolute export $(ACCEL) -o out/verilog

dse: setup            ## a short design-space sweep
	$(BIN)/evolute dse --trials 24 --workers 2 --resume

report: setup         ## out/report/index.html from all records so far
	$(BIN)/evolute report

test: setup           ## every law, each in a form of seconds
	$(PYTEST) -m "not slow"

test-all: setup       ## the nightly forms, too
	$(PYTEST) -m "slow or not slow"

test-part: setup      ## the PART-th, from 0, of PARTS equal parts of the nightly forms
	$(PYTEST) -m slow --part $(PART)/$(PARTS)

check: setup          ## lint, format, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/lint-imports

accuracy: setup       ## perplexity against bits of engines and quantizers, into reports' records
	rm -rf out/accuracy
	set -e; for weights in native w8g32 w4g32f w4g32 w4g128 w3g32 w2g32; do \
		$(BIN)/evolute eval smollm2-135m --accel lut-decode --weights $$weights --out out/accuracy; done
	set -e; for weights in w8g32 w6g32 w5g32 w4g32 w4g128 w3g32 w3g128 w2g32 w2g128; do \
		$(BIN)/evolute eval evolute-tiny --accel lut-decode --weights $$weights --tokens 4088 --out out/accuracy; done
	$(BIN)/python -m evolute.sw.commands.accuracy --out out/accuracy
	mv out/accuracy/records.jsonl reports/data/accuracy.jsonl

fuzz: setup           ## damaged model files for ten minutes
	EVOLUTE_FUZZ_SECONDS=600 $(BIN)/python -m pytest -q -s -m slow tests/sw/checkpoints/test_hostile_checkpoints.py

docs: setup           ## docs/isa.md, docs/records.md and docs/claims.md from their definitions, figures, pictures; a reference of all modules in out/docs
	$(BIN)/python -m evolute.hw.isa.docs > docs/isa.md
	$(BIN)/python -m evolute.support.json_schema > docs/records.md
	$(BIN)/python -m evolute.sim.what_if.claims > docs/claims.md
	$(BIN)/python -m evolute.reports.figures
	$(BIN)/python docs/hierarchy.py > docs/hierarchy.svg
	$(BIN)/python docs/tradeoff.py > docs/tradeoff.svg
	$(BIN)/python docs/contexts.py
	rm -rf out/docs
	PYTHONWARNINGS="ignore:Couldn't import evolute.sw.quantizers.lut_boost" $(BIN)/pdoc --docformat markdown \
		--no-show-source --output-directory out/docs evolute evolute.support evolute.hw evolute.sim \
		evolute.sw evolute.verif evolute.dse evolute.reports \
		'!evolute.sw.training' '!evolute.sw.quantizers.lut_boost'  # these import PyTorch, an extra

figures: setup        ## synthesize what docs/integration.md states, and write its figures anew
	rm -rf out/figures
	set -e; for target in "ecp5" "ecp5 --device LFE5U-85F" "xilinx" "xilinx-us"; do \
		$(BIN)/evolute synth core-fpga --target $$target --out out/figures; done
	$(BIN)/evolute synth core-decode --target asic --out out/figures
	mv out/figures/records.jsonl reports/data/synthesis.jsonl
	$(BIN)/python -m evolute.reports.figures

tradeoff: setup       ## simulate what the README's picture shows, and draw it
	rm -rf out/tradeoff
	set -e; for weights in w8g64 native w4g64 w3g64; do \
		$(BIN)/evolute sim smollm2-135m --weights $$weights --out out/tradeoff; done
	set -e; for method in gptq-w4g64c gptq-w3g64c gptq-w2g64c; do \
		$(BIN)/evolute quantize smollm2-135m --method $$method -o out/tradeoff/$$method; \
		$(BIN)/evolute sim out/tradeoff/$$method --out out/tradeoff; done
	cp out/tradeoff/records.jsonl docs/tradeoff.jsonl
	$(BIN)/python docs/tradeoff.py > docs/tradeoff.svg

bench: setup          ## speeds as ratios to their limits
	for name in golden forward cycles program evaluate rtl core quantizers; do $(BIN)/python -m benchmarks.$$name; done
