#!/bin/sh
# A change of compilers or flags rebuilds the files concerned, no change rebuilds nothing, and CC, CXX and the flags may come
# from the environment. One object of each kind is built in a new folder, by stand-in compilers that record their calls.
set -eu
cd "$(dirname "$0")/../.."
for name in $(env | sed -n 's/^\([A-Z_]*FLAGS\|MAKELEVEL\|MFLAGS\|CC\|CXX\|OPT\|SANITIZE\|WERROR\|BUILD\|GPU\|GPU_ARCHS\)=.*/\1/p'); do
	unset "$name"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
calls=$work/calls
failed=0

# A compiler that records its name and arguments and creates an empty file; to be asked for its version or machine is no call.
compiler() { # NAME
	cat >"$work/$1" <<-EOF
		#!/bin/sh
		case "\$*" in --version | *-dumpmachine) exit 0 ;; esac
		echo "$1 \$*" >>$calls
		while [ \$# -gt 0 ]; do [ "\$1" != -o ] || : >"\$2"; shift; done
	EOF
	chmod +x "$work/$1"
}
for name in gcc g++ other-cc other-cxx nvcc ccache; do compiler "$name"; done
PATH=$work:$PATH

objects="driver/error.o driver/simt/fiber.o attn/rows.simt.o attn/kernels.fatbin"
build() { # [VARIABLE=VALUE...]
	: >"$calls"
	make -s BUILD="$work/build" NVCC=nvcc "$@" $(for object in $objects; do echo "$work/build/$object"; done) >/dev/null ||
		{ echo "make $* failed"; failed=1; }
	called=$(cut -d ' ' -f 1 "$calls" | sort | xargs)
}
expect() { # WHAT, COMPILERS THAT WERE CALLED
	[ "$called" = "$2" ] && return
	echo "$1: called '$called', expected '$2'"
	failed=1
}
said() { # TEXT that every call must have
	! grep -v -e "$1" "$calls" || { echo "these calls lack $1"; failed=1; }
}

build && expect "first build" "g++ g++ gcc nvcc"
build && expect "nothing changed" ""
build OPT=-O1 && expect "OPT" "g++ g++ gcc"
build OPT=-O1 && expect "OPT again" ""
build SANITIZE=thread && expect "SANITIZE" "g++ g++ gcc"
said -fsanitize=thread
build && expect "no SANITIZE" "g++ g++ gcc"
build GPU_ARCHS=90 && expect "GPU_ARCHS" "nvcc"
build && expect "all GPU_ARCHS" "nvcc"
build WERROR=1 && expect "WERROR" "g++ g++ gcc nvcc"
grep -q -e "nvcc .*--Werror" "$calls" || { echo "WERROR=1 does not reach nvcc"; failed=1; }
build && expect "no WERROR" "g++ g++ gcc nvcc"
! grep -e -Werror "$calls" || { echo "warnings are errors by default"; failed=1; }
build "CC=ccache gcc" && expect "ccache builds what gcc builds" ""
build CC=other-cc && expect "CC" "other-cc"
build && expect "gcc once more" "gcc"
export CC=other-cc CXX=other-cxx
build && expect "CC and CXX of the environment" "other-cc other-cxx other-cxx"
export CFLAGS="-DNAME='\"a b\"'"
build && expect "CFLAGS of the environment" "other-cc"
build && expect "CFLAGS of the environment again" ""
exit $failed
