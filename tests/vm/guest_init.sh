#!/busybox sh
# First process of the guest. Serial lines: ttyS0 kernel, ttyS1 output of the job, ttyS2 its status.
b=/busybox
$b mkdir -p /proc /sys /dev /host /ram /root
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for line in 1 2; do $b stty -F /dev/ttyS$line raw; done
give_up() {
  echo "guest: $1" >/dev/ttyS1
  $b sleep 1
  $b poweroff -f
}
for module in /modules/*; do $b insmod "$module" || echo "guest: $module was not loaded" >/dev/ttyS1; done

$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose hostroot /host || give_up "no root from the host"
$b mount -t tmpfs ram /ram
$b mkdir /ram/upper /ram/work
$b mount -t overlay -o lowerdir=/host,upperdir=/ram/upper,workdir=/ram/work overlay /root || give_up "no overlay"
$b mount -t proc proc /root/proc
$b mount -t sysfs sysfs /root/sys
$b mount -t devtmpfs dev /root/dev
$b mkdir -p /root/dev/shm /root/dev/pts
for place in dev/shm run; do $b mount -t tmpfs -o mode=1777 ram /root/$place; done
[ -e /root/dev/fd ] || $b ln -s /proc/self/fd /root/dev/fd

groups=/root/sys/fs/cgroup
if [ "$($b cat /hierarchy)" = v1 ]; then
  $b mount -t tmpfs ram $groups
  for joint in cpu,cpuacct memory blkio pids cpuset freezer devices; do
    $b mkdir $groups/$joint
    $b mount -t cgroup -o $joint cgroup $groups/$joint || give_up "no controller $joint"
  done
else
  $b mount -t cgroup2 cgroup2 $groups || give_up "no cgroup2"
  for controller in cpu memory io pids; do echo +$controller >$groups/cgroup.subtree_control; done
fi
$b ifconfig lo 127.0.0.1 up

$b chroot /root /bin/sh -c "$($b cat /job)" </dev/null >/dev/ttyS1 2>&1
echo $? >/dev/ttyS2
$b sync
$b poweroff -f
