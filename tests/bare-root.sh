#!/bin/sh
# Tests the promise of the README: in a root of Debian with make, git and ca-certificates and nothing else of use, it clones the
# commit that is checked out here, runs `make demo` and `make check`, and prints the time of each. There is no CUDA toolkit. Fails
# if a command fails or the demo takes longer than DEMO_SECONDS.
#
# Run it as root, with debootstrap installed and the registries of Debian and Python reachable. The root gets the proxies,
# certificates and pip settings of this machine, and a /dev of its own.
# usage: [MIRROR=URL] [BASE=FILE.tar] [DEMO_SECONDS=180] [KEEP=1] tests/bare-root.sh [SUITE=bookworm [TARGET...=demo check]]
#   BASE  the bare root, packed: used if it exists, else written, so that a second run is faster
set -eu
cd "$(dirname "$0")/.."
suite=${1:-bookworm}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- demo check
root=$(mktemp -d)
[ -n "${KEEP:-}" ] || trap 'rm -rf "$root"' EXIT
[ "$(id -u)" -eq 0 ] || { echo "bare-root.sh: run this as root" >&2; exit 1; }

if [ -n "${BASE:-}" ] && [ -e "$BASE" ]; then
	tar -C "$root" -xf "$BASE"
else
	command -v debootstrap >/dev/null || { echo "bare-root.sh: install debootstrap" >&2; exit 1; }
	debootstrap --variant=minbase --include=make,git,ca-certificates "$suite" "$root" ${MIRROR:-} >"$root.log" 2>&1 ||
		{ tail -n 20 "$root.log" >&2; exit 1; }
	rm "$root.log"
	[ -z "${BASE:-}" ] || tar -C "$root" -cf "$BASE" .
fi
chmod 755 "$root"
for tool in cc gcc clang python3 pip nvcc; do
	[ ! -e "$root/usr/bin/$tool" ] || { echo "bare-root.sh: the root is not bare, it has $tool" >&2; exit 1; }
done

# How this machine reaches the registries.
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf $(grep -l Acquire /etc/apt/apt.conf.d/* 2>/dev/null || true) \
	$(find /usr/local/share/ca-certificates -name '*.crt' 2>/dev/null || true); do
	[ ! -e "$file" ] || { mkdir -p "$root$(dirname "$file")"; cp -L "$file" "$root$file"; }
done
chroot "$root" update-ca-certificates >/dev/null 2>&1
settings=$(env | grep -iE '^((https?|ftp|no)_proxy|PIP_(INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|PROXY|CERT|DEFAULT_TIMEOUT))=' || true)
git clone -q . "$root/kvshare"

inside() { # COMMAND...: in the root, in namespaces of its own
	# shellcheck disable=SC2016,SC2086
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 $settings unshare -mpf sh -c '
		set -e
		root=$1 && shift
		mount -t proc proc "$root/proc"
		mount -t tmpfs -o mode=755 dev "$root/dev"
		for node in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
			mknod -m 666 "$root/dev/${node% *}" c 1 "${node#* }"
		done
		mknod -m 666 "$root/dev/tty" c 5 0
		mkdir "$root/dev/pts" "$root/dev/shm"
		mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
		mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
		ln -s pts/ptmx "$root/dev/ptmx"
		ln -s /proc/self/fd "$root/dev/fd"
		for number in 0 1 2; do ln -s "fd/$number" "$root/dev/$(echo stdin stdout stderr | cut -d " " -f $((number + 1)))"; done
		exec chroot "$root" "$@"' sh "$root" "$@"
}

status=0
for target in "$@"; do
	start=$(date +%s)
	code=0
	inside make --no-print-directory -C /kvshare "$target" </dev/null || code=$?
	took=$(($(date +%s) - start))
	echo "== $suite: make $target: exit $code, $took s"
	[ $code -eq 0 ] || status=1
	[ "$target" != demo ] || [ $took -le "${DEMO_SECONDS:-180}" ] || { echo "== the demo took too long"; status=1; }
done
[ -z "${KEEP:-}" ] || echo "== the root is left at $root"
exit $status
