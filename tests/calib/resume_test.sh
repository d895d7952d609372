#!/bin/bash
# `calibrate --compensate` that is stopped while it fits, with a real signal, and gone on with: the patch has the bytes of a fit that
# was not stopped. What was left for another text or other options, cut or damaged is refused, and SIGKILL leaves nothing to
# be taken for whole.
set -eu
run=${BUILD:-build}/kvshare-run model=tests/models/storyworld-3m
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
part=$work/p.patch.part patch=$work/p.patch.safetensors
search="--method kvsharer --threshold -1 --share 4 --order random:3"
common="calibrate -m $model --samples 16 --held-tokens 64 --ctx 64"
fail() { echo "$*"; tail -n 3 "$work/said" 2>/dev/null; exit 1; }
fit() { $run $common --text $model/calib.txt --compensate -q "$@" >"$work/out" 2>"$work/said"; }
# SIGNAL PERCENT ARGS...: the fit is given the signal when so much of it is done; its exit status into $status.
stopped_at() {
	local signal=$1 percent=$2; shift 2
	: >"$work/said"
	KVSHARE_PROGRESS_SECONDS=0.001 $run $common --text $model/calib.txt --compensate "$@" >"$work/out" 2>"$work/said" &
	local pid=$!
	until awk -v want="$percent" '/^compensating: / {
			first = seen++ ? first : $2 # a search may have taken its part
			if (($2 - first) * 100 >= want * (100 - first)) found = 1
		} END { exit !found }' "$work/said"; do
		kill -0 $pid 2>/dev/null || fail "it ended before the signal:"
		sleep 0.02
	done
	kill -"$signal" $pid
	wait $pid 2>/dev/null && status=0 || status=$?
}
refuses() { # WORDS ARGS...
	local words=$1; shift
	if fit "$@"; then fail "it ran: $*"; fi
	grep -q "$words" "$work/said" || fail "it does not say \"$words\":"
}
lies_there() { # FILES: of the fit
	[ "$(cd "$work" && ls p* 2>/dev/null | xargs)" = "$*" ] || fail "$(ls "$work") in place of $*"
}

$run $common --text $model/calib.txt -q $search -o "$work/given.json" >"$work/out" 2>"$work/said" || fail "no plan:"
given="--plan $work/given.json"
fit $given -o "$work/whole.json" || fail "the fit that nothing stops:"

# Ctrl-C: what is fitted is kept, and nothing else is written.
stopped_at INT 50 $given -o "$work/p.json"
[ $status = 130 ] || fail "Ctrl-C: status $status"
grep -q "p.json is not written; .*p.patch.part keeps the matrices of the first [0-9]* of 16 layers; the same command with --resume" "$work/said" ||
	fail "it does not say what is kept:"
lies_there p.patch.part
cp "$part" "$work/kept"

# Not of another text, of other options, nor of another plan; not cut or changed. The file stays as it is.
refuses 'its text_digest is "' --text $model/heldout.txt $given --resume -o "$work/p.json"
refuses "its refit is 15, this fit's is 3" $given --resume --refit qo -o "$work/p.json"
$run plan convert --owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15 --to json -o "$work/other.json"
refuses "its k_owners is" --plan "$work/other.json" --resume -o "$work/p.json"
lies_there p.patch.part
cmp "$part" "$work/kept" || fail "a refusal changed what was kept"
head -c 300000 "$work/kept" >"$part"
refuses "was cut or changed" $given --resume -o "$work/p.json"
{ head -c 300000 "$work/kept"; printf x; tail -c +300002 "$work/kept"; } >"$part"
cmp -s "$part" "$work/kept" && fail "nothing was changed"
refuses "was cut or changed" $given --resume -o "$work/p.json"
cp "$work/kept" "$part"

# Stopped again before it is read, or replaced: as soon as the signal is caught, while the unshared model runs through a long text.
for _ in 1 2 3 4 5 6 7 8; do cat $model/heldout.txt; done >"$work/long"
stopped_early() { # ARGS...
	$run $common --held-tokens 100000 --text "$work/long" --compensate -q $given "$@" -o "$work/p.json" >"$work/out" 2>"$work/said" &
	local pid=$! caught=0
	until [[ $(readlink /proc/$pid/exe) == */kvshare-run ]]; do sleep 0.02; done
	until ((0x$caught & 2)); do # SIGINT
		caught=$(awk '/^SigCgt/ { print $2 }' /proc/$pid/status)
		sleep 0.02
	done
	kill -INT $pid
	wait $pid 2>/dev/null && status=0 || status=$?
}
stopped_early
[ $status = 130 ] && grep -q "p.patch.part, of an earlier stop, is kept as it was" "$work/said" || fail "early, anew: status $status"
lies_there p.patch.part
cmp "$part" "$work/kept" || fail "an early stop anew changed what was kept"
stopped_early --resume
[ $status = 130 ] && grep -q "p.json is not written; .*p.patch.part, of an earlier stop, is kept as it was" "$work/said" || fail "early in --resume: status $status"
lies_there p.patch.part
cmp "$part" "$work/kept" || fail "an early stop changed what was kept"

# Killed on its way, it leaves what lay there before; the next one goes on from there, to the same bytes.
stopped_at KILL 60 $given --resume -o "$work/p.json"
[ $status = 137 ] || fail "SIGKILL: status $status"
lies_there p.patch.part
cmp "$part" "$work/kept" || fail "SIGKILL changed what was kept"
fit $given --resume -o "$work/p.json" || fail "--resume:"
lies_there p.json p.patch.safetensors
cmp "$patch" "$work/whole.patch.safetensors" && cmp "$work/p.json" "$work/whole.json" || fail "another patch or plan"

# Nothing is left to go on from. A plan that was found but not fitted is not such a case: below.
refuses "p.patch.part: no stopped fit to go on from" $given --resume -o "$work/p.json"
cmp "$patch" "$work/whole.patch.safetensors" || fail "a refusal changed the patch"
rm "$work"/p*

# After a search: its plan is written, and --resume makes neither its trials nor the finished layers again. SIGTERM is as Ctrl-C.
stopped_at TERM 40 $search -o "$work/p.json"
[ $status = 130 ] || fail "SIGTERM: status $status"
grep -q "p.json is written without matrices; .*p.patch.part keeps" "$work/said" || fail "it does not say what is kept:"
lies_there p.json p.patch.part
$run generate -m $model -p Anna -n 2 --plan "$work/p.json" -q >"$work/out" 2>"$work/said" || fail "the plan does not run:"
fit $search --resume -o "$work/p.json" || fail "--resume after a search:"
lies_there p.json p.patch.safetensors
cmp "$patch" "$work/whole.patch.safetensors" || fail "after a search: another patch"

# Once more, and it fails or is stopped: plan and patch are whole already, and stay. With another plan the patch goes.
cp "$work/p.json" "$work/searched.json"
is_as_it_was() { cmp "$work/p.json" "$work/searched.json" && cmp "$patch" "$work/whole.patch.safetensors" || fail "$1 changed a plan or patch that was whole"; }
(export TMPDIR=$work/none; refuses "p.json and its matrices are as they were" $search --resume -o "$work/p.json")
is_as_it_was "a fit that fails"
lies_there p.json p.patch.safetensors
stopped_at INT 40 $search --resume -o "$work/p.json"
[ $status = 130 ] && grep -q "p.json and its matrices are as they were; .*p.patch.part keeps" "$work/said" || fail "Ctrl-C once more: status $status"
is_as_it_was Ctrl-C
fit $search --resume -o "$work/p.json" || fail "--resume once more:"
is_as_it_was "the same fit"
lies_there p.json p.patch.safetensors
(export TMPDIR=$work/none; refuses "p.json is written, without matrices" $search --share 3 --resume -o "$work/p.json")
lies_there p.json

# The same where the fit has samples of its own, which are not the search's.
rm "$work"/p*
fit $search --fit-samples 6x256 -o "$work/own.json" || fail "--fit-samples:"
cmp -s "$work/own.patch.safetensors" "$work/whole.patch.safetensors" && fail "--fit-samples changes nothing"
stopped_at INT 50 $search --fit-samples 6x256 -o "$work/p.json"
[ $status = 130 ] || fail "Ctrl-C with --fit-samples: status $status"
refuses 'its sample_by is "spread".*after a search without this file, the fit begins anew' $search --resume -o "$work/p.json"
lies_there p.json p.patch.part
mv "$part" "$work/own.part"
fit $search --resume -o "$work/p.json" || fail "--resume without what an earlier fit left:"
cmp "$patch" "$work/whole.patch.safetensors" || fail "without what an earlier fit left: another patch"
mv "$work/own.part" "$part"
fit $search --fit-samples 6x256 --resume -o "$work/p.json" || fail "--resume with --fit-samples:"
cmp "$patch" "$work/own.patch.safetensors" && cmp "$work/p.json" "$work/own.json" || fail "--fit-samples: another patch or plan"

# Without --resume the fit begins anew, and says so. Stopped again, it leaves the file that has more layers.
rm "$work"/p*
cp "$work/kept" "$part"
stopped_at INT 20 $given -o "$work/p.json"
[ $status = 130 ] && cmp "$part" "$work/kept" || fail "a stop anew replaced more layers with fewer: status $status"
stopped_at INT 70 $given --refit qo -o "$work/p.json"
[ $status = 130 ] || fail "Ctrl-C with --refit qo: status $status"
! cmp -s "$part" "$work/kept" || fail "a stop did not replace another fit's file"

# When the patch is there, what an earlier one left goes.
cp "$work/kept" "$part"
KVSHARE_PROGRESS_SECONDS=0 $run $common --samples 4 --text $model/calib.txt --compensate $given -o "$work/p.json" >"$work/out" 2>"$work/said" || fail "anew:"
grep -q "p.patch.part, of a fit that was stopped, is not used: --resume goes on from it" "$work/said" || fail "it does not warn:"
[ ! -e "$part" ] || fail "what an earlier fit left is still there"
