#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs tests on another kernel, in a virtual machine without hardware support:
#   vm.sh SERIES [PACKAGE REGEXP]... [-- FLAGS]
# SERIES is 6.1 or 6.12, of Debian's kernels; the newest is downloaded and kept
# below .build. Without packages it is the list below. Flags go to the first.
# Exit code 77: there is no such kernel and none can be downloaded. Example:
#   bpf/test/vm.sh 6.1 ./internal/datapath TestPodsReachEachOther
# Needs qemu-system-x86, busybox-static and iproute2.
set -euo pipefail

series=$1
shift
cd "$(dirname "$0")/../.."
runs=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	runs+=("$1 $2")
	shift 2
done
[ "${1-}" != -- ] || shift
[ ${#runs[@]} -gt 0 ] || runs=(
	"./bpf/test ."
	"./internal/datapath ^(TestTheKernelHandsConnectionsToAProxy|TestPodsReachEachOther|TestTheWorldSeesTheNodesAddress|TestPolicyHoldsForNewAndForRunningConnections|TestPodsReachServicesOnTheWire|TestSocketsAreTranslatedAtConnect|TestForeignProgramsStayAndAreTold)$"
)

case $series in
6.1) pattern='linux-image-6\.1\.[0-9]+-[0-9]+-cloud-amd64' ;;
6.12) pattern='linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64' ;;
*) echo "no kernel is known for $series" >&2; exit 2 ;;
esac
modules="llc stp bridge udp_tunnel ip6_udp_tunnel veth vxlan sch_ingress cls_bpf cls_u32" # in the order of loading
kernels=$PWD/.build/kernels
mkdir -p "$kernels"

newest() { { grep -Ex "$pattern" || true; } | sort -V | tail -1; }

# fetch keeps the image and modules of a package in a folder of its name.
fetch() {
	local dir
	[ ! -d "$kernels/$1" ] || return 0
	dir=$(mktemp -d)
	(
		cd "$dir"
		mkdir kept
		apt-get download -qq "$1" >log 2>&1 || { grep '^E:' log >&2; exit 1; }
		dpkg-deb -x ./*.deb unpacked
		cp unpacked/boot/vmlinuz-* kept/vmlinuz
		for m in $modules; do
			find unpacked -name "$m.ko" -exec cp {} kept/ \; -o -name "$m.ko.xz" -exec sh -c 'xz -dc "$1" > "kept/$2.ko"' - {} "$m" \;
		done
		mv kept "$kernels/$1"
	) || { rm -rf "$dir"; return 1; }
	rm -rf "$dir"
}

package=$(apt-cache pkgnames linux-image- | newest)
[ -n "$package" ] || { apt-get update -qq >/dev/null 2>&1 || true; package=$(apt-cache pkgnames linux-image- | newest); }
if [ -z "$package" ] || ! fetch "$package"; then
	package=$(ls "$kernels" | newest)
	[ -n "$package" ] || { echo "no kernel $series: Debian's archive cannot be reached, and .build has none" >&2; exit 77; }
fi

kernel=$kernels/$package

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
root=$dir/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,modules,src}
cp /bin/busybox "$root/bin/"
for tool in ip tc; do
	tool=$(command -v $tool)
	cp "$tool" "$root/bin/"
	for lib in $(ldd "$tool" | grep -o '/[^ ]*'); do
		mkdir -p "$root$(dirname "$lib")"
		cp -L "$lib" "$root$lib"
	done
done
for m in $modules; do
	cp "$kernel/$m.ko" "$root/modules/" 2>/dev/null || true # part of the kernel then
done
cat > "$root/init" <<'EOT'
#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
EOT
{
	for m in $modules; do echo "[ ! -f /modules/$m.ko ] || insmod /modules/$m.ko"; done
	echo 'echo "Linux $(uname -r)"; code=0'
	flags=$*
	for run in "${runs[@]}"; do
		read -r package regexp <<<"$run"
		mkdir -p "$root/src/$package"
		CGO_ENABLED=0 go test -c -o "$root/src/$package/run.test" "$package" >&2
		[ ! -d "$package/testdata" ] || cp -r "$package/testdata" "$root/src/$package/"
		echo "cd /src/$package; echo '== $package'"
		# The machine is a namespace of its own already.
		# What mutated and hostile packets try is our code, the same on every kernel.
		echo "STENTOR_BPF_TEST_NETNS=1 ./run.test -test.run '$regexp' -test.skip 'Hostile|Mutated|Fuzz' -test.v -test.short -test.timeout 1500s $flags || code=1"
		flags=
	done
	echo 'cat /src/bpf/test/testdata/instructions.txt 2>/dev/null | sed "s/^/instructions: /"'
	echo 'echo "exit $code"; poweroff -f'
} >> "$root/init"
ln -s busybox "$root/bin/sh"
chmod +x "$root/init"
(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) > "$dir/initrd.gz"

timeout 1700 qemu-system-x86_64 -M q35 -m 2500 -smp 2 -nographic -no-reboot \
	-kernel "$kernel/vmlinuz" -initrd "$dir/initrd.gz" -append "console=ttyS0 quiet panic=-1" \
	< /dev/null | tr -d '\r' | tee "$dir/output" | sed -un '/Linux [0-9]/,$p'
grep -aq '^exit 0' "$dir/output"
