#!/bin/sh
# The dependences between files, computed from the symbols of the objects (nm) and from the headers included. Fails if a folder
# depends on one that is not below it, if files of model/ or vmm/ depend on each other in a cycle, if a folder includes another's
# private header, or if a file is too long. CONTRIBUTING.md has the order of the folders.
# usage: [BUILD=build] tests/build/shape_test.sh [-v]; -v prints the cycles of the other folders too, and every dependence
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
verbose=${1:-}
longest=800
status=0

# Objects whose source still exists: a build folder also keeps the objects of deleted files.
objects=$(find driver chart profiler vmm attn model calib tools -name '*.c' -o -name '*.cu' -o -name '*.cpp' | while read -r source; do
	object=$build/${source%.*}.o
	[ "${source%.cu}" = "$source" ] || object=${object%.o}.simt.o
	[ ! -e "$object" ] || echo "$object"
done)
[ -n "$objects" ] || { echo "shape_test.sh: nothing is built under $build" >&2; exit 1; }

# shellcheck disable=SC2086
nm -A -P $objects | awk -v build="$build/" -v verbose="$verbose" '
	function unit(file) {
		if (match(file, /^driver\/(softcuda|simt)\//)) return substr(file, 1, RLENGTH - 1)
		return substr(file, 1, index(file, "/") - 1)
	}
	# Whether objects of the two are ever linked: softcuda is a separate driver, and simt is linked only with kernels.
	function linked(file, u) {
		return u == files[file] || (u != "driver/softcuda" && (u != "driver/simt" || file in kernels))
	}
	BEGIN {
		no_circles["model"] = no_circles["vmm"] = no_circles["profiler"] = 1
		below["driver"] = below["driver/softcuda"] = below["driver/simt"] = ""
		below["chart"] = "driver"
		below["profiler"] = "driver chart"
		below["vmm"] = "driver"
		below["attn"] = "driver driver/simt"
		below["model"] = "driver vmm attn"
		below["calib"] = below["model"] " model chart"
		below["tools"] = below["calib"] " calib profiler"
		for (u in below) {
			count = split(below[u], names, " ")
			for (i = 1; i <= count; i++) may[u, names[i]] = 1
		}
	}
	{
		file = substr($1, length(build) + 1)
		if (sub(/\.simt\.o:$/, "", file)) kernels[file] = 1
		sub(/\.o:$/, "", file)
		files[file] = unit(file)
		# Weak symbols are every file`s own copy of an inline function.
		# A hook of the shim has the name of the function that it stands in front of, in a library of its own.
		hook = file ~ /^tools\/preload\// && $2 ~ /^cu[A-Z]/
		if ($3 ~ /^[TDBRGSC]$/ && !hook) defined[files[file], $2] = file
		if ($3 == "U") { uses++; user[uses] = file; used[uses] = $2 }
	}
	END {
		for (i = 1; i <= uses; i++) {
			from = user[i]
			to = defined[files[from], used[i]]
			for (u in below)
				if (to == "" && linked(from, u) && (u, used[i]) in defined) to = defined[u, used[i]]
			if (to == "" || to == from) continue
			if (verbose && !((from, to) in why)) print from " -> " to
			why[from, to] = used[i]
			reach[from, to] = 1
			arrows++
			if (files[from] != files[to] && !((files[from], files[to]) in may)) {
				print "upward: " from " calls " used[i] " of " to
				bad = 1
			}
		}
		for (k in files) for (i in files) if ((i, k) in reach) for (j in files) if ((k, j) in reach) reach[i, j] = 1
		for (i in files) {
			if (!((i, i) in reach) || i in told) continue
			circle = ""
			for (j in files) if ((i, j) in reach && (j, i) in reach) {
				told[j] = 1
				for (k in files) if ((j, k) in why && (k, i) in reach && (i, k) in reach)
					circle = circle "\n    " j " calls " why[j, k] " of " k
			}
			if (files[i] in no_circles) bad = 1
			if (files[i] in no_circles || verbose) print "circle:" circle
		}
		for (i in files) many++
		print many " files, " arrows " calls from one to another"
		exit bad
	}' || status=1

# The headers that other folders may include.
public="driver/cu.h chart/chart.h profiler/profiler.h vmm/kvshare.h attn/attn.h model/model.h calib/calib.h"
public="$public driver/simt/simt.h driver/simt/tile.cuh driver/simt/module.h"
grep -rnE '^#include "' --include='*.c' --include='*.h' --include='*.cu' --include='*.cuh' --include='*.cpp' \
	driver chart profiler vmm attn model calib tools | awk -F '[:"]' -v public="$public" '
	BEGIN { count = split(public, names, " "); for (i = 1; i <= count; i++) is_public[names[i]] = 1 }
	{
		folder = $1
		sub(/\/[^\/]*$/, "", folder)
		path = folder "/" $4
		while (sub(/[^\/.][^\/]*\/\.\.\//, "", path));
		top = substr(path, 1, index(path, "/") - 1)
		if (top != substr($1, 1, index($1, "/") - 1) && !(path in is_public)) {
			print "private: " $1 ":" $2 " includes " path
			bad = 1
		}
	}
	END { exit bad }' || status=1

find Makefile driver chart profiler vmm attn model calib tools tests docs -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' -o \
	-name '*.sh' -o -name '*.py' -o -name '*.mk' -o -name Makefile | xargs wc -l | awk -v longest=$longest '
	$2 != "total" && $1 > longest { print "long: " $2 " has " $1 " lines"; bad = 1 } END { exit bad }' || status=1
exit $status
