#!/bin/sh
# The table of docs/softcuda.md: which of the driver's functions softcuda has. Its names come from cuda.h by names.awk, and a
# name that softcuda does not have is a weak symbol (absent.c), so that the library itself tells.
# usage: driver/softcuda/functions.sh LIBCUDA
set -eu
nm -D --defined-only "$1" | awk '
	$3 !~ /^cu/ { next }
	{
		name = $3
		sub(/@.*$/, "", name)
		if (name ~ /_pt[ds][sz]$/) next
		sub(/_v[0-9]$/, "", name)
		if ($2 == "T") has[name] = 1
		all[name] = 1
	}
	END { for (name in all) print name, (name in has) }' | LC_ALL=C sort | awk '
	function row() {
		if (group != "") print "| `" group "` | " here " | " absent " |"
		here = absent = ""
	}
	BEGIN { print "| | here | `CUDA_ERROR_NOT_SUPPORTED` |"; print "|---|---|---|" }
	{
		match($1, /^cu[A-Z][a-z]*/)
		word = substr($1, 1, RLENGTH)
		if (word != group) {
			row()
			group = word
		}
		rest = substr($1, RLENGTH + 1)
		if (rest == "") rest = "(itself)"
		if ($2) here = here (here == "" ? "" : ", ") rest
		else absent = absent (absent == "" ? "" : ", ") rest
		count[$2]++
	}
	END {
		row()
		print ""
		print count[1] " of " count[0] + count[1] " are here."
	}'
