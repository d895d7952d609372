#!/bin/bash
# The loss that `eval --policy last` names is the one that a program has under `exec --policy last`, to the last bit. The program
# is our own `eval` without a plan, an engine that knows nothing of the sharing; the shim maps its layers onto each other.
# usage: [BUILD=build] tests/preload/loss_test.sh
. "$(dirname "$0")/common.sh"
model=tests/models/storyworld-3m
layout=tensors:layers=16,bytes=2MiB,order=kv,memory=reserved # each layer's K, then its V, in addresses of their own
export SOFTCUDA_GRANULARITY=2M # of which the layout's tensors are; kvshare-run alone would take 64 KiB
owners=0,1,2,3,4,5,6,7,8,8,8,11,12,12,14,15
cat >"$work/split.json" <<END
{"kvshare_plan": 1, "layers": 16, "k_owners": [0,1,2,2,4,5,6,7,8,9,10,2,12,13,14,15],
 "v_owners": [0,0,2,3,4,5,6,7,8,9,10,11,12,13,13,15]}
END

eval_() { # NAME EVAL-OPTION...
	"$run" eval -m $model --device host --text $model/heldout.txt --ctx 64 --max-tokens 49 -q --json "${@:2}" \
		>"$work/$1.json" 2>"$work/err" || fail "eval ${*:2}: $(cat "$work/err")"
	nll=$(sed -nE 's/.*"nll": ([0-9.e-]+).*/\1/p' "$work/$1.json")
	[ -n "$nll" ] || fail "eval ${*:2} names no loss: $(cat "$work/$1.json")"
}
under_shim() { # CHUNK SHARING-OPTION...
	nll=$("$run" exec --device host --policy last --layout $layout --stats "$work/stats" "${@:2}" -- \
		"$run" eval -m $model --device host --text $model/heldout.txt --ctx 64 --max-tokens 49 -q --json --chunk "$1" \
		--no-premap 2>"$work/err" | sed -nE 's/.*"nll": ([0-9.e-]+).*/\1/p')
	[ -s "$work/err" ] && fail "exec ${*:2}: $(cat "$work/err")"
	[ "$(sed -nE 's/.*"saved_bytes": ([0-9]+).*/\1/p' "$work/stats")" -gt 0 ] || fail "exec ${*:2}: nothing was shared"
}
agree() { # CHUNK SHARING-OPTION...
	local measured
	eval_ last --policy last --chunk "$1" "${@:2}"
	measured=$nll
	under_shim "$@"
	[ "$nll" = "$measured" ] || fail "passes of $1, ${*:2}: eval says $measured, under the shim it is $nll"
}
agree 1 --owners $owners
token=$nll
agree 8 --owners $owners
[ "$nll" != "$token" ] || fail "the length of a pass makes no difference, so this test can show nothing"
agree 1 --plan "$work/split.json"
eval_ owner --owners $owners
[ "$nll" != "$token" ] || fail "the policies make no difference, so this test can show nothing"
eval_ full
[ "$nll" != "$token" ] || fail "sharing makes no difference, so this test can show nothing"
# A text of one pass is the unshared model's: a layer reads its own K and V, whatever is stored there later.
eval_ once --policy last --owners $owners --chunk 48
full=$(sed -nE 's/.*"nll": ([0-9.e-]+).*/\1/p' "$work/full.json")
[ "$nll" = "$full" ] || fail "in one pass the loss is $nll, without sharing $full"
# Memory falls as with the other policy.
eval_ memory --policy last --owners $owners
last=$(sed -nE 's/.*"kv_physical_bytes": ([0-9]+).*/\1/p' "$work/memory.json")
owner=$(sed -nE 's/.*"kv_physical_bytes": ([0-9]+).*/\1/p' "$work/owner.json")
[ "$last" = "$owner" ] || fail "$last bytes of K and V with the policy last, $owner with owner"

exit $failed
