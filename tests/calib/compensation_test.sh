#!/bin/bash
# `calibrate --compensate` as a user runs it: the patch lowers the loss of eval, plan and patch are refused apart, bad input
# leaves nothing half-written. Ctrl-C is in resume_test.sh.
set -eu
run=${BUILD:-build}/kvshare-run model=tests/models/storyworld-3m
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cut="--samples 24 --held-tokens 256 --ctx 64 -q"
search="--method kvsharer --threshold -1 --share 4 --order random:3"
fail() { echo "$*"; cat "$work/said" 2>/dev/null; exit 1; }
calibrate() { $run calibrate -m $model --text $model/calib.txt $cut $search "$@" >"$work/out" 2>"$work/said"; }
loss() { $run eval -m $model --text $model/heldout.txt --ctx 64 --max-tokens 257 --json "$@" | sed -n 's/.*"nll": *\([0-9.]*\).*/\1/p'; }
refuses() { # WORDS COMMAND...: exit 1, one line, nothing on stdout
	local words=$1; shift
	if "$@" >"$work/out" 2>"$work/said"; then fail "it ran: $*"; fi
	grep -q "$words" "$work/said" || fail "it does not say \"$words\":"
	[ "$(wc -l <"$work/said")" = 1 ] && [ ! -s "$work/out" ] || fail "more than one line, or output: $*"
}
plan_runs() { refuses "$1" $run eval -m $model --text $model/heldout.txt --ctx 64 --max-tokens 65 --plan "$work/p.json"; }

# It helps, the plan says so, and eval takes the patch that lies beside the plan.
calibrate --compensate -o "$work/p.json" || fail "calibrate failed:"
[ "$(ls "$work"/p*)" = "$work/p.json"$'\n'"$work/p.patch.safetensors" ] || fail "other files: $(ls "$work")"
grep -q '"applied": true' "$work/p.json" || fail "the plan does not say that it was applied"
owners=$(tr -d ' \n' <"$work/p.json" | sed 's/.*"k_owners":\[\([0-9,]*\)\].*/\1/')
plain=$(loss --owners "$owners") better=$(loss --plan "$work/p.json")
awk "BEGIN { exit !($better < $plain - 0.01) }" || fail "the loss is $better with the patch, $plain without"
$run plan show "$work/p.json" | grep -q "matrices   refitted, in the file beside it: loss" || fail "plan show does not tell of it"
kv_bytes() { $run generate -m $model --device host -p Anna -n 2 -q --json "$@" | sed -nE 's/.*"kv_physical_bytes": ([0-9]+).*/\1/p'; }
[ "$(kv_bytes --plan "$work/p.json")" = "$(kv_bytes --owners "$owners")" ] || fail "K and V take other memory with the patch"

# The engine has the matrices: the patch, which holds them once more, is closed before the prompt is read.
mkfifo "$work/prompt"
exec 3<>"$work/prompt"
$run generate -m $model -f "$work/prompt" -n 2 -q --plan "$work/p.json" >"$work/out" 2>"$work/said" 3>&- &
until [ "$(readlink /proc/$!/exe /proc/$!/fd/* 2>/dev/null | grep -c -e "/kvshare-run$" -e "/prompt$")" = 2 ]; do
	kill -0 $! 2>/dev/null || fail "generate ended before it read its prompt:"
	sleep 0.02
done
! readlink /proc/$!/fd/* | grep patch || fail "the patch is open while it generates"
echo Anna >&3
exec 3>&-
wait $! || fail "generate failed:"
both=$($run compare -m $model --text $model/heldout.txt --ctx 64 --max-tokens 257 --rounds 1 --prompt-tokens 8 -n 2 -q --json --plan "$work/p.json" | sed -n 's/.*"nll": *\([0-9.]*\).*/\1/p')
[ "$both" = "$(loss)"$'\n'"$better" ] || fail "compare has the losses $both"

# The same command gives the same bytes.
calibrate --compensate -o "$work/q.json" || fail "the second calibrate failed:"
cmp "$work/p.patch.safetensors" "$work/q.patch.safetensors" || fail "another patch"

# Where it does not help, it is not applied and says so, the earlier patch goes, and the plan runs without.
calibrate --compensate --samples 4 --order random:4 -o "$work/q.json" || fail "the third calibrate failed:"
grep -q "^not compensated" "$work/out" && grep -q '"applied": false' "$work/q.json" || fail "$(cat "$work/out")"
[ ! -e "$work/q.patch.safetensors" ] || fail "the earlier plan's patch is left"
loss --plan "$work/q.json" >/dev/null || fail "the plan does not run"

# Plan and patch are refused apart, cut, changed, and crossed.
cp "$work/p.json" "$work/whole.json"
cp "$work/p.patch.safetensors" "$work/whole"
head -c -1 "$work/whole" >"$work/p.patch.safetensors"
plan_runs truncated
head -c 7 "$work/whole" >"$work/p.patch.safetensors"
plan_runs "p.patch.safetensors"
{ head -c -1 "$work/whole"; printf x; } >"$work/p.patch.safetensors"
plan_runs "is not the file that the plan was made with"
rm "$work/p.patch.safetensors"
plan_runs "no such file"
calibrate --compensate --share 3 -o "$work/q.json" || fail "another plan's calibrate failed:"
cp "$work/q.patch.safetensors" "$work/p.patch.safetensors"
plan_runs "fitted for another plan"
cp "$work/whole" "$work/p.patch.safetensors"
sed -i 's/"patch": "[0-9a-f]*"/"path": "x"/' "$work/p.json"
plan_runs "is no digest of theirs"
sed -i 's/"applied": true/"applied": false/' "$work/p.json"
plan_runs "does not name it"

# A calibrate without --compensate does not leave its plan beside an earlier one's patch; nor is anything changed.
cp "$work/whole.json" "$work/p.json"
refuses "belongs to an earlier" $run calibrate -m $model --text $model/calib.txt $cut $search -o "$work/p.json"
cmp -s "$work/p.json" "$work/whole.json" && cmp -s "$work/p.patch.safetensors" "$work/whole" || fail "files were changed"

# No other plan gets the same file for its matrices: p's would be p.json's. Nor do they lie elsewhere than the plan, through a link.
refuses "must be named .json" $run calibrate -m $model --text $model/calib.txt $cut --compensate -o "$work/p"
ln -s p.json "$work/link.json"
refuses "link.json: is a symbolic link" $run calibrate -m $model --text $model/calib.txt $cut --compensate -o "$work/link.json"
cmp -s "$work/p.json" "$work/whole.json" && cmp -s "$work/p.patch.safetensors" "$work/whole" || fail "files were changed"
$run plan convert --owners "$owners" --to json -o "$work/p"
[ "$(loss --plan "$work/p")" = "$plain" ] || fail "a plan p is not run beside p.json with its matrices"
calibrate -o "$work/p" || fail "a plan p is not written beside p.json with its matrices:"
rm "$work/p" "$work/link.json"

# Too little text, and what cannot be fitted: a named minimum, and neither plan nor patch.
refuses "takes 256 tokens or more" $run calibrate -m $model --text $model/calib.txt $search --samples 3 --ctx 64 \
	--held-tokens 64 -q --compensate -o "$work/n.json"
head -c 1560 $model/calib.txt >"$work/short.txt"
refuses "compensation is checked on text after the samples, and there is none" $run calibrate -m $model --text "$work/short.txt" \
	--method kvsharer --samples 6 --sample-tokens 64 --ctx 64 -q --compensate -o "$work/n.json"
refuses "cannot write" $run calibrate -m $model --text $model/calib.txt --compensate -o "$work/none/n.json"
[ -z "$(ls "$work" | grep '^n')" ] || fail "left behind: $(ls "$work")"

# A fit that fails after the search, here for want of disk: the plan is there, without matrices, and the reason is told.
(export TMPDIR=$work/none; calibrate --compensate -o "$work/d.json") && fail "it ran without a disk"
grep -q "no temporary file can be made there.*d.json is written, without matrices" "$work/said" || fail "it says:"
[ "$(ls "$work" | grep '^d')" = d.json ] || fail "after a failed fit: $(ls "$work")"
loss --plan "$work/d.json" >/dev/null || fail "the plan of the failed fit does not run"

# The same where the fit succeeds and its patch cannot be written, here for want of room; with --plan there is nothing to save.
ln -s /dev/full "$work/f.patch.new"
calibrate --compensate -o "$work/f.json" && status=0 || status=$?
[ $status = 1 ] || fail "a patch that cannot be written: status $status"
grep -q "f.patch.new: cannot write: No space left on device; .*f.json is written, without matrices" "$work/said" || fail "it says:"
rm "$work/f.patch.new"
[ "$(ls "$work" | grep '^f')" = f.json ] && cmp "$work/f.json" "$work/d.json" || fail "without room for the patch: $(ls "$work")"
! grep -q compensated "$work/out" || fail "it tells of matrices: $(cat "$work/out")"
ln -s /dev/full "$work/g.patch.new"
refuses "g.patch.new: cannot write: No space left" $run calibrate -m $model --text $model/calib.txt $cut --compensate --plan "$work/f.json" -o "$work/g.json"
[ "$(ls "$work" | grep '^g')" = g.patch.new ] || fail "without room, with --plan: $(ls "$work")"

# If the plan cannot be written, its patch goes, and an earlier one stays. (The device is like /dev/full: made by root, where that is allowed.)
if mknod "$work/h.json" c 1 7 2>/dev/null && ! echo x 2>/dev/null >"$work/h.json"; then
	for earlier in none "$work/whole"; do
		[ "$earlier" = none ] || cp "$earlier" "$work/h.patch.safetensors"
		refuses "h.json: cannot write: No space left" $run calibrate -m $model --text $model/calib.txt $cut --compensate --refit qo --plan "$work/f.json" -o "$work/h.json"
		[ "$earlier" = none ] || cmp "$earlier" "$work/h.patch.safetensors" || fail "an earlier patch was changed without its plan"
		[ "$(ls "$work" | grep -c '^h')" = $([ "$earlier" = none ] && echo 1 || echo 2) ] || fail "without room for the plan: $(ls "$work")"
	done
	rm "$work"/h.*
fi

# A link in the patch's place is replaced, and what it leads to, another plan's matrices, stays.
cp "$work/whole" "$work/i.patch.safetensors"
ln -s i.patch.safetensors "$work/j.patch.safetensors"
$run calibrate -m $model --text $model/calib.txt $cut --compensate --refit qo --plan "$work/f.json" -o "$work/j.json" >"$work/out" 2>"$work/said" || fail "over a link:"
cmp "$work/whole" "$work/i.patch.safetensors" && [ ! -L "$work/j.patch.safetensors" ] || fail "through a link another plan's matrices were replaced"
rm "$work"/[ij].*

# Names beside the plan that cannot be written are told before the search.
long=$(printf 'n%.0s' $(seq 240))
refuses "patch.safetensors: cannot write there: File name too long" $run calibrate -m $model --text $model/calib.txt --compensate -o "$work/$long.json"
for name in patch.safetensors patch.part; do
	mkdir "$work/n.$name"
	refuses "n.$name: is a directory, where a file is to be written" $run calibrate -m $model --text $model/calib.txt --compensate -o "$work/n.json"
	rmdir "$work/n.$name"
done

# Where the plan's file could be written, and its folder takes no new one, that is told before the search.
mkdir "$work/closed" && cp "$work/d.json" "$run" "$work/closed"
chmod 755 "$work" && chmod 666 "$work/closed/d.json" && chmod 555 "$work/closed"
nobody=
[ $EUID != 0 ] || nobody="setpriv --reuid 65534 --regid 65534 --clear-groups"
refuses "d.patch.safetensors: cannot write there: Permission denied" $nobody "$work/closed/kvshare-run" calibrate -m $model --text $model/calib.txt --compensate -o "$work/closed/d.json"
chmod 755 "$work/closed"

# The same for a plan that exists: the same matrices as with the search, and fewer if asked for.
$run calibrate -m $model --text $model/calib.txt $cut --compensate --plan "$work/d.json" -o "$work/e.json" >"$work/out" 2>"$work/said" || fail "--plan failed:"
cmp "$work/e.patch.safetensors" "$work/whole" || fail "--plan: other matrices than with the search"
$run calibrate -m $model --text $model/calib.txt $cut --compensate --refit qo --plan "$work/d.json" -o "$work/e.json" >"$work/out" 2>"$work/said" || fail "--refit failed:"
! grep -q down_proj "$work/e.patch.safetensors" && grep -q q_proj "$work/e.patch.safetensors" || fail "--refit qo refits others"

# Without a word on samples as many spread ones as the text has room for; too short a text is cut as for a search.
head -c 12000 $model/calib.txt >"$work/short.txt"
$run calibrate -m $model --text "$work/short.txt" --held-tokens 64 -q --refit o --compensate --plan "$work/d.json" -o "$work/e.json" >"$work/out" 2>"$work/said" || fail "no samples failed:"
grep -q "refitted on 2048 tokens\|^not compensated" "$work/out" && grep -q '"tokens": 2048' "$work/e.json" || fail "the default samples: $(cat "$work/out")"
head -c 2000 $model/calib.txt >"$work/short.txt"
refuses "30 samples of 64 take 1920" $run calibrate -m $model --text "$work/short.txt" -q --compensate --plan "$work/d.json" -o "$work/n.json"

# Without a word on the search it is the one that compensation suits; where another option rules that out, the usual one.
method() { # METHOD ARGS...
	local method=$1; shift
	$run calibrate -m $model --text $model/calib.txt --samples 8 --held-tokens 64 --ctx 64 -q --compensate --share 1 "$@" -o "$work/n.json" >"$work/out" 2>"$work/said" || fail "calibrate $*:"
	grep -q "\"method\": \"$method\"" "$work/n.json" || fail "not the method $method: $*"
}
method refit
method refit --protect-last 2
method auto --refit o
method auto --split-kv
# Its pairs are fitted on samples from all over the text; of a short text on those of any search.
pairs_of() { # SAMPLES TOKENS BY FILE
	$run calibrate -m $model --text "$4" --held-tokens 64 -q --compensate --share 1 --refit qo -o "$work/n.json" >"$work/out" 2>"$work/said" || fail "calibrate of $4:"
	tr -d ' \n' <"$work/n.json" | grep -q "\"sample_by\":\"$3\",\"samples\":$1,\"tokens\":$2," || fail "the search did not take $1 samples of $2 by $3: $(tr -d ' \n' <"$work/n.json" | grep -o '"sample_by".\{60\}')"
}
pairs_of 8 256 spread $model/calib.txt
head -c 8200 $model/calib.txt >"$work/short.txt"
pairs_of 30 64 run "$work/short.txt"
rm -f "$work"/n.*

# Behind a search too, which has its own 30 of 64: the plan tells of both, and of the loss on each one's held-back text.
behind() { $run calibrate -m $model --method kvsharer --threshold -1 --share 4 --order random:3 -q --held-tokens 64 --compensate --refit o "$@" >"$work/out" 2>"$work/said"; }
fitted_on() { # TOKENS: of the fit; the search has its own
	tr -d ' \n' <"$work/n.json" >"$work/n.flat"
	grep -q "\"tokens\":$1,\"full_nll\"" "$work/n.flat" && grep -q '"samples":30,"tokens":64' "$work/n.flat" || fail "not fitted on $1: $(cat "$work/out")"
	grep -q "refitted on $1 tokens: .*, on tokens between these$\|^not compensated" "$work/out" || fail "not $1: $(cat "$work/out")"
}
cat $model/calib.txt $model/heldout.txt >"$work/long.txt"
behind --text "$work/long.txt" -o "$work/n.json" || fail "a fit behind a search failed:"
fitted_on 16384
behind --text $model/calib.txt -o "$work/n.json" || fail "a fit on a shorter text failed:"
fitted_on 4096
head -c 8200 $model/calib.txt >"$work/short.txt"
behind --text "$work/short.txt" -o "$work/n.json" || fail "a fit on a short text failed:"
grep -q '"tokens": 1920' "$work/n.json" || fail "a text with no room for more than the search's: $(cat "$work/out")"

# --fit-samples says how many, whatever the search has, and with --plan gives the same matrices; too many are refused.
behind --text $model/calib.txt --samples 24 --fit-samples 6x256 -o "$work/n.json" || fail "--fit-samples failed:"
grep -q '"tokens": 1536' "$work/n.json" && grep -q '"samples": 24' "$work/n.json" || fail "--fit-samples: $(cat "$work/out")"
$run calibrate -m $model --text $model/calib.txt -q --held-tokens 64 --refit o --compensate --plan "$work/n.json" --fit-samples 6x256 -o "$work/e.json" >"$work/out" 2>"$work/said" || fail "--plan --fit-samples failed:"
cmp "$work/n.patch.safetensors" "$work/e.patch.safetensors" || fail "--fit-samples: other matrices than with the search"
rm -f "$work"/n.*
refuses "no room for 90 samples of 256 tokens to fit on" behind --text $model/calib.txt --fit-samples 90x256 -o "$work/n.json"
refuses "no room for 90 samples of 2048 tokens to fit on" behind --text $model/calib.txt --fit-samples 90x4096 -o "$work/n.json"
behind --text $model/calib.txt --fit-samples 4 -o "$work/n.json" && grep -q '"tokens": 4096' "$work/n.json" || fail "--fit-samples without a length: $(cat "$work/out")"
rm -f "$work"/n.*
for wrong in 1 x 16x 16x1 x256 6x256x 6,256 -6; do
	behind --text $model/calib.txt --fit-samples=$wrong -o "$work/n.json" && fail "--fit-samples=$wrong ran"
	grep -q -- "--fit-samples is \"$wrong\"" "$work/said" || fail "--fit-samples=$wrong: $(cat "$work/said")"
done
behind --text $model/calib.txt --plan "$work/e.json" --samples 9 --fit-samples 6x256 -o "$work/n.json" && fail "it ran with two numbers of samples"
[ -z "$(ls "$work" | grep '^n')" ] || fail "left behind: $(ls "$work")"

# A skip: the plan says its rank, eval runs it, no other engine gets it, and there is a limit.
skip() { $run calibrate -m $model --text $model/calib.txt $cut --compensate --refit o --plan "$work/by-hand.json" "$@" >"$work/out" 2>"$work/said"; }
$run plan convert --owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15 --to json -o "$work/by-hand.json"
skip --skip auto -o "$work/s.json" || fail "--skip failed:"
grep -q "have a skip of rank 64, which only kvshare runs" "$work/out" && grep -q '"skip_rank": 64' "$work/s.json" || fail "no skip: $(cat "$work/out")"
grep -q "skip_b.weight" "$work/s.patch.safetensors" || fail "the patch has no skip"
skip -o "$work/e.json" || fail "--refit o failed:"
with=$(loss --plan "$work/s.json") without=$(loss --plan "$work/e.json")
awk "BEGIN { exit !($with < $without) }" || fail "the loss is $with with the skip, $without without"
refuses "have a skip, which no other engine knows" $run plan convert "$work/s.json" --to checkpoint -m $model -o "$work/s"
$run plan convert "$work/s.json" --to transformers -o "$work/out" 2>"$work/said" && grep -q "and a skip, which only kvshare knows" "$work/said" || fail "the export does not warn:"
refuses "a skip of rank 129: this model takes 1 to 128" skip --skip 129 -o "$work/n.json"
[ -z "$(ls "$work" | grep '^n')" ] || fail "left behind: $(ls "$work")"

# Where no layer takes K and V both there is no skip, nor a record of one.
printf '{"kvshare_plan":1,"layers":16,"k_owners":[0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15],"v_owners":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]}' >"$work/k-alone.json"
$run calibrate -m $model --text $model/calib.txt $cut --compensate --refit o --skip auto --plan "$work/k-alone.json" -o "$work/n.json" >"$work/out" 2>"$work/said" || fail "K alone failed:"
grep -q "^no layer has a skip" "$work/out" && ! grep -q skip_rank "$work/n.json" || fail "a skip of K alone: $(cat "$work/out")"
rm -f "$work"/n.*

# Nothing to compensate, and options that would do nothing, are refused before the text is run.
$run plan convert --owners 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 --to json -o "$work/alone.json"
refuses "shares nothing: there is nothing to compensate" $run calibrate -m $model --text $model/calib.txt $cut --compensate --plan "$work/alone.json" -o "$work/n.json"
for option in "--method nll" "--protect-last 9" --split-kv "--distance paper" "--cosine paper" "--method kvsharer --order similar" "--threshold 0.1"; do
	$run calibrate -m $model --text $model/calib.txt $cut --compensate --plan "$work/by-hand.json" $option -o "$work/n.json" >"$work/out" 2>"$work/said" && fail "it ran with $option"
	grep -q "there is no search for" "$work/said" || fail "$option is not refused:"
done
calibrate --compensate --method refit --refit o -o "$work/n.json" && fail "pairs chosen with W_q, and W_o alone refitted"
grep -q "not with --refit o" "$work/said" || fail "--method refit --refit o is not refused:"
