# driver/softcuda/names.awk: from cuda.h and cudaTypedefs.h to a list of all driver functions, for names.inc.
#
# Reads both headers preprocessed with __CUDA_API_VERSION_INTERNAL, which shows every form of every function. Prints, for
# the files that include names.inc,
#   SC_NAME(symbol)                            each symbol that a driver exports
#   SC_PER_THREAD(symbol, of, (parameters), (arguments))   each form for per-thread default streams
#   SC_ADDRESS(base, version, is_per_thread, symbol)       what cuGetProcAddress gives from this CUDA version on
# The headers do not say which symbol a version stands for: the forms of a function are numbered in the order of their versions.
BEGIN { RS = ";" }

# A declaration of a function.
match($0, /CUresult[ \t\n]+cu[A-Z][A-Za-z0-9_]*\(/) {
	text = substr($0, RSTART)
	gsub(/[ \t\n]+/, " ", text)
	sub(/^CUresult /, "", text)
	name = substr(text, 1, index(text, "(") - 1)
	if (!(name in declared)) names[++count] = name
	declared[name] = substr(text, index(text, "("))
}

# A type of a pointer to one: PFN_NAME_vVERSION, PFN_NAME_vVERSION_ptsz.
match($0, /\*[ \t]*PFN_cu[A-Za-z0-9_]*_v[0-9]+(_ptds|_ptsz)?\)/) {
	text = substr($0, RSTART, RLENGTH - 1)
	sub(/^.*PFN_/, "", text)
	suffix = ""
	if (match(text, /_pt[ds][sz]$/)) {
		suffix = substr(text, RSTART)
		text = substr(text, 1, RSTART - 1)
	}
	match(text, /_v[0-9]+$/)
	base = substr(text, 1, RSTART - 1)
	version = substr(text, RSTART + 2) + 0
	key = base SUBSEP suffix
	if ((key, version) in seen) next
	seen[key, version] = 1
	if (!(key in versions)) keys[++key_count] = key
	versions[key] = versions[key] " " version
}

# The n-th form of a function, in the order of their numbers; "": there are fewer.
function form(base, suffix, n,    i, symbol) {
	for (i = 1; i <= 9; i++) {
		symbol = base (i > 1 ? "_v" i : "") suffix
		if (symbol in declared && --n == 0) return symbol
	}
	return ""
}

function arguments(parameters,    list, n, i, out) {
	gsub(/^\(|\)$/, "", parameters)
	n = split(parameters, list, ",")
	for (i = 1; i <= n; i++) {
		sub(/ *(\[[0-9]*\])? *$/, "", list[i])
		match(list[i], /[A-Za-z0-9_]+$/)
		out = out (i > 1 ? ", " : "") substr(list[i], RSTART)
	}
	return "(" (parameters ~ /^ *(void)? *$/ ? "" : out) ")"
}

function addresses(base, suffix,    list, n, i, j, swap, symbol) {
	n = split(versions[base, suffix], list, " ")
	for (i = 2; i <= n; i++)
		for (j = i; j > 1 && list[j - 1] + 0 > list[j] + 0; j--) {
			swap = list[j]
			list[j] = list[j - 1]
			list[j - 1] = swap
		}
	for (i = 1; i <= n; i++) {
		symbol = form(base, suffix, i)
		if (symbol != "") print "SC_ADDRESS(\"" base "\", " list[i] ", " (suffix != "") ", " symbol ")"
	}
}

END {
	print "/* From cuda.h, by driver/softcuda/names.awk. */"
	print "#ifndef SC_NAME\n#define SC_NAME(symbol)\n#endif"
	print "#ifndef SC_PER_THREAD\n#define SC_PER_THREAD(symbol, of, parameters, arguments)\n#endif"
	print "#ifndef SC_ADDRESS\n#define SC_ADDRESS(base, version, is_per_thread, symbol)\n#endif"
	for (i = 1; i <= count; i++) print "SC_NAME(" names[i] ")"
	for (i = 1; i <= count; i++)
		if (match(names[i], /_pt[ds][sz]$/)) {
			of = substr(names[i], 1, RSTART - 1)
			if (of in declared)
				print "SC_PER_THREAD(" names[i] ", " of ", " declared[names[i]] ", " arguments(declared[names[i]]) ")"
		}
	for (i = 1; i <= key_count; i++) {
		split(keys[i], part, SUBSEP)
		addresses(part[1], part[2])
	}
	# cuda.h makes cuGraphInstantiate another name of this function from CUDA 12 on; cudaTypedefs.h does not repeat it.
	if ("cuGraphInstantiateWithFlags" in declared)
		print "SC_ADDRESS(\"cuGraphInstantiate\", 12000, 0, cuGraphInstantiateWithFlags)"
}
