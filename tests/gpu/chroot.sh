#!/bin/sh
# Runs a bundle on softcuda inside an empty chroot: the bundle, glibc's own libraries, /proc, /dev/null and a shell with the
# tools that run-gpu.sh calls. So a library that a GPU machine may lack is missing here too. Also fails where a program
# needs a newer glibc than the bundle promises (2.36). Needs user or mount namespaces (unshare), no network.
#
# The tools get libraries of their own in /tools, through the loader's --library-path, where nothing else sees them.
# usage: tests/gpu/chroot.sh BUNDLE; results are left in BUNDLE-host
set -eu
bundle=$(cd "$1" && pwd)
results=$bundle-host
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
glibc="libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1"
tools="basename cat cut date dirname gzip ls mkdir mv printf rm sed tail tar tee timeout tr"
loader=/lib64/ld-linux-x86-64.so.2

for file in $(find "$bundle" -type f \( -perm -u+x -o -name '*.so*' \) ! -name '*.sh'); do
	newest=$(objdump -T "$file" | sed -n 's/.*GLIBC_2\.\([0-9]*\).*/\1/p' | sort -n | tail -n 1)
	[ "${newest:-0}" -le 36 ] || { echo "chroot.sh: ${file#"$bundle"/} needs glibc 2.$newest" >&2; exit 1; }
done

libraries_of() { # FILE...: full paths
	ldd "$@" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u
}
mkdir -p "$root/bin" "$root/lib64" "$root/lib/x86_64-linux-gnu" "$root/tools/bin" "$root/tools/lib" "$root/dev" "$root/proc" \
	"$root/tmp" "$root/bundle" "$root/out"
: >"$root/dev/null"
cp -L "$loader" "$root/lib64"
folder=$(dirname "$(libraries_of "$(command -v date)" | sed -n '/libc\.so\.6$/p')")
for library in $glibc; do cp -L "$folder/$library" "$root/lib/x86_64-linux-gnu"; done
cp -L "$(command -v dash)" "$root/bin/sh"
for tool in $tools; do
	program=$(env which "$tool")
	cp -L "$program" "$root/tools/bin/$tool"
	libraries_of "$program" | xargs -I{} cp -L {} "$root/tools/lib"
	printf '#!/bin/sh\nexec %s --library-path /tools/lib /tools/bin/%s "$@"\n' "$loader" "$tool" >"$root/bin/$tool"
	chmod +x "$root/bin/$tool"
done
# Hard links where the file system allows them.
cp -Rl "$bundle/." "$root/bundle" 2>/dev/null || cp -R "$bundle/." "$root/bundle"

status=0
unshare -rm sh -c '
	mount --rbind /proc "$1/proc" && mount --bind /dev/null "$1/dev/null" || exit 1
	exec env -i PATH=/bin OUT=/out OPENBLAS_NUM_THREADS=2 "$(command -v chroot)" "$1" /bin/sh /bundle/run-gpu.sh host
' sh "$root" || status=$?
rm -rf "$results"
mv "$root/out" "$results"
exit $status
