# Packages of PyPI for tests of programs that nobody here wrote; to be sourced behind common.sh.
case $(cat "$build/cc.flags") in
*-fsanitize*)
	echo "Python is not built with the sanitizer"
	exit 77
	;;
esac

# $packages becomes a folder with these packages and nothing else, which stays for the next run; or the test is skipped.
install_packages() { # PACKAGE==VERSION..., named for the first
	packages=$(realpath "$build")/python-peers/${1/==/-}
	[ ! -d "$packages" ] || return 0
	python3 -m pip --version >/dev/null 2>&1 || { echo "pip is missing: make deps DEV=1"; exit 77; }
	PIP_ROOT_USER_ACTION=ignore timeout 600 python3 -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: \
		--target "$work/packages" "$@" >"$work/pip" 2>&1 ||
		{ echo "${1%%==*} does not install: $(tail -1 "$work/pip")"; exit 77; }
	mkdir -p "$(dirname "$packages")"
	mv "$work/packages" "$packages"
}
