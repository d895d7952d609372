#!/bin/sh
# The native bodies of the host device against the SIMT bodies, on the fixture: the same text, the same plans, losses within
# 1e-4; and the same bits whatever the number of workers and the set of instructions.
set -eu
run=${BUILD:-build}/kvshare-run
model=tests/models/storyworld-3m
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

lasting() {
	sed -E '/"(seconds|load_s|prefill_s|decode_s|search_s|measure_s|memory_bytes|[a-z0-9]*_tokens_per_s|p50|p90|p99)"/d'
}
with() { # NAME COMMAND...: the command's plan and output, without times
	name=$1; shift
	for word in "$@"; do # settings come first
		case $word in *=*) export "${word?}"; shift ;; *) break ;; esac
	done
	"$run" generate -m $model -p "Anna put the red key" -n 24 --device host -q >"$work/$name.text"
	"$run" eval -m $model --text $model/heldout.txt --max-tokens 200 --ctx 100 --chunk 40 --device host --json |
		lasting >"$work/$name.eval"
	for method in kvsharer nll; do
		"$run" calibrate -m $model --text $model/calib.txt --samples 2 --held-tokens 64 --ctx 64 --share 4 --method $method \
			--device host -q -o "$work/$name.$method" >"$work/$name.$method.out"
	done
}
loss() { sed -n 's/.*"nll": *\([0-9.]*\).*/\1/p' "$work/$1.eval"; }
owners() { tr -d ' \n' <"$work/$1.$2" | sed -n 's/.*"k_owners":\(\[[^]]*\]\).*/\1/p'; }
fail() { echo "$*" >&2; exit 1; }

(with simt KVS_HOST_KERNELS=simt)
(with one SOFTCUDA_WORKERS=1)
(with five SOFTCUDA_WORKERS=5)

for what in text eval kvsharer nll; do
	cmp "$work/one.$what" "$work/five.$what" || fail "$what depends on the number of workers"
done
cmp "$work/simt.text" "$work/one.text" || fail "native bodies write another text than SIMT"
for method in kvsharer nll; do
	[ -n "$(owners simt $method)" ] || fail "no owners in the plan of $method"
	[ "$(owners simt $method)" = "$(owners one $method)" ] || fail "native bodies find another plan by $method"
done
# A set of instructions by name: the same text, and the same plan with the loss of each trial. One that the processor lacks is refused.
has() { # SET
	case $1 in
	plain) ;;
	avx2) grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo && grep -qw f16c /proc/cpuinfo ;;
	avx512) has avx2 && grep -qw avx512f /proc/cpuinfo ;;
	esac
}
in_set() { # NAME: of KVS_HOST_KERNELS
	export KVS_HOST_KERNELS="$1"
	"$run" generate -m $model -p "Anna put the red key" -n 200 --device host -q >"$work/$1.long" &&
		"$run" calibrate -m $model --text $model/calib.txt --samples 1 --held-tokens 16 --ctx 32 --share 4 --method nll \
			--device host -q -o "$work/$1.plan" >"$work/$1.plan.out"
}
(in_set native)
grep -q '"trials": \[{' "$work/native.plan" || fail "no trials in the plan"
for set in plain avx2 avx512; do
	if has $set; then
		(in_set $set) || fail "KVS_HOST_KERNELS=$set fails"
		cmp "$work/native.long" "$work/$set.long" || fail "the bodies of $set write another text"
		cmp "$work/native.plan" "$work/$set.plan" || fail "the bodies of $set find another plan, or other losses"
	else
		(in_set $set) 2>"$work/$set.missing" && fail "KVS_HOST_KERNELS=$set is taken on a processor without it"
		grep -q "KVS_HOST_KERNELS=$set: the best set of instructions that this processor has is" "$work/$set.missing" ||
			fail "KVS_HOST_KERNELS=$set: $(cat "$work/$set.missing")"
	fi
done

# --threads is the number of workers: it takes the place of a setting that softcuda would refuse. A wrong one is a usage error.
SOFTCUDA_WORKERS=0 "$run" generate -m $model -p "Anna" -n 2 --threads 3 --device host -q >"$work/threads" ||
	fail "--threads does not set the number of workers"
SOFTCUDA_WORKERS=0 "$run" generate -m $model -p "Anna" -n 2 --device host -q 2>"$work/none" && fail "0 workers are taken"
"$run" generate -m $model -p "Anna" -n 2 --threads 0 -q 2>"$work/zero" && fail "--threads 0 is taken"
grep -q -- '--threads is "0"' "$work/zero" || fail "--threads 0: $(cat "$work/zero")"
[ -n "$(loss simt)" ] || fail "no loss in the output of eval"
awk "BEGIN {d = $(loss simt) - $(loss one); exit !(d < 1e-4 && d > -1e-4)}" ||
	fail "loss by SIMT $(loss simt), by native bodies $(loss one)"

# OpenBLAS has the same kernels on every processor with AVX2, so that fits have the same bits; its own variable chooses others.
core() { # SETTING: what OpenBLAS says that it runs
	env "$1" KVS_HOST_KERNELS=simt OPENBLAS_VERBOSE=2 "$run" generate -m $model -p "Anna" -n 1 --device host -q 2>&1 | sed -n 's/^Core: //p'
}
if grep -qw avx2 /proc/cpuinfo && [ -n "$(core OPENBLAS_CORETYPE=Prescott)" ]; then
	[ "$(core A=1)" = Haswell ] || fail "OpenBLAS chose kernels by itself: $(core A=1)"
	[ "$(core OPENBLAS_CORETYPE=Prescott)" = Prescott ] || fail "OPENBLAS_CORETYPE is overruled"
fi
