#!/bin/sh
# The HTML reports of a run that shares layers, and of two runs, opened in a headless Chromium (tests/profiler/browser.py says what must hold).
# usage: [BUILD=build] tests/profiler/browser_test.sh [SCREENSHOT_PREFIX]
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
[ -n "$chromium" ] || { echo "there is no Chromium: make deps DEV=1 brings it"; exit 77; }
command -v python3 >/dev/null || { echo "there is no python3"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run() { # TRACE [OPTION...]
	trace=$1
	shift
	"$build/kvshare-run" generate "$@" -q -m tests/models/storyworld-3m --device host -p "It had rained all night." -n 64 \
		--temperature 0.7 --seed 1 --profile "$trace" >"$work/text"
}
run "$work/trace" --owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15
"$build/kvshare-run" report "$work/trace" --html "$work/page.html" --json >"$work/page.json"
"$build/kvshare-run" report "$work/trace" --html - | cmp - "$work/page.html"
timeout 300 python3 tests/profiler/browser.py "$chromium" "$work/page.html" "$work/page.json" "$@"

# Beside a run that shares nothing, on one page.
run "$work/full"
"$build/kvshare-run" report --diff "$work/full" "$work/trace" --html "$work/pair.html" --json >"$work/pair.json"
timeout 300 python3 tests/profiler/browser.py --pair "$chromium" "$work/pair.html" "$work/pair.json" ${1:+"$1-pair"}
