#!/bin/sh
# Runs the AVX-512 bodies of the host's kernels on a machine whose processor lacks them: Bochs emulates a PC that has them, which boots
# Linux and runs tests/kernels/native_test, then a search and a greedy text on the fixture model. Fails if the test's group "AVX-512"
# does not run or fails, or if the plan, with the loss of each trial, or the text is not this machine's, byte for byte. It shows bits
# and no speed.
#
# Takes some eight minutes of one core. Needs the Debian packages bochs, bochsbios, vgabios, isolinux, syslinux-common, xorriso, cpio
# and busybox-static, and no root. Debian's small kernel is downloaded once (apt-get) and unpacked, unless KERNEL names one. While it
# runs, port 5900 shows the PC's screen to the network (VNC): of the displays of Debian's Bochs only this one needs neither X nor a reader.
# usage: [BUILD=build] [KERNEL=vmlinuz] tests/avx512.sh
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
work=$build/avx512
root=$work/root
kernel=${KERNEL:-$work/vmlinuz}
for program in bochs xorriso cpio busybox; do
	command -v $program >/dev/null || { echo "avx512.sh: there is no $program; the packages are named in this script" >&2; exit 1; }
done
rm -rf "$root" "$work/iso"
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$work/iso"

if [ ! -e "$kernel" ]; then
	package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: //p')
	(cd "$work" && apt-get download -q "$package" && dpkg -x "$package"_*.deb kernel && rm "$package"_*.deb)
	cp "$work"/kernel/boot/vmlinuz* "$kernel"
	rm -r "$work/kernel"
fi

# What runs here and there: with what program, and where its results go.
cat >"$root/search" <<'END'
set -e
model=tests/models/storyworld-3m
"$1" calibrate -m $model --text $model/calib.txt --method nll --share 1 --held-tokens 32 --ctx 32 --samples 1 --device host -o "$2"
"$1" generate -m $model -p "Anna put the red key" -n 40 --device host >>"$2"
END

# The PC's own root: programs at their paths in the source tree, and their libraries at those of this machine.
for file in kvshare-run softcuda/libcuda.so.1 tests/kernels/native_test; do
	mkdir -p "$(dirname "$root/build/$file")"
	strip -o "$root/build/$file" "$build/$file"
done
ldd "$build/kvshare-run" "$build/softcuda/libcuda.so.1" "$build/tests/kernels/native_test" | grep -o '/[^ :]* (' | sort -u |
	while read -r library _; do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
mkdir -p "$root/tests/models"
cp -R tests/models/storyworld-3m "$root/tests/models/"
cp "$(command -v busybox)" "$root/bin/busybox"
cat >"$root/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec >/dev/ttyS0 2>&1
grep -m 1 flags /proc/cpuinfo
/build/tests/kernels/native_test AVX-512
echo "native_test: status $?"
sh /search /build/kvshare-run /tmp/found >/tmp/words 2>&1 || cat /tmp/words
echo "search: $(wc -c </tmp/found) bytes"
stty raw 115200 </dev/ttyS1
cat /tmp/found >/dev/ttyS1
sleep 3 # what is on its way to a port is lost otherwise
poweroff -f
END
chmod +x "$root/init"

(cd "$root" && find . | cpio -o -H newc --quiet) >"$work/iso/initrd"
cp "$kernel" "$work/iso/linux"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/"
# Without xsavec and xsaves: Linux finds that Bochs gives another size for the compact form of saved registers than its own.
cat >"$work/iso/isolinux.cfg" <<'END'
DEFAULT linux
LABEL linux
	KERNEL linux
	APPEND initrd=initrd quiet console=ttyS0,115200 nosmp nokaslr mitigations=off lpj=1000000 clearcpuid=xsavec,xsaves
END
xorriso -as mkisofs -quiet -o "$work/boot.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table "$work/iso"

cat >"$work/bochsrc" <<END
cpu: model=corei7_skylake_x, ips=100000000
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/said
com2: enabled=1, mode=file, dev=$work/found
clock: sync=none
plugin_ctrl: speaker=0
display_library: rfb, options="timeout=0"
panic: action=fatal
log: $work/bochs.log
END
echo c >"$work/continue" # Debian's Bochs starts in its debugger
rm -f "$work/said" "$work/found"
echo "avx512.sh: emulating; what the PC says is in $work/said"
timeout 7200 bochs -q -f "$work/bochsrc" -rc "$work/continue" </dev/null >"$work/screen" 2>&1 || true
[ -s "$work/said" ] || { tail -n 20 "$work/screen" >&2; exit 1; }
tr -d '\r' <"$work/said"

tr -d '\r' <"$work/said" | grep -qx 'native_test: status 0' || { echo "avx512.sh: native_test did not pass there" >&2; exit 1; }
sh "$root/search" "$build/kvshare-run" "$work/wanted" >"$work/words" 2>&1 || { cat "$work/words" >&2; exit 1; }
cmp "$work/found" "$work/wanted"
echo "the plan and its losses, and the text, are those of this machine"
