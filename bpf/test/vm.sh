#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of this directory on another kernel, in a virtual machine without
# hardware support: vm.sh <Debian package of the kernel> [regular expression of tests]
# Needs qemu-system-x86, busybox-static and Debian's archive. Example:
#   bpf/test/vm.sh linux-image-6.1.0-56-cloud-amd64 EveryObject
set -euo pipefail

package=$1
tests=${2:-Test}
source=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cd "$dir"
apt-get download -qq "$package" 2>/dev/null
dpkg-deb -x ./*.deb kernel
mkdir -p root/{bin,proc,sys,dev,tmp,test}
cp /bin/busybox root/bin/
find kernel -name 'veth.ko*' -exec cp {} root/ \;
[ ! -f root/veth.ko.xz ] || xz -d root/veth.ko.xz
(cd "$source" && CGO_ENABLED=0 go test -c -o "$dir/root/test/bpf.test" .)
cp -r "$source/testdata" root/test/

cat > root/init <<'INIT'
#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
$bb mount -t cgroup2 cgroup /sys/fs/cgroup
$bb insmod /veth.ko
cd /test
echo "Linux $($bb uname -r)"
# The machine is a namespace of its own already.
STENTOR_BPF_TEST_NETNS=1 ./bpf.test -test.run "$($bb cat /tests)" -test.timeout 900s
echo "exit $?"
$bb poweroff -f
INIT
chmod +x root/init
echo "$tests" > root/tests
(cd root && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > ../initrd.gz)

timeout 1000 qemu-system-x86_64 -M q35 -m 1500 -smp 2 -nographic -no-reboot \
	-kernel kernel/boot/vmlinuz-* -initrd initrd.gz -append "console=ttyS0 quiet panic=-1" \
	< /dev/null | tee output | strings | sed -n '/^.*Linux [0-9]/,$p'
grep -aq '^exit 0' output
